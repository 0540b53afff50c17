"""Significance rules: how scores walk backwards through each kind of layer."""
