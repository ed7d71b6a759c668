r"""Compilation of a whole objective, with Pyro's effect handlers, into one graph.

Effect handlers are Python code around tensor operations. Non-strict tracing runs model and guide once, records the
tensor operations, and compiles those: losses and gradients are the eager ones, without the overhead of the handlers.
"""

import itertools
import warnings
from collections.abc import Callable
from typing import Any

import pyro
import torch
from torch import Tensor, nn
from torch.func import functional_call

from ...models.batch import Batch
from ...models.transformer.blocks import compile_blocks
from ...models.utils.errors import first_line
from ..objectives.elbo import Objective

__all__ = ["NO_VALIDATION", "CompiledObjective", "captured_losses"]

_counter = itertools.count()


class CompiledObjective(nn.Module):
    r"""An :class:`Objective` whose ``losses`` run as one compiled graph for each batch shape.

    It needs control flow that depends on shapes only; the gradient of discrete latents, such as presences, is captured
    too. Distribution arguments are not validated. Train and eval mode have separate graphs.

    Arguments:
        objective: The objective to compile; its parameters are shared, not copied.
        options: Options of :func:`torch.compile`, for example ``backend``.

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

        # Dynamo caches by code object, whichever non-strict function is called: with a shared code object, a second
        # instance with equal shapes would silently run the graph of the first.
        entry.__code__ = entry.__code__.replace(co_name=f"objective_{next(_counter)}")
        self._entry = torch.compile(entry, fullgraph=True, dynamic=False, **options)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The result of :meth:`Objective.losses`, from the graph."""
        state = _state(_Losses(self.objective))
        mode = sum(int(module.training) << i % 60 for i, module in enumerate(self.objective.modules()))
        parts = {name: part for name, part in batch._asdict().items() if part is not None}  # graphs take no None
        with pyro.settings.context(**NO_VALIDATION):  # validation reads values, which a graph cannot
            result: dict[str, Tensor] = self._entry(state, mode, parts)
        return result


def captured_losses(objective: Objective, **options: Any) -> Callable[[Batch], dict[str, Tensor]]:
    """The ``losses`` of an objective as one graph; where it cannot be captured, with compiled blocks and a warning.

    Arguments:
        objective: The objective.
        options: Options of :func:`torch.compile`.
    """
    try:
        captured = CompiledObjective(objective, **options)
    except RuntimeError as error:
        return _by_blocks(objective, error, options)
    losses: Callable[[Batch], dict[str, Tensor]] = captured.losses

    def call(batch: Batch) -> dict[str, Tensor]:
        nonlocal losses
        try:
            return losses(batch)
        except _not_capturable() as error:
            if losses != captured.losses:
                raise
            losses = _by_blocks(objective, error, options)
            torch.manual_seed(torch.initial_seed())  # the draws that the attempt took
            return losses(batch)

    return call


def _by_blocks(objective: Objective, error: Exception, options: dict[str, Any]) -> Callable[[Batch], dict[str, Tensor]]:
    compile_blocks(objective, **options)
    warnings.warn(
        f"compile is full, but this objective cannot be captured ({type(error).__name__}: {first_line(error)}): its "
        "Transformer blocks are compiled instead.",
        stacklevel=2,
    )
    return objective.losses


def _not_capturable() -> tuple[type[Exception], ...]:
    """Torch's errors for a graph that depends on values or has an operation that cannot be traced."""
    from torch._dynamo.exc import TorchDynamoException
    from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

    return (TorchDynamoException, DataDependentOutputException, DynamicOutputShapeException)


class _Losses(nn.Module):
    """A module whose ``forward`` is ``losses``, for ``functional_call``."""

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.objective = objective

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return self.objective.losses(batch)


def _state(module: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers by name, those of a module with two names under the first alone.

    If ``functional_call`` ties weights itself, it swaps such a tensor under both names and puts the tracer's one back.
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
