"""A prior of the next vector with one Gaussian for each token: a language model of Gaussian tokens."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.distributions import Distribution

from ...transformer.config import Activation, Norm, Positions
from ...utils.precision import at_least_float32
from ..latents import unbounded
from ..roles import VectorPrior
from .causal import CausalVectorPrior, blocks_of_vectors
from .gaussian_tokens import GaussianTokenPrior, check_gaussians, narrow_first

__all__ = ["TokenVectorPrior"]


class TokenVectorPrior(GaussianTokenPrior, CausalVectorPrior):
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
        norm, activation, positions, bias: Options of the blocks, as in :func:`~.sequence.causal.blocks_of_vectors`; of
            a prior that is named they are those of its model.

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
        norm: Norm = "layer",
        activation: Activation = "gelu_tanh",
        positions: Positions = "sinusoidal",
        bias: bool = True,
    ) -> None:
        check_gaussians(vocabulary, variance, eos)
        network = blocks_of_vectors(width, model_width, layers, heads, dropout, norm, activation, positions, bias)
        first = narrow_first(width, variance) if first is None else first
        CausalVectorPrior.__init__(self, width, width, network, samples_per_component, first, eos is None)
        if width % 2:
            raise ValueError(f"width is {width}: give an even number, for the sinusoids of places.")
        self.eos = eos
        nn.init.eye_(self.before.weight)  # hidden states are those of a language model with tied embeddings
        nn.init.eye_(self.head.weight)
        self.scale = width**0.5
        self.embedding = nn.Parameter(torch.randn(vocabulary, width) / self.scale)
        self.bias = nn.Parameter(torch.zeros(vocabulary))
        self.log_variance = nn.Parameter(unbounded(torch.full((width,), variance)))

    def means(self) -> Float[Tensor, "v p"]:
        return self.scale * at_least_float32(self.embedding)

    def next_vector(self, scores: Float[Tensor, "*batch m s"], place: Int[Tensor, " m"]) -> Distribution:
        logits = F.linear(scores, at_least_float32(self.embedding), at_least_float32(self.bias))
        return self.of_logits(logits, place)

    def start_at_embedding(self, embedding: Float[Tensor, "v p"]) -> None:
        self.embedding.copy_(embedding / (embedding.square().mean().sqrt() * self.scale))

    def _read(
        self, before: Float[Tensor, "*batch m p"], place: Int[Tensor, " m"], length: Int[Tensor, "*#batch"]
    ) -> Float[Tensor, "*batch m w"]:
        """The input of the blocks, with the vector of the token before as it would be at no place."""
        return super()._read(before - torch.where((place > 0)[:, None], self.shift(place - 1), 0), place, length)

    def extra_repr(self) -> str:
        return (
            f"width={self.width}, vocabulary={len(self.embedding)}, samples_per_component={self.samples_per_component}"
        )
