"""Attention with all its weights, a block of queries at a time."""
