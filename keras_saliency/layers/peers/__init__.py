"""Attention mechanisms of other authors, with one vocabulary of arguments."""
