r"""Joint priors over all vectors of a text, for a mixture whose components belong to the tokens in their order.

The vectors of a text are no more independent than its words are. A prior that models their order lowers the divergence
of a posterior that reconstructs well, and its draws are more like encoded texts.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from pyro.distributions import TorchDistribution
from torch import Size, Tensor, nn
from torch.distributions import Distribution, constraints

from ..attention.kv_cache import KeyValueCache
from ..precision import at_least_float32
from ..transformer.blocks import Block, initialize
from ..transformer.config import TransformerConfig
from ..transformer.embedding import sinusoids
from .checks import check_prior
from .roles import SequencePrior, VectorPrior
from .vectors import SPREAD, GaussianVectorPrior, gaussian_mixture

__all__ = ["AutoregressiveVectorPrior", "InOrder", "IndependentVectorPrior", "Stacked"]

_ONCE = Size()


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
        >>> prior = IndependentVectorPrior(GaussianVectorPrior(4, mean=3.0), first=GaussianVectorPrior(4))
        >>> prior(torch.ones(2, 5, dtype=torch.bool)).sample().shape
        torch.Size([2, 5, 4])
    """

    def __init__(self, tokens: VectorPrior, first: VectorPrior, samples_per_component: int = 1) -> None:
        super().__init__()
        self.tokens, self.first, self.samples_per_component = tokens, first, _checked_samples(samples_per_component)

    def forward(self, mask: Bool[Tensor, "*batch n"]) -> Distribution:
        return _with_own(
            self, self.samples_per_component, mask, _independent(self.tokens(), mask[..., self.samples_per_component :])
        )


class AutoregressiveVectorPrior(SequencePrior):
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
    ) -> None:
        super().__init__()
        model_width = width if model_width is None else model_width
        for name, size in {"width": width, "model_width": model_width, "components": components}.items():
            if size < 1:
                raise ValueError(f"{name} {size}: must be at least 1")
        if model_width % 2 or model_width % max(heads, 1):
            raise ValueError(f"model_width {model_width}: must be even and a multiple of heads, which is {heads}")
        # blocks read neither the vocabulary nor the max_length
        config = TransformerConfig(3, 1, width=model_width, layers=layers, heads=heads, dropout=dropout)
        self.width, self.components, self.samples_per_component = (
            width,
            components,
            _checked_samples(samples_per_component),
        )
        self.before = nn.Linear(width, model_width)
        self.left = nn.Linear(model_width, model_width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(layers))
        self.norm = nn.LayerNorm(model_width)
        self.head = nn.Linear(model_width, components * (1 + 2 * width))
        initialize(self, config)
        nn.init.zeros_(self.head.weight)
        if components > 1:  # means that differ, so that the components can separate
            nn.init.normal_(self._split(self.head.bias.data)[1], std=SPREAD)
        self.first = GaussianVectorPrior(width) if first is None else first
        check_prior(self.first, event_shape=(width,), name="first")

    def forward(self, mask: Bool[Tensor, "*batch n"]) -> Distribution:
        tokens = InOrder(self.conditional, self.draw, mask[..., self.samples_per_component :], self.width)
        return _with_own(self, self.samples_per_component, mask, tokens)

    def conditional(self, vectors: Float[Tensor, "*batch m p"], length: Int[Tensor, "*#batch"]) -> Distribution:
        """The distribution of each vector given those before it, for the first of the ``length`` vectors of a text."""
        before = F.pad(vectors[..., :-1, :], (0, 0, 1, 0))
        place = torch.arange(vectors.shape[-2], device=vectors.device)
        x = self._read(before, place, length)
        for block in self.blocks:
            x = block(x, causal=True)
        return self._mixture(x)

    @torch.no_grad()
    def draw(self, length: Int[Tensor, "*batch"], rows: int) -> Float[Tensor, "*batch m p"]:
        """The first ``rows`` of ``length`` vectors, one after the other, with a cache of keys and values."""
        flat = length.reshape(-1)
        caches = [KeyValueCache(rows) for _ in self.blocks]
        vector = torch.zeros(len(flat), 1, self.width, device=length.device)
        drawn = [vector[:, :0]]
        for i in range(rows):
            x = self._read(vector, torch.full((1,), i, device=length.device), flat)
            for block, cache in zip(self.blocks, caches, strict=True):
                # Not block(...): a compiled block would be compiled again for every length of the cache.
                x = block.forward(x, causal=True, cache=cache)
            vector = self._mixture(x).sample()
            drawn.append(vector)
        return torch.cat(drawn, -2).unflatten(0, length.shape) if length.ndim else torch.cat(drawn, -2)[0]

    def _read(
        self, before: Float[Tensor, "*batch m p"], place: Int[Tensor, " m"], length: Int[Tensor, "*#batch"]
    ) -> Float[Tensor, "*batch m w"]:
        """The input of the blocks at each place: the vector before it, the place, and the number of vectors left."""
        before = before.to(self.before.weight.dtype)
        places, left = (self._place(each, before) for each in (place, length[..., None] - place))
        return self.before(before) + places + self.left(left)

    def _mixture(self, x: Float[Tensor, "*batch m w"]) -> Distribution:
        scores = self.head(self.norm(x))
        return gaussian_mixture(*self._split(at_least_float32(scores)))

    def extra_repr(self) -> str:
        return f"width={self.width}, components={self.components}, samples_per_component={self.samples_per_component}"

    def _place(self, places: Int[Tensor, "*batch"], like: Tensor) -> Float[Tensor, "*batch w"]:
        return sinusoids(places, self.norm.weight.shape[0]).to(like.dtype)

    def _split(self, scores: Float[Tensor, "*batch s"]) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, means and log variances of the components."""
        k, p = self.components, self.width
        logits, mean, log_variance = scores.split([k, k * p, k * p], -1)
        return logits, mean.unflatten(-1, (k, p)), log_variance.unflatten(-1, (k, p))


class InOrder(TorchDistribution):
    r"""Vectors that follow one another, each given those before it.

    .. math:: \log p(z_1, \dots, z_n) = \sum_{i=1}^n \log p(z_i \mid z_1, \dots, z_{i-1})

    A density takes one call of ``conditional``, for all vectors at once.

    Arguments:
        conditional: Takes the first :math:`m` vectors, with shape :math:`(*, m, P)`, and their total number, with shape
            :math:`(*)`; returns the distribution of each given those before it, with batch shape :math:`(*, m)`.
        draw: Takes the total number, with shape :math:`(*)`, and :math:`M`; draws the first :math:`M`.
        present: True where a vector exists, with shape :math:`(*, M)`; the others come last, without a density.
        width: :math:`P`.
    """

    arg_constraints = {}
    support = constraints.independent(constraints.real, 2)

    def __init__(
        self,
        conditional: Callable[[Tensor, Tensor], Distribution],
        draw: Callable[[Tensor, int], Tensor],
        present: Bool[Tensor, "*batch m"],
        width: int,
        validate_args: bool | None = None,
    ) -> None:
        self.conditional, self.draw, self.present = conditional, draw, present
        super().__init__(present.shape[:-1], Size((present.shape[-1], width)), validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "InOrder":
        new: InOrder = self._get_checked_instance(InOrder, _instance)
        new.conditional, new.draw = self.conditional, self.draw
        new.present = self.present.expand(*batch_shape, self.present.shape[-1])
        super(InOrder, new).__init__(Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = _ONCE) -> Float[Tensor, "*batch m p"]:
        present = self.present.expand(*sample_shape, *self.present.shape)
        return torch.where(present[..., None], self.draw(present.sum(-1), present.shape[-1]), 0)

    def log_prob(self, value: Float[Tensor, "*batch m p"]) -> Float[Tensor, "*batch"]:
        if self._validate_args:
            self._validate_sample(value)
        value = torch.where(self.present[..., None], value, 0)
        each = self.conditional(value, self.present.sum(-1)).log_prob(value)
        return torch.where(self.present, each, 0).sum(-1)


class Stacked(TorchDistribution):
    r"""Independent parts as one distribution: their draws one below the other.

    Arguments:
        parts: Distributions with the same batch shape, whose event shapes :math:`(N_j, P)` add up to :math:`(N, P)`.
    """

    arg_constraints = {}
    support = constraints.independent(constraints.real, 2)

    def __init__(self, parts: Sequence[Distribution], validate_args: bool | None = None) -> None:
        self.parts = list(parts)
        rows = sum(part.event_shape[0] for part in parts)
        super().__init__(parts[0].batch_shape, Size((rows, parts[0].event_shape[1])), validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "Stacked":
        new: Stacked = self._get_checked_instance(Stacked, _instance)
        new.parts = [part.expand(Size(batch_shape)) for part in self.parts]
        super(Stacked, new).__init__(Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def sample(self, sample_shape: Sequence[int] = _ONCE) -> Float[Tensor, "*batch n p"]:
        return torch.cat([part.sample(Size(sample_shape)) for part in self.parts], -2)

    def log_prob(self, value: Float[Tensor, "*batch n p"]) -> Float[Tensor, "*batch"]:
        if self._validate_args:
            self._validate_sample(value)
        rows = value.split([part.event_shape[0] for part in self.parts], -2)
        densities = [part.log_prob(row) for part, row in zip(self.parts, rows, strict=True)]
        return torch.stack(torch.broadcast_tensors(*densities)).sum(0)


def _independent(distribution: Any, mask: Bool[Tensor, "*batch n"]) -> Distribution:
    """The distribution of independent draws of a vector, one for each component of the mask."""
    rows: Distribution = distribution.expand(mask.shape).mask(mask).to_event(1)
    return rows


def _with_own(
    prior: SequencePrior, samples_per_component: int, mask: Bool[Tensor, "*batch n"], tokens: Distribution
) -> Distribution:
    """The distribution of the prior's own vectors, if there are any, followed by the tokens'."""
    return (
        Stacked([_independent(prior.first(), mask[..., :samples_per_component]), tokens])
        if samples_per_component
        else tokens
    )


def _checked_samples(samples_per_component: int) -> int:
    if samples_per_component < 0:
        raise ValueError(
            f"samples_per_component {samples_per_component}: must not be negative; 0 is for models without a component "
            "of the prior's own"
        )
    return samples_per_component
