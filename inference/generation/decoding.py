"""Decoding strategies: sampling with temperature, top-k and top-p, and greedy decoding."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import TypedDict

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...models.utils.numbers import FLOATS, declared_number
from ...models.utils.precision import at_least_float32
from ..utils.seeds import derived_seed
from .candidates import candidate_counts, candidates
from .inversion import inverted

__all__ = ["Decoding", "DecodingFields", "uniforms"]


class DecodingFields(TypedDict, total=False):
    """The fields of :class:`Decoding` as keyword arguments of a function that writes texts."""

    temperature: float
    top_k: int
    top_p: float
    greedy: bool


@dataclass(frozen=True)
class Decoding:
    r"""Selection of the next token from logits :math:`l`.

    .. math:: x \sim p, \qquad p_v \propto \exp(l_v / \tau) \; [v \in K] \; [v \in N]

    :math:`K` are the ``top_k`` most probable tokens, :math:`N` the fewest of them whose probability is at least
    ``top_p`` of that of :math:`K` (the nucleus). The defaults sample from the model's own distribution. There is no
    beam search.

    Arguments:
        temperature: :math:`\tau`; below 1 the distribution becomes sharper, above 1 flatter.
        top_k: Number of most probable tokens to sample from; 0 for all.
        top_p: Probability mass of the nucleus; 1 for all tokens.
        greedy: Take the most probable token instead of sampling; the others are then left out.

    Raises:
        ValueError: If an argument is out of range, or ``greedy`` stands beside another.

    References:
        The Curious Case of Neural Text Degeneration (Holtzman et al., 2020), https://arxiv.org/abs/1904.09751

    Examples:
        >>> logits = torch.tensor([[0.1, 0.4, 0.2, 0.3]]).log()
        >>> Decoding(greedy=True)(logits)
        tensor([1])
        >>> Decoding(top_k=3, top_p=0.7).probabilities(logits)
        tensor([[0.0000, 0.5714, 0.0000, 0.4286]])
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    greedy: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            object.__setattr__(self, field.name, declared_number(field.name, getattr(self, field.name), field.type))
        least, most = FLOATS
        if not least <= self.temperature <= most:
            raise ValueError(f"temperature is {self.temperature}: give {least:g} to {most:g}, or greedy=True.")
        if self.top_k < 0:
            raise ValueError(f"top_k is {self.top_k}: give a positive whole number, or 0 for all tokens.")
        if not least <= self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}: give a probability from {least:g} up to 1 for all tokens.")
        self._check_greedy_alone()

    def _check_greedy_alone(self) -> None:
        for field in fields(self) if self.greedy else ():
            value = getattr(self, field.name)
            if field.name != "greedy" and value != field.default:
                raise ValueError(f"{field.name} is {value}, and greedy=True samples no token: leave one out.")

    def probabilities(self, logits: Float[Tensor, "*batch V"]) -> Float[Tensor, "*batch V"]:
        """Probabilities of the tokens after temperature, top-k and top-p."""
        logits = self._tempered(logits)
        if 0 < self.top_k < logits.shape[-1]:
            last = logits.topk(self.top_k).values[..., -1:]
            logits = logits.masked_fill(logits < last, -torch.inf)
        if self.top_p < 1:
            descending, order = logits.softmax(-1).sort(-1, descending=True)
            before = descending.cumsum(-1) - descending
            dropped = torch.zeros_like(order, dtype=torch.bool).scatter(-1, order, before >= self.top_p)
            logits = logits.masked_fill(dropped, -torch.inf)
        return logits.softmax(-1)

    def __call__(
        self, logits: Float[Tensor, "*batch V"], uniform: Float[Tensor, "*batch"] | None = None
    ) -> Int[Tensor, "*batch"]:
        """One token for each row of logits.

        Arguments:
            logits: Logits with shape :math:`(*, V)`.
            uniform: Uniform noise in [0, 1) with shape :math:`(*)`, from which tokens are sampled by inversion; drawn
                from torch's generator if None.
        """
        if self.greedy:
            return logits.argmax(-1)
        if uniform is None:
            uniform = torch.rand(logits.shape[:-1], device=logits.device)
        if self.top_k or self.top_p < 1:
            return self._restricted(logits.reshape(-1, logits.shape[-1]), uniform.reshape(-1)).reshape(uniform.shape)
        return inverted(self.probabilities(logits), uniform)

    def _restricted(self, logits: Float[Tensor, "n V"], uniform: Float[Tensor, " n"]) -> Int[Tensor, " n"]:
        """Tokens drawn among few candidates, or where these are not all, from the whole table: the same tokens."""
        probabilities = self._tempered(logits).softmax(-1)
        drawn, left = torch.empty_like(uniform, dtype=torch.long), torch.arange(len(uniform), device=uniform.device)
        for count in candidate_counts(logits.shape[-1], self.top_k):
            rows = probabilities if len(left) == len(uniform) else probabilities[left]
            weights, tokens, whole = candidates(rows, count, self.top_k, self.top_p)
            chosen = tokens.gather(-1, inverted(weights, uniform[left])[:, None]).squeeze(-1)
            drawn[left[whole]], left = chosen[whole], left[~whole]
            if not len(left):
                return drawn
        drawn[left] = inverted(self.probabilities(logits[left]), uniform[left])
        return drawn

    def _tempered(self, logits: Float[Tensor, "*batch V"]) -> Float[Tensor, "*batch V"]:
        logits = at_least_float32(logits)
        return logits if self.temperature == 1 else logits / self.temperature

    def token_sampler(self, noise: Float[Tensor, "B T"]) -> Callable[[Float[Tensor, "B V"]], Int[Tensor, " B"]]:
        """A function from logits to tokens, which uses one column of ``noise`` at each call."""
        columns = iter(noise.unbind(-1))
        return lambda logits: self(logits, next(columns))


def uniforms(seed: int, items: Iterable[int], length: int) -> Float[Tensor, "B T"]:
    """Uniform noise, one row for each item; a row is a function of the seed and the item only.

    Examples:
        >>> torch.equal(uniforms(7, [0, 1, 2], 5)[1:], uniforms(7, [1, 2], 5))
        True
    """
    generators = [torch.Generator().manual_seed(derived_seed(seed, item, "tokens")) for item in items]
    return torch.stack([torch.rand(length, generator=generator) for generator in generators])
