"""The LightningModule of a run: training steps, validation, progress, checkpoints."""

import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from typing import Any

import lightning
import pyro
import torch
from torch import Tensor

from ...models.batch import Batch
from ...models.transformer.blocks import recompute_blocks
from ..data.corpus import Corpus
from ..data.loaders import TrainingStream
from ..objectives.elbo import Objective
from ..objectives.keep_control import KeepController, check_keep
from ..options import TrainingOptions
from ..runs.checkpoints import objective_state, read_checkpoint
from ..runs.folder import RunFolder
from ..runs.joint_module import frozen_fingerprint, frozen_modules, frozen_names
from ..runs.old_runs import current_progress, current_state
from ..schedules import warmup_cosine
from ..utils.files import write_atomically
from ..utils.seeds import derived_seed, set_seed
from .compiled import NO_VALIDATION, Losses, compiled_losses
from .distributed.peers import NEVER, Peers
from .divergence import LossWatch, weights_are_finite
from .kl_weights import KLWeights, VectorsToKeep
from .meter import LossMeter
from .status import Status
from .trainer import count_batches_anew
from .validation import Validation

__all__ = ["Training"]


class Training(lightning.LightningModule):
    """Training of an objective on a corpus, for Lightning; its state beyond weights and optimizer is a few numbers.

    The weight of the KL terms is set before each batch, by its schedule or by a controller. The controller is updated
    with the mean KL of all texts of a step, over all of its batches and devices.
    """

    def __init__(
        self,
        objective: Objective,
        corpus: Corpus,
        options: TrainingOptions,
        folder: RunFolder,
        callback: Callable[[Status], None] | None = None,
    ) -> None:
        super().__init__()
        self.whole: dict[str, Tensor] | None = None
        if options.strategy == "fsdp":  # sharded weights are of no other use: a copy is sharded
            self.whole = {f"objective.{name}": value for name, value in objective.state_dict().items()}
            objective = deepcopy(objective)
        self.objective = objective
        self.corpus, self.options, self.folder, self.callback = corpus, options, folder, callback
        self.validation = Validation(corpus.valid, options)
        self.tokens_per_text = float(corpus.train.lengths.mean())
        self.kl_weights = KLWeights(objective.kl_weights, options)
        self.controls: list[KLWeights | VectorsToKeep] = [self.kl_weights]
        self.controller = self.kl_weights.controller  # as a module of this one, its state is in checkpoints
        self.keep_controller = None
        if options.keep is not None:
            self.keep_controller = KeepController(options.keep, check_keep(objective.model, objective.guide))
            self.controls.append(VectorsToKeep(self.keep_controller, corpus.vocabulary))
        self.watch = LossWatch()
        self.diverged: int | None = None  # the first step that was not finite
        self.seconds_before, self.started, self.reported = 0.0, time.monotonic(), 0.0
        self.signal: int | None = None  # the signal that ends the run after its step
        self.position: dict[str, Any] | None = None
        self.meter = LossMeter()
        self._training_losses: Losses = objective.losses
        self._validation_losses: Losses = objective.losses
        self.peers: Peers | None = None  # the other processes
        self._micro_batch = 0
        self._frozen: dict[str, str] | None = None  # the fingerprint of frozen weights, which checkpoints lack

    # Hooks of Lightning, in the order of their calls.

    def setup(self, stage: str) -> None:
        if self.trainer.world_size > 1:  # a temporary folder is the first process's
            path = self.trainer.strategy.broadcast(str(self.folder.path))
            self.folder = self.folder if self.trainer.is_global_zero else RunFolder(path)

    def configure_model(self) -> None:
        if self.options.strategy == "fsdp" and self.trainer.world_size > 1:
            from .distributed.sharding import shard

            self._without_frozen({})  # the fingerprint is that of whole weights
            assert self.device_mesh is not None
            shard(self.objective, self.device_mesh["data_parallel"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        named = [(name, p) for name, p in self.objective.named_parameters() if p.requires_grad]
        decay = [p for name, p in named if p.ndim >= 2 and not name.endswith("bias")]
        rest = [p for name, p in named if p.ndim < 2 or name.endswith("bias")]
        groups = [{"params": decay, "weight_decay": self.options.weight_decay}, {"params": rest, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=self.options.learning_rate, betas=(0.9, 0.98), fused=True)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the norm; Lightning itself refuses that for a fused optimizer with bf16, which needs no scaling."""
        if gradient_clip_val:
            torch.nn.utils.clip_grad_norm_(self.objective.parameters(), gradient_clip_val)

    def train_dataloader(self) -> TrainingStream:
        self.stream = TrainingStream(
            self.corpus.train,
            self.options.batch_size,
            seed=self.options.seed,
            rank=self.trainer.global_rank,
            world=self.trainer.world_size,
            accumulate_grad_batches=self.options.accumulate_grad_batches,
        )
        if self.position:
            self.stream.resume(self.position)
        return self.stream

    def on_train_start(self) -> None:
        self.started = time.monotonic()
        self.peers = Peers(self.device, self.seconds_before) if self.trainer.world_size > 1 else None
        self.validation.done = self.validation.due(self.progress())
        losses = compiled_losses(self.objective, self.options.compile, self.device)
        self._training_losses, self._validation_losses = losses
        recompute_blocks(self.objective, self.options.activation_checkpointing)
        self._train_mode()
        if self.validation.best_on_other_texts:
            self._validate_best()

    def on_train_end(self) -> None:
        recompute_blocks(self.objective, False)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        progress = self.progress()
        rate = self.options.learning_rate * warmup_cosine(progress)
        for group in self.optimizers().param_groups:  # type: ignore[union-attr]
            group["lr"] = rate
        for control in self.controls:
            control.set(progress)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        step = self.trainer.global_step
        # The noise of a micro-batch of the step is the same whichever process takes it.
        micro_batch = self._micro_batch * self.trainer.world_size + self.trainer.global_rank
        set_seed(derived_seed(self.options.seed, step, micro_batch, 0))
        self._micro_batch = (self._micro_batch + 1) % self.options.accumulate_grad_batches
        with _argument_checks(self.reported == 0.0):  # at the first step only: a check waits for the device
            losses = self._training_losses(batch)
        self.watch.note(losses["objective"].detach(), step + 1)
        self.meter.add({name: value.detach() for name, value in losses.items()}, batch)
        for control in self.controls:
            control.note(losses, batch)
        return losses["objective"] / self.tokens_per_text

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        if self._micro_batch:
            return
        for control in self.controls:
            control.end_step(self.trainer.strategy.reduce)
        if self.peers is not None:
            self.peers.exchange(self.signal or 0, self.watch.noted, self.seconds())
        progress = self.progress()
        due = self.validation.due(progress)
        done, stopped = progress >= 1, self._has_stopped()
        validating, reporting = due > self.validation.done, time.monotonic() - self.reported > 0.5
        together = self.peers is not None  # they report at different steps, and may not wait at different ones
        if self._has_diverged(wait=done or stopped or validating or (reporting and not together)):
            done = True
        elif validating:
            self.validation.done = due
            done = self._validate_and_save(progress) or done
        elif stopped:  # without a validation, which would not be one of an uninterrupted run
            self._report(progress, "train", self.meter.read())
            self._save()
        elif reporting:
            self._report(progress, "train", self.meter.read())
        if done or stopped:
            self.trainer.should_stop = True

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint |= self._without_frozen(checkpoint["state_dict"])
        position = self.stream.position(self.trainer.global_step)
        checkpoint["run"] = {**self.validation.state(), "seconds": self.seconds(), "position": position}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"] = current_state(checkpoint["state_dict"], self.state_dict())
        count_batches_anew(checkpoint, self.options.accumulate_grad_batches)
        state = current_progress(checkpoint["run"])
        self.validation.load_state(state)
        self.seconds_before, self.position = state["seconds"], state["position"]

    def _without_frozen(self, state: Mapping[str, Tensor]) -> dict[str, Any]:
        """Weights for a checkpoint, without those that the run's folder holds already, and the fingerprint of these."""
        if self._frozen is None:
            self._frozen = {"frozen": frozen_fingerprint(self.objective)} if self.folder.frozen.exists() else {}
        names = {f"objective.{name}" for name in frozen_names(self.objective)} if self._frozen else set()
        return {"state_dict": {name: value for name, value in state.items() if name not in names}, **self._frozen}

    def _train_mode(self) -> None:
        """Train mode for all but frozen modules, which have no dropout."""
        self.objective.train()
        for part in frozen_modules(self.objective):
            part.eval()

    # The clock.

    def seconds(self) -> float:
        """Seconds of training, with those before the run was resumed."""
        return self.seconds_before + time.monotonic() - self.started

    def progress(self) -> float:
        """The fraction of the run that is done, from 0 to 1; the same in every process."""
        seconds = self.seconds() if self.peers is None else self.peers.status.seconds
        return self.options.progress(self.trainer.global_step, seconds)

    # The end.

    def _has_stopped(self) -> bool:
        """Whether a signal has asked for the end, in any process; theirs is heard of a step later."""
        if self.peers is None:
            return self.signal is not None
        self.signal = self.peers.status.signal or self.signal
        return self.peers.status.signal > 0

    def _has_diverged(self, wait: bool) -> bool:
        """Whether the run has diverged; where reading that waits for the device, it is read only if ``wait``."""
        step = self.watch.first_step(wait, self.peers)
        if step < NEVER:
            self.diverged = step
        return step < NEVER

    def _weights_are_finite(self) -> bool:
        """Whether all weights are finite, in every process."""
        finite = weights_are_finite(self.objective)
        if self.trainer.world_size == 1:
            return finite
        return bool(self.trainer.strategy.reduce_boolean_decision(finite, all=True))

    # Validation and reports.

    def _validate_and_save(self, progress: float) -> bool:
        """Validate, save the best weights and the state to resume from; True if patience has run out or it diverged."""
        values = self.validate()
        if not (math.isfinite(values["objective"]) and self._weights_are_finite()):
            self.diverged = self.trainer.global_step
            return True
        self._report(progress, "train", self.meter.read())
        if self.trainer.is_global_zero:
            self.validation.warn_of_no_vectors(values, self.trainer.global_step)
        if self.validation.note(values["objective"], self.trainer.global_step):
            self._save_best()
        self._report(progress, "valid", values)
        self._save()
        return self.validation.is_over

    def _validate_best(self) -> None:
        """The loss of the best weights so far on the texts that are validated from now on."""
        self.validation.start()
        if not self.folder.best.exists() or self.whole is not None:  # sharded weights start anew
            return
        last = {name: value.clone() for name, value in self.objective.state_dict().items()}
        checkpoint = read_checkpoint(self.folder.best, moments=False)
        self.objective.load_state_dict(objective_state(checkpoint, self.objective))
        self.validation.start(self.validate()["objective"], int(checkpoint["global_step"]))
        self.objective.load_state_dict(last)

    def _save_best(self) -> None:
        """Save the weights, in one file. Where processes have shares, they are gathered into the first one's copy."""
        state: Mapping[str, Tensor] = self.state_dict()
        if self.whole is not None:
            from .distributed.sharding import gather

            gather(state, self.whole if self.trainer.is_global_zero else None)
            state = self.whole
        if self.trainer.is_global_zero:
            content = self._without_frozen(state) | {"global_step": self.validation.best_step}
            write_atomically(self.folder.best, lambda path: torch.save(content, path))

    def _save(self) -> None:
        """Save the state to resume from, unless the weights are not finite."""
        if not self._weights_are_finite():
            self.diverged = self.trainer.global_step
            return
        self.trainer.save_checkpoint(self.folder.last)
        if self.trainer.is_global_zero:
            self.folder.start.unlink(missing_ok=True)

    def validate(self) -> dict[str, float]:
        """Means over held-out texts in nats per token, with full KL weights and separate random seeds.

        With a target of the KL, a KL below it is charged as the target. Validations can then be compared whatever the
        weight of the KL was, and a KL that is still below its target is no advantage. Likewise with a share of vectors
        to keep: each further one is charged as a token of which nothing is known.
        """
        self.kl_weights.set_full()
        self.objective.eval()
        place = self.trainer.global_rank, self.trainer.world_size
        meter = self.validation.measure(self._losses_in_validation, self.device, *place)
        self._train_mode()
        values = meter.read(self.trainer.strategy.reduce)
        for control in self.controls:
            values["objective"] = control.charged(values, meter.tokens_per_text)
        return values

    def _losses_in_validation(self, batch: Batch) -> dict[str, Tensor]:
        with self.trainer.precision_plugin.forward_context(), _argument_checks(False):
            return self._validation_losses(batch)

    def _report(self, progress: float, split: str, values: dict[str, float]) -> None:
        self.reported = time.monotonic()
        seconds = self.seconds()
        rate = self.meter.tokens * self.trainer.world_size / max(seconds - self.seconds_before, 1e-9)
        left = seconds * (1 - progress) / progress if progress > 0 else math.inf
        for control in self.controls if values else ():
            values = values | control.reported()
        status = Status(self.trainer.global_step, min(progress, 1.0), seconds, max(left, 0.0), rate, split, values)
        if not self.trainer.is_global_zero:
            return
        row = {"step": status.step, "seconds": round(seconds, 2), "split": split, "tokens_per_second": round(rate, 1)}
        self.folder.append_metrics(row | {name: f"{value:.6g}" for name, value in values.items()})
        if self.callback is not None:
            self.callback(status)


def _argument_checks(on: bool) -> AbstractContextManager[None]:
    """Pyro's checks of values and shapes, unchanged or turned off."""
    return nullcontext() if on else pyro.settings.context(**NO_VALIDATION)
