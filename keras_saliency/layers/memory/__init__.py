"""Layers with an external memory."""
