"""Layers of probabilistic attention between two sequences."""
