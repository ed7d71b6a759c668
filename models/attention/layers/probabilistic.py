r"""Self-attention as inference in a mixture of Gaussians, with learned precisions and priors of the keys."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ...heads import head_width
from ...utils.choices import check_choice
from ...utils.numbers import check_dropout, declared_number
from ..attend import Returns, attend
from ..blockwise.attend import blockwise_attend
from ..blockwise.e_step import EStep
from ..blockwise.relative_positions import RelativePositions
from ..kernel.packed import causal_mask
from ..key_adaptation import StepGradient, adapt_keys, check_pseudo_counts, check_steps, check_tolerance
from ..kv_cache import KeyValueCache
from ..log_space import safe_logsumexp, visible_logsumexp
from ..mixture import Mixture
from .gaussian_keys import Assignment, GaussianKeys, KeyDensity, KeyPrior, Precision, TokenReadout

__all__ = ["ProbabilisticAttention", "ValuePosterior"]


class ValuePosterior(NamedTuple):
    r"""The posterior of the value of each head of a layer at each position.

    Arguments:
        mean: :math:`E[v \mid q]`, the output of the head, with shape :math:`(*, H, T, E)`.
        variance: :math:`\text{Var}[v \mid q]` of each dimension, with shape :math:`(*, H, T, E)`.
        evidence: :math:`\log p(q)`, the log density of the query under the keys, with shape :math:`(*, H, T)`. Their
            weights sum to one over those that the query may attend to; a prior that favors long keys, as that of
            softmax attention does, makes the evidence high near long keys.
    """

    mean: Float[Tensor, "*batch h t e"]
    variance: Float[Tensor, "*batch h t e"]
    evidence: Float[Tensor, "*batch h t"]


class ProbabilisticAttention(GaussianKeys):
    r"""Multi-head self-attention whose keys are Gaussians; at initialization exactly softmax attention.

    .. math::
        p(q) = \sum_n \pi_n \, N(q; k_n, a_n^{-1}), \qquad
        \log \pi_n = \gamma \, \tfrac12 \sum_e a_{ne} k_{ne}^2 + c_n, \qquad y = E[v \mid q]

    With :math:`a = 1 / \sqrt E` and :math:`\gamma = 1`, the prior that favors long keys, this is softmax attention;
    :math:`\gamma = 0` is attention by distance. Precisions are limited to :math:`e^{\pm 15} / \sqrt E`. Weights of
    :class:`~.self_attention.SelfAttention` and of ``nn.MultiheadAttention`` load with ``strict=False`` and give the
    same outputs; :meth:`from_multihead_attention` makes the layer too.

    Arguments:
        width: The width :math:`P` of the model.
        heads: The number of heads :math:`H`.
        bias: Whether projections have biases.
        dropout: Probability that an attention weight is dropped in training; not with ``steps``.
        precision: ``"shared"``: one learned :math:`a` for each head; ``"full"``: one learned matrix for each head, so
            that the directions of queries count differently; ``"key"``: a number for each key, a function of its
            token; ``"diagonal"``: one for each of its dimensions.
        prior: ``"magnitude"``: :math:`\gamma = 1, c = 0`; ``"gated"``: :math:`\gamma` learned for each head;
            ``"learned"``: :math:`c_n` too, a function of the token.
        components: The number of Gaussians in each key. All but the first have a projection of their own, behind a gate
            that starts closed.
        null_component: Whether there is one more key, at zero and with value zero, for queries that no other explains.
            Its log weight is learned. With it, and with ``steps``, the layer is not softmax attention from the start.
        steps: The largest number of EM steps by which keys adapt to the queries; if causal, to earlier ones.
        pseudo_counts: The number of queries that a key is worth when it adapts.
        tolerance: Keys of a head stay after a step that moves none of them by more than so many standard deviations;
            if they adapt causally, those of a query after a step that changes none of its weights by more. None is
            after ``steps``.
        gradient: ``"unrolled"``: gradients of all EM steps, whose intermediate results are kept; ``"implicit"``: of the
            fixed point they lead to, in the memory of two steps; not for keys that adapt causally, nor with Student's
            t, the hard assignment or positions, nor under torch.compile.
        density: ``"student"``: keys are Student's t with heavy tails, for outliers. Their inverse degrees of freedom
            are learned for each head, from 0, the Gaussian.
        assignment: ``"hard"``: of a key's Gaussians only the most probable counts for a query, and in E-steps only the
            most probable of all keys.
        positions: Largest relative distance with an embedding of its own; larger distances share one. Queries, keys and
            values have learned vectors of each distance, zero at initialization, see
            :mod:`~pyroformer.models.attention.blockwise.relative_positions`. None is none.

    Student's t, the hard assignment, positions, and keys that adapt causally need all weights, of a block of queries at
    a time (:mod:`~pyroformer.models.attention.blockwise.attend`): they cost more than the fused kernel of the others.

    Raises:
        ValueError: If an option is out of range or two do not go together.

    References:
        Probabilistic Attention for Interactive Segmentation (Gabbur et al., 2021), for keys that adapt.
        https://arxiv.org/abs/2106.15338

        Elliptical Attention (Nielsen et al., 2024), for a precision that is not isotropic.
        https://arxiv.org/abs/2406.13770

        Probabilistic Transformers (Movellan and Gabbur, 2020). https://arxiv.org/abs/2010.15583

        Improving Transformers with Probabilistic Attention Keys (Nguyen et al., 2022). https://arxiv.org/abs/2110.08678

    Examples:
        >>> from pyroformer.models.transformer.self_attention import SelfAttention
        >>> softmax, layer = SelfAttention(16, heads=2), ProbabilisticAttention(16, heads=2, precision="diagonal")
        >>> _ = layer.load_state_dict(softmax.state_dict(), strict=False)
        >>> x = torch.randn(3, 5, 16)
        >>> torch.allclose(layer(x, causal=True), softmax(x, causal=True), atol=1e-6)
        True
    """

    one_sequence = True  # whose queries and keys have positions in common

    def __init__(
        self,
        width: int,
        heads: int,
        bias: bool = True,
        dropout: float = 0.0,
        precision: Precision = "key",
        prior: KeyPrior = "gated",
        components: int = 1,
        null_component: bool = False,
        steps: int = 0,
        pseudo_counts: float = 1.0,
        tolerance: float | None = None,
        density: KeyDensity = "gaussian",
        assignment: Assignment = "soft",
        positions: int | None = None,
        gradient: StepGradient = "unrolled",
    ) -> None:
        super().__init__(width, heads, bias, precision, prior, components, null_component, assignment)
        self.steps = check_steps(steps)
        _check(self.steps, pseudo_counts, tolerance, dropout)
        check_choice("density", density, get_args(KeyDensity))
        check_choice("gradient", gradient, get_args(StepGradient))
        self.dropout, self.density, self.pseudo_counts = dropout, density, pseudo_counts
        self.tolerance, self.gradient = tolerance, gradient
        self.reach = _checked_reach(positions, self.one_sequence)
        self.inverse_degrees = nn.Parameter(torch.zeros(heads)) if density == "student" else None
        tables = None if self.reach is None else torch.zeros(3, heads, 2 * self.reach + 1, head_width(width, heads))
        self.relative = None if tables is None else nn.Parameter(tables)  # of queries, keys and values
        if self._needs_weights(causal=False):
            self._check_gradient("with density, assignment or positions that need all weights")

    def extra_repr(self) -> str:
        return (
            f"heads={self.heads}, precision={self.precision!r}, prior={self.prior!r}, components={self.components}, "
            f"null_component={self.log_null is not None}, steps={self.steps}, pseudo_counts={self.pseudo_counts}, "
            f"tolerance={self.tolerance}, gradient={self.gradient!r}, density={self.density!r}, "
            f"assignment={self.assignment!r}, positions={self.reach}"
        )

    def reset_to_softmax(self) -> list[nn.Parameter]:
        """Resets the precisions, priors and gates to values that give softmax attention; returns them."""
        parameters = []
        own = (self.gate, self.log_null, self.log_precision, self.log_prior, self.inverse_degrees, self.relative)
        for part in own:
            if part is not None:
                parameters += list(part.parameters()) if isinstance(part, TokenReadout) else [part]
        for parameter in parameters:
            nn.init.zeros_(parameter)
        if self.gamma is None:
            return parameters
        nn.init.ones_(self.gamma)
        return [*parameters, self.gamma]

    def forward(
        self,
        x: Float[Tensor, "*batch t p"],
        mask: Bool[Tensor, "*batch t"] | None = None,
        causal: bool = False,
        cache: KeyValueCache | None = None,
    ) -> Float[Tensor, "*batch t p"]:
        """x after every token has attended to those that ``mask`` marks and, if causal, to none after itself."""
        batch, (t, p) = x.shape[:-2], x.shape[-2:]
        if t == 0:
            return self.out(x)
        blockwise = self._needs_weights(causal)
        tilted = not (self.steps or blockwise or self.log_null is not None)
        queries, mixture, counted = self._project(x, mask, cache, tilted)
        dropout = self.dropout if self.training else 0.0
        if blockwise:
            y = self._blockwise(queries, mixture, counted, causal=causal, dropout=dropout)[..., -t:, :]
        else:
            plain = self.components == 1 and self.log_null is None
            attn_mask = None if plain or not causal else self._causal_mask(queries.shape[-2], mixture)
            mixture = self._adapted(queries, mixture, counted)
            y = attend(queries, mixture, causal=causal and attn_mask is None, attn_mask=attn_mask, dropout=dropout)
        return self.out(y.transpose(-2, -3).reshape(*batch, t, p))

    def posterior(
        self, x: Float[Tensor, "*batch t p"], mask: Bool[Tensor, "*batch t"] | None = None, causal: bool = False
    ) -> ValuePosterior:
        """Posterior mean, variance and evidence of every head at every position, before the output projection.

        Where keys adapt causally, each query's evidence is that under its own keys, which have adapted to it too. With
        the hard assignment it is a lower bound; with positions it is no density, as these weigh keys by the query.
        """
        queries, mixture, counted = self._project(x, mask, None)
        visible = self._causal_mask(queries.shape[-2], mixture) if causal else None
        if self._needs_weights(causal):
            answers = partial(self._blockwise, queries, mixture, counted, causal=causal)
        else:
            answers = partial(attend, queries, self._adapted(queries, mixture, counted), attn_mask=visible)
        return self._posterior(answers, mixture, visible, x.shape[:-2])

    def _posterior(
        self, answers: Callable[..., Tensor], mixture: Mixture, visible: Tensor | None, batch: torch.Size
    ) -> ValuePosterior:
        """The answers' moments, and their evidence under weights that sum to one over the visible components."""
        mean, variance, evidence = (answers(returns=name) for name in get_args(Returns))
        log_weights = torch.where(mixture.present, mixture.log_weights, -torch.inf)
        if visible is None:
            total = safe_logsumexp(log_weights)[..., None]
        else:
            total = visible_logsumexp(log_weights, visible)
        evidence = evidence - torch.where(total.isfinite(), total, 0)
        if self.precision == "full":  # queries are whitened
            evidence = evidence + self._log_det()[:, None]
        return ValuePosterior(*(part.reshape(*batch, *part.shape[1:]) for part in (mean, variance, evidence)))

    def _adapted(self, queries: Tensor, mixture: Mixture, mask: Tensor | None) -> Mixture:
        """The mixture with keys adapted to the queries that ``mask`` marks."""
        if not self.steps:
            return mixture
        return adapt_keys(
            queries,
            mixture,
            steps=self.steps,
            pseudo_counts=self.pseudo_counts,
            mask=mask,
            tolerance=self.tolerance,
            gradient=self.gradient,
        )

    def _check_gradient(self, where: str) -> None:
        """Raises where the gradient of a fixed point is asked for, and is not computed."""
        if self.steps and self.gradient == "implicit":
            raise ValueError(f"gradient is 'implicit', which is not supported {where}: leave it 'unrolled'.")

    def _needs_weights(self, causal: bool) -> bool:
        """Whether no fused kernel computes the answers."""
        several = self.assignment == "hard" and (self.components > 1 or self.steps > 0)
        special = self.inverse_degrees is not None or self.relative is not None or several
        return special or (self.steps > 0 and causal)

    def _blockwise(self, queries: Tensor, mixture: Mixture, counted: Tensor | None, **how: Any) -> Tensor:
        """Answers from all weights, a block of queries at a time."""
        self._check_gradient("where keys adapt causally")
        degrees: Tensor | None = self.inverse_degrees
        if degrees is not None:
            # a degree below 0 counts as 0, and its gradient says whether that is to change
            degrees = (degrees - degrees.detach().clamp_max(0))[:, None, None]
        e_step = EStep(
            degrees,
            hard=self.assignment == "hard",
            per_key=self.components,
            common=int(self.log_null is not None),
            positions=None if self.relative is None else RelativePositions(*self.relative.unbind(0)),
        )
        return blockwise_attend(
            queries,
            mixture,
            e_step=e_step,
            steps=self.steps,
            pseudo_counts=self.pseudo_counts,
            tolerance=self.tolerance,
            mask=counted if self.steps else None,  # with a cache, it is that of all keys
            **how,
        )

    def _project(
        self, x: Tensor, mask: Tensor | None, cache: KeyValueCache | None, tilted: bool = False
    ) -> tuple[Tensor, Mixture, Tensor | None]:
        """Queries, the mixture of all tokens so far in every head, and the mask of queries that count.

        The mixture is for posterior means only if it is ``tilted``, see :meth:`_keys`.
        """
        t, p = x.shape[-2:]
        b = math.prod(x.shape[:-2])
        x, mask = x.reshape(b, t, p), None if mask is None else mask.reshape(b, t)
        queries, keys, values = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        queries, projected = self._whitened(queries), self._with_readouts(x, self._whitened(keys))
        if cache is not None:
            if self.steps:  # keys adapt to all queries so far
                projected["queries"] = queries
            widths = [part.shape[-1] for part in projected.values()]
            columns, values, mask = cache.append(torch.cat(list(projected.values()), -1), values, mask)
            projected = dict(zip(projected, columns.split(widths, -1), strict=True))
            queries = projected.pop("queries", queries)
        return queries, self._mixture(projected, values, mask, tilted), None if mask is None else mask[:, None]

    def _causal_mask(self, t: int, mixture: Mixture) -> Tensor:
        """The components that each position may attend to, where tokens are not one component each."""
        null = int(self.log_null is not None)
        tokens = causal_mask(t, (mixture.components - null) // self.components, mixture.means.device)
        return F.pad(tokens.repeat_interleave(self.components, -1), (null, 0), value=True)


def _checked_reach(positions: object, one_sequence: bool) -> int | None:
    """The largest distance with vectors of its own, checked."""
    reach: int | None = declared_number("positions", positions, int | None)
    if reach is not None and not one_sequence:
        raise ValueError(f"positions is {reach}, and two sequences have no positions in common: leave it out.")
    if reach is not None and reach < 1:
        raise ValueError(f"positions is {reach}: give at least 1, or None for no positions.")
    return reach


def _check(steps: int, pseudo_counts: float, tolerance: float | None, dropout: float) -> None:
    check_pseudo_counts(pseudo_counts)
    check_tolerance(tolerance)
    check_dropout(dropout=dropout)
    if steps and dropout:
        raise ValueError(f"dropout is {dropout} and steps is {steps}: give keys that adapt dropout=0.")
