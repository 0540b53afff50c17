"""Normalizations of activations and of weights."""
