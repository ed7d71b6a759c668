"""Attention layers of others with a bottleneck: what all kinds have in common."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ...models.nvib.attention import Packed, Projections, attend, pack
from ...models.nvib.bottleneck import Bottleneck

__all__ = ["WrappedAttention", "any_query", "wrapped_class"]


class WrappedAttention(nn.Module):
    """An attention layer whose vectors go through a bottleneck; the layer's own class comes next in its bases.

    Instances are not made but turned: :func:`~pyroformer.nvib.wrap` gives a layer a class derived from this and from
    its own, so that its parameters keep their names and it stays an instance of its class.
    """

    nvib: Bottleneck

    def projections(self) -> Projections:
        """The projections of keys and values."""
        raise NotImplementedError(f"{type(self).__name__} is a WrappedAttention: write projections()")

    def noise_variance(self) -> float:
        """The variance of a query around its vector: the logits are inner products divided by it."""
        raise NotImplementedError(f"{type(self).__name__} is a WrappedAttention: write noise_variance()")

    def __reduce__(self) -> tuple[Any, ...]:
        adapter, original = type(self).__bases__
        return _empty, (adapter, original), self.__dict__

    def _packed(self, source: Float[Tensor, "*batch n p"], present: Bool[Tensor, "*batch n"] | None) -> Packed:
        """Keys and values of vectors."""
        if source.shape[-1] != self.nvib.width:
            raise ValueError(
                f"the vectors have width {source.shape[-1]}, and the attention layer needs {self.nvib.width}"
            )
        posterior = self.nvib.posterior(source, present)
        observer = self.nvib.observer
        if observer is not None:
            observer.vectors(posterior.x, present)
        if self.training and not _in_backward():
            self.nvib.last, self.nvib.last_has_graph = posterior, torch.is_grad_enabled()
        return pack(self.nvib, posterior, self.projections(), self._sampled)

    def _attend(
        self,
        queries: Float[Tensor, "*batch h m e"],
        packed: Packed,
        mask: Tensor | None,
        causal: bool,
        dropout: float,
        weights: bool,
        present: Callable[[], Tensor | None],
    ) -> tuple[Float[Tensor, "*batch m he"], Float[Tensor, "*batch h m n"] | None]:
        """Answers of all heads side by side, and the attention weights of the vectors, if wanted."""
        observer = self.nvib.observer
        watched = observer is not None and observer.needs_weights
        answers, shares = attend(
            self.nvib,
            queries,
            packed,
            self.projections(),
            mask=mask,
            causal=causal,
            dropout=dropout if self.training else 0.0,
            sampled=self._sampled,
            weights=weights or watched,
        )
        if observer is not None and watched and shares is not None:
            observer.weights(shares, present())
        shares = shares[..., 1:].to(queries.dtype) if weights and shares is not None else None
        return answers.transpose(-2, -3).flatten(-2), shares

    @property
    def _sampled(self) -> bool:
        """Whether vectors and weights are drawn: in training, unless the posterior is a point mass anyway."""
        return self.training and self.nvib.sample


def wrapped_class(adapter: type[WrappedAttention], original: type[nn.Module]) -> type[nn.Module]:
    """The class of wrapped layers of a class; the same one every time."""
    key = (adapter, original)
    if key not in _CLASSES:
        _CLASSES[key] = type(f"NVIB{original.__name__}", key, {"__module__": original.__module__})
    return _CLASSES[key]


_CLASSES: dict[tuple[type[nn.Module], type[nn.Module]], type[nn.Module]] = {}


def _empty(adapter: type[WrappedAttention], original: type[nn.Module]) -> nn.Module:
    """A wrapped layer without its content, for copies and pickles."""
    kind = wrapped_class(adapter, original)
    return kind.__new__(kind)


def _in_backward() -> bool:
    """Whether a backward pass is running, in which checkpointed layers run a second time."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


def any_query(mask: Tensor | None, vectors: int) -> Tensor | None:
    """True for the last ``vectors`` columns of a mask [B, H, M, N] that some query may attend to; None if all are."""
    if mask is None:
        return None
    seen = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
    seen = seen.any(-2).any(-2)
    return seen[..., -vectors:]
