"""Reference networks, and attention for models that exist already."""
