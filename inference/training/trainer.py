"""Lightning's Trainer, set up for a run: devices, precision, atomic checkpoints, interrupts."""

import logging
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.plugins import TorchCheckpointIO

from ..options import TrainingOptions
from ..utils.files import write_atomically
from .lightning_module import Training

__all__ = ["make_trainer", "quiet_lightning", "stop_on_interrupt"]


class AtomicCheckpoints(TorchCheckpointIO):
    """Checkpoints that are written whole or not at all."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        write_atomically(Path(path), lambda temporary: torch.save(checkpoint, temporary))


def make_trainer(options: TrainingOptions) -> lightning.Trainer:
    """A Trainer with these options, alone or as one of several processes that torchrun has started."""
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
        plugins=[AtomicCheckpoints()],
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
        num_sanity_val_steps=0,
    )


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


@contextmanager
def stop_on_interrupt(training: Training) -> Iterator[None]:
    """The first Ctrl-C ends the run after its step and writes a checkpoint; the second ends it at once."""
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
