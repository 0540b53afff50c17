"""Gaussian scale space, differences, extrema and the salient events they mark."""
