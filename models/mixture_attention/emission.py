"""The emission of a mixture: the distribution of a query around its component, where it is not a Gaussian."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.distributions import Distribution

from ..distributions.foreign import as_pyro
from ..priors.checks import as_prior, described
from ..utils.errors import one_line
from .sites import gather, normal_of_component

__all__ = ["EmissionLike", "as_emission", "check_emission", "check_gaussian", "query_of_component"]

EmissionLike = nn.Module | Callable[..., Distribution]


def as_emission(emission: object) -> nn.Module:
    """An emission as a module.

    Raises:
        ValueError: If it is neither a module nor a function; distributions and their classes are not.
    """
    if isinstance(emission, Distribution | type) or not callable(emission):
        raise ValueError(
            f"emission is {emission!r}, which is neither a module nor a function of a mean and a scale: "
            "give one, as lambda mean, scale: StudentT(4.0, mean, scale).to_event(1)."
        )
    return as_prior(emission, nn.Module, "emission")


def query_of_component(
    emission: nn.Module | None,
    rows: Float[Tensor, "*batch n d"],
    precision: Float[Tensor, "..."],
    assignment: Int[Tensor, "*tokens m"],
) -> Any:
    """The distribution of a query around its component: a Gaussian without an emission."""
    if emission is None:
        return normal_of_component(rows, precision, assignment)
    scale = precision.rsqrt()
    scale = scale if scale.shape[-2] == 1 else gather(scale, assignment)
    return as_pyro(emission(*torch.broadcast_tensors(gather(rows, assignment), scale)))


def check_emission(emission: nn.Module, rows: Float[Tensor, "*batch n d"], precision: Float[Tensor, "..."]) -> None:
    """Raises a ValueError unless an emission gives a distribution over one query for each component."""
    who = described(emission, "emission")
    mean, scale = torch.broadcast_tensors(rows, precision.rsqrt())
    try:
        distribution = as_pyro(emission(mean, scale))
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"{who} fails when it is called with a mean and a scale of shape {tuple(mean.shape)} "
            f"({one_line(error)}): return the distribution of a query."
        ) from error
    if not isinstance(distribution, Distribution):
        raise ValueError(f"{who} returned a {type(distribution).__name__}: return a torch or Pyro distribution.")
    if distribution.event_shape != mean.shape[-1:]:
        raise ValueError(
            f"{who} gave event shape {tuple(distribution.event_shape)}, expected {tuple(mean.shape[-1:])}: "
            "return a distribution over one query, with .to_event(1) where its entries are independent."
        )
    if distribution.batch_shape != mean.shape[:-1]:
        raise ValueError(
            f"{who} gave batch shape {tuple(distribution.batch_shape)}, expected {tuple(mean.shape[:-1])}: "
            "return one distribution for each mean, so compute with the mean's shape."
        )


def check_gaussian(emission: nn.Module | None, who: str, correlated: bool = False) -> None:
    """Raises a ValueError if queries have an emission, or are ``correlated``: ``who`` assumes diagonal Gaussians."""
    others = "out, or infer with NUTS, AutoNormal or TraceEnum_ELBO"
    if emission is not None:
        part = described(emission, "emission")
        raise ValueError(f"{who} needs Gaussian queries, and the model has the {part}: leave the emission {others}.")
    if correlated:
        raise ValueError(
            f"{who} needs queries whose dimensions are independent, and there are correlations: leave them {others}."
        )
