"""Attention as modules for one's own network."""
