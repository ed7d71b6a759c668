r"""A prior of the next vector that chooses among Gaussians which all places share, as a language model among words."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Size, Tensor, nn
from torch.distributions import Categorical, Distribution, Normal, constraints

from ...distributions.expandable import Expandable
from ...transformer.config import Activation, Norm, Positions
from ...utils.k_means import k_means
from ...utils.numbers import check_at_least
from ...utils.precision import at_least_float32, without_autocast
from ...utils.tensor_checks import is_known
from ..latents import bounded_std, unbounded
from ..roles import VectorPrior
from .causal import CausalVectorPrior, blocks_of_vectors
from .last import Last

__all__ = ["Codebook", "CodebookVectorPrior"]
START_VARIANCE = 0.25  # of the codebook's means before a start at vectors; each Gaussian has the rest of 1


class Codebook(Expandable):
    r"""A mixture of diagonal Gaussians that all draws share, each draw with weights of its own.

    .. math:: p(z_i) = \sum_{k=1}^K w_{ik} \, \mathcal N(z_i; \mu_k, \operatorname{diag} \sigma_k^2)

    The log densities of all vectors under all Gaussians are one matrix product,
    :math:`[z, z^2] \, [\mu / \sigma^2, -1 / 2 \sigma^2]^\top` up to a constant of each Gaussian; vectors and means are
    taken from the center of the codebook first, so that less cancels. The density of the mixture then is Bayes' rule,

    .. math:: \log p(z_i) = \log w_{ik} + \log \mathcal N(z_i; \mu_k, \operatorname{diag} \sigma_k^2)
        - \log p(k \mid z_i)

    at the likeliest k. Where no other Gaussian is near, its posterior probability is 1 to the last digit, and has no
    gradient: on a CPU it is not computed then. The other two probabilities are softmaxes with fused kernels; a sum of
    exponentials, most of which underflow, takes 4 to 5 times as long on a CPU.

    Arguments:
        logits: Logarithms of weights, which need not be normalized.
        mean: :math:`\mu`; where it has fewer dimensions than ``std``, the others are zero.
        std: :math:`\sigma`; one row, if it is the same for all.
        shift: A vector for each draw, which is added to all means; none by default.

    Examples:
        >>> codebook = Codebook(torch.zeros(5, 3), torch.randn(3, 4), torch.ones(3, 4))
        >>> codebook.batch_shape, codebook.log_prob(codebook.sample()).shape
        (torch.Size([5]), torch.Size([5]))
    """

    arg_constraints = {}
    parameter_dims = {"logits": 1}
    support = constraints.independent(constraints.real, 1)

    def __init__(
        self,
        logits: Float[Tensor, "*batch k"],
        mean: Float[Tensor, "k q"],
        std: Float[Tensor, "#k p"],
        shift: Float[Tensor, "*#batch p"] | None = None,
        validate_args: bool | None = None,
    ) -> None:
        if len(std) > 1 and mean.shape[-1] < std.shape[-1]:  # Gaussians then differ in the other dimensions too
            mean = F.pad(mean, (0, std.shape[-1] - mean.shape[-1]))
        self.logits, self.means, self.stds, self.shift = logits, mean, std, shift
        self._tables: Last[tuple[Tensor, ...]] = Last()
        self._densities: Last[Tensor] = Last()
        self._weights: Last[Tensor] = Last()
        super().__init__(logits.shape[:-1], std.shape[-1:], validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "Codebook":
        new = super().expand(batch_shape, _instance)
        new._weights = Last()
        return new

    def weighted(self, logits: Float[Tensor, "*batch k"]) -> "Codebook":
        """The same Gaussians with other weights; the cache of log densities is shared."""
        new = Codebook(logits, self.means, self.stds, self.shift, self._validate_args)
        new._tables, new._densities = self._tables, self._densities
        return new

    def shifted(self, shift: Float[Tensor, "*batch p"]) -> "Codebook":
        """The same Gaussians and weights with a shift for each draw."""
        new = Codebook(self.logits.expand(*shift.shape[:-1], -1), self.means, self.stds, shift, self._validate_args)
        new._tables = self._tables
        return new

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Float[Tensor, "*batch p"]:
        entries = Categorical(logits=self.logits, validate_args=False).sample(Size(sample_shape))
        mean = self._full(self.means[entries])
        drawn = torch.normal(mean, self.stds[0].expand_as(mean) if len(self.stds) == 1 else self.stds[entries])
        return drawn if self.shift is None else drawn + self.shift

    def log_prob(self, value: Float[Tensor, "*batch p"]) -> Float[Tensor, "*batch"]:
        if self._validate_args:
            self._validate_sample(value)
        k, log_responsibility = self._likeliest(value)
        return self.log_weight(k) + self.log_density(value, k) - log_responsibility

    def log_weight(self, k: Int[Tensor, "*#batch"]) -> Float[Tensor, "*batch"]:
        r""":math:`\log w_{ik}`, of one Gaussian for each draw."""
        log_weights = self._weights(lambda logits: logits.log_softmax(-1), self.logits)
        return at(log_weights, k)

    def log_density(self, value: Float[Tensor, "*batch p"], k: Int[Tensor, "*#batch"]) -> Float[Tensor, "*batch"]:
        r""":math:`\log \mathcal N(z_i; \mu_k, \operatorname{diag} \sigma_k^2)`, of one Gaussian for each draw."""
        value = value if self.shift is None else value - self.shift
        # Not means[k]: on several threads, its gradient adds in an order that differs from run to run.
        std = self.stds[0] if len(self.stds) == 1 else F.embedding(k, self.stds)
        return Normal(self._full(F.embedding(k, self.means)), std, validate_args=False).log_prob(value).sum(-1)

    def responsibilities(self, value: Float[Tensor, "*batch p"]) -> Float[Tensor, "*batch k"]:
        r"""The posterior probability of each Gaussian, :math:`p(k \mid z_i)`."""
        return self._log_joint(value).softmax(-1)

    def log_densities(self, value: Float[Tensor, "*batch p"]) -> Float[Tensor, "*batch k"]:
        """The log density of each Gaussian, up to a common term; cached for the last value."""
        with without_autocast(value.device):  # the product needs float32
            return self._densities(self._log_densities, value, self.means, self.stds, self.shift)

    def _log_joint(self, value: Float[Tensor, "*batch p"]) -> Float[Tensor, "*batch k"]:
        """The logit plus the log density of each Gaussian, up to a term that all have in common."""
        return self.logits + self.log_densities(value)

    def _likeliest(self, value: Float[Tensor, "*batch p"]) -> tuple[Int[Tensor, "*batch"], Float[Tensor, "*batch"]]:
        """The likeliest Gaussian of each draw, and the logarithm of its posterior probability."""
        if not is_known(value):
            joint = self._log_joint(value)
            k = joint.detach().argmax(-1)
            return k, at(joint.log_softmax(-1), k)
        joint = self.logits.detach() + self.log_densities(value).detach()
        k, uncertain = _largest(joint)
        log_responsibility = joint.new_zeros(k.shape)
        if uncertain.any():
            joint = self._selected(uncertain)._log_joint(value.expand(*k.shape, -1)[uncertain])
            log_responsibility[uncertain] = at(joint.log_softmax(-1), k[uncertain])
        return k, log_responsibility

    def _selected(self, rows: Bool[Tensor, "*batch"]) -> "Codebook":
        """The distributions of some draws."""
        shift = None if self.shift is None else self.shift.expand(*rows.shape, -1)[rows]
        new = Codebook(self.logits.expand(*rows.shape, -1)[rows], self.means, self.stds, shift, self._validate_args)
        new._tables = self._tables
        return new

    def _log_densities(self, value: Float[Tensor, "*batch p"]) -> Float[Tensor, "*batch k"]:
        value = value if self.shift is None else value - self.shift
        center, mean, constant = self._tables(self._make_tables, self.means, self.stds)
        size = mean.shape[-1]
        z, precision = value[..., :size] - center, self.stds[..., :size].reciprocal().square()
        if len(self.stds) == 1:  # products with a vector in place of tables of all means
            return F.linear(z * precision, mean, constant)
        factors = torch.cat([mean * precision, -0.5 * precision], -1)
        return F.linear(torch.cat([z, z.square()], -1), factors, constant)

    def _make_tables(self, means: Float[Tensor, "k q"]) -> tuple[Tensor, ...]:
        """The center of the codebook, its means from there, and the constant of each Gaussian."""
        center = means.detach().mean(0)
        mean, precision = means - center, self.stds[..., : means.shape[-1]].reciprocal().square()
        if len(self.stds) == 1:
            return center, mean, -0.5 * (mean.square() @ precision[0]) - self.stds.log().sum()
        return center, mean, -(0.5 * (mean.square() * precision) + self.stds.log()).sum(-1)

    def _full(self, means: Float[Tensor, "*batch q"]) -> Float[Tensor, "*batch p"]:
        return F.pad(means, (0, self.event_shape[0] - means.shape[-1]))

    @property
    def mean(self) -> Float[Tensor, "*batch p"]:
        mean = self._full(self.logits.softmax(-1) @ self.means)
        return mean if self.shift is None else mean + self.shift

    @property
    def variance(self) -> Float[Tensor, "*batch p"]:
        weights = self.logits.softmax(-1)
        means = self._full(self.means)
        return weights @ (self.stds.square() + means.square()) - (weights @ means).square()


def at(table: Float[Tensor, "*#batch k"], k: Int[Tensor, "*#batch"]) -> Float[Tensor, "*batch"]:
    """One entry of each row.

    Examples:
        >>> at(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor(1)).tolist()
        [2.0, 4.0]
    """
    batch = torch.broadcast_shapes(table.shape[:-1], k.shape)
    return table.expand(*batch, -1).gather(-1, k.expand(batch)[..., None]).squeeze(-1)


def _largest(rows: Float[Tensor, "*batch k"]) -> tuple[Int[Tensor, "*batch"], Bool[Tensor, "*batch"]]:
    """The largest entry of each row, and where its softmax is not exactly 1 in this dtype; overwrites the rows."""
    largest, k = rows.max(-1)
    others = rows.scatter_(-1, k[..., None], -math.inf).amax(-1)
    negligible = math.log(2 * rows.shape[-1] / torch.finfo(rows.dtype).eps)
    return k, ~(largest - others > negligible)


class CodebookVectorPrior(CausalVectorPrior):
    r"""A causal Transformer that chooses each vector's Gaussian from a codebook: a language model of vectors.

    .. math:: p(z \mid n) = \prod_{i \le \kappa} p_0(z_i) \prod_{i > \kappa}
        \sum_{k=1}^K w_{ik} \, \mathcal N(z_i; \mu_k, \operatorname{diag} \sigma_k^2)

    with weights that depend on :math:`z_{\kappa + 1}, \dots, z_{i-1}` and on the number of vectors that follow, and
    means and variances that all places share. One Gaussian cannot say "one of these words"; a codebook has as many
    modes as there are words, and its draws lie where posteriors do.

    Before training, :func:`~pyroformer.fit` and :func:`~pyroformer.inference.training.fit_prior.fit_prior` start it at
    posterior means of training texts (:meth:`start_at`); until then each vector is near :math:`\mathcal N(0, I)`. Log
    variances are bounded smoothly, as in :func:`~pyroformer.models.priors.latents.gaussian`.

    Arguments:
        width: :math:`P`.
        entries: :math:`K`; best about as many as the vocabulary has tokens.
        model_width: The size of a hidden state; even, and a multiple of ``heads``. None is ``width``.
        layers: The number of blocks.
        heads: The number of attention heads.
        dropout: Probability of dropping an activation in training.
        samples_per_component: Number of the prior's own components.
        first: Prior :math:`p_0` of the prior's own components; a standard Gaussian by default.
        norm, activation, positions, bias: Options of the blocks, as in :func:`~.sequence.causal.blocks_of_vectors`; of
            a prior that is named they are those of its model.

    Raises:
        ValueError: If a size is out of range, two do not go together, or ``first`` has another width.

    References:
        TarFlowLM (2025), https://arxiv.org/abs/2507.00425, for an autoregressive mixture over a codebook of Gaussians.

    Examples:
        >>> prior = CodebookVectorPrior(8, entries=16, heads=2)
        >>> distribution = prior(torch.tensor([[True, True, True], [True, True, False]]))
        >>> distribution.event_shape, distribution.log_prob(distribution.sample()).shape
        (torch.Size([3, 8]), torch.Size([2]))
    """

    started: Tensor

    def __init__(
        self,
        width: int,
        entries: int = 1024,
        model_width: int | None = None,
        layers: int = 2,
        heads: int = 4,
        dropout: float = 0.0,
        samples_per_component: int = 1,
        first: VectorPrior | None = None,
        norm: Norm = "layer",
        activation: Activation = "gelu_tanh",
        positions: Positions = "sinusoidal",
        bias: bool = True,
    ) -> None:
        check_at_least(1, entries=entries)
        network = blocks_of_vectors(width, model_width, layers, heads, dropout, norm, activation, positions, bias)
        super().__init__(width, entries, network, samples_per_component, first)
        self.mean = nn.Parameter(math.sqrt(START_VARIANCE) * torch.randn(entries, width))
        self.log_variance = nn.Parameter(unbounded(torch.full((entries, width), 1 - START_VARIANCE)))
        self.register_buffer("started", torch.tensor(False))

    def next_vector(self, scores: Float[Tensor, "*batch m s"], place: Int[Tensor, " m"]) -> Distribution:
        mean, log_variance = at_least_float32(self.mean), at_least_float32(self.log_variance)
        return Codebook(scores, mean, bounded_std(log_variance))

    @property
    def wants_start(self) -> bool:
        return not bool(self.started)

    @torch.no_grad()
    def start_at(self, mean: Float[Tensor, "n p"], variance: Float[Tensor, "n p"]) -> None:
        r"""Starts the codebook at the clusters of some posteriors' means, and its weights at the clusters' sizes.

        The variance of a Gaussian is that within the clusters, plus the mean of the posteriors' own.

        Raises:
            ValueError: If there are no vectors.

        Examples:
            >>> prior = CodebookVectorPrior(2, entries=3, heads=1)
            >>> prior.start_at(torch.randn(50, 2), torch.full((50, 2), 0.1))
            >>> prior.wants_start
            False
        """
        entries = len(self.mean)
        centers, nearest = k_means(mean, entries)
        within = (mean - centers[nearest]).square().mean(0) + variance.mean(0)
        share = torch.bincount(nearest, minlength=entries) + 1.0
        self.mean.copy_(centers)
        self.log_variance.copy_(unbounded(within).expand_as(self.log_variance))
        self.head.bias.copy_(share.log())  # logits need not be normalized
        self.started.fill_(True)

    def extra_repr(self) -> str:
        return f"width={self.width}, entries={len(self.mean)}, samples_per_component={self.samples_per_component}"
