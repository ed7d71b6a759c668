"""Attention as a generative model in Pyro: the model, the parameters of its mixture, and the parts of its program."""

from .model import MixtureAttention as MixtureAttention
from .parameters import MixtureParameters as MixtureParameters
