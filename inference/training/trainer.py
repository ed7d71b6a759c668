"""Lightning's Trainer, set up for a run: devices, precision, atomic checkpoints."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.plugins import TorchCheckpointIO
from lightning.pytorch.strategies import DDPStrategy

from ..options import TrainingOptions
from ..runs.checkpoints import SHARDS, read_checkpoint, remove_other_shards
from ..utils.files import write_atomically
from ..utils.processes import by_torchrun

__all__ = ["count_batches_anew", "make_trainer", "quiet_lightning", "texts_per_step"]


class AtomicCheckpoints(TorchCheckpointIO):
    """Checkpoints that are written whole or not at all, and read whole, be they in shards or not."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        write_atomically(Path(path), lambda temporary: torch.save(checkpoint, temporary))
        remove_other_shards(Path(path), checkpoint.get(SHARDS))

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        return read_checkpoint(Path(path), mmap=False)  # an optimizer keeps the tensors that it is given


def make_trainer(options: TrainingOptions) -> lightning.Trainer:
    """A Trainer with these options, alone or as one of several processes that torchrun has started.

    Raises:
        ValueError: If a scheduler has started other processes than the options ask for.
    """
    cuda = torch.cuda.is_available()
    processes = _processes(options)
    local = int(os.environ["LOCAL_WORLD_SIZE"]) if by_torchrun() else options.devices
    plugins: list[Any] = [AtomicCheckpoints()]
    if not by_torchrun():
        _check_one_task(options)
        plugins.append(LightningEnvironment())  # a scheduler's variables are no request for several processes
    trainer = lightning.Trainer(
        accelerator="cuda" if cuda else "cpu",
        devices=local,
        num_nodes=max(1, processes // local),
        strategy=_strategy(options, processes),
        precision="bf16-mixed" if options.precision == "bf16" else "32-true",
        max_steps=options.steps or -1,
        max_epochs=-1,
        accumulate_grad_batches=options.accumulate_grad_batches,
        gradient_clip_val=options.gradient_clip_val or None,
        plugins=plugins,
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
        num_sanity_val_steps=0,
    )
    # Signals are ours (see signals.py): Lightning's handlers end a run without a checkpoint.
    setattr(trainer._signal_connector, "register_signal_handlers", lambda: None)  # noqa: B010
    return trainer


def count_batches_anew(checkpoint: dict[str, Any], accumulate_grad_batches: int) -> None:
    """Counts the batches of a checkpoint's steps as if each step had had so many.

    Lightning takes a step at every so many batches of a run. Its checkpoint has the batches that there were, of which
    a step may have had another number before the run was resumed.
    """
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    for part in ("total", "current"):
        batches = checkpoint["global_step"] * accumulate_grad_batches
        progress[part] = dict.fromkeys(progress[part], batches)


def texts_per_step(options: TrainingOptions) -> int:
    """Number of texts in an optimizer step of all processes."""
    return options.batch_size * options.accumulate_grad_batches * _processes(options)


def _processes(options: TrainingOptions) -> int:
    """The number of processes that train together, which torchrun may have started."""
    return max(options.devices, int(os.environ["WORLD_SIZE"]) if by_torchrun() else 1)


def _check_one_task(options: TrainingOptions) -> None:
    """Raises a ValueError if srun has started several processes, each of which would start others."""
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "1")
    if options.devices > 1 and tasks.isdecimal() and int(tasks) > 1:
        raise ValueError(
            f"devices is {options.devices}, and srun has started {tasks} tasks, each of which would train on so many: "
            "give srun --ntasks=1, or one task a machine, and torchrun in it."
        )


def _strategy(options: TrainingOptions, processes: int) -> Any:
    """Lightning's strategy for some processes; one process trains alone."""
    if processes == 1:
        return "auto"
    if options.strategy == "ddp":
        return DDPStrategy(gradient_as_bucket_view=True)  # gradients are sent from where they are, without a copy
    from .distributed.sharding import FSDP  # its imports take half a second

    return FSDP(processes)


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """No remarks of Lightning about devices and loaders: ``fit`` has chosen them."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, module="lightning")
            warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode")  # the frozen ones
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
