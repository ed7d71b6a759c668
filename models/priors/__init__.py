"""Priors of weights, vectors, latents, lengths and mixture components."""

from .components import ComponentPrior, DirichletProcess, GaussianVectors, StickBreaking
from .heavy_tails import LaplaceVectorPrior, LinearLaplace, LinearStudentT, StudentTVectorPrior
from .hyperpriors import Hierarchical
from .latent_flow import LinearFlow
from .latent_mixture import LinearMixture
from .latents import LinearGaussian, LinearPrior, StandardGaussian
from .lengths import LengthPrior
from .roles import BaseMeasure, LatentPrior, Prior, SequencePrior, TokenGaussians, VectorPrior, WeightPrior
from .sequence.autoregressive import AutoregressiveVectorPrior, IndependentVectorPrior
from .sequence.causal import CausalVectorPrior
from .sequence.codebook import CodebookVectorPrior
from .sequence.language_model import LanguageModelVectorPrior
from .sequence.tokens import TokenVectorPrior
from .vamp import VampPrior
from .vectors import GaussianVectorPrior, KernelVectorPrior, MixtureVectorPrior
from .weights import GEM, BoundedDirichletProcess, GammaDirichletProcess, PitmanYor, SymmetricDirichlet

__all__ = [
    "GEM",
    "AutoregressiveVectorPrior",
    "BaseMeasure",
    "BoundedDirichletProcess",
    "CausalVectorPrior",
    "CodebookVectorPrior",
    "ComponentPrior",
    "DirichletProcess",
    "GammaDirichletProcess",
    "GaussianVectorPrior",
    "GaussianVectors",
    "Hierarchical",
    "IndependentVectorPrior",
    "KernelVectorPrior",
    "LanguageModelVectorPrior",
    "LaplaceVectorPrior",
    "LatentPrior",
    "LengthPrior",
    "LinearFlow",
    "LinearGaussian",
    "LinearLaplace",
    "LinearMixture",
    "LinearPrior",
    "LinearStudentT",
    "MixtureVectorPrior",
    "PitmanYor",
    "Prior",
    "SequencePrior",
    "StandardGaussian",
    "StickBreaking",
    "StudentTVectorPrior",
    "SymmetricDirichlet",
    "TokenGaussians",
    "TokenVectorPrior",
    "VampPrior",
    "VectorPrior",
    "WeightPrior",
]


def __dir__() -> list[str]:
    return __all__
