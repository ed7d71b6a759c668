"""Mixtures of Gaussians fitted by EM, in scikit-learn's manner."""
