"""Parts of a Pyro program over a mixture: plates, masks, logits, and what belongs to the component of a token."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float, Int
from pyro import poutine
from pyro.ops.indexing import Vindex
from torch import Tensor

__all__ = ["gather", "masked_logits", "nested_plates", "normal_of_component", "sample_in", "where_true"]


def gather(rows: Float[Tensor, "*batch n d"], assignment: Int[Tensor, "*tokens m"]) -> Float[Tensor, "..."]:
    r"""The row of the component that each token is assigned to; leading dimensions broadcast from the right.

    Examples:
        >>> rows, assignment = torch.tensor([[[1.0], [2.0]], [[3.0], [4.0]]]), torch.tensor([[1, 0, 1], [0, 0, 1]])
        >>> gather(rows, assignment)[..., 0].tolist()
        [[2.0, 1.0, 2.0], [3.0, 3.0, 4.0]]
    """
    return Vindex(rows.unsqueeze(-3))[..., assignment, :]


@contextmanager
def nested_plates(*plates: Any) -> Iterator[None]:
    """Several plates as one context."""
    with ExitStack() as stack:
        for plate in plates:
            stack.enter_context(plate)
        yield


def where_true(mask: Tensor | None) -> Any:
    """Pyro's mask handler, typed for a Tensor (its annotation asks for torch.BoolTensor); None masks nothing."""
    handler: Any = poutine.mask
    return handler(mask=True if mask is None else mask)


def normal_of_component(rows: Tensor, precision: Tensor, assignment: Tensor) -> Any:
    """The distribution of a token's query or value: a Gaussian with the row and the precision of its component."""
    scale = precision.rsqrt()
    scale = scale if scale.shape[-2] == 1 else gather(scale, assignment)
    return dist.Normal(gather(rows, assignment), scale).to_event(1)


def masked_logits(logits: Tensor, attn_mask: Tensor | None, counted: Tensor | None) -> Tensor:
    """Logits over components, -inf where masked, and flat for the queries that do not count."""
    if attn_mask is not None:
        logits = torch.where(attn_mask, logits, -torch.inf)
    return logits if counted is None else torch.where(counted[..., None], logits, 0)


def sample_in(plates: Sequence[Any], name: str, distribution: Any) -> Tensor:
    """A draw inside several plates."""
    with nested_plates(*plates):
        draw: Tensor = pyro.sample(name, distribution)
    return draw
