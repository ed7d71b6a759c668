"""Checks of priors and mixtures when a model is built."""

import copy
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Transform
from torch.distributions.transforms import _InverseTransform

from ..attention.log_space import safe_logsumexp
from ..attention.mixture import Mixture
from ..distributions.foreign import as_pyro
from ..distributions.log_dirichlet_math import LOG_ZERO
from ..distributions.log_simplex import log_simplex
from ..utils.errors import one_line
from ..utils.seeding import forked_rng
from .roles import Prior

__all__ = [
    "as_prior",
    "broadcasts_to",
    "check_distribution",
    "check_mixture",
    "check_prior",
    "check_support",
    "described",
]


def as_prior(prior: object, role: type[nn.Module], name: str = "prior") -> nn.Module:
    r"""A prior as a module.

    A module is returned unchanged; a bare distribution becomes a module that holds its tensors as buffers, so that they
    follow the model to its device and dtype; a function is called with the role's arguments.

    Arguments:
        prior: A module, a distribution, or a function that returns a distribution.
        role: The base class in :mod:`pyroformer.models.priors.roles` that defines its arguments.
        name: Its name in messages.

    Raises:
        ValueError: If it is none of these, such as a class.

    Examples:
        >>> import pyro.distributions as dist
        >>> from pyroformer.models.priors.roles import VectorPrior
        >>> base = as_prior(dist.Laplace(torch.zeros(4), 1.0).to_event(1), VectorPrior).double()
        >>> base().sample().dtype
        torch.float64
    """
    if isinstance(prior, nn.Module):
        return prior
    if isinstance(prior, Distribution):
        return _Constant(prior, name)
    if isinstance(prior, type):
        raise ValueError(f"{name} is the class {prior.__name__}: give an instance, as {prior.__name__}(...) makes one.")
    if callable(prior):
        return _Function(prior)
    raise ValueError(
        f"{name} {prior!r}: give a {role.__name__}, a distribution, or a function that returns a distribution."
    )


def check_prior(prior: nn.Module, *args: Any, event_shape: Sequence[int] | None = None, name: str = "prior") -> None:
    r"""Draws once from a prior and raises if it breaks the contract of its role.

    Arguments:
        prior: A prior as a module, from :func:`as_prior`.
        args: Arguments of the kind that the model calls it with, on any device. The first gives the batch shape: a mask
            of the components that exist, with shape :math:`(*, N)`, for a weight prior or one of a sequence, best with
            some that do not; a summary, with shape :math:`(*, S)`, for a latent's.
        event_shape: The event shape that it must have; that of the mask by default.
        name: Its name in the message.

    Raises:
        ValueError: If it returns no distribution; one of another shape; when the first argument is a mask, draws that
            are not log weights, or a density that depends on components that do not exist; for other priors, a support
            that leaves out real numbers.

    Examples:
        >>> from pyroformer.models.priors import BoundedDirichletProcess, GaussianVectorPrior
        >>> check_prior(BoundedDirichletProcess(), torch.tensor([[True, True], [True, False]]))
        >>> check_prior(GaussianVectorPrior(8), event_shape=(8,))
        >>> check_prior(GaussianVectorPrior(8), event_shape=(9,), name="base_measure")
        Traceback (most recent call last):
        ValueError: base_measure GaussianVectorPrior gave event shape (8,), expected (9,): return a ...
    """
    if isinstance(prior, Prior) and prior.sees_guide:  # there is no guide yet, from which it could be drawn
        return
    who = described(prior, name)
    here = next(chain(prior.parameters(), prior.buffers()), None)
    args = tuple(arg.to(here.device) if here is not None and isinstance(arg, Tensor) else arg for arg in args)
    batch_shape = args[0].shape[:-1] if args else torch.Size()
    # building a model must not advance the random state
    with torch.no_grad(), forked_rng():
        distribution = _called(prior, args, who)
        if event_shape is None:
            way_out = (
                "return a distribution over the log weights of all components, as LogDirichlet(log_concentration, mask)"
            )
            _check_shape(distribution, who, batch_shape, args[0].shape[-1:], way_out)
            _check_weights(distribution.sample(), args[0], who, way_out)
            _check_padding(prior, args[0], who, way_out)
        else:
            way_out = "return a distribution over one vector, with .to_event(1) where its entries are independent"
            if len(event_shape) == 2:
                way_out = "return a distribution over all vectors of a text, one row for each component of its mask"
            _check_shape(distribution, who, batch_shape, torch.Size(event_shape), way_out)
            _check_real(distribution, distribution.sample(), who)


def described(prior: nn.Module, name: str) -> str:
    """The name of a prior and its class, for messages."""
    wrapped = prior.distribution if isinstance(prior, _Constant) else prior
    kind = prior.extra_repr() if isinstance(prior, _Function) else type(wrapped).__name__
    return f"{name} {kind}"


def _called(prior: nn.Module, args: Sequence[Any], who: str) -> Distribution:
    """The distribution that a prior returns, or a ValueError if it does not."""
    try:
        distribution = as_pyro(prior(*args))
    except NotImplementedError as error:
        raise ValueError(f"{who} is unfinished: {error}.") from error
    except (RuntimeError, TypeError) as error:
        call = "a mask" if args else "no argument"
        raise ValueError(
            f"{who} fails when it is called with {call} ({one_line(error)}): return a distribution."
        ) from error
    if not isinstance(distribution, Distribution):
        raise ValueError(f"{who} returned a {type(distribution).__name__}: return a torch or Pyro distribution.")
    return distribution


def _check_shape(distribution: Distribution, who: str, batch: torch.Size, event: torch.Size, way_out: str) -> None:
    if distribution.event_shape != event:
        raise ValueError(
            f"{who} gave event shape {tuple(distribution.event_shape)}, expected {tuple(event)}: {way_out}."
        )
    if not broadcasts_to(distribution.batch_shape, batch):  # the prior may be the same for all texts
        raise ValueError(
            f"{who} gave batch shape {tuple(distribution.batch_shape)}, expected {tuple(batch)}: {way_out}."
        )


def _check_weights(draw: Tensor, mask: Tensor, who: str, way_out: str) -> None:
    if not bool(log_simplex.check(draw).all()):
        raise ValueError(f"{who} drew values whose exponentials do not sum to one: {way_out}.")
    if bool((draw.exp() > 0).logical_and(~mask).any()):
        raise ValueError(f"{who} gave weight to components that its mask excludes: {way_out}.")


def _check_padding(prior: nn.Module, mask: Tensor, who: str, way_out: str) -> None:
    """Raises if padding changes the density of the weights of the shortest text."""
    rows = mask.reshape(-1, mask.shape[-1])
    padded = rows[rows.sum(-1).argmin()][None]
    alone = padded[:, : int(padded[0].nonzero().max()) + 1]
    state, distributions = torch.get_rng_state(), []
    for text in (alone, padded):
        torch.set_rng_state(state)  # the same draws of hyper-priors
        distributions.append(_called(prior, [text], who))
        _check_shape(distributions[-1], who, text.shape[:-1], text.shape[-1:], way_out)
    draw = distributions[0].sample()
    value = torch.nn.functional.pad(draw, (0, padded.shape[-1] - alone.shape[-1]), value=LOG_ZERO)
    try:
        one, other = distributions[0].log_prob(draw), distributions[1].log_prob(value)
    except NotImplementedError:  # only sampled from
        return
    if not torch.allclose(one, other, rtol=1e-3, atol=1e-3, equal_nan=True):
        raise ValueError(
            f"{who} gives weights the log density {float(one.mean()):.4g}, and {float(other.mean()):.4g} with padding: "
            "leave components that do not exist out of it, as LogLogisticNormal(loc, scale, mask) does."
        )


def _check_real(distribution: Distribution, draw: Tensor, who: str) -> None:
    if not bool(draw.isfinite().all()):
        raise ValueError(f"{who} drew values that are not finite: check its parameters.")
    support: Any = distribution.support
    if support is not None and not all(bool(support.check(torch.full_like(draw, x)).all()) for x in (-3, 3)):
        raise ValueError(f"{who} has the support {support}: give one of all real numbers, which posteriors reach.")


class _Function(nn.Module):
    def __init__(self, function: Callable[..., Distribution]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any) -> Any:  # check_prior raises if it is no distribution
        return as_pyro(self.function(*args))

    def extra_repr(self) -> str:
        return getattr(self.function, "__name__", repr(self.function))


class _Constant(nn.Module):
    def __init__(self, distribution: Distribution, name: str) -> None:
        super().__init__()
        self.distribution = distribution
        for path, tensor in _tensors(distribution):
            if tensor.requires_grad:
                raise ValueError(f"{name}: a bare distribution is not trained: write a module with a parameter {path}.")
            self.register_buffer(path, tensor.detach().clone())
        if _is_trained(self()):  # on a copy: a density may leave lazy parameters behind
            raise ValueError(
                f"{name}: a bare distribution is not trained, and this {type(distribution).__name__} has parameters: "
                "give the module that makes it, or a function that does."
            )

    def forward(self, *args: Any) -> Distribution:
        distribution: Distribution = as_pyro(_rebuilt(self.distribution, dict(self.named_buffers())))
        return distribution


def _is_trained(distribution: Distribution) -> bool:
    """Whether the density requires gradients; its parameters may be hidden in another library's transforms."""
    with torch.enable_grad(), forked_rng():
        try:
            return bool(distribution.log_prob(distribution.sample()).requires_grad)
        except NotImplementedError:  # only sampled from
            return False


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
    for key, value in items:
        # a transform caches its inverse, which refers back to it: only the transform is a part
        cached = key == "_inv" and not isinstance(owner, _InverseTransform)
        if isinstance(value, Tensor | Distribution | Transform | list) and not cached:
            yield key, value


def broadcasts_to(shape: Sequence[int], expected: Sequence[int]) -> bool:
    """Whether a shape broadcasts to another one."""
    aligned = zip(reversed(shape), reversed(expected), strict=False)
    return len(shape) <= len(expected) and all(size in (1, full) for size, full in aligned)


def check_mixture(mixture: Mixture, weighted: bool) -> None:
    """Raises unless precisions are positive, a component is left and, if ``weighted``, weights sum to one."""
    present = mixture.present
    if not bool(present.any(-1).all()):
        raise ValueError("the mixture has no component left: leave at least one in each of its masks, with a weight.")
    own = mixture.dense_variances()
    own = torch.zeros(1, 1) if own is None else own
    for name, variances in (("precision", own + mixture.query_variance), ("value precision", mixture.value_variances)):
        if variances is None:
            continue
        variances = torch.where(present[..., None], variances, 1)
        bad = ~((variances > 0) & variances.isfinite())
        if bool(bad.any()):
            raise ValueError(
                f"{name} 1 / {float(variances[bad][0]):g} is not positive and finite: give it positive variances."
            )
    total = safe_logsumexp(torch.where(present, mixture.log_weights, -torch.inf)).exp()
    tolerance = 1e-6 if total.dtype == torch.float64 else 1e-4
    if weighted and bool(((total - 1).abs() > tolerance).any()):
        worst = float(total.flatten()[(total - 1).abs().argmax()])
        raise ValueError(f"the weights sum to {worst:g}, not to 1: take log_softmax of log_weights.")


def check_distribution(name: str, distribution: object, batch: Sequence[int], events: Sequence[Sequence[int]]) -> None:
    """Raises unless a prior returned a distribution of one of these event shapes whose batch shape broadcasts."""
    if not isinstance(distribution, Distribution):
        raise ValueError(
            f"the prior of {name} returned a {type(distribution).__name__}: return a torch or Pyro distribution."
        )
    if tuple(distribution.event_shape) not in [tuple(event) for event in events]:
        wanted = " or ".join(str(tuple(event)) for event in events)
        raise ValueError(f"the prior of {name} has event shape {tuple(distribution.event_shape)}, expected {wanted}.")
    if not broadcasts_to(distribution.batch_shape, batch):
        raise ValueError(
            f"the prior of {name} has batch shape {tuple(distribution.batch_shape)}, expected {tuple(batch)}."
        )


def check_support(name: str, distribution: Any, needed: str, valid: bool) -> None:
    """Raises, with the support that is ``needed``, unless the draws of a prior are ``valid``."""
    if not valid:
        raise ValueError(f"the prior of {name} has the support {distribution.support}: give one that draws {needed}.")
