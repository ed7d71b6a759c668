"""Training of a model and its guide by stochastic variational inference."""

import signal
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch.distributed as dist
from lightning import Trainer
from torch import nn

from ...models.base import Model
from ..data.corpus import Corpus
from ..data.loaders import sequential_batches
from ..data.texts import evenly_spaced
from ..evaluation.verdict import latent_verdict, validation_rate_per_text
from ..objectives.elbo import Objective
from ..objectives.registry import in_words, make_objective, objective_name
from ..options import TrainingOptions
from ..run import Run
from ..runs.checkpoints import objective_state, read_checkpoint, read_unsharded
from ..runs.config import run_config
from ..runs.folder import RunFolder
from ..runs.importable import warn_of_unimportable
from ..runs.lock import one_training, run_lock
from ..utils.finite_weights import check_finite
from ..utils.keywords import check_options, with_options_of
from ..utils.processes import rank
from ..utils.progress import progress_enabled
from .checks import (
    check_arguments,
    check_free_bits,
    check_length_prior,
    check_sizes,
    check_strategy,
    introduce_texts,
)
from .defaults import DEPENDENT, given_options, with_defaults
from .divergence import DivergenceError
from .lightning_module import Training
from .prior_start import start_prior
from .progress import TrainingBar
from .resume_checks import check_checkpoint, check_resumed, patience_has_run_out, progress_of, rate_change
from .resumed import load_start, resumed_options
from .signals import stop_on_signal
from .status import Status
from .trainer import make_trainer, quiet_lightning

__all__ = ["fit", "run_training"]


@with_options_of(TrainingOptions, defaults=dict.fromkeys(DEPENDENT))
def fit(
    model: Model,
    guide: nn.Module | None,
    corpus: Corpus,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    callback: Callable[[Status], None] | None = None,
    progress: bool | None = None,
    **options: Any,
) -> Run:
    r"""Train by stochastic variational inference and keep the weights with the best objective on held-out texts.

    The default objective is the exact bound, ``elbo``, but for an NVAE whose vectors are independent in the prior, as
    with ``base_measure="gaussian"``: it is trained on the published objective, ``nvib``, which is no bound.

    Every random number is a function of the seed, the step and the process, so a run that was interrupted and resumed
    takes the same steps as one that was not. Runs limited by ``steps`` are reproducible: on a CPU to the bit, for one
    number of threads, and on a GPU up to rounding, because kernels there add in any order. Those limited by ``minutes``
    depend on the clock.

    Arguments:
        model: The generative model. Parameters that require no gradient are frozen; frozen modules have no dropout.
        guide: Its guide, or None for a model without latents.
        corpus: Texts for training and validation.
        out: The run's folder; by default a temporary one, which is deleted with the run unless :meth:`Run.save
            <pyroformer.Run.save>` copies it.
        resume: Continue the run in ``out``, with its options where they are not given; a run without a checkpoint
            starts at step 0 with the weights that it began with.
        callback: Called with a :class:`Status` about twice a second, and after each validation.
        progress: Whether to show a progress bar on standard error; by default in a terminal and in notebooks.
        options: Fields of :class:`~.options.TrainingOptions`, such as ``steps``, ``minutes``, ``learning_rate``;
            ``objective`` may be the class itself.

    Returns:
        The run, with the best weights loaded, on the device where it was trained: a GPU if there is one. If several
        processes shared its weights, it is on the CPU, as one device may not hold it.

    Raises:
        ValueError: If an option is out of range, ``out`` is in use, the guide is of another model, the run to resume is
            of another model, corpus or objective, the corpus has conditions that the model does not read, or another
            thread of this process is training.
        DivergenceError: A ValueError, if the loss or the weights are not finite; the last finite weights are kept.
        SystemExit: With code 128 + signal after SIGTERM, SIGHUP or SIGUSR1, once the step is finished and saved.
            After Ctrl-C, the run so far is returned.

    Examples:
        >>> corpus = pf.Corpus.from_texts([f"The number {n} is even." for n in range(0, 100, 2)], max_length=32)
        >>> model = pf.LanguageModel.for_corpus(corpus, width=16, layers=1, heads=2)
        >>> fit(model, None, corpus, steps=2, batch_size=8).step
        2
    """
    bar, last = TrainingBar() if progress_enabled(progress) else None, ""
    shown: dict[str, Any] = {"callback": callback}
    if bar is not None:
        shown = {"callback": _both(callback, bar), "notice": bar.say}
    try:
        run, number = run_training(model, guide, corpus, out=out, resume=resume, **shown, **options)
        rate = validation_rate_per_text(run)
        last = f"best at step {run.step:,}" + ("" if rate is None else f"; {latent_verdict(rate)}")
    finally:
        if bar is not None:
            bar.close(last)
    if number not in (None, signal.SIGINT):  # an order to end, not a person's Ctrl-C
        raise SystemExit(128 + number)
    return run


@one_training()
def run_training(
    model: Model,
    guide: nn.Module | None,
    corpus: Corpus,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    callback: Callable[[Status], None] | None = None,
    notice: Callable[[str], object] = lambda line: None,
    **options: Any,
) -> tuple[Run, int | None]:
    """The run that :func:`fit` returns, and the number of the signal that ended it, or None.

    ``notice`` is called with lines that a person should read.
    """
    check_options(fit, options)
    check_arguments(model, guide, corpus)
    folder, settings = _folder_and_settings(model, out, resume, options)
    objective = _checked_objective(model, guide, corpus, settings, resume)
    config = run_config(model, guide, corpus, settings)
    if out is not None:
        warn_of_unimportable(config, stacklevel=3)
    check_strategy(objective, settings)
    with quiet_lightning():
        trainer = make_trainer(settings)  # before anything is written, as it refuses some options
    with ExitStack() as stack:
        if rank() == 0:
            folder.prepare(resume)
            stack.enter_context(run_lock(folder.path))
            _prepare_folder(folder, resume, config, corpus, objective, settings, notice)
        check_finite(dict(objective.named_parameters()), "the model")
        objective.train()  # Lightning warns about modules in evaluation mode
        training = Training(objective, corpus, settings, folder, _with_objective(callback, config["objective"]))
        checkpoint = _trained(training, trainer)
    objective.load_state_dict(objective_state(checkpoint, objective))
    objective.eval()
    sharded = settings.strategy == "fsdp" and trainer.world_size > 1  # one device may not hold it
    objective.to("cpu" if sharded else trainer.strategy.root_device)  # Lightning has left it on the CPU
    trust = [config["objective"]["class_path"]] if "class_path" in config["objective"] else []
    run = Run(model, guide, corpus, training.folder, config, step=int(checkpoint["global_step"]), trust=trust)
    return run, training.signal


def _with_objective(
    callback: Callable[[Status], None] | None, described: Mapping[str, Any]
) -> Callable[[Status], None] | None:
    """A callback whose status says what the objective is, where it is not the ELBO."""
    words = in_words(described)
    if callback is None or not words:
        return callback
    return lambda status: callback(status._replace(objective=f"objective ({words})"))


def _both(callback: Callable[[Status], None] | None, bar: TrainingBar) -> Callable[[Status], None]:
    """A callback that also shows the status on a bar."""

    def call(status: Status) -> None:
        if callback is not None:
            callback(status)
        bar(status)

    return call


def _folder_and_settings(
    model: Model, out: str | Path | None, resume: bool, options: dict[str, Any]
) -> tuple[RunFolder, TrainingOptions]:
    """The run's folder and options; a resumed run combines recorded options with new ones."""
    if isinstance(options.get("objective"), type):
        options = options | {"objective": objective_name(options["objective"])}
    if resume and out is None:
        raise ValueError("resume is True, but there is no out: give the folder of the run to resume.")
    folder = RunFolder.temporary() if out is None else RunFolder(out)
    if resume:
        options = resumed_options(folder, given_options(options))
    return folder, TrainingOptions(**with_defaults(model, options))


def _checked_objective(
    model: Model, guide: nn.Module | None, corpus: Corpus, settings: TrainingOptions, resume: bool
) -> Objective:
    """The objective of a model and a guide that can read all texts."""
    check_sizes(model, corpus)
    if not resume:
        check_length_prior(model, corpus)
    introduce_texts(guide, corpus)
    objective = make_objective(model, guide, settings, len(corpus.train))
    _, one_text = next(iter(sequential_batches(evenly_spaced(corpus.valid, 1), 1)))
    check_free_bits(objective, one_text)
    return objective


def _trained(training: Training, trainer: Trainer) -> dict[str, Any]:
    """The checkpoint with the best weights of a run, which is trained to its end first.

    Raises:
        DivergenceError: If the loss or the weights are not finite.
    """
    _train(training, trainer)
    folder = training.folder
    if training.diverged is not None:
        raise DivergenceError(training.diverged, training.options.learning_rate, folder)
    checkpoint = read_checkpoint(folder.best if folder.best.exists() else folder.last, moments=False)
    if dist.is_initialized():  # the first process deletes a temporary folder with its run
        dist.barrier()
    return checkpoint


def _train(training: Training, trainer: Trainer) -> None:
    """Train until the run ends, unless it has ended already."""
    folder, settings = training.folder, training.options
    last = read_unsharded(folder.last) if folder.last.exists() else None
    done, seconds = (0.0, 0.0) if last is None else progress_of(last, settings)
    if done >= 1 or last is not None and patience_has_run_out(last, settings, training.corpus):
        if training.callback is not None and rank() == 0:
            training.callback(Status(folder.step(), min(done, 1.0), seconds, 0.0, 0.0, "train", {}))
        return
    checkpoint = None if last is None else str(folder.last)
    with quiet_lightning(), stop_on_signal(training):
        trainer.fit(training, ckpt_path=checkpoint, weights_only=True)


def _prepare_folder(
    folder: RunFolder,
    resume: bool,
    config: dict[str, Any],
    corpus: Corpus,
    objective: Objective,
    settings: TrainingOptions,
    notice: Callable[[str], object],
) -> None:
    """Write corpus, initial weights and configuration, or check that a run to resume is the same one."""
    begun = resume and folder.config_file.exists()
    if begun:
        check_resumed(folder, config, corpus, settings)
    if folder.last.exists():
        check_checkpoint(folder, objective)
        if begun and (line := rate_change(folder, settings)):
            notice(line)
        folder.forget_metrics_after(folder.step())
    elif begun and folder.start.exists():
        load_start(folder, objective)
        folder.forget_metrics_after(0)
    else:
        start_prior(objective.model, objective.guide, corpus, settings.seed)
        folder.keep_start(objective)
    folder.keep_corpus(corpus.folder, new=not begun)
    folder.write_config(config)
