"""Bayesian Transformers in Pyro."""

__version__ = "0.1.0.dev0"
