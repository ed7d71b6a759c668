r"""Compilation of an objective: by Transformer blocks, or as a whole, with Pyro's effect handlers, into one graph.

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
from ...models.transformer.blocks import compile_blocks, uncompile_blocks
from ...models.utils.errors import first_line
from ..objectives.elbo import Objective
from ..options import Compile

__all__ = ["NO_VALIDATION", "CompiledObjective", "Losses", "captured_losses", "compiled_losses"]

Losses = Callable[[Batch], dict[str, Tensor]]
_counter = itertools.count()


def compiled_losses(objective: Objective, mode: Compile, device: torch.device) -> tuple[Losses, Losses]:
    """The ``losses`` of an objective for training and for validation, compiled as ``mode`` says.

    If torch.compile fails, as it does without a C compiler, ``auto`` goes on without it and warns.

    Raises:
        ValueError: By the losses, if torch.compile fails and the mode is not ``auto``.
    """
    if mode == "off" or (mode == "auto" and device.type != "cuda"):
        return objective.losses, objective.losses
    training: Losses = objective.losses
    if mode == "full":
        training = captured_losses(objective)
    else:
        compile_blocks(objective)
    return _guarded(training, objective, mode), _guarded(objective.losses, objective, mode)


def _guarded(losses: Losses, objective: Objective, mode: Compile) -> Losses:
    """Losses for which an error of the compiler is a warning or a ValueError."""

    def call(batch: Batch) -> dict[str, Tensor]:
        try:
            return losses(batch)
        except Exception as error:
            cause = _of_compiler(error)
            if cause is None:
                raise
            failure = f"torch.compile failed ({type(cause).__name__}: {first_line(cause)})"
            if mode != "auto":
                raise ValueError(f"compile is {mode}, but {failure}: choose compile=off.") from error
            uncompile_blocks(objective)
            warnings.warn(f"{failure}: training goes on without it, more slowly.", stacklevel=2)
            torch.manual_seed(torch.initial_seed())  # the draws that the attempt took
            return losses(batch)

    return call


def _of_compiler(error: BaseException | None) -> BaseException | None:
    """The error of the compiler that another one comes from, such as one that Pyro's handlers make of it, or None."""
    from torch._dynamo.exc import TorchDynamoException

    while error is not None and not isinstance(error, TorchDynamoException):
        error = error.__cause__ or error.__context__
    return getattr(error, "inner_exception", error)


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


def captured_losses(objective: Objective, **options: Any) -> Losses:
    """The ``losses`` of an objective as one graph; where it cannot be captured, with compiled blocks and a warning.

    Arguments:
        objective: The objective.
        options: Options of :func:`torch.compile`.
    """
    try:
        captured = CompiledObjective(objective, **options)
    except RuntimeError as error:
        return _by_blocks(objective, error, options)
    losses: Losses = captured.losses

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


def _by_blocks(objective: Objective, error: Exception, options: dict[str, Any]) -> Losses:
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
