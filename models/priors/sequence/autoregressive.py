r"""Joint priors over all vectors of a text, for a mixture whose components belong to the tokens in their order.

The vectors of a text are no more independent than its words are. A prior that models their order lowers the divergence
of a posterior that reconstructs well, and its draws are more like encoded texts.
"""

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.distributions import Distribution

from ...transformer.config import Activation, Norm, Positions
from ...utils.numbers import check_at_least
from ..roles import SequencePrior, VectorPrior
from ..vectors import SPREAD, gaussian_mixture, mixture_scores, over_components
from .causal import CausalVectorPrior, blocks_of_vectors
from .joint import with_own

__all__ = ["AutoregressiveVectorPrior", "IndependentVectorPrior"]


class IndependentVectorPrior(SequencePrior):
    r"""Independent vectors, with one distribution for the prior's own components and another for those of the tokens.

    .. math:: p(z) = \prod_{i \le \kappa} p_0(z_i) \prod_{i > \kappa} p_1(z_i)

    Arguments:
        tokens: Prior :math:`p_1` of a vector that belongs to a token.
        first: Prior :math:`p_0` of a vector of the prior's own components.
        samples_per_component: Number of the prior's own components.

    Raises:
        ValueError: If ``samples_per_component`` is negative.

    Examples:
        >>> prior = IndependentVectorPrior(pf.priors.GaussianVectorPrior(4, mean=3.0), pf.priors.GaussianVectorPrior(4))
        >>> prior(torch.ones(2, 5, dtype=torch.bool)).sample().shape
        torch.Size([2, 5, 4])
    """

    def __init__(self, tokens: VectorPrior, first: VectorPrior, samples_per_component: int = 1) -> None:
        super().__init__()
        check_at_least(0, samples_per_component=samples_per_component)
        self.tokens, self.first, self.samples_per_component = tokens, first, samples_per_component

    def forward(self, mask: Bool[Tensor, "*batch n"]) -> Distribution:
        tokens = over_components(self.tokens, mask[..., self.samples_per_component :])
        return with_own(self, self.samples_per_component, mask, tokens)


class AutoregressiveVectorPrior(CausalVectorPrior):
    r"""A small causal Transformer over the vectors of a text: a language model with vectors for tokens.

    .. math:: p(z \mid n) = \prod_{i \le \kappa} p_0(z_i) \prod_{i > \kappa}
        \sum_{k=1}^K w_{ik} \, \mathcal N(z_i; \mu_{ik}, \operatorname{diag} \sigma_{ik}^2)

    with weights, means and variances that depend on :math:`z_{\kappa + 1}, \dots, z_{i-1}` and on the number of vectors
    that follow. The prior's own components are independent of the text and have their own distribution :math:`p_0`. At
    the start each vector is near :math:`\mathcal N(0, I)` whatever the vectors before it, exactly so for
    :math:`K = 1`.

    Arguments:
        width: :math:`P`.
        model_width: The size of a hidden state; even, and a multiple of ``heads``. None is ``width``.
        layers: The number of blocks.
        heads: The number of attention heads.
        components: :math:`K`, Gaussians for each vector.
        dropout: Probability of dropping an activation in training.
        samples_per_component: Number of the prior's own components.
        first: Prior :math:`p_0` of the prior's own components; a standard Gaussian by default.
        norm, activation, positions, bias: Options of the blocks, as in :func:`~.sequence.causal.blocks_of_vectors`; of
            a prior that is named they are those of its model.

    Raises:
        ValueError: If a size is out of range, two do not go together, or ``first`` has another width.

    References:
        Neural Discrete Representation Learning (van den Oord et al., 2017), https://arxiv.org/abs/1711.00937, for an
        autoregressive prior that is fitted after the autoencoder.

    Examples:
        >>> prior = AutoregressiveVectorPrior(8, heads=2)
        >>> distribution = prior(torch.tensor([[True, True, True], [True, True, False]]))
        >>> distribution.event_shape, distribution.log_prob(distribution.sample()).shape
        (torch.Size([3, 8]), torch.Size([2]))
    """

    def __init__(
        self,
        width: int,
        model_width: int | None = None,
        layers: int = 2,
        heads: int = 4,
        components: int = 1,
        dropout: float = 0.0,
        samples_per_component: int = 1,
        first: VectorPrior | None = None,
        norm: Norm = "layer",
        activation: Activation = "gelu_tanh",
        positions: Positions = "sinusoidal",
        bias: bool = True,
    ) -> None:
        check_at_least(1, components=components)
        network = blocks_of_vectors(width, model_width, layers, heads, dropout, norm, activation, positions, bias)
        super().__init__(width, components * (1 + 2 * width), network, samples_per_component, first)
        self.components = components
        if components > 1:  # means that differ, so that the components can separate
            nn.init.normal_(mixture_scores(self.head.bias.data, components, width)[1], std=SPREAD)

    def next_vector(self, scores: Float[Tensor, "*batch m s"], place: Int[Tensor, " m"]) -> Distribution:
        return gaussian_mixture(*mixture_scores(scores, self.components, self.width))

    def extra_repr(self) -> str:
        return f"width={self.width}, components={self.components}, samples_per_component={self.samples_per_component}"
