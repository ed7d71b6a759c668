"""Plots of how far draws, guides and predictions can be trusted."""
