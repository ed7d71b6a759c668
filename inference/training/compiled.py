r"""The whole objective, Pyro and all, captured into one graph.

Effect handlers are Python; what they do to tensors is not. Capturing below Python (non-strict tracing) runs model and
guide once, records the tensor operations, and compiles those: losses and gradients are the eager ones, and none of
Pyro's bookkeeping is left.
"""

import itertools
from typing import Any

import pyro
import torch
from torch import Tensor, nn
from torch.func import functional_call

from ...models.batch import Batch
from ..objectives.elbo import Objective

__all__ = ["NO_VALIDATION", "CompiledObjective"]

_counter = itertools.count()


class CompiledObjective(nn.Module):
    r"""An :class:`Objective` whose ``losses`` run as one compiled graph for each batch shape.

    Conditions: a fully reparameterised guide, control flow that depends on shapes only. Distribution arguments are not
    validated inside. Train and eval mode each get their own graph.

    Arguments:
        objective: What to capture; its parameters stay where they are.
        options: For :func:`torch.compile`, for example ``backend``.

    Raises:
        RuntimeError: If this torch has no non-strict tracing; compile block by block there.
    """

    def __init__(self, objective: Objective, **options: Any) -> None:
        super().__init__()
        self.objective = objective
        nonstrict = getattr(torch.compiler, "nonstrict_trace", None) or getattr(torch._dynamo, "nonstrict_trace", None)
        if nonstrict is None:
            raise RuntimeError(f"torch {torch.__version__} cannot capture a whole objective: use compile='blocks'.")

        @nonstrict  # type: ignore[untyped-decorator]
        def losses(state: dict[str, Tensor], mode: int, batch: dict[str, Tensor]) -> dict[str, Tensor]:
            result: dict[str, Tensor] = functional_call(_Losses(objective), state, (Batch(**batch),), tie_weights=False)
            return result

        def entry(state: dict[str, Tensor], mode: int, batch: dict[str, Tensor]) -> dict[str, Tensor]:
            result: dict[str, Tensor] = losses(state, mode, batch)
            return result

        # Dynamo caches by code object and does not look at *which* non-strict function is called: without a code object
        # of its own, a second instance with equal shapes would silently run the first one's graph.
        entry.__code__ = entry.__code__.replace(co_name=f"objective_{next(_counter)}")
        self._entry = torch.compile(entry, fullgraph=True, dynamic=False, **options)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """What :meth:`Objective.losses` returns, from the graph."""
        state = _state(_Losses(self.objective))
        mode = sum(int(module.training) << i % 60 for i, module in enumerate(self.objective.modules()))
        parts = {name: part for name, part in batch._asdict().items() if part is not None}  # a graph takes no None
        with pyro.settings.context(**NO_VALIDATION):  # validation reads values, which no graph can hold
            result: dict[str, Tensor] = self._entry(state, mode, parts)
        return result


class _Losses(nn.Module):
    """Gives ``losses`` the name that ``functional_call`` calls."""

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.objective = objective

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return self.objective.losses(batch)


def _state(module: nn.Module) -> dict[str, Tensor]:
    """Each tensor under each place that holds it, once.

    A module that has two names has one place: ``functional_call``, left to tie weights itself, swaps it under both, and
    what it puts back last is the tracer's tensor.
    """
    return {
        f"{prefix}.{name}": tensor
        for prefix, part in module.named_modules()
        for own in (part.named_parameters(recurse=False), part.named_buffers(recurse=False))
        for name, tensor in own
    }


NO_VALIDATION = {
    "validate_infer": False,
    "validate_poutine": False,
    "validate_distributions_pyro": False,
    "validate_distributions_torch": False,
}
