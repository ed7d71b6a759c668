"""Edits of mixtures: interpolation, dropping, scaling and exchange of components."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ..utils.numbers import check_positive, declared_number
from .components import concatenated, expanded, selected
from .log_space import normalized
from .mixture import Mixture

__all__ = ["check_fraction", "compacted", "dropped", "exchanged", "interpolated", "scaled"]


def compacted(mixture: Mixture, threshold: float, keep: int = 1) -> Mixture:
    r"""The components whose weight reaches a threshold, gathered at the front.

    .. math:: \{ n : \pi_n \ge \epsilon \ \text{or} \ n < \text{keep} \}

    The result has as many components as the text that keeps most of them; other texts are padded with masked ones. The
    weights are normalized again. Where the dropped components weighed nothing, attention does not change.

    The number of components depends on values, so this synchronizes with the device once.

    Arguments:
        mixture: The mixture, of any batch shape.
        threshold: :math:`\epsilon`, from 0 to below 1, for weights that sum to one. At 0 only masked components leave.
        keep: The number of components at the front that stay whatever their weight: those of the prior.

    Raises:
        ValueError: If the threshold is out of its range, or ``keep`` is less than 1 or more than there are.

    Examples:
        >>> mixture = Mixture(torch.tensor([[0.1, 0.6, 0.0, 0.3]]).log(), torch.arange(4.0).reshape(1, 4, 1))
        >>> compacted(mixture, 0.2).means.flatten().tolist()
        [0.0, 1.0, 3.0]
    """
    if not 0 <= declared_number("threshold", threshold, float) < 1:
        raise ValueError(f"threshold is {threshold}: give a weight from 0 to below 1.")
    if not 1 <= declared_number("keep", keep, int) <= mixture.components:
        raise ValueError(f"keep is {keep}: give a number from 1 to {mixture.components}, the number of components.")
    mixture = expanded(mixture)
    present = mixture.present
    first = torch.arange(mixture.components, device=present.device) < keep
    kept = present & (first | (normalized(mixture.log_weights, present).exp() >= threshold))
    count = kept.sum(-1)
    most = max(keep, int(count.max())) if count.numel() else keep
    index = (~kept).byte().argsort(dim=-1, stable=True)[..., :most]
    gathered = selected(mixture, index)
    mask = torch.arange(most, device=present.device) < count[..., None]
    return replace(gathered, log_weights=normalized(gathered.log_weights, mask), mask=mask)


def interpolated(first: Mixture, second: Mixture, t: float) -> Mixture:
    r"""The interpolation of two mixtures: the components of both, with weights in proportion.

    .. math:: (1 - t) \sum_n \pi_n \, N(\mu_n, \sigma_n^2) + t \sum_k \rho_k \, N(\nu_k, \varsigma_k^2)

    At either end, components of the other mixture are masked: a decoder computes exactly what it does for one text.

    Arguments:
        first: The mixture at :math:`t = 0`.
        second: The mixture at :math:`t = 1`, of the same batch shape and width.
        t: From 0 to 1.

    Raises:
        ValueError: If t is not between 0 and 1, or the mixtures do not fit together.

    References:
        A Variational AutoEncoder for Transformers with Nonparametric Variational Information Bottleneck
        (Henderson and Fehr, 2023), https://arxiv.org/abs/2207.13529

    Examples:
        >>> one, other = Mixture(torch.zeros(1), torch.zeros(1, 2)), Mixture(torch.zeros(2), torch.ones(2, 2))
        >>> interpolated(one, other, 0.5).log_weights.exp().tolist()
        [0.5, 0.25, 0.25]
    """
    check_fraction(t)
    parts = ((first, 1 - t), (second, t))
    weighted = [
        replace(mixture, log_weights=normalized(mixture.log_weights, mixture.present) + _log(factor))
        for mixture, factor in parts
    ]
    return _with_present_mask(concatenated(weighted))


def dropped(mixture: Mixture, components: Iterable[int]) -> Mixture:
    """The mixture without some of its components; the weights of the others are normalized again.

    Arguments:
        mixture: The mixture.
        components: Their indices, from 0; the same in every text.

    Raises:
        ValueError: If there is no such component, or none would be left.

    Examples:
        >>> dropped(Mixture(torch.zeros(3), torch.zeros(3, 2)), [1]).log_weights.exp().tolist()
        [0.5, 0.0, 0.5]
    """
    present = mixture.present & ~_is_in(mixture, components)
    if bool((mixture.present.any(-1) & ~present.any(-1)).any()):
        raise ValueError("all components of a text are to be dropped: keep at least one.")
    return replace(mixture, log_weights=normalized(mixture.log_weights, present), mask=present)


def scaled(mixture: Mixture, components: Iterable[int], factor: float) -> Mixture:
    r"""The mixture with the weights of some components multiplied by a factor.

    .. math:: \pi_n \propto f^{[n \in S]} \, \pi_n

    Arguments:
        mixture: The mixture.
        components: :math:`S`, indices from 0; the same in every text.
        factor: :math:`f`, positive and finite.

    Raises:
        ValueError: If there is no such component, or the factor is not positive and finite.

    Examples:
        >>> scaled(Mixture(torch.zeros(2), torch.zeros(2, 2)), [0], 3.0).log_weights.exp().tolist()
        [0.75, 0.25]
    """
    check_positive(factor=factor)
    log_weights = mixture.log_weights
    log_weights = torch.where(_is_in(mixture, components), log_weights + math.log(factor), log_weights)
    return replace(mixture, log_weights=normalized(log_weights, mixture.present))


def exchanged(mixture: Mixture, other: Mixture, components: Mapping[int, int]) -> Mixture:
    """The mixture with means and variances of some components replaced by another mixture's; the weights stay.

    A component that is masked in either mixture is masked in the result.

    Arguments:
        mixture: The mixture to change.
        other: The source of components, of the same batch shape and width.
        components: Maps indices of components in ``mixture`` to indices in ``other``.

    Raises:
        ValueError: If there is no such component, or the mixtures do not fit together.

    Examples:
        >>> one, other = Mixture(torch.zeros(2), torch.zeros(2, 1)), Mixture(torch.zeros(3), torch.ones(3, 1))
        >>> exchanged(one, other, {1: 2}).means.tolist()
        [[0.0], [1.0]]
    """
    if not isinstance(components, Mapping):
        raise ValueError(f"components is {components!r}: give a dictionary from numbers to those of the other mixture.")
    _is_in(mixture, components)
    _is_in(other, components.values())
    sources = {target: mixture.components + source for target, source in components.items()}
    index = [sources.get(target, target) for target in range(mixture.components)]
    both = _with_present_mask(concatenated([mixture, other]))
    result = selected(both, torch.tensor(index, device=mixture.means.device))
    assert result.mask is not None
    present = result.mask & mixture.present
    return replace(result, log_weights=normalized(mixture.log_weights.expand(present.shape), present), mask=present)


def check_fraction(t: float) -> None:
    """Raises a ValueError unless ``t`` is a fraction of the way from a first text to a second."""
    if not 0 <= declared_number("t", t, float) <= 1:
        raise ValueError(f"t is {t}: give a number from 0, all of the first, to 1, all of the second.")


def _with_present_mask(mixture: Mixture) -> Mixture:
    """Components without weight masked, so that their vectors are never read."""
    return replace(mixture, mask=mixture.present)


def _log(x: float) -> float:
    return math.log(x) if x > 0 else -math.inf


def _is_in(mixture: Mixture, components: Iterable[int]) -> Tensor:
    """Mask of the components with these indices."""
    if not isinstance(components, Iterable):
        raise ValueError(f"components is {components!r}: give a list of numbers from 0 to {mixture.components - 1}.")
    wanted, indices = set(components), range(mixture.components)
    if unknown := [index for index in wanted if index not in indices]:
        raise ValueError(f"there is no component {unknown[0]}: they are numbered from 0 to {mixture.components - 1}.")
    return torch.tensor([index in wanted for index in indices], device=mixture.means.device)
