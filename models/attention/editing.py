"""Mixtures made of mixtures: interpolated, thinned, rescaled, with components exchanged."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from .components import expanded, joined, normalized, selected
from .mixture import Mixture

__all__ = ["check_fraction", "compacted", "dropped", "exchanged", "interpolated", "scaled"]


def compacted(mixture: Mixture, threshold: float, keep: int = 1) -> Mixture:
    r"""The mixture of the components that weigh at least a threshold, gathered to the front.

    .. math:: \{ n : \pi_n \ge \epsilon \ \text{or} \ n < \text{keep} \}

    What is left has as many components as the text that keeps most of them; others are filled up with absent ones. The
    weights are normalized again. Where what left weighed nothing, attention is what it was.

    The number of components is one that the device has to tell: this waits for it, once.

    Arguments:
        mixture: The mixture, of any batch shape.
        threshold: :math:`\epsilon`, from 0 to below 1, for weights that sum to one. At 0 only absent components leave.
        keep: How many of the first components stay whatever they weigh: those of the prior.

    Raises:
        ValueError: If the threshold is out of its range, or ``keep`` is less than 1 or more than there are.

    Examples:
        >>> mixture = Mixture(torch.tensor([[0.1, 0.6, 0.0, 0.3]]).log(), torch.arange(4.0).reshape(1, 4, 1))
        >>> compacted(mixture, 0.2).means.flatten().tolist()
        [0.0, 1.0, 3.0]
    """
    if not 0 <= threshold < 1:
        raise ValueError(f"the threshold is {threshold}: give a weight from 0 to below 1")
    if not 1 <= keep <= mixture.components:
        raise ValueError(f"keep is {keep}: give how many of the {mixture.components} components stay, at least 1")
    mixture = expanded(mixture)
    present = mixture.present
    first = torch.arange(mixture.components, device=present.device) < keep
    kept = present & (first | (normalized(mixture.log_weights, present).exp() >= threshold))
    count = kept.sum(-1)
    most = max(keep, int(count.max())) if count.numel() else keep
    index = (~kept).byte().argsort(dim=-1, stable=True)[..., :most]
    found = selected(mixture, index)
    there = torch.arange(most, device=present.device) < count[..., None]
    return replace(found, log_weights=normalized(found.log_weights, there), mask=there)


def interpolated(first: Mixture, second: Mixture, share: float) -> Mixture:
    r"""The mixture on the way from one to another: the components of both, weighted.

    .. math:: (1 - \tau) \sum_n \pi_n \, N(\mu_n, \sigma_n^2) + \tau \sum_k \rho_k \, N(\nu_k, \varsigma_k^2)

    At either end, components of the other mixture are absent: the decoder says exactly what it says of one text.

    Arguments:
        first: The mixture at :math:`\tau = 0`.
        second: The mixture at :math:`\tau = 1`, of the same batch shape and width.
        share: :math:`\tau`.

    Raises:
        ValueError: If the share is not between 0 and 1, or the mixtures do not fit together.

    References:
        A Variational AutoEncoder for Transformers with Nonparametric Variational Information Bottleneck
        (Henderson and Fehr, 2023), https://arxiv.org/abs/2207.13529

    Examples:
        >>> one, other = Mixture(torch.zeros(1), torch.zeros(1, 2)), Mixture(torch.zeros(2), torch.ones(2, 2))
        >>> interpolated(one, other, 0.5).log_weights.exp().tolist()
        [0.5, 0.25, 0.25]
    """
    check_fraction(share)
    parts = ((first, 1 - share), (second, share))
    weighted = [replace(mixture, log_weights=_weights(mixture) + _log(part)) for mixture, part in parts]
    return _without_the_absent(joined(weighted))


def dropped(mixture: Mixture, components: Iterable[int]) -> Mixture:
    """The mixture without some of its components; the others weigh as much more.

    Arguments:
        mixture: The mixture.
        components: Their numbers, from 0; in every text the same.

    Raises:
        ValueError: If there is no such component, or none would be left.

    Examples:
        >>> dropped(Mixture(torch.zeros(3), torch.zeros(3, 2)), [1]).log_weights.exp().tolist()
        [0.5, 0.0, 0.5]
    """
    present = mixture.present & ~_chosen(mixture, components)
    if bool((mixture.present.any(-1) & ~present.any(-1)).any()):
        raise ValueError("all components of a text are to be dropped: keep at least one")
    return replace(mixture, log_weights=normalized(mixture.log_weights, present), mask=present)


def scaled(mixture: Mixture, components: Iterable[int], factor: float) -> Mixture:
    r"""The mixture with the weights of some components multiplied by a factor.

    .. math:: \pi_n \propto f^{[n \in S]} \, \pi_n

    Arguments:
        mixture: The mixture.
        components: :math:`S`, numbers from 0; in every text the same.
        factor: :math:`f`, positive and finite.

    Raises:
        ValueError: If there is no such component, or the factor is not positive and finite.

    Examples:
        >>> scaled(Mixture(torch.zeros(2), torch.zeros(2, 2)), [0], 3.0).log_weights.exp().tolist()
        [0.75, 0.25]
    """
    if not 0 < factor < math.inf:
        raise ValueError(f"the factor is {factor}: give a positive, finite number")
    chosen, log_weights = _chosen(mixture, components), mixture.log_weights
    log_weights = torch.where(chosen, log_weights + math.log(factor), log_weights)
    return replace(mixture, log_weights=normalized(log_weights, mixture.present))


def exchanged(mixture: Mixture, other: Mixture, components: Mapping[int, int]) -> Mixture:
    """The mixture with some components replaced by those of another: vector and variance; the weight stays.

    A component that is absent on either side is absent afterwards.

    Arguments:
        mixture: The mixture that is changed.
        other: Where components come from, of the same batch shape and width.
        components: For each that is replaced, the number of the one that replaces it.

    Raises:
        ValueError: If there is no such component, or the mixtures do not fit together.

    Examples:
        >>> one, other = Mixture(torch.zeros(2), torch.zeros(2, 1)), Mixture(torch.zeros(3), torch.ones(3, 1))
        >>> exchanged(one, other, {1: 2}).means.tolist()
        [[0.0], [1.0]]
    """
    _chosen(mixture, components)
    _chosen(other, components.values())
    taken = {number: mixture.components + source for number, source in components.items()}
    index = [taken.get(number, number) for number in range(mixture.components)]
    both = _without_the_absent(joined([mixture, other]))
    found = selected(both, torch.tensor(index, device=mixture.means.device))
    assert found.mask is not None
    present = found.mask & mixture.present
    return replace(found, log_weights=normalized(mixture.log_weights.expand(present.shape), present), mask=present)


def check_fraction(share: float) -> None:
    """Raises a ValueError unless it is the share of one of two."""
    if not 0 <= share <= 1:
        raise ValueError(f"share is {share}: give a number from 0, all of the first, to 1, all of the second")


def _weights(mixture: Mixture) -> Tensor:
    return normalized(mixture.log_weights, mixture.present)


def _without_the_absent(mixture: Mixture) -> Mixture:
    """Components without weight masked, so that nothing is made of their vectors."""
    return replace(mixture, mask=mixture.present)


def _log(share: float) -> float:
    return math.log(share) if share > 0 else -math.inf


def _chosen(mixture: Mixture, components: Iterable[int]) -> Tensor:
    """True for components of these numbers."""
    asked, known = set(components), range(mixture.components)
    if unknown := [number for number in asked if number not in known]:
        raise ValueError(f"there is no component {unknown[0]}: they are numbered from 0 to {mixture.components - 1}")
    return torch.tensor([number in asked for number in known], device=mixture.means.device)
