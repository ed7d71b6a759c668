"""NVIB attention in trained Transformers: wrapped layers, empirical priors, regularization, divergences."""

from .kept import Kept, kept
from .kl import KL, kl
from .layers import layers
from .posterior import posterior
from .priors import fit_priors
from .regularize import regularize
from .wrap import unwrap, wrap

__all__ = ["KL", "Kept", "fit_priors", "kept", "kl", "layers", "posterior", "regularize", "unwrap", "wrap"]


def __dir__() -> list[str]:
    return __all__
