"""Layers of a Transformer that attend to mixtures over their own tokens (NVIB): posterior, heads, block, decoder."""
