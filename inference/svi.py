"""Stochastic variational inference for training loops of your own."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro.infer import TraceGraph_ELBO, TraceMeanField_ELBO
from pyro.optim import PyroOptim
from pyro.params.param_store import StateDict
from torch import Tensor, nn
from torch.distributions.constraints import real

from ..models.utils.choices import check_known
from .objectives.elbo import ELBO

__all__ = ["SVI"]

MARKER = "pyroformer.SVI"  # a parameter that stands for all of a module's, which Pyro does not see
BASELINE = "__baseline_avg_downstream_cost_"  # of TraceGraph_ELBO


class SVI:
    r"""Pyro's ``SVI`` for modules that keep their parameters to themselves: ``step`` and ``evaluate_loss``.

    All parameters of model and guide are trained, those that only the first call makes included, as of
    :class:`~pyroformer.guides.automatic.Automatic`. Pyro's global parameter store is as it was after each call.

    Arguments:
        model: The generative model, a module.
        guide: Its guide, or None for a model without latents.
        optimizer: An optimizer of ``pyro.optim``, such as ``pyro.optim.Adam({"lr": 1e-2})``; or a torch optimizer
            class, or a function that makes a torch optimizer from parameters. If the options of the former are a
            function of a parameter's name, that is its name in ``objective``, such as ``guide.log_std``.
        loss: The objective: the ELBO by default, or any of Pyro's, such as ``TraceEnum_ELBO`` for a mixture.
        options: Options of a torch optimizer, such as ``lr``.

    Attributes:
        objective: The module of model, guide and loss.
        optimizer: The optimizer; None before the first step if torch's, which is made when all parameters exist.

    Raises:
        ValueError: If the optimizer or the loss is of another kind, or an option is neither's; at the first step, if
            model or guide calls ``pyro.param``.

    Examples:
        >>> from pyroformer.models.batch import Batch
        >>> from pyroformer.models.language_model import LanguageModel
        >>> from pyroformer.models.transformer.config import TransformerConfig
        >>> network = TransformerConfig(vocabulary=20, max_length=8, width=16, layers=1, heads=2, dropout=0.0)
        >>> svi = SVI(LanguageModel(network), None, torch.optim.AdamW, lr=1e-2)
        >>> batch = Batch.pad([[5, 6, 2], [7, 2]])
        >>> losses = [svi.step(batch) for _ in range(20)]
        >>> losses[-1] < losses[0]
        True

        With an optimizer and a loss of Pyro:

        >>> svi = SVI(LanguageModel(network), None, pyro.optim.Adam({"lr": 1e-2}), loss=pyro.infer.Trace_ELBO())
        >>> losses = [svi.step(batch) for _ in range(20)]
        >>> losses[-1] < losses[0]
        True
    """

    def __init__(
        self,
        model: nn.Module,
        guide: nn.Module | None,
        optimizer: PyroOptim | Callable[..., torch.optim.Optimizer],
        loss: pyro.infer.ELBO | None = None,
        **options: Any,
    ) -> None:
        loss = ELBO() if loss is None else loss
        if not isinstance(loss, pyro.infer.ELBO):
            raise ValueError(f"loss is {loss!r}: give an ELBO, such as pyroformer.ELBO() or pyro.infer.Trace_ELBO().")
        if type(loss).__name__.startswith("Jit"):
            plain = type(loss).__name__.removeprefix("Jit")
            raise ValueError(f"loss is a Jit{plain}, which compiles Pyro's global parameter store: give a {plain}.")
        if isinstance(optimizer, PyroOptim) and options:
            raise ValueError(f"{next(iter(options))} is an option beside an optimizer of pyro.optim: give it to that.")
        if not (isinstance(optimizer, PyroOptim) or callable(optimizer)):
            raise ValueError(
                f"optimizer is a {type(optimizer).__name__}: give a class, such as torch.optim.Adam, or an optimizer "
                "of pyro.optim."
            )
        if not isinstance(optimizer, PyroOptim):
            _check_options(optimizer, options)
        latent = guide if guide is not None or isinstance(loss, ELBO) else _Nothing()
        self.loss: Any = loss  # pyro.infer.ELBO declares none of its subclasses' methods
        self.objective: nn.Module = loss(model, latent)  # type: ignore[arg-type]  # our ELBO takes None
        self.optimizer: PyroOptim | torch.optim.Optimizer | None = (
            optimizer if isinstance(optimizer, PyroOptim) else None
        )
        self._make: Callable[..., torch.optim.Optimizer] = optimizer  # type: ignore[assignment]
        self._options = options
        self._store: StateDict = {"params": {}, "constraints": {}}

    def step(self, *args: Any, **kwargs: Any) -> float:
        """One gradient step on a batch.

        Returns:
            The loss before the step: in nats per text if it is ours, as Pyro defines it otherwise. The losses of
            ``ReweightedWakeSleep`` are added.
        """
        self.objective.zero_grad()
        loss = self._loss_and_grads(*args, **kwargs)
        if self.optimizer is None:
            self.optimizer = self._make(self.objective.parameters(), **self._options)
        if isinstance(self.optimizer, PyroOptim):
            named: dict[str, Tensor] = {
                name: value for name, value in self.objective.named_parameters() if value.grad is not None
            }
            with pyro.get_param_store().scope({"params": named, "constraints": dict.fromkeys(named, real)}):
                self.optimizer(list(named.values()))
        else:
            self.optimizer.step()
        return loss

    @torch.no_grad()
    def evaluate_loss(self, *args: Any, **kwargs: Any) -> float:
        """The loss of a batch, without a step."""
        if isinstance(self.loss, ELBO):
            return float(self.objective(*args, **kwargs))
        with pyro.get_param_store().scope(self._store):
            with _sites_named(self.loss):
                return _total(self.loss.loss(self.objective.model, self.objective.guide, *args, **kwargs))

    def _loss_and_grads(self, *args: Any, **kwargs: Any) -> float:
        if isinstance(self.loss, ELBO):
            loss = self.objective(*args, **kwargs)
            loss.backward()
            return float(loss.detach())
        model: Any = self.objective.model
        with pyro.get_param_store().scope(self._store):  # Pyro's store is swapped for ours, and put back
            with _sites_named(self.loss):
                total = _total(self.loss.loss_and_grads(_Marked(model), self.objective.guide, *args, **kwargs))
        self._check_store()
        return total

    def _check_store(self) -> None:
        """Raises for parameters of ``pyro.param``, which belong to no module and would not be trained."""
        own = {id(parameter) for parameter in self.objective.parameters()}
        for name, parameter in self._store["params"].items():
            if parameter.requires_grad and id(parameter) not in own and not name.startswith((MARKER, BASELINE)):
                raise ValueError(
                    f"model or guide calls pyro.param({name!r}), which SVI does not train: make it an attribute of a "
                    "PyroModule, with pyro.nn.PyroParam if it has a constraint."
                )


def _check_options(optimizer: Callable[..., torch.optim.Optimizer], options: dict[str, Any]) -> None:
    """Raises a ValueError for an option that neither SVI nor the optimizer has."""
    try:
        taken = inspect.signature(optimizer).parameters.values()
    except ValueError:  # of a function without a signature, which may take anything
        return
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken):
        return
    # the first are the parameters of the modules, which are no option
    known = [parameter.name for parameter in taken if parameter.kind is not parameter.POSITIONAL_ONLY][1:]
    made_by = getattr(optimizer, "__name__", type(optimizer).__name__)
    rest = f"{made_by} takes {', '.join(known)}."
    check_known(f"SVI with {made_by}", options, ["optimizer", "loss", *known], rest)


class _Nothing(nn.Module):
    """The guide of a model without latents."""

    def forward(self, *args: Any, **kwargs: Any) -> None:
        return None


class _Marked:
    """A model with one more parameter: some of Pyro's losses take gradients only where a trace has a parameter."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        pyro.param(MARKER, _zero)
        return self.model(*args, **kwargs)


def _zero() -> Tensor:
    return torch.zeros(())


@contextmanager
def _sites_named(loss: Any) -> Iterator[None]:
    """Turn the bare KeyError of Pyro's losses that need every site in the guide into a ValueError."""
    try:
        yield
    except KeyError as error:
        if not isinstance(loss, TraceMeanField_ELBO | TraceGraph_ELBO):
            raise
        raise ValueError(
            f"{type(loss).__name__} needs every latent in the guide, which does not draw {error.args[0]!r}: sample it "
            "there, or sum over discrete ones with pyro.infer.TraceEnum_ELBO."
        ) from error


def _total(loss: Any) -> float:
    return float(sum(loss)) if isinstance(loss, tuple) else float(loss)
