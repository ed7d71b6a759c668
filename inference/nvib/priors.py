"""Empirical priors of the layers of a wrapped model."""

from typing import TypeVar

from torch import Tensor, nn

from ...models.nvib.bottleneck import Bottleneck
from ...models.nvib.moments import RunningMoments
from ...models.nvib.observer import Observer
from ...models.nvib.tau import IDENTITY
from .layers import layers
from .observe import run_batches

__all__ = ["fit_priors"]

Module = TypeVar("Module", bound=nn.Module)


def fit_priors(model: Module, batches: object) -> Module:
    r"""Gives every layer the moments of its own vectors as its prior, in one pass over texts.

    .. math::
        \mu^p = E[x], \qquad (\sigma^p)^2 = \text{Var}[x], \qquad \log \alpha^p = E \frac{|x|^2}{2 s}

    and :math:`\text{std}^p(\log \alpha)`, the unit of ``tau_alpha``. Vectors are counted if some query may attend to
    them, so that padding has to be masked. The model computes what it did before it was regularized, whatever its
    ``tau``, without dropout or gradients; only sums are kept.

    Arguments:
        model: A wrapped model; its priors are replaced.
        batches: An iterable of batches: dictionaries of the model's arguments, tuples of them, or tensors.

    Returns:
        The model itself.

    Raises:
        ValueError: If the model is not wrapped, there are no batches, or a layer saw fewer than two vectors or NaN.

    Examples:
        >>> model = pf.nvib.wrap(torch.nn.TransformerEncoderLayer(16, 2, batch_first=True))
        >>> model = pf.nvib.fit_priors(model, [torch.randn(3, 5, 16), torch.randn(2, 7, 16)])
        >>> pf.nvib.layers(model)["self_attn"].count.item()
        29
    """
    wrapped = layers(model)
    moments = {name: _Moments(layer) for name, layer in wrapped.items()}
    taus = {name: layer.tau for name, layer in wrapped.items()}
    try:
        for layer in wrapped.values():
            layer.tau = IDENTITY
        run_batches(model, batches, wrapped, moments)
    finally:
        for name, layer in wrapped.items():
            layer.tau = taus[name]
    for name, layer in wrapped.items():
        try:
            layer.set_prior(moments[name].all, moments[name].log_alpha)
        except ValueError as error:
            raise ValueError(f"no prior for the layer {name!r}: {error}") from error
    return model


class _Moments(Observer):
    """Moments of a layer's vectors and of their natural log concentrations."""

    def __init__(self, layer: Bottleneck) -> None:
        self.layer = layer
        self.all = RunningMoments()
        self.log_alpha = RunningMoments()

    def vectors(self, x: Tensor, present: Tensor | None) -> None:
        self.all.add(x, present)
        self.log_alpha.add(self.layer.natural_log_alpha(x)[..., None], present)
