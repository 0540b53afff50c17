"""Shrink rules: which channels of a layer are tied to which, and its edges."""
