"""Every layer of the library. Importing this package registers them with Keras."""

__all__ = []
