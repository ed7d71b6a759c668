"""A prior made of the guide's posteriors."""

from typing import ClassVar

import torch
from jaxtyping import Float
from pyro import distributions as dist
from torch import Tensor, nn
from torch.distributions import Distribution

from ..utils.numbers import check_at_least
from .roles import LatentPrior

__all__ = ["VampPrior"]


class VampPrior(LatentPrior):
    r"""A mixture of the guide's posteriors at pseudo-texts, which are trained.

    .. math:: p(z_l \mid z_{<l}, c) = \frac1K \sum_{k=1}^K q(z_l \mid z_{<l}, u_k, c)

    A pseudo-text :math:`u_k` is a row of vectors that take the place of a text's embeddings. The guide reads them with
    its own encoder, so that the prior moves with the posterior; what it learns trains the guide's networks too. The
    divergence is estimated at the guide's draws. The guide has to be made before the model is called alone.

    Arguments:
        width: The width of the network.
        components: :math:`K`.
        length: Number of vectors of a pseudo-text, at most ``max_length``.

    Raises:
        ValueError: If a number is not positive; when the guide is made, if pseudo-texts do not fit its network.

    References:
        VAE with a VampPrior (Tomczak & Welling, 2018), Eq. 9, and section 3 for layers of latents,
        https://arxiv.org/abs/1705.07120

    Examples:
        >>> from pyroformer.models.transformer.config import TransformerConfig
        >>> config = TransformerConfig(vocabulary=20, max_length=8, width=16, layers=2, heads=2)
        >>> model = pf.DELLA(config, latent_size=4, latent_prior=VampPrior(16, components=5, length=3))
        >>> guide = pf.DELLAGuide(model)
        >>> model.prior(torch.zeros(2, 4), 1).component_distribution.batch_shape
        torch.Size([2, 5])
    """

    sees_guide: ClassVar[bool] = True

    def __init__(self, width: int, components: int = 50, length: int = 8) -> None:
        super().__init__()
        check_at_least(1, width=width, components=components, length=length)
        self.pseudo_texts = nn.Parameter(torch.randn(components, length, width))

    def set_guide(self, guide: nn.Module) -> None:
        """Called by a guide when it is made.

        Raises:
            ValueError: If the guide has no posterior given pseudo-texts, or these do not fit its network.
        """
        if not all(hasattr(guide, method) for method in ("read_vectors", "conditional")):
            raise ValueError(
                f"a {type(guide).__name__} reads no pseudo-texts of a VampPrior: give that prior to a DELLA as "
                "latent_prior, or write read_vectors(vectors) and conditional(index, summary, encodings)."
            )
        super().set_guide(guide)
        config, (_, length, width) = self.guide.model.config, self.pseudo_texts.shape
        if width != config.width or length > config.max_length:
            raise ValueError(
                f"a pseudo-text has {length} vectors of width {width}, and the network reads {config.max_length} of "
                f"width {config.width}: give the VampPrior this width, and no larger length."
            )

    def forward(self, summary: Float[Tensor, "*batch p"], index: int) -> Distribution:
        encodings = self.guide.read_vectors(self.pseudo_texts)
        posteriors = self.guide.conditional(index, summary[..., None, :], encodings)
        equal = torch.zeros(posteriors.batch_shape, dtype=posteriors.mean.dtype, device=summary.device)
        distribution: Distribution = dist.MixtureSameFamily(dist.Categorical(logits=equal), posteriors)
        return distribution

    def extra_repr(self) -> str:
        components, length, width = self.pseudo_texts.shape
        return f"width={width}, components={components}, length={length}"
