r"""A causal Transformer over the vectors of a text, which priors of the next vector have in common."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.distributions import Distribution

from ...attention.kv_cache import KeyValueCache
from ...transformer.blocks import Block, applied, initialize, norm_layer
from ...transformer.config import Activation, Norm, Positions, TransformerConfig
from ...transformer.embedding import sinusoids
from ...utils.numbers import check_at_least
from ...utils.precision import at_least_float32
from ..checks import check_prior
from ..roles import SequencePrior, VectorPrior
from ..vectors import GaussianVectorPrior
from .joint import InOrder, with_own

__all__ = ["CausalVectorPrior", "blocks_of_vectors"]


class CausalVectorPrior(SequencePrior):
    r"""Base class of the priors of each vector given those before it: a language model with vectors for tokens.

    .. math:: p(z \mid n) = \prod_{i \le \kappa} p_0(z_i) \prod_{i > \kappa}
        p(z_i \mid z_{\kappa + 1}, \dots, z_{i-1}, n)

    A subclass defines the family of :math:`p(z_i \mid \dots)` in :meth:`next_vector`. The prior's own components are
    independent of the text and have their own distribution :math:`p_0`. At the start no vector depends on another one.
    Without ``reads_length``, no vector depends on :math:`n`.

    Arguments:
        width: :math:`P`.
        scores: The number of scores from which :meth:`next_vector` makes a distribution.
        network: The blocks, from :func:`blocks_of_vectors`; None is its defaults.
        samples_per_component: Number of the prior's own components.
        first: Prior :math:`p_0` of the prior's own components; a standard Gaussian by default.
        reads_length: Whether vectors depend on the number of those that follow.

    Raises:
        ValueError: If a size is out of range, or ``first`` has another width.

    Examples:
        >>> class Steps(CausalVectorPrior):
        ...     def __init__(self, width):
        ...         super().__init__(width, scores=width)
        ...     def next_vector(self, scores, place):
        ...         return pyro.distributions.Normal(scores, 1.0).to_event(1)
        >>> Steps(8)(torch.ones(2, 5, dtype=torch.bool)).sample().shape
        torch.Size([2, 5, 8])
    """

    def __init__(
        self,
        width: int,
        scores: int,
        network: TransformerConfig | None = None,
        samples_per_component: int = 1,
        first: VectorPrior | None = None,
        reads_length: bool = True,
    ) -> None:
        super().__init__()
        config = blocks_of_vectors(width) if network is None else network
        check_at_least(0, samples_per_component=samples_per_component)
        self.width, self.samples_per_component = width, samples_per_component
        self.before = nn.Linear(width, config.width)
        self.left = nn.Linear(config.width, config.width) if reads_length else None
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = norm_layer(config)
        self.head = nn.Linear(config.width, scores)
        initialize(self, config)
        nn.init.zeros_(self.head.weight)
        self.first = GaussianVectorPrior(width) if first is None else first
        check_prior(self.first, event_shape=(width,), name="first")

    def next_vector(self, scores: Float[Tensor, "*batch m s"], place: Int[Tensor, " m"]) -> Distribution:
        """The distribution of the vector at each place, from scores of at least float32.

        It has batch shape :math:`(*, m)`; places count the tokens' vectors, from 0.
        """
        raise NotImplementedError(f"{type(self).__name__} is a CausalVectorPrior: write next_vector(scores, place)")

    def forward(self, mask: Bool[Tensor, "*batch n"]) -> Distribution:
        tokens = InOrder(self.conditional, self.draw, mask[..., self.samples_per_component :], self.width)
        return with_own(self, self.samples_per_component, mask, tokens)

    def conditional(self, vectors: Float[Tensor, "*batch m p"], length: Int[Tensor, "*#batch"]) -> Distribution:
        """The distribution of each vector given those before it, for the first of the ``length`` vectors of a text."""
        before = F.pad(vectors[..., :-1, :], (0, 0, 1, 0))
        place = torch.arange(vectors.shape[-2], device=vectors.device)
        x = self._read(before, place, length)
        for block in self.blocks:
            x = applied(block, x, causal=True)
        return self._next(x, place)

    @torch.no_grad()
    def draw(self, length: Int[Tensor, "*batch"], rows: int) -> Float[Tensor, "*batch m p"]:
        """The first ``rows`` of ``length`` vectors, one after the other, with a cache of keys and values."""
        flat = length.reshape(-1)
        caches = [KeyValueCache(rows) for _ in self.blocks]
        vector = torch.zeros(len(flat), 1, self.width, device=length.device)
        drawn = [vector[:, :0]]
        for i in range(rows):
            place = torch.full((1,), i, device=length.device)
            x = self._read(vector, place, flat)
            for block, cache in zip(self.blocks, caches, strict=True):
                # Not block(...): a compiled block would be compiled again for every length of the cache.
                x = block.forward(x, causal=True, cache=cache)
            vector = self._next(x, place).sample()
            drawn.append(vector)
        return torch.cat(drawn, -2).unflatten(0, length.shape) if length.ndim else torch.cat(drawn, -2)[0]

    def _read(
        self, before: Float[Tensor, "*batch m p"], place: Int[Tensor, " m"], length: Int[Tensor, "*#batch"]
    ) -> Float[Tensor, "*batch m w"]:
        """The input of the blocks at each place: the vector before it, the place, and the number of vectors left."""
        before = before.to(self.before.weight.dtype)
        x: Tensor = self.before(before) + self._place(place, before)
        return x if self.left is None else x + self.left(self._place(length[..., None] - place, before))

    def _next(self, x: Float[Tensor, "*batch m w"], place: Int[Tensor, " m"]) -> Distribution:
        return self.next_vector(at_least_float32(self.head(self.norm(x))), place)

    def _place(self, places: Int[Tensor, "*batch"], like: Tensor) -> Float[Tensor, "*batch w"]:
        return sinusoids(places, self.norm.weight.shape[0]).to(like.dtype)


def blocks_of_vectors(
    width: int,
    model_width: int | None = None,
    layers: int = 2,
    heads: int = 4,
    dropout: float = 0.0,
    norm: Norm = "layer",
    activation: Activation = "gelu_tanh",
    positions: Positions = "sinusoidal",
    bias: bool = True,
) -> TransformerConfig:
    """The blocks of a Transformer that reads vectors.

    Arguments:
        width: The size of a vector.
        model_width: The size of a hidden state; even, and a multiple of ``heads``; by default ``width``.
        layers: The number of blocks.
        heads: The number of attention heads.
        dropout: Probability of dropping an activation in training.
        norm: The norm of the blocks, as in :class:`~.config.TransformerConfig`, like the next two.
        activation: The activation of their feed-forward layers.
        positions: ``"rotary"``: they rotate queries and keys as well; places enter by sinusoids in any case.
        bias: Whether they have biases.

    Raises:
        ValueError: If a size is out of range, or two do not go together.
    """
    size = width if model_width is None else model_width
    check_at_least(1, width=width, model_width=size)
    if size % 2 or size % max(heads, 1):
        raise ValueError(f"model_width is {size}: give an even multiple of heads, which is {heads}.")
    return TransformerConfig(  # blocks read neither the vocabulary nor the max_length
        3, 1, size, layers, heads, dropout=dropout, norm=norm, activation=activation, positions=positions, bias=bias
    )
