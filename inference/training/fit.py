"""Fit a model and its guide to a corpus by stochastic variational inference."""

import logging
import os
import signal
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.plugins import TorchCheckpointIO
from torch import nn

from ...models.base import Model
from ..data.corpus import Corpus
from ..objectives.registry import make_objective
from ..options import TrainingOptions
from ..run import Run
from ..runs.config import run_config
from ..runs.folder import RunFolder, objective_state, read_checkpoint
from ..utils.files import write_atomically
from .lightning_module import Status, Training

__all__ = ["fit"]


def fit(
    model: Model,
    guide: nn.Module | None,
    corpus: Corpus,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    callback: Callable[[Status], None] | None = None,
    **options: Any,
) -> Run:
    r"""Train by stochastic variational inference and keep the weights that did best on held-out texts.

    Every random number is a function of the seed, the step and the process, so a run that was killed and resumed takes
    the same steps as one that was not. Runs limited by ``steps`` are reproducible; by ``minutes``, as far as the clock
    is.

    Arguments:
        model: The generative model. What does not require a gradient is held, without dropout.
        guide: Its posterior, or None where nothing is latent.
        corpus: Texts to train on, and to validate on.
        out: The run's folder; a temporary one by default.
        resume: Continue the run in ``out``; one that has not got to a checkpoint starts at step 0.
        callback: Called about twice a second with a :class:`Status`, and after each look at held-out texts.
        options: Fields of :class:`TrainingOptions`, such as ``steps``, ``minutes``, ``learning_rate``.

    Returns:
        The run, with the best weights loaded.

    Raises:
        ValueError: If an option breaks its rule, ``out`` is used, the run to resume is of another model, or the model
            does not read the conditions that the texts have.

    Examples:
        >>> corpus = pf.Corpus.from_texts([f"The number {n} is even." for n in range(0, 100, 2)], max_length=32)
        >>> model = pf.LanguageModel.for_corpus(corpus, width=16, layers=1, heads=2)
        >>> fit(model, None, corpus, steps=2, batch_size=8).step
        2
    """
    settings = TrainingOptions(**options)
    model.check_conditions(corpus.conditional)
    _check_sizes(model, corpus)
    folder = RunFolder(out if out is not None else tempfile.mkdtemp(prefix="pyroformer-"))
    objective = make_objective(model, guide, settings, len(corpus.train))
    config = run_config(model, guide, corpus, settings)
    if _rank() == 0:
        folder.prepare(resume)
        if resume and folder.config_file.exists():
            _check_same_run(folder, config)
        folder.keep_corpus(corpus.folder)
        folder.write_config(config)
        if folder.last.exists():
            _check_checkpoint(folder, objective)
            folder.forget_metrics_after(folder.step())
    objective.train()  # what was trained before is in evaluation mode, of which Lightning warns
    training = Training(objective, corpus, settings, folder, callback)
    with _quiet_lightning(), _stop_on_interrupt(training):
        _trainer(settings).fit(
            training, ckpt_path=str(folder.last) if folder.last.exists() else None, weights_only=True
        )
    best = folder.best if folder.best.exists() else folder.last
    objective.load_state_dict(objective_state(read_checkpoint(best), objective))
    objective.eval()
    return Run(model, guide, corpus, folder, config, step=training.best_step)


class _AtomicCheckpoints(TorchCheckpointIO):
    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        write_atomically(Path(path), lambda temporary: torch.save(checkpoint, temporary))


def _trainer(options: TrainingOptions) -> lightning.Trainer:
    cuda = torch.cuda.is_available()
    processes = max(options.devices, int(os.environ.get("WORLD_SIZE", 1)))
    return lightning.Trainer(
        accelerator="cuda" if cuda else "cpu",
        devices=options.devices if "TORCHELASTIC_RUN_ID" not in os.environ else int(os.environ["LOCAL_WORLD_SIZE"]),
        num_nodes=max(1, processes // int(os.environ.get("LOCAL_WORLD_SIZE", processes))),
        strategy="ddp" if processes > 1 else "auto",
        precision="bf16-mixed" if options.precision == "bf16" else "32-true",
        max_steps=options.steps or -1,
        max_epochs=-1,
        accumulate_grad_batches=options.accumulate_grad_batches,
        gradient_clip_val=options.gradient_clip_val or None,
        plugins=[_AtomicCheckpoints()],
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
        num_sanity_val_steps=0,
    )


def _check_sizes(model: Model, corpus: Corpus) -> None:
    """The network must know every token of the corpus and reach as far as its texts and their conditions."""
    config = getattr(model, "config", None)
    sizes = {
        "vocabulary": corpus.vocabulary,
        "max_length": corpus.max_length,
        "max_condition_length": corpus.max_condition_length,
    }
    for name, needed in sizes.items():
        had = getattr(config, name, None)
        if had is not None and had < needed:
            raise ValueError(
                f"the {name} of the model is {had}, that of the corpus {needed}: make the model with "
                f"{type(model).__name__}.for_corpus(corpus)."
            )


def _check_checkpoint(folder: RunFolder, objective: nn.Module) -> None:
    """The weights to go on from must be those of this model."""
    has = {name: value.shape for name, value in objective_state(read_checkpoint(folder.last), objective).items()}
    if has != {name: value.shape for name, value in objective.state_dict().items()}:
        raise ValueError(f"{folder.last} is a checkpoint of another model than {folder.config_file} names.")


def _check_same_run(folder: RunFolder, config: dict[str, Any]) -> None:
    """A run continues with the model and the target of the KL that it began with."""
    before = folder.read_config()
    for part in ("model", "guide"):
        if before.get(part) != config[part]:
            raise ValueError(
                f"{folder.path} holds a run of another {part}: continue it with the same one, or choose another --out."
            )
    if before.get("trained") != config.get("trained"):
        raise ValueError(
            f"{folder.path} trains {_parts(before)}, not {_parts(config)}: hold what it holds, or choose another --out."
        )
    frozen = before.get("frozen", before.get("held"))  # "held" is its name in older runs
    if frozen is not None and frozen != config.get("frozen"):
        raise ValueError(
            f"{folder.path} holds other weights than these: resume it from the run that it began with, or choose "
            "another --out."
        )
    had, has = (each.get("training", {}).get("target_kl") for each in (before, config))
    if had != has:
        raise ValueError(
            f"target_kl is {has}, but {folder.path} was begun with {had}: go on with that, or choose another --out."
        )


def _parts(config: dict[str, Any]) -> str:
    return ", ".join(config.get("trained", ["everything"]))


def _rank() -> int:
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", 0)))


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Lightning's remarks about devices and loaders say nothing to who called fit."""
    logger = logging.getLogger("lightning.pytorch")
    fabric = logging.getLogger("lightning.fabric")
    levels = logger.level, fabric.level
    logger.setLevel(logging.WARNING)
    fabric.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, module="lightning")
            warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode")  # fit decides it
            yield
    finally:
        logger.setLevel(levels[0])
        fabric.setLevel(levels[1])


@contextmanager
def _stop_on_interrupt(training: Training) -> Iterator[None]:
    """The first Ctrl-C ends the run after its step, checkpoint written; the second one ends it at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> None:
        training.stop_requested = True
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
