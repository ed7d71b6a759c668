"""Plots of vectors in the plane."""
