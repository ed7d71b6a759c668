"""Regularization of a wrapped model after training: the dial."""

import math
from typing import TypeVar

from torch import nn

from ...models.nvib.tau import checked_tau
from .layers import check_prior, layers

__all__ = ["regularize"]

Module = TypeVar("Module", bound=nn.Module)


def regularize(
    model: Module,
    *,
    tau_alpha: float | None = None,
    tau_sigma: float | None = None,
    tau_mu: float | None = None,
    tau_nats: float | None = None,
    select: str | None = None,
) -> Module:
    r"""Turns the dial of some layers or of all, without a gradient step.

    A smaller ``tau_alpha`` gives the prior's component more of the attention: unlikely vectors give way to what texts
    have in common. A larger ``tau_sigma`` draws an answer to its query. Whatever is not given stays as it is;
    ``tau_alpha=math.inf, tau_sigma=0, tau_mu=1`` is the model as it was.

    Arguments:
        model: A wrapped model with priors.
        tau_alpha: How many standard deviations the log concentration of a vector is above the one that it has by its
            norm; with 0, a vector of average norm weighs as much as the prior's component.
        tau_sigma: The standard deviation of a component in standard deviations of the prior, 0 or more.
        tau_mu: From 1, where a component has the mean that is its vector, to 0, where it has the prior's.
        tau_nats: What is added to the log concentrations besides, in nats: for layers whose vectors all have about the
            same norm, as behind a LayerNorm with small gains, so that the unit of ``tau_alpha`` is about 0.
        select: Which layers: ``"encoder"``, ``"decoder"`` or ``"cross"``, or a pattern of names such as
            ``"*.layer.[0-3].*"``; None is all.

    Returns:
        The model itself.

    Raises:
        ValueError: If the model is not wrapped, has no priors, no layer is selected, a strength is out of its range, or
            ``tau_nats`` is not 0 where ``tau_alpha`` is infinite.

    References:
        Nonparametric Variational Regularisation of Pretrained Transformers (Fehr & Henderson, 2024),
        https://arxiv.org/abs/2312.00662

    Examples:
        >>> model, x = torch.nn.TransformerEncoderLayer(16, 2, batch_first=True).eval(), torch.randn(3, 5, 16)
        >>> before = model(x)
        >>> model = pf.nvib.fit_priors(pf.nvib.wrap(model), [x])
        >>> changes = [(pf.nvib.regularize(model, tau_alpha=t)(x) - before).norm().item() for t in (9.0, 0.0, -9.0)]
        >>> changes == sorted(changes)
        True
    """
    strengths = checked_tau(alpha=tau_alpha, sigma=tau_sigma, mu=tau_mu, nats=tau_nats)
    if not strengths:
        raise ValueError("nothing to set: give tau_alpha, tau_sigma, tau_mu or tau_nats")
    selected = layers(model, select)
    taus = {name: layer.tau._replace(**strengths) for name, layer in selected.items()}
    for name, tau in taus.items():
        if tau.nats and tau.alpha == math.inf:
            raise ValueError(
                f"tau_nats is {tau.nats:g} beside tau_alpha = inf in the layer {name!r}: give tau_alpha=0.0 too"
            )
    check_prior({name: layer for name, layer in selected.items() if not taus[name].is_identity})
    for name, layer in selected.items():
        layer.tau = taus[name]
    return model
