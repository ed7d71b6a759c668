"""Posterior draws of the weights of the layers' vectors, for ArviZ."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...models.distributions.log_dirichlet_math import sample_log_dirichlet
from ...models.nvib.bottleneck import Bottleneck, VectorPosterior
from ...models.nvib.observer import Observer
from ...models.utils.seeding import forked_rng
from ..posterior.arviz_compat import ArviZData, from_groups
from ..posterior.labels import storable, unique_labels
from .layers import check_prior, layers
from .observe import run_batches

__all__ = ["posterior"]


def posterior(
    model: nn.Module,
    batch: object,
    *,
    draws: int = 100,
    seed: int = 0,
    select: str | None = None,
    tokens: Sequence[str] | None = None,
) -> ArviZData:
    r"""Draws of the weights that the layers' posteriors give to the prior's component and to each vector.

    .. math:: \pi \sim \text{Dir}(\alpha^p, \alpha_1, \dots, \alpha_n)

    Each layer is a variable with the name of the layer and the dimensions ``chain``, ``draw``, ``text`` and
    ``encoder_vector``, ``decoder_vector`` or ``cross_vector``; vector 0 is the prior's component. A vector that is
    masked has the weight 0. The draws are independent.

    Arguments:
        model: A wrapped model with priors and a finite ``tau_alpha``.
        batch: One batch, as for :func:`~pyroformer.nvib.fit_priors`.
        draws: The number of draws.
        seed: Random seed.
        select: Which layers, as in :func:`~pyroformer.nvib.regularize`.
        tokens: Names of the vectors as coordinates, as for a single text; the prior's component is ``prior``.

    Returns:
        ArviZ's InferenceData, or from ArviZ 1 on a DataTree, with the group ``posterior``.

    Raises:
        ValueError: If the model is not wrapped or has no priors, a ``tau_alpha`` is infinite, ``draws`` is no
            positive whole number, or there are not as many tokens as vectors.

    Examples:
        >>> model, x = pf.nvib.wrap(torch.nn.TransformerEncoderLayer(16, 2, batch_first=True)), torch.randn(3, 5, 16)
        >>> model = pf.nvib.regularize(pf.nvib.fit_priors(model, [x]), tau_alpha=0.0)
        >>> pf.nvib.posterior(model, x, draws=20)["posterior"]["self_attn"].sizes["encoder_vector"]
        6
    """
    import xarray

    if isinstance(draws, bool) or not isinstance(draws, int) or draws < 1:
        raise ValueError(f"draws is {draws!r}: give a positive whole number")
    wrapped = layers(model, select)
    check_prior(wrapped)
    for name, layer in wrapped.items():
        if layer.tau.alpha == math.inf:
            raise ValueError(
                f"tau_alpha is inf in the layer {name!r}, so that its weights are no distribution: "
                "pf.nvib.regularize(model, tau_alpha=0) makes them one"
            )
    seen = {name: _Seen() for name in wrapped}
    run_batches(model, [batch], wrapped, seen)
    variables = {}
    with forked_rng(seed):
        for name, layer in wrapped.items():
            x = seen[name].x
            if x is None:  # it did not run
                continue
            weights = _draws(layer.posterior(x, seen[name].present), layer, draws)
            dims = ("chain", "draw", "text", f"{layer.group}_vector")
            variables[name or "attention"] = (dims, weights[None].float().cpu().numpy())
    group = xarray.Dataset(variables)
    group = group.assign_coords({name: _labels(str(name), size, tokens) for name, size in group.sizes.items()})
    return from_groups({"posterior": group}, {"model": type(model).__name__, "seed": seed, "draws_are": "independent"})


def _labels(dimension: str, size: int, tokens: Sequence[str] | None) -> Sequence[int] | list[str]:
    """Names of the vectors, if there are any; otherwise numbers."""
    if tokens is None or not dimension.endswith("_vector"):
        return range(size)
    if len(tokens) != size - 1:
        raise ValueError(f"tokens has {len(tokens)} names, and there are {size - 1} vectors: give one for each")
    return unique_labels(["prior", *(storable(token) for token in tokens)])


@torch.no_grad()
def _draws(vectors: VectorPosterior, layer: Bottleneck, draws: int) -> Tensor:
    """[draws, B, 1 + N]."""
    log_alpha, mask = layer.log_alpha(vectors)
    return sample_log_dirichlet(log_alpha.expand(draws, *log_alpha.shape), mask).exp()


class _Seen(Observer):
    """The vectors of one batch."""

    def __init__(self) -> None:
        self.x: Tensor | None = None
        self.present: Tensor | None = None

    def vectors(self, x: Tensor, present: Tensor | None) -> None:
        self.x, self.present = x, present
