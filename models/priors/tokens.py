"""A prior of the next vector with one Gaussian for each token: a language model of Gaussian tokens."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.distributions import Distribution

from ..distributions.lengths import Lengths
from ..transformer.embedding import sinusoids
from ..utils.precision import at_least_float32
from .causal import CausalVectorPrior
from .codebook import Codebook
from .joint import of_tokens
from .latents import bounded_std, unbounded
from .roles import TokenGaussians, VectorPrior
from .vectors import GaussianVectorPrior

__all__ = ["TokenVectorPrior"]

LEAST = 0.01  # above the bound of a log variance
ALMOST = -1e-6  # largest log probability that a text ends, where it goes on
PLACES = 3.0  # scale of the sinusoids: places then stand out from tokens, so that a decoder soon finds its own


class TokenVectorPrior(CausalVectorPrior):
    r"""A language model in which each token is a Gaussian.

    .. math:: p(z \mid n) = \prod_{i \le \kappa} p_0(z_i) \prod_{i > \kappa}
        \sum_{v=1}^V w_{iv} \, \mathcal N(z_i; \mu_v + \nu_i, \operatorname{diag} \sigma^2)

    with the weights :math:`w_i` of a causal Transformer, which depend on :math:`z_{\kappa + 1}, \dots, z_{i-1}`; one
    Gaussian for each token :math:`v`, shared by all places; and sinusoids :math:`\nu_i`, times 3, that tell places
    apart, as a mixture has no order.

    With ``eos`` a text ends, as that of a language model, at the first vector that is the end of a text:

    .. math:: p(n \mid z) = r_n \prod_{i < n} (1 - r_i), \qquad r_i = p(\text{eos} \mid z_i, z_{< i})
        = \frac{w_{i, \text{eos}} \, \mathcal N(z_i; \mu_\text{eos} + \nu_i, \operatorname{diag} \sigma^2)}
        {\sum_v w_{iv} \, \mathcal N(z_i; \mu_v + \nu_i, \operatorname{diag} \sigma^2)}

    Vectors after it are not used, and enter no density. Without ``eos`` the length has a prior of its own, and the
    weights depend on the number of vectors that follow.

    A guide starts the posterior of a token's vector at the Gaussian of that token (:meth:`gaussians`). Where Gaussians
    of different tokens do not overlap, the divergence of that posterior from this prior is

    .. math:: \mathrm{KL} = -\sum_i \log w_{i, x_i},

    the loss of a language model, and the vectors say exactly which tokens there are. So the rate of a text is that of a
    language model from the first step, and no schedule of the KL weight is needed; a decoder learns to read the
    vectors, and posteriors become wider, or read their context, where that raises the bound.

    The weights are :math:`w_i \propto \exp(e_v^\top h_i + b_v)` and the means :math:`\mu_v = \sqrt P e_v`, with one
    embedding :math:`e` for the input and the output of the language model. A model starts it at that of its decoder.

    Arguments:
        width: :math:`P`.
        vocabulary: :math:`V`, the number of tokens.
        model_width: The size of a hidden state; even, and a multiple of ``heads``. None is ``width``.
        layers: The number of blocks.
        heads: The number of attention heads.
        dropout: Probability of dropping an activation in training.
        variance: :math:`\sigma^2` at the start, in every dimension, from 0.01 to 100; that of the means is 1.
        samples_per_component: :math:`\kappa`, the number of the prior's own components, and of each token's.
        first: Prior :math:`p_0` of the prior's own components; by default a Gaussian as narrow as those of tokens, as
            far from 0 as they are, so that attention prefers neither, and away from all places.
        eos: The token that ends texts, if the vectors tell where.

    Raises:
        ValueError: If a size, the variance or ``eos`` is out of range, two sizes do not go together, or ``first`` has
            another width.

    References:
        TarFlowLM (2025), https://arxiv.org/abs/2507.00425, for an autoregressive mixture over shared Gaussians, at
        whose modes a model of vectors is one of tokens.

    Examples:
        >>> prior = TokenVectorPrior(8, vocabulary=30, heads=2)
        >>> distribution = prior(torch.tensor([[True, True, True], [True, True, False]]))
        >>> distribution.event_shape, distribution.log_prob(distribution.sample()).shape
        (torch.Size([3, 8]), torch.Size([2]))
        >>> prior.gaussians(torch.tensor([[5, 2]])).mean.shape
        torch.Size([1, 2, 8])
    """

    starts_posteriors = True

    def __init__(
        self,
        width: int,
        vocabulary: int,
        model_width: int | None = None,
        layers: int = 2,
        heads: int = 4,
        dropout: float = 0.0,
        variance: float = 0.015,
        samples_per_component: int = 1,
        first: VectorPrior | None = None,
        eos: int | None = None,
    ) -> None:
        if vocabulary < 1:
            raise ValueError(f"vocabulary {vocabulary}: must be at least 1, the number of tokens")
        if eos is not None and not 0 <= eos < vocabulary:
            raise ValueError(f"eos {eos}: must be a token, from 0 to {vocabulary - 1}, or None")
        if not LEAST <= variance <= 1 / LEAST:
            raise ValueError(f"variance {variance}: must be from {LEAST} to {1 / LEAST:g}; that of the means is 1")
        if first is None and width > 0:
            first = GaussianVectorPrior(width, mean=-math.sqrt(1 + PLACES**2 / 2), variance=variance)
        super().__init__(width, width, model_width, layers, heads, dropout, samples_per_component, first, eos is None)
        if width % 2:
            raise ValueError(f"width {width}: must be even, for the sinusoids of places")
        self.eos = eos
        nn.init.eye_(self.before.weight)  # hidden states are those of a language model with tied embeddings
        nn.init.eye_(self.head.weight)
        self.scale = width**0.5
        self.embedding = nn.Parameter(torch.randn(vocabulary, width) / self.scale)
        self.bias = nn.Parameter(torch.zeros(vocabulary))
        self.log_variance = nn.Parameter(unbounded(torch.full((width,), variance)))

    def gaussians(self, tokens: Int[Tensor, "*batch T"]) -> TokenGaussians:
        place = torch.arange(tokens.shape[-1], device=tokens.device)
        mean = self.scale * at_least_float32(self.embedding[tokens]) + places(place, self.width)
        return TokenGaussians(mean, self._std().square().log())

    def next_vector(self, scores: Float[Tensor, "*batch m s"], place: Int[Tensor, " m"]) -> Distribution:
        embedding, bias = at_least_float32(self.embedding), at_least_float32(self.bias)
        logits, mean = scores @ embedding.T + bias, self.scale * embedding
        shift = places(place // max(1, self.samples_per_component), self.width).to(mean.dtype)
        return Codebook(logits, mean, self._std()[None], shift)

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

    def _read(
        self, before: Float[Tensor, "*batch m p"], place: Int[Tensor, " m"], length: Int[Tensor, "*#batch"]
    ) -> Float[Tensor, "*batch m w"]:
        """The input of the blocks, with the vector of the token before as it would be at no place."""
        shift = places((place - 1) // max(1, self.samples_per_component), self.width)
        return super()._read(before - torch.where((place > 0)[:, None], shift, 0), place, length)

    def _std(self) -> Float[Tensor, " p"]:
        return bounded_std(at_least_float32(self.log_variance))

    def extra_repr(self) -> str:
        return (
            f"width={self.width}, vocabulary={len(self.embedding)}, samples_per_component={self.samples_per_component}"
        )


def ends(log_end: Float[Tensor, "*batch t"], max_length: int) -> Lengths:
    r"""The distribution of the length of a text that ends at each token with some probability, if not before.

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
    r"""What tells the Gaussians of a token at different places apart, :math:`\nu_i`."""
    return PLACES * sinusoids(place, width)
