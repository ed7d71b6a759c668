r"""Keys as Gaussians whose precisions and priors are functions of their tokens."""

import math
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...heads import head_width
from ...utils.choices import check_choice
from ...utils.numbers import check_at_least, declared_number
from ...utils.precision import at_least_float32
from ..mixture import Mixture
from .torch_weights import TorchWeights

__all__ = ["Assignment", "GaussianKeys", "KeyDensity", "KeyPrior", "Precision", "TokenReadout"]

Precision = Literal["shared", "full", "key", "diagonal"]
KeyPrior = Literal["magnitude", "gated", "learned"]
Assignment = Literal["soft", "hard"]
KeyDensity = Literal["gaussian", "student"]

LARGEST = 15.0  # log precision relative to softmax attention: squares of keys, times their ratios, stay finite


class GaussianKeys(TorchWeights):
    """The projections of tokens to queries, values and Gaussian keys.

    :class:`~.probabilistic.ProbabilisticAttention` has the formula, and explains the options.

    Raises:
        ValueError: If an option is out of range.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        bias: bool,
        precision: Precision,
        prior: KeyPrior,
        components: int,
        null_component: bool,
        assignment: Assignment,
    ) -> None:
        super().__init__()
        size = head_width(width, heads)
        check_choice("precision", precision, get_args(Precision))
        check_choice("prior", prior, get_args(KeyPrior))
        check_choice("assignment", assignment, get_args(Assignment))
        components = declared_number("components", components, int)
        check_at_least(1, components=components)
        self.heads, self.precision, self.prior = heads, precision, prior
        self.components, self.assignment = components, assignment
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.out = nn.Linear(width, width, bias=bias)
        self.log_precision: nn.Parameter | TokenReadout
        if precision in ("shared", "full"):
            self.log_precision = nn.Parameter(torch.zeros(heads, *((size, size) if precision == "full" else ())))
        else:
            self.log_precision = TokenReadout(width, heads, 1 if precision == "key" else size)
        self.gamma = nn.Parameter(torch.ones(heads)) if prior != "magnitude" else None
        # a bias of log_prior would cancel
        self.log_prior = TokenReadout(width, heads, 1, bias=False) if prior == "learned" else None
        self.other_keys = nn.Linear(width, width * (components - 1), bias=bias) if components > 1 else None
        self.gate = nn.Parameter(torch.zeros(heads, components - 1)) if components > 1 else None
        self.log_null = nn.Parameter(torch.zeros(heads)) if null_component else None

    def _with_readouts(self, x: Tensor, keys: Tensor) -> dict[str, Tensor]:
        """The keys of tokens, and the readouts that give their precisions and priors."""
        projected = {"keys": keys}
        if self.other_keys is not None:
            others = self.other_keys(x).unflatten(-1, (self.heads, self.components - 1, -1)).transpose(1, 2)
            projected["other_keys"] = self._whitened(others.flatten(2, 3)).unflatten(2, others.shape[2:4]).flatten(-2)
        for name, readout in (("log_precision", self.log_precision), ("log_prior", self.log_prior)):
            if isinstance(readout, TokenReadout):
                projected[name] = readout(x)
        return projected

    def _mixture(self, projected: dict[str, Tensor], values: Tensor, mask: Tensor | None, tilted: bool) -> Mixture:
        """Tokens as Gaussians, R for each token; before them the null component, if there is one."""
        count = self.components
        log_precision = projected.get("log_precision", None)
        if log_precision is None:
            assert isinstance(self.log_precision, Tensor)
            log_precision = self.log_precision[:, None, None]
            if self.precision == "full":  # queries and keys are whitened
                log_precision = torch.zeros_like(self.log_precision[:, :1, :1])
        width = projected["keys"].shape[-1]
        precision = _limited_exp(log_precision).unsqueeze(-2) / width**0.5
        keys, log_weights = self._keys(projected, precision, tilted)
        if "log_prior" in projected:
            log_weights = log_weights + projected["log_prior"]
        variances = (1 / precision)[..., 0, :]
        if count > 1:
            log_weights = log_weights - (0 if self.assignment == "hard" else math.log(count))
            values = values.repeat_interleave(count, -2)
            variances = variances if variances.shape[-2] == 1 else variances.repeat_interleave(count, -2)
            mask = None if mask is None else mask.repeat_interleave(count, -1)
        mask = None if mask is None else mask[:, None]
        mixture = Mixture(log_weights.flatten(-2), keys.flatten(-3, -2), variances, mask, values, noise_variance=0.0)
        if self.log_null is None:
            return mixture
        return mixture.with_null(self.log_null, None if variances.shape[-2] == 1 else width**0.5)

    def _keys(self, projected: dict[str, Tensor], precision: Tensor, tilted: bool) -> tuple[Tensor, Tensor]:
        r"""Keys and the part of their log weights that is a function of them, in float32 at least.

        Softmax does not see the bias b of the key projection, but half precision rounds what it adds to keys. So
        ``tilted`` keys are :math:`k_n - b \bar a / a_n` with a constant :math:`\bar a`, and their log weights such that
        every logit of a query q changes by the same, :math:`-\bar a \, b \cdot q`.
        """
        keys = at_least_float32(projected["keys"]).unsqueeze(-2)
        if self.gate is not None:
            others = at_least_float32(projected["other_keys"]).unflatten(-1, (self.components - 1, keys.shape[-1]))
            keys = torch.cat([keys, keys + self.gate[:, None, :, None] * others], -2)
        tilted = tilted and self.qkv.bias is not None
        moved = keys - self._key_bias(precision) if tilted else keys
        log_weights = 0.5 * (precision * moved.square()).sum(-1)
        if self.gamma is not None:
            excess = log_weights if not tilted else 0.5 * (precision * keys.square()).sum(-1)
            log_weights = log_weights + (self.gamma[:, None, None] - 1) * excess
        return moved, log_weights

    def _whitened(self, x: Tensor) -> Tensor:
        r"""Queries or keys of each head, [* H n E], times the factor of the head's precision, if it has a matrix.

        .. math:: a = \tfrac{1}{\sqrt E} L^T L, \qquad L_{ef} = A_{ef} \text{ below the diagonal}, \quad
            \log L_{ee} = \tfrac12 A_{ee}
        """
        if self.precision != "full":
            return x
        assert isinstance(self.log_precision, Tensor)
        diagonal = self.log_precision.diagonal(dim1=-2, dim2=-1)
        factor = self.log_precision.tril(-1) + (0.5 * _limited(diagonal)).exp().diag_embed()
        return x @ factor.mT.to(x.dtype)

    def _log_det(self) -> Tensor:
        """The log determinant of that factor for each head."""
        assert isinstance(self.log_precision, Tensor)
        return 0.5 * _limited(self.log_precision.diagonal(dim1=-2, dim2=-1)).sum(-1)

    def _key_bias(self, precision: Tensor) -> Tensor:
        """The bias of the key projection times a constant over each precision, with shape [H T R E]."""
        bias = at_least_float32(self.qkv.bias).unflatten(0, (3, self.heads, -1))[1]
        bias = self._whitened(bias[:, None])[:, None]
        if not isinstance(self.log_precision, TokenReadout):
            return bias
        typical = _limited_exp(self.log_precision.linear.bias).unflatten(0, (self.heads, -1))[:, None, None]
        return bias * typical / (precision * bias.shape[-1] ** 0.5)


def _limited_exp(log_precision: Tensor) -> Tensor:
    """Precisions relative to softmax attention, in float32 at least; readings of extreme inputs stay finite."""
    return _limited(log_precision).exp()


def _limited(log_precision: Tensor) -> Tensor:
    return at_least_float32(log_precision).clamp(-LARGEST, LARGEST)


class TokenReadout(nn.Module):
    """A linear function of each token for every head, zero at initialization."""

    def __init__(self, width: int, heads: int, size: int, bias: bool = True) -> None:
        super().__init__()
        self.heads = heads
        # skip_init draws nothing, so that a seed gives the same network with and without
        self.linear = nn.utils.skip_init(nn.Linear, width, heads * size, bias=bias, device=torch.get_default_device())
        for parameter in self.linear.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Float[Tensor, "b t p"]) -> Float[Tensor, "b h t size"]:
        return self.linear(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
