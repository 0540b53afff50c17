"""Callbacks for ``model.fit``."""
