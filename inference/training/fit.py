"""Training of a model and its guide by stochastic variational inference."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from ...models.base import Model
from ..data.corpus import Corpus
from ..objectives.elbo import Objective
from ..objectives.registry import make_objective, objective_name
from ..options import TrainingOptions
from ..run import Run
from ..runs.config import run_config
from ..runs.folder import RunFolder, objective_state, read_checkpoint
from ..utils.processes import rank
from .checks import check_checkpoint, check_same_run, check_sizes
from .lightning_module import Status, Training
from .trainer import make_trainer, quiet_lightning, stop_on_interrupt

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
    r"""Train by stochastic variational inference and keep the weights with the best objective on held-out texts.

    Every random number is a function of the seed, the step and the process, so a run that was interrupted and resumed
    takes the same steps as one that was not. Runs limited by ``steps`` are reproducible; those limited by ``minutes``
    depend on the clock.

    Arguments:
        model: The generative model. Parameters that require no gradient are frozen; frozen modules have no dropout.
        guide: Its guide, or None for a model without latents.
        corpus: Texts for training and validation.
        out: The run's folder; a temporary one by default.
        resume: Continue the run in ``out``; a run without a checkpoint starts at step 0.
        callback: Called with a :class:`Status` about twice a second, and after each validation.
        options: Fields of :class:`~.options.TrainingOptions`, such as ``steps``, ``minutes``, ``learning_rate``;
            ``objective`` may be the class itself.

    Returns:
        The run, with the best weights loaded.

    Raises:
        ValueError: If an option is out of range, ``out`` is in use, the run to resume is of another model, or the
            corpus has conditions that the model does not read.

    Examples:
        >>> corpus = pf.Corpus.from_texts([f"The number {n} is even." for n in range(0, 100, 2)], max_length=32)
        >>> model = pf.LanguageModel.for_corpus(corpus, width=16, layers=1, heads=2)
        >>> fit(model, None, corpus, steps=2, batch_size=8).step
        2
    """
    if isinstance(options.get("objective"), type):
        options["objective"] = objective_name(options["objective"])
    settings = TrainingOptions(**options)
    model.check_conditions(corpus.conditional)
    check_sizes(model, corpus)
    folder = RunFolder(out if out is not None else tempfile.mkdtemp(prefix="pyroformer-"))
    objective = make_objective(model, guide, settings, len(corpus.train))
    config = run_config(model, guide, corpus, settings)
    if rank() == 0:
        _prepare_folder(folder, resume, config, corpus, objective)
    objective.train()  # Lightning warns about modules in evaluation mode
    training = Training(objective, corpus, settings, folder, callback)
    checkpoint = str(folder.last) if folder.last.exists() else None
    with quiet_lightning(), stop_on_interrupt(training):
        make_trainer(settings).fit(training, ckpt_path=checkpoint, weights_only=True)
    best = folder.best if folder.best.exists() else folder.last
    objective.load_state_dict(objective_state(read_checkpoint(best), objective))
    objective.eval()
    trust = [config["objective"]["class_path"]] if "class_path" in config["objective"] else []
    return Run(model, guide, corpus, folder, config, step=training.best_step, trust=trust)


def _prepare_folder(
    folder: RunFolder, resume: bool, config: dict[str, Any], corpus: Corpus, objective: Objective
) -> None:
    """Write corpus and configuration, and check that a run to resume is the same one."""
    folder.prepare(resume)
    if resume and folder.config_file.exists():
        check_same_run(folder, config)
    folder.keep_corpus(corpus.folder)
    folder.write_config(config)
    if folder.last.exists():
        check_checkpoint(folder, objective)
        folder.forget_metrics_after(folder.step())
