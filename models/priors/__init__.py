"""Priors that can be swapped: of weights, of vectors, of latents, of lengths, and of the units of a mixture."""

from .heavy_tails import LaplaceBase, LinearLaplace, LinearStudentT, StudentTBase
from .hyperpriors import Hierarchical
from .latents import LinearGaussian, LinearPrior, StandardGaussian
from .lengths import LengthPrior
from .roles import BaseMeasure, LatentPrior, Role, SequencePrior, VectorPrior, WeightPrior
from .sequences import AutoregressiveBase, IndependentBase
from .units import DirichletProcess, GaussianVectors, StickBreaking, VectorsPrior
from .vectors import GaussianBase, KernelBase, MixtureBase
from .weights import GEM, BoundedDirichletProcess, GammaDirichletProcess, PitmanYor, SymmetricDirichlet

__all__ = [
    "GEM",
    "AutoregressiveBase",
    "BaseMeasure",
    "BoundedDirichletProcess",
    "DirichletProcess",
    "GammaDirichletProcess",
    "GaussianBase",
    "GaussianVectors",
    "Hierarchical",
    "IndependentBase",
    "KernelBase",
    "LaplaceBase",
    "LatentPrior",
    "LengthPrior",
    "LinearGaussian",
    "LinearLaplace",
    "LinearPrior",
    "LinearStudentT",
    "MixtureBase",
    "PitmanYor",
    "Role",
    "SequencePrior",
    "StandardGaussian",
    "StickBreaking",
    "StudentTBase",
    "SymmetricDirichlet",
    "VectorPrior",
    "VectorsPrior",
    "WeightPrior",
]
