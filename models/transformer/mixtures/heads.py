"""Networks that turn a token's encoding into the concentration and the variance of its component."""

import math
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ...utils.choices import check_choice
from ...utils.precision import at_least_float32
from .posterior import LEAST_LOG_ALPHA, MOST_LOG_ALPHA

__all__ = ["AlphaForm", "AlphaHead", "VarianceForm", "VarianceHead", "bounded"]

AlphaForm = Literal["linear", "relu", "quadratic"]
VarianceForm = Literal["diagonal", "isotropic", "shared"]


class AlphaHead(nn.Module):
    r"""Log concentration of a component from its token's encoding ``h``.

    ========== ============================================= =========================================
    form       log alpha                                     where
    ========== ============================================= =========================================
    linear     :math:`w \cdot h + b`                         version 2 of the authors' nvib package; default
    relu       :math:`\log \max(w \cdot h + b, 0)`           the published experiments
    quadratic  :math:`w_2 \cdot h^2 + w_1 \cdot h + b`       version 3 of it, for pretrained models
    ========== ============================================= =========================================

    A component that ``relu`` switches off has almost no alpha, for which the exact Dirichlet divergence grows without
    bound: use it with the published objective only. It gets no gradient either, so that a head which switches all
    components off stays dead: ``evaluate`` warns of texts without a vector. ``quadratic`` starts at
    :math:`|h|^2 / (2 \sqrt{P/H})`, where denoising attention is softmax attention: 11 for 128 dimensions in 4 heads, 48
    for 768 in 12.
    """

    def __init__(self, width: int, heads: int, form: AlphaForm) -> None:
        super().__init__()
        check_choice("alpha", form, get_args(AlphaForm))
        self.form = form
        self.linear = nn.Linear(width, 1)
        if form == "quadratic":
            self.square = nn.Parameter(torch.full((width,), 0.5 / math.sqrt(width / heads)))
            nn.init.zeros_(self.linear.weight)
            nn.init.zeros_(self.linear.bias)

    def forward(self, h: Float[Tensor, "*batch n P"]) -> Float[Tensor, "*batch n"]:
        score = at_least_float32(self.linear(h).squeeze(-1))
        if self.form == "relu":
            return F.relu(score).clamp(min=math.exp(LEAST_LOG_ALPHA)).log()
        if self.form == "quadratic":
            return score + (self.square * at_least_float32(h).square()).sum(-1)
        return score


class VarianceHead(nn.Module):
    """Log variance of a component from its token's encoding; at the start, the same for all.

    One for each dimension, one for all of them, or one vector for all tokens.
    """

    def __init__(self, width: int, form: VarianceForm, start: float) -> None:
        super().__init__()
        check_choice("variance", form, get_args(VarianceForm))
        self.form = form
        outputs = 1 if form == "isotropic" else width
        self.bias = nn.Parameter(torch.full((outputs,), start))
        self.weight = None if form == "shared" else nn.Parameter(torch.zeros(outputs, width))

    def forward(self, h: Float[Tensor, "*batch n P"]) -> Float[Tensor, "*batch n P"]:
        if self.weight is None:
            return self.bias.expand(h.shape)
        return F.linear(h, self.weight, self.bias).expand(h.shape)


def bounded(log_alpha: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
    """Clamp to the range of the sampler; values above it keep their gradient, which leads them back."""
    below = log_alpha.clamp(min=LEAST_LOG_ALPHA)
    passing = below - below.detach() + MOST_LOG_ALPHA
    return torch.where(below > MOST_LOG_ALPHA, passing, below)
