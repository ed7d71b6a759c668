"""Regularization of a wrapped model after training: the dial."""

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
        select: Which layers: ``"encoder"``, ``"decoder"`` or ``"cross"``, or a pattern of names such as
            ``"*.layer.[0-3].*"``; None is all.

    Returns:
        The model itself.

    Raises:
        ValueError: If the model is not wrapped, has no priors, no layer is selected, or a strength is out of its range.

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
    given = checked_tau(alpha=tau_alpha, sigma=tau_sigma, mu=tau_mu)
    if not given:
        raise ValueError("nothing to set: give tau_alpha, tau_sigma or tau_mu")
    chosen = layers(model, select)
    for layer in chosen.values():
        if not layer.tau._replace(**given).is_identity:
            check_prior(chosen)
    for layer in chosen.values():
        layer.tau = layer.tau._replace(**given)
    return model
