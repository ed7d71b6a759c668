"""Makes a module of whatever a user gave for a prior, and checks it when a model is built."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.distributions import Distribution, Transform

from .distributions import log_simplex

__all__ = ["as_prior", "check_latent_prior", "check_vector_prior", "check_weight_prior"]


def as_prior(prior: object, role: type[nn.Module], name: str = "prior") -> nn.Module:
    r"""Makes a module of what a user gave for a prior.

    A module stays what it is; a bare distribution becomes a module that holds its tensors as buffers, so that they
    follow the model to its device and dtype; a function is called with the role's arguments.

    Arguments:
        prior: A module, a distribution, or a function that returns a distribution.
        role: the base class in :mod:`pyroformer.models.priors` that says what is asked of it.
        name: What messages call it.

    Examples:
        >>> import pyro.distributions as dist
        >>> from pyroformer.models.priors import VectorPrior
        >>> base = as_prior(dist.Laplace(torch.zeros(4), 1.0).to_event(1), VectorPrior).double()
        >>> base().sample().dtype
        torch.float64
    """
    if isinstance(prior, nn.Module):
        return prior
    if isinstance(prior, Distribution):
        return _Constant(prior, name)
    if callable(prior) and not isinstance(prior, type):
        return _Function(prior)
    raise ValueError(
        f"{name} {prior!r}: give a {role.__name__}, a distribution, or a function that returns a distribution"
    )


def check_weight_prior(prior: nn.Module, mask: Bool[Tensor, "*batch n"], name: str = "weight_prior") -> None:
    r"""Draws once and says in one sentence what is wrong with a weight prior, if anything is.

    Arguments:
        prior: What :func:`as_prior` returned.
        mask: Components that exist, with shape :math:`(*, N)`; best with some that do not.
        name: What the message calls it.

    Raises:
        ValueError: If it returns no distribution, one of another shape, or draws that are not log weights.

    Examples:
        >>> from pyroformer.models.priors import BoundedDirichletProcess
        >>> check_weight_prior(BoundedDirichletProcess(), torch.tensor([[True, True], [True, False]]))
    """
    who = _who(prior, name)
    law, draw = _drawn(prior, who, mask)
    way_out = "return log weights of all components, such as LogDirichlet(log_concentration, mask)"
    _check_shape(law, who, mask.shape[:-1], mask.shape[-1:], way_out)
    if not bool(log_simplex.check(draw).all()):
        raise ValueError(f"{who} drew values whose exponentials do not sum to one: {way_out}")
    if bool(((draw.exp() > 0) & ~mask).any()):
        raise ValueError(f"{who} gave weight to components that its mask excludes: {way_out}")


def check_vector_prior(prior: nn.Module, width: int, name: str = "base_measure") -> None:
    r"""Draws once and says in one sentence what is wrong with a base measure, if anything is.

    Raises:
        ValueError: If it returns no distribution, one of another shape, or one whose support is not the whole space.

    Examples:
        >>> from pyroformer.models.priors import GaussianBase
        >>> check_vector_prior(GaussianBase(8), width=8)
    """
    who = _who(prior, name)
    law, draw = _drawn(prior, who)
    _check_shape(law, who, torch.Size(), torch.Size([width]), "return a distribution over one vector, .to_event(1)")
    _check_real(law, who, draw)


def check_latent_prior(
    prior: nn.Module, summary: Float[Tensor, "*batch p"], layers: int, width: int, name: str = "latent_prior"
) -> None:
    r"""Draws once for each layer and says in one sentence what is wrong with a latent prior, if anything is.

    Arguments:
        prior: What :func:`as_prior` returned.
        summary: Any summary that the model may give, with shape :math:`(*, P)`.
        layers: Number of layers.
        width: Of a latent.
        name: What the message calls it.

    Raises:
        ValueError: If it returns no distribution, one of another shape, or one whose support is not the whole space.
    """
    who = _who(prior, name)
    for layer in range(layers):
        law, draw = _drawn(prior, who, summary, layer)
        way_out = "return a distribution over one latent of each text, .to_event(1)"
        _check_shape(law, who, summary.shape[:-1], torch.Size([width]), way_out)
        _check_real(law, who, draw)


def _who(prior: nn.Module, name: str) -> str:
    wrapped = prior.distribution if isinstance(prior, _Constant) else prior
    kind = prior.extra_repr() if isinstance(prior, _Function) else type(wrapped).__name__
    return f"{name} {kind}"


def _drawn(prior: nn.Module, who: str, *args: Any) -> tuple[Distribution, Tensor]:
    # building a model must not move the noise of what follows
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        law = prior(*args)
        if not isinstance(law, Distribution):
            raise ValueError(f"{who} returned {type(law).__name__}: return a torch or Pyro distribution")
        return law, law.sample()


def _check_shape(law: Distribution, who: str, batch: torch.Size, event: torch.Size, way_out: str) -> None:
    if law.event_shape != event:
        raise ValueError(f"{who} gave event shape {tuple(law.event_shape)}, expected {tuple(event)}: {way_out}")
    size = len(law.batch_shape)
    if size > len(batch) or any(
        a not in (1, b) for a, b in zip(law.batch_shape, batch[len(batch) - size :], strict=True)
    ):
        raise ValueError(f"{who} gave batch shape {tuple(law.batch_shape)}, expected {tuple(batch)}: {way_out}")


def _check_real(law: Distribution, who: str, draw: Tensor) -> None:
    if not bool(draw.isfinite().all()):
        raise ValueError(f"{who} drew values that are not finite: check its parameters")
    probe = torch.linspace(-3, 3, draw.shape[-1] + 2, dtype=draw.dtype, device=draw.device)[1:-1].expand(draw.shape)
    support = law.support
    if support is not None and not all(bool(support.check(sign * probe).all()) for sign in (-1, 1)):
        raise ValueError(f"{who} has support {support}: a posterior reaches all real numbers, so the prior must too")


class _Function(nn.Module):
    def __init__(self, function: Callable[..., Distribution]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any) -> Distribution:
        return self.function(*args)

    def extra_repr(self) -> str:
        return getattr(self.function, "__name__", repr(self.function))


class _Constant(nn.Module):
    def __init__(self, distribution: Distribution, name: str) -> None:
        super().__init__()
        self.distribution = distribution
        for path, tensor in _tensors(distribution):
            if tensor.requires_grad:
                raise ValueError(f"{name}: a bare distribution is not trained; write a module with a parameter {path}")
            self.register_buffer(path, tensor)

    def forward(self, *args: Any) -> Distribution:
        return _rebuilt(self.distribution, dict(self.named_buffers()))


def _tensors(owner: object, path: str = "at") -> Iterator[tuple[str, Tensor]]:
    for key, value in _parts(owner):
        if isinstance(value, Tensor):
            yield f"{path}_{key}", value
        else:
            yield from _tensors(value, f"{path}_{key}")


def _rebuilt(owner: Any, tensors: dict[str, Tensor], path: str = "at") -> Any:
    """A copy with other tensors, whose validation follows the global setting rather than that of its creation."""
    new = copy.copy(owner)
    slots = new if isinstance(new, list) else new.__dict__
    for key, value in _parts(owner):
        here = f"{path}_{key}"
        slots[key] = tensors[here] if isinstance(value, Tensor) else _rebuilt(value, tensors, here)
    if isinstance(new, Distribution):
        new.__dict__.pop("_validate_args", None)
    return new


def _parts(owner: object) -> Iterator[tuple[Any, Any]]:
    items = enumerate(owner) if isinstance(owner, list) else owner.__dict__.items()
    return ((key, value) for key, value in items if isinstance(value, Tensor | Distribution | Transform | list))
