"""Shared parts of priors with one Gaussian for each token: their base class, codes of places, ends of texts."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.distributions import Distribution

from ...distributions.lengths import Lengths
from ...transformer.embedding import sinusoids
from ...utils.numbers import check_at_least
from ...utils.precision import at_least_float32
from ...utils.weight_tables import from_weights
from ..latents import bounded_std
from ..roles import SequencePrior, TokenGaussians
from ..vectors import GaussianVectorPrior
from .codebook import Codebook
from .joint import of_tokens

__all__ = ["GaussianTokenPrior", "check_gaussians", "ends", "narrow_first", "places"]

LEAST = 0.01  # above the bound of a log variance
ALMOST = -1e-6  # largest log probability that a text ends, where it goes on
PLACES = 3.0  # scale of the sinusoids: places then stand out from tokens, so that a decoder soon finds its own


class GaussianTokenPrior(SequencePrior):
    r"""Base class of the priors in which each token is a Gaussian.

    .. math:: p(z_i \mid z_{<i}) = \sum_{v=1}^V w_{iv} \, \mathcal N(z_i; \mu_v + \nu_i, \operatorname{diag} \sigma^2)

    A subclass has the parameter ``log_variance``, :meth:`means`, :meth:`start_at_embedding`, and weights of its own,
    from which :meth:`of_logits` makes the distribution of each vector.

    Attributes:
        eos: The token that ends texts, if the vectors tell where; or None.
        log_variance: Of all Gaussians, before it is bounded.
        width: :math:`P`.
        samples_per_component: :math:`\kappa`, the number of the prior's own components, and of each token's.
    """

    starts_posteriors = True
    eos: int | None
    log_variance: Float[Tensor, " p"]
    width: int
    samples_per_component: int

    def means(self) -> Float[Tensor, "v p"]:
        r""":math:`\mu_v`, of at least float32."""
        raise NotImplementedError(f"{type(self).__name__} is a GaussianTokenPrior: write means()")

    def start_at_embedding(self, embedding: Float[Tensor, "v p"]) -> None:
        """Starts the means at an embedding of the tokens, scaled to variance 1."""
        raise NotImplementedError(f"{type(self).__name__} is a GaussianTokenPrior: write start_at_embedding(embedding)")

    def gaussians(self, tokens: Int[Tensor, "*batch T"]) -> TokenGaussians:
        place = torch.arange(tokens.shape[-1], device=tokens.device)
        means = F.embedding(tokens, self.nonzero_means())  # the gradient of means[tokens] adds in any order
        mean = F.pad(means, (0, self.width - means.shape[-1])) + self.places(place)
        return TokenGaussians(mean, self.std().square().log())

    def nonzero_means(self) -> Float[Tensor, "v q"]:
        r""":math:`\mu_v` without the last dimensions that are zero for all tokens."""
        return self.means()

    def of_logits(self, logits: Float[Tensor, "*batch m v"], place: Int[Tensor, " m"]) -> Codebook:
        """The distribution of the vector at each place, from the logits of its token."""
        return self.codebook(place).weighted(logits)

    def codebook(self, place: Int[Tensor, " m"]) -> Codebook:
        """The Gaussians of all tokens at each place, with equal weights."""

        def gaussians() -> Codebook:
            means = self.nonzero_means()
            return Codebook(means.new_zeros(()).expand(1, len(means)), means, self.std()[None])

        codebook = from_weights(self, "codebook", gaussians, *self.parameters(recurse=False))
        return codebook.shifted(self.shift(place).to(codebook.means.dtype))

    def shift(self, place: Int[Tensor, " m"]) -> Float[Tensor, "m p"]:
        r""":math:`\nu_i`, of the token that a vector belongs to."""
        return self.places(place.div(max(1, self.samples_per_component), rounding_mode="floor"))

    def places(self, place: Int[Tensor, " m"]) -> Float[Tensor, "m p"]:
        r""":math:`\nu_i`, of a token at each place."""
        return places(place, self.width)

    def std(self) -> Float[Tensor, " p"]:
        r""":math:`\sigma`."""
        return bounded_std(at_least_float32(self.log_variance))

    @property
    def ends_texts(self) -> bool:
        return self.eos is not None

    def length(self, distribution: Distribution, vectors: Float[Tensor, "*batch n p"], max_length: int) -> Distribution:
        each = of_tokens(distribution, vectors)
        assert self.eos is not None and isinstance(each.distribution, Codebook)
        eos = torch.full((1,), self.eos, device=vectors.device)  # a scalar would be read from the device
        joint = each.distribution.log_weight(eos) + each.distribution.log_density(each.value, eos)
        samples = max(1, self.samples_per_component)
        return ends((joint - each.log_prob)[..., samples - 1 :: samples], max_length)


def check_gaussians(vocabulary: int, variance: float, eos: int | None) -> None:
    """Raises a ValueError if there are no tokens, ``eos`` is none of them, or the variance is out of range."""
    check_at_least(1, vocabulary=vocabulary)
    if eos is not None and not 0 <= eos < vocabulary:
        raise ValueError(f"eos is {eos}: give a token, from 0 to {vocabulary - 1}, or None.")
    if not LEAST <= variance <= 1 / LEAST:
        raise ValueError(
            f"variance is {variance}: give a number from {LEAST} to {1 / LEAST:g}; that of the means is 1."
        )


def narrow_first(width: int, variance: float) -> GaussianVectorPrior:
    """The default prior of the prior's own components.

    A Gaussian as narrow as those of tokens, as far from 0 as they are, so that attention prefers neither, and away from
    all places.
    """
    return GaussianVectorPrior(width, mean=-math.sqrt(1 + PLACES**2 / 2), variance=variance)


def ends(log_end: Float[Tensor, "*batch t"], max_length: int) -> Lengths:
    r"""The distribution of the length, from the probability at each token that the text ends there if not earlier.

    .. math:: p(n) = r_n \prod_{i < n} (1 - r_i)

    All that is left falls to ``max_length``, or, with fewer tokens than that, to the length after the last of them.

    Arguments:
        log_end: :math:`\log r_i`.
        max_length: The largest length.

    Examples:
        >>> ends(torch.tensor([0.5, 0.5, 0.5]).log(), max_length=3).probs
        tensor([0.5000, 0.2500, 0.2500])
        >>> ends(torch.tensor([0.5, 0.5, 0.5]).log(), max_length=9).probs
        tensor([0.5000, 0.2500, 0.1250, 0.1250])
    """
    log_on = torch.log(-torch.expm1(log_end.clamp(max=ALMOST))).cumsum(-1)
    reached = F.pad(log_on, (1, 0))
    last = min(log_end.shape[-1], max_length - 1)  # where a text may end, rather than must
    return Lengths(torch.cat([reached[..., :last] + log_end[..., :last], reached[..., last : last + 1]], -1))


def places(place: Int[Tensor, "*batch"], width: int) -> Float[Tensor, "*batch width"]:
    r"""Codes of places, :math:`\nu_i`, by which the Gaussians of a token at different places differ."""
    return PLACES * sinusoids(place, width)
