"""Attention: SAN, SDMA, XM2A, the saliency series, and the mechanisms of other authors."""
