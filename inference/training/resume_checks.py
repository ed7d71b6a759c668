"""Checks before a run is resumed: it goes on as it began."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from ..data.corpus import Corpus
from ..options import TrainingOptions
from ..runs.checkpoints import objective_state, read_checkpoint, read_unsharded
from ..runs.fingerprint import corpus_fingerprint
from ..runs.folder import RunFolder
from ..runs.old_runs import current_progress
from ..schedules import warmup_cosine
from ..utils.finite_weights import check_finite
from .resumed import recorded_options
from .trainer import texts_per_step

__all__ = ["check_checkpoint", "check_resumed", "patience_has_run_out", "progress_of", "rate_change"]

JUMP = 1.5  # of the learning rate, from which on it is mentioned


def check_resumed(folder: RunFolder, config: dict[str, Any], corpus: Corpus, options: TrainingOptions) -> None:
    """Raises a ValueError unless a run can go on with this model and guide, this corpus and these options."""
    _check_same_run(folder, config)
    _check_same_corpus(folder, corpus)
    _check_progress(folder, options)
    _check_texts_per_step(folder, options)


def check_checkpoint(folder: RunFolder, objective: nn.Module) -> None:
    """Raises a ValueError if the weights of the last checkpoint are not those of this model."""
    saved = objective_state(read_checkpoint(folder.last, moments=False), objective)
    expected = objective.state_dict()
    if {name: value.shape for name, value in saved.items()} != {name: value.shape for name, value in expected.items()}:
        raise ValueError(f"{folder.last} is a checkpoint of another model than {folder.config_file} names.")
    check_finite({name: saved[name] for name, _ in objective.named_parameters()}, str(folder.last))


def rate_change(folder: RunFolder, options: TrainingOptions) -> str | None:
    """A line that says that the learning rate jumps, because a run to resume has another length than before."""
    checkpoint = read_unsharded(folder.last)
    before = TrainingOptions(**recorded_options(folder, folder.read_config()))
    old, new = (warmup_cosine(min(1.0, progress_of(checkpoint, each)[0])) for each in (before, options))
    if max(old, new) < JUMP * min(old, new):
        return None
    length = f"{options.steps:,} steps" if options.steps else f"{options.minutes:g} minutes"
    old, new = old * options.learning_rate, new * options.learning_rate
    return (
        f"the learning rate goes from {old:.2g} to {new:.2g}, since its schedule is now {length} long: the objective "
        "may rise for a while"
    )


def progress_of(checkpoint: Mapping[str, Any], options: TrainingOptions) -> tuple[float, float]:
    """The fraction of a run that a checkpoint has done, and its seconds."""
    seconds = float(checkpoint.get("run", {}).get("seconds", 0.0))
    return options.progress(checkpoint["global_step"], seconds), seconds


def patience_has_run_out(checkpoint: Mapping[str, Any], options: TrainingOptions, corpus: Corpus) -> bool:
    """Whether a run has ended before its time at a checkpoint, judged on the texts that it would go on with."""
    state = current_progress(checkpoint["run"])
    every = len(corpus.valid)  # of an older run, which does not tell its texts
    same = state.get("validation_texts", every) == min(options.validation_texts, every)
    return same and 0 < options.patience <= state["wait"]


def _check_same_run(folder: RunFolder, config: dict[str, Any]) -> None:
    """Raises a ValueError unless a resumed run has the model, the guide and the frozen weights that it began with."""
    before = folder.read_config()
    for part in ("model", "guide"):
        if before.get(part) != config[part]:
            raise ValueError(
                f"{folder.path} holds a run of another {part}: continue it with the same one, or choose another out."
            )
    if before.get("trained") != config.get("trained"):
        raise ValueError(
            f"{folder.path} trains {_trained(before)}, not {_trained(config)}: freeze what that run freezes, or choose "
            "another out."
        )
    if "frozen" in before and before["frozen"] != config.get("frozen"):
        raise ValueError(
            f"{folder.path} has other frozen weights than these: resume it from the run that it began with, or choose "
            "another out."
        )


def _check_same_corpus(folder: RunFolder, corpus: Corpus) -> None:
    """Raises a ValueError unless the corpus is that of a run to resume."""
    if not folder.corpus.exists() or folder.corpus.resolve() == corpus.folder.resolve():
        return
    own = Corpus.load(folder.corpus)
    if corpus_fingerprint(own) != corpus_fingerprint(corpus):
        raise ValueError(
            f"{folder.path} was begun with another corpus ({own.summary()}) than this one ({corpus.summary()}): "
            f"resume it with pyroformer.Corpus.load({str(folder.corpus)!r}), or choose another out."
        )


def _check_progress(folder: RunFolder, options: TrainingOptions) -> None:
    """Raises a ValueError if a run to resume is longer than it should be, or has lost its checkpoint."""
    if not folder.last.exists():
        if folder.best.exists() and not folder.start.exists():  # with start.ckpt, it ended between the first two writes
            raise ValueError(
                f"{folder.last} is missing, the state to resume from: restore it, or fit anew with another out. "
                f"{folder.best}, the best weights, can still be used."
            )
        return
    step = folder.step()
    if options.steps is not None and options.steps < step:
        raise ValueError(f"steps is {options.steps}, but {folder.path} is at step {step}: give at least that many.")


def _check_texts_per_step(folder: RunFolder, options: TrainingOptions) -> None:
    """Raises a ValueError if a step of a run to resume would have other texts than it had."""
    began = texts_per_step(TrainingOptions(**recorded_options(folder, folder.read_config())))
    now = texts_per_step(options)
    if folder.last.exists() and began != now:
        began = current_progress(read_unsharded(folder.last)["run"])["position"]["texts_per_step"]
    if began != now:
        raise ValueError(
            f"batch_size, accumulate_grad_batches and devices give {now} texts a step, but {folder.path} was begun "
            f"with {began}: give numbers whose product is that, or leave them out."
        )


def _trained(config: dict[str, Any]) -> str:
    return ", ".join(config.get("trained", ["everything"]))
