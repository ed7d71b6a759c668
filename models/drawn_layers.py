r"""The mixtures that layers of a decoder draw over the tokens before, as sites of a model.

Model and posterior agree on what a layer draws for a token, :math:`p(g_t, z_t \mid x_{<t}, g_{<t}, z_{<t}, F)`, so that
these sites cost nothing in a bound:

.. math::

    \log p(x \mid F) \ge \mathrm{E}_p \Big[ \sum_t \log p(x_t \mid x_{<t}, g_{\le t}, z_{\le t}, F) \Big]

No guide draws them, and their densities are masked, as both of them cancel.
"""

from collections.abc import Mapping
from typing import Any

import pyro
import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.distributions import Distribution

from .attention.mixture import Mixture
from .base import DRAWN_BY_MODEL, REGULARIZED_TO
from .batch import Batch
from .mixture_names import MixtureNames
from .transformer.memory import Memory
from .transformer.mixtures.decoder import MixtureDecoder, mean_mixture
from .transformer.mixtures.drawn_text import DrawnText
from .transformer.mixtures.posterior import MixturePosterior

__all__ = ["layers_at_means", "text_with_drawn_layers"]


def text_with_drawn_layers(
    decoder: MixtureDecoder,
    memory: Memory,
    batch: Batch,
    mask: Bool[Tensor, "*batch N"],
    priors: Mapping[str, Distribution],
) -> DrawnText:
    """The distribution of observed texts, given what each layer draws at its sites ``weights_decoder_l`` and so on.

    Arguments:
        decoder: The decoder.
        memory: The memory of each text.
        batch: The texts.
        mask: True for the components that exist in a layer, the prior's first.
        priors: What a regularizer compares each layer's ``weights`` and ``vectors`` with.
    """
    assert batch.tokens is not None, "texts are observed"

    def draw(layer: int, posterior: MixturePosterior) -> Mixture:
        names = MixtureNames("decoder", layer)

        def sample(site: str, distribution: Any, prior: Distribution) -> Tensor:
            infer: Any = {DRAWN_BY_MODEL: True, REGULARIZED_TO: prior}
            drawn: Tensor = pyro.sample(site, distribution, infer=infer)
            return drawn

        with pyro.poutine.mask(mask=False):
            weights = sample(names.weights, posterior.weights(mask), priors["weights"])
            vectors = sample(names.vectors, posterior.vectors(mask), priors["vectors"])
        return Mixture(weights.to(vectors.dtype), vectors, mask=mask)

    hidden = decoder(batch.tokens, memory, draw=draw)
    return DrawnText(decoder, memory, batch.mask, known=(batch.tokens, hidden))


@torch.no_grad()
def layers_at_means(
    decoder: MixtureDecoder, memory: Memory, tokens: Int[Tensor, "*texts T"], mask: Bool[Tensor, "*batch N"]
) -> dict[int, MixturePosterior]:
    """The mixture of each layer of the decoder by its number, with the other layers at their means."""
    found: dict[int, MixturePosterior] = {}

    def mean(layer: int, posterior: MixturePosterior) -> Mixture:
        found[layer] = posterior._replace(mask=mask)
        return mean_mixture(posterior)

    decoder(tokens, memory, draw=mean)
    return found
