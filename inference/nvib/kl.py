"""The divergences of a wrapped model's layers, for fine-tuning."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...models.distributions.log_dirichlet_math import symmetric_dirichlet_kl
from ...models.nvib.bottleneck import Bottleneck, VectorPosterior
from ...models.priors.weights import conditional_concentration
from ...models.utils.numbers import declared_number, declared_numbers
from ..objectives.nvib import vector_regularizer
from .layers import check_prior, layers

__all__ = ["KL", "kl"]


class KL(NamedTuple):
    r"""The regularizers of the last forward pass.

    Arguments:
        loss: What is added to a loss: the weighted mean over layers of the means over texts.
        weights: :math:`L_D` of each text by layer, with shape :math:`(B)`, per component.
        vectors: :math:`L_G` of each text by layer, with shape :math:`(B)`, per component and dimension.
    """

    loss: Float[Tensor, ""]
    weights: dict[str, Float[Tensor, " b"]]
    vectors: dict[str, Float[Tensor, " b"]]


def kl(
    model: nn.Module,
    *,
    lambda_d: float = 1.0,
    lambda_g: float = 1.0,
    delta: float = 1.0,
    by_layer: str | Sequence[float] = "equal",
) -> KL:
    r"""The NVIB regularizers of the last forward pass in training mode, to be added to a loss.

    .. math::
        \mathcal L = \sum_l w_l \, \frac1B \sum_{b} \frac{\lambda_D L_D + \lambda_G L_G / P}{n + 1}

    with the prior concentration :math:`\alpha_0^{p\prime} = \alpha^p (1 + \Delta n)` of a text of n vectors. This is
    the scaling of the papers' code, and **no bound**, see
    :func:`~pyroformer.inference.objectives.nvib.weight_regularizer`. Each pass counts once: call this after each, as
    for the two texts of a pair.

    Arguments:
        model: A wrapped model with priors, all of whose layers that ran have a finite ``tau_alpha`` and a positive
            ``tau_sigma``; otherwise a divergence is infinite.
        lambda_d: :math:`\lambda_D`.
        lambda_g: :math:`\lambda_G`.
        delta: :math:`\Delta`, the concentration of each vector in the prior, in concentrations of its component.
        by_layer: :math:`w_l`, which are divided by their sum: ``"equal"``, ``"linear"`` for 1, 2, ... in the order of
            :func:`~pyroformer.nvib.layers`, or a number for each of the layers that ran.

    Raises:
        ValueError: If the model is not wrapped, has not run in training mode since the last call, a divergence is
            infinite or has no gradient where one is recorded, or an argument is out of its range.

    References:
        Learning to Abstract with Nonparametric Variational Information Bottleneck (Behjati, Fehr & Henderson, 2023),
        in the Findings of EMNLP

    Examples:
        >>> model, x = pf.nvib.wrap(torch.nn.TransformerEncoderLayer(16, 2, batch_first=True)), torch.randn(3, 5, 16)
        >>> model = pf.nvib.regularize(pf.nvib.fit_priors(model, [x]), tau_alpha=1.0, tau_sigma=0.1)
        >>> loss = model(x).square().mean() + pf.nvib.kl(model, lambda_g=0.1).loss
        >>> loss.backward()
    """
    for name, value in {"lambda_d": lambda_d, "lambda_g": lambda_g, "delta": delta}.items():
        if not 0 <= declared_number(name, value, float) < math.inf:
            raise ValueError(f"{name} is {value}: give a finite number, 0 or more")
    ran = {name: layer for name, layer in layers(model).items() if layer.last is not None}
    if not ran:
        raise ValueError("no layer has run since the last call: run the model in training mode first, model.train()")
    check_prior(ran)
    weights: dict[str, Tensor] = {}
    vectors: dict[str, Tensor] = {}
    shares = _layer_weights(by_layer, len(ran))
    total = []
    for (name, layer), share in zip(ran.items(), shares, strict=True):
        _check_finite(name, layer)
        _check_graph(name, layer)
        assert layer.last is not None
        weights[name], vectors[name] = _regularizers(layer, layer.last, delta)
        total.append(share * (lambda_d * weights[name] + lambda_g * vectors[name]).mean())
    for layer in ran.values():
        layer.last = None
    return KL(torch.stack(total).sum(), weights, vectors)


def _regularizers(layer: Bottleneck, posterior: VectorPosterior, delta: float) -> tuple[Tensor, Tensor]:
    log_alpha, mask = layer.log_alpha(posterior)
    log_alpha, means, count = log_alpha.double(), posterior.means, mask.sum(-1)
    log_alpha0 = torch.logsumexp(log_alpha.masked_fill(~mask, -torch.inf), -1)
    log_prior0 = conditional_concentration(1.0, delta, count - 1).double().log() + layer.prior_log_alpha.double()
    weights = symmetric_dirichlet_kl(log_alpha0, log_prior0, count)
    mean = _prepended(layer.prior_mean, means)
    variance = _prepended(layer.prior_variance, posterior.variances.expand_as(means))
    vectors = vector_regularizer(
        log_alpha.to(means.dtype), mean, variance, layer.prior_mean, layer.prior_variance, mask, reduction="mean"
    )
    return (weights / count).to(means.dtype), vectors / count


def _prepended(own: Tensor, rows: Tensor) -> Tensor:
    return torch.cat([own.expand_as(rows[..., :1, :]), rows], -2)


def _check_finite(name: str, layer: Bottleneck) -> None:
    if layer.tau.alpha == math.inf or layer.tau.sigma == 0:
        strength, way = (
            ("tau_alpha is inf", "tau_alpha=0") if layer.tau.alpha == math.inf else ("tau_sigma is 0", "tau_sigma=0.1")
        )
        raise ValueError(
            f"{strength} in the layer {name!r}, so that its divergence is infinite: "
            f"pf.nvib.regularize(model, {way}) makes it finite"
        )


def _check_graph(name: str, layer: Bottleneck) -> None:
    if torch.is_grad_enabled() and not layer.last_has_graph:
        raise ValueError(
            f"the layer {name!r} ran without recording gradients, so that its divergence has none: checkpoint with "
            "use_reentrant=False, or call this under torch.no_grad() as well"
        )


def _layer_weights(by_layer: str | Sequence[float], count: int) -> list[float]:
    """Weights of the layers, which sum to one."""
    if isinstance(by_layer, str):
        if by_layer not in ("equal", "linear"):
            raise ValueError(f"by_layer is {by_layer!r}: choose equal or linear, or give {count} numbers")
        weights = [1.0] * count if by_layer == "equal" else [float(number) for number in range(1, count + 1)]
    else:
        weights = declared_numbers("by_layer", by_layer, float)
    if len(weights) != count or not min(weights) >= 0 or not 0 < sum(weights) < math.inf:
        raise ValueError(f"by_layer is {by_layer!r}: give {count} numbers, 0 or more and not all 0")
    return [weight / sum(weights) for weight in weights]
