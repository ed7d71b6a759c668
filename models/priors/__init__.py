"""Priors that can be swapped: of weights, of vectors, of latents, of lengths, and of the units of a mixture."""

from .heavy_tails import LaplaceVectorPrior, LinearLaplace, LinearStudentT, StudentTVectorPrior
from .hyperpriors import Hierarchical
from .latents import LinearGaussian, LinearPrior, StandardGaussian
from .lengths import LengthPrior
from .roles import BaseMeasure, LatentPrior, Role, SequencePrior, VectorPrior, WeightPrior
from .sequences import AutoregressiveVectorPrior, IndependentVectorPrior
from .units import DirichletProcess, GaussianVectors, StickBreaking, UnitPrior
from .vectors import GaussianVectorPrior, KernelVectorPrior, MixtureVectorPrior
from .weights import GEM, BoundedDirichletProcess, GammaDirichletProcess, PitmanYor, SymmetricDirichlet

__all__ = [
    "GEM",
    "AutoregressiveVectorPrior",
    "BaseMeasure",
    "BoundedDirichletProcess",
    "DirichletProcess",
    "GammaDirichletProcess",
    "GaussianVectorPrior",
    "GaussianVectors",
    "Hierarchical",
    "IndependentVectorPrior",
    "KernelVectorPrior",
    "LaplaceVectorPrior",
    "LatentPrior",
    "LengthPrior",
    "LinearGaussian",
    "LinearLaplace",
    "LinearPrior",
    "LinearStudentT",
    "MixtureVectorPrior",
    "PitmanYor",
    "Role",
    "SequencePrior",
    "StandardGaussian",
    "StickBreaking",
    "StudentTVectorPrior",
    "SymmetricDirichlet",
    "UnitPrior",
    "VectorPrior",
    "WeightPrior",
]
