"""Folder of a run: configuration, checkpoints and metrics."""

import csv
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from ..data.storage import TemporaryFolder
from ..utils.files import as_path, write_atomically
from ..utils.yaml_files import read_yaml
from .checkpoints import FROZEN, objective_state, read_checkpoint, read_unsharded
from .joint_module import frozen_fingerprint, frozen_names
from .lock import LOCK
from .old_runs import current_config, current_state
from .versions import warn_of_newer_version

__all__ = ["RunFolder"]

# What a new run may find in its folder: parts of a run that was not begun, and files of a write that was killed.
LEFTOVERS = re.compile(rf"corpus|checkpoints|source\.yaml|\{LOCK}|\.writable|\..+\.\d+\.tmp")


class RunFolder:
    """The folder that ``fit`` writes and every other command reads.

    ::

        config.yaml             the model, the guide, the training options, the corpus
        source.yaml             the data and the pretrained weights that the command
                                line was given
        corpus/                 tokenizer and token arrays
        checkpoints/start.ckpt  the weights that the run starts from, kept until
                                last.ckpt exists
        checkpoints/last.ckpt   the state to resume from
        checkpoints/last-STEP/  the shards of last.ckpt, where weights are sharded
        checkpoints/best.ckpt   the weights with the best validation loss
        checkpoints/frozen.ckpt the weights that are not trained, if there are any,
                                which the others lack
        metrics.csv             training and validation metrics, one row per report

    Arguments:
        path: Path of the folder; it need not exist.
        owner: What has to live as long as the folder is used.
    """

    def __init__(self, path: str | Path, owner: object = None) -> None:
        self.path = as_path(path, "the folder of the run")
        self.owner = owner
        self.source_file = self.path / "source.yaml"
        self.config_file = self.path / "config.yaml"
        self.corpus = self.path / "corpus"
        self.start = self.path / "checkpoints" / "start.ckpt"
        self.last = self.path / "checkpoints" / "last.ckpt"
        self.best = self.path / "checkpoints" / "best.ckpt"
        self.frozen = self.path / "checkpoints" / FROZEN
        self.metrics_file = self.path / "metrics.csv"

    def __fspath__(self) -> str:
        return str(self.path)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @classmethod
    def temporary(cls) -> "RunFolder":
        """A temporary folder, which is deleted with the last reference to it."""
        owner = TemporaryFolder()
        return cls(owner.path, owner)

    def prepare(self, resume: bool) -> None:
        """Create the folder, or check that the run in it may be resumed.

        Raises:
            ValueError: If it contains a run and ``resume`` is False, contains other files, or is not writable.
        """
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"{self.path} is a file: a run needs a folder, choose another out.")
        if self.config_file.exists() and not resume:
            at = f"step {self.step():,}" if self.last.exists() else "no step yet"
            raise ValueError(
                f"{self.path} already holds a run ({at}). Continue it with resume=True, or choose another out."
            )
        foreign = self.path.is_dir() and not self.config_file.exists()
        if foreign and any(not LEFTOVERS.fullmatch(item.name) for item in self.path.iterdir()):
            raise ValueError(f"{self.path} holds files that are not a run's: choose another out, new or empty.")
        try:
            self.last.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path / ".writable", lambda file: file.write_bytes(b""))
            (self.path / ".writable").unlink(missing_ok=True)
        except OSError as error:
            raise ValueError(f"{self.path} cannot be written ({error.strerror}): choose another out.") from error

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write the configuration as YAML."""
        text = yaml.safe_dump(dict(config), sort_keys=False, width=100)
        write_atomically(self.config_file, lambda file: file.write_text(text))

    def keep_corpus(self, corpus: Path, new: bool) -> None:
        """Copy a corpus into the folder, unless it is there: the run is then self-contained.

        A new run replaces the corpus that one which was not begun has left, and forgets where it came from.
        """
        if self.corpus.exists() and (not new or self.corpus.resolve() == corpus.resolve()):
            return

        def write(temporary: Path) -> None:
            shutil.copytree(corpus, temporary)
            if new:
                self.source_file.unlink(missing_ok=True)
                shutil.rmtree(self.corpus, ignore_errors=True)

        write_atomically(self.corpus, write)

    def read_config(self) -> dict[str, Any]:
        """The configuration.

        Raises:
            ValueError: If the folder does not exist or contains no valid configuration.
        """
        if not self.path.is_dir():
            raise ValueError(f"{self.path} is not a folder: give that of an earlier fit.")
        if not self.config_file.exists():
            raise ValueError(f"{self.path} holds no run (no {self.config_file.name}): give that of an earlier fit.")
        config = read_yaml(self.config_file)
        if not isinstance(config, dict) or "model" not in config:
            raise ValueError(f"{self.config_file} is not a run's configuration: it names no model.")
        warn_of_newer_version(config, self.config_file)
        return current_config(config)

    def keep_source(self, source: Mapping[str, Any]) -> None:
        """Write what the command line was given to read: with it, another ``--data`` is noticed at ``--resume``."""
        text = yaml.safe_dump(dict(source), sort_keys=False)
        write_atomically(self.source_file, lambda file: file.write_text(text, encoding="utf-8"))

    def read_source(self) -> dict[str, Any]:
        """What the command line was given to read; empty if that is not known."""
        try:
            content = yaml.safe_load(self.source_file.read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError, UnicodeDecodeError):
            return {}
        return content if isinstance(content, dict) else {}

    def keep_start(self, objective: nn.Module) -> None:
        """Save the weights and buffers that a run starts from.

        The recipes of model and guide and the seed do not give all of them back: not the histogram of the lengths, not
        pretrained weights, not those of a model that was made before the seed was set. Frozen ones are saved for all
        later checkpoints too, which lack them.
        """
        content = {"state_dict": {f"objective.{name}": value for name, value in objective.state_dict().items()}}
        self.frozen.unlink(missing_ok=True)
        if names := frozen_names(objective):
            frozen = {f"objective.{name}": content["state_dict"][f"objective.{name}"] for name in names}
            kept = {"state_dict": frozen, "frozen": frozen_fingerprint(objective)}
            write_atomically(self.frozen, lambda path: torch.save(kept, path))
        write_atomically(self.start, lambda path: torch.save(content | {"global_step": 0}, path))

    def start_weights(self, objective: nn.Module) -> dict[str, torch.Tensor]:
        """The weights that the run starts from, by the names that ``objective`` has for them.

        Older runs have those of a pretrained model alone.
        """
        content = read_checkpoint(self.start)
        weights = objective_state(content, objective)
        if weights:
            return weights
        old = {f"model.{name}": value for name, value in content["state_dict"].items()}
        return objective.state_dict() | current_state(old, objective.state_dict())

    def frozen_weights(self, objective: nn.Module) -> dict[str, torch.Tensor]:
        """The weights that the run does not train, by the names that ``objective`` has for them."""
        return objective_state(read_checkpoint(self.frozen), objective)

    def step(self, checkpoint: Path | None = None) -> int:
        """The step of a checkpoint, the last by default; 0 if there is none."""
        checkpoint = checkpoint or self.last
        return int(read_unsharded(checkpoint)["global_step"]) if checkpoint.exists() else 0

    def copy(self, target: Path, weights: Mapping[str, torch.Tensor], step: int) -> "RunFolder":
        """Copy the run to another folder, new or empty.

        Arguments:
            target: The other folder.
            weights: The best weights there, by their names in a checkpoint.
            step: Their step.

        Raises:
            ValueError: If it is not empty or cannot be written.
        """
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise ValueError(f"{target} exists and is not an empty folder: choose another to save the run in.")
        leave_out = shutil.ignore_patterns(LOCK, ".writable", ".*.tmp")

        def write(path: Path) -> None:
            shutil.copytree(self.path, path, ignore=leave_out)
            best = RunFolder(path).best
            write_atomically(best, lambda file: torch.save({"state_dict": dict(weights), "global_step": step}, file))

        try:
            write_atomically(target, write)
        except OSError as error:
            raise ValueError(
                f"{target} cannot be written ({error.strerror or error}): choose another folder."
            ) from error
        return RunFolder(target)

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """Append a row to the metrics; the first row determines the columns."""
        new = not self.metrics_file.exists() or self.metrics_file.stat().st_size == 0
        with self.metrics_file.open("a", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(row))
            if new:
                writer.writeheader()
            writer.writerow(row)

    def forget_metrics_after(self, step: int) -> None:
        """Delete the rows after a step, which a resumed run writes again."""
        if not self.metrics_file.exists():
            return
        with self.metrics_file.open(newline="") as file:
            rows = [row for row in csv.reader(file)]
        at = rows[0].index("step") if rows and "step" in rows[0] else 0
        kept = rows[:1] + [
            row for row in rows[1:] if len(row) == len(rows[0]) and row[at].isdecimal() and int(row[at]) <= step
        ]

        def write(path: Path) -> None:
            with path.open("w", newline="") as file:
                csv.writer(file).writerows(kept)

        write_atomically(self.metrics_file, write)

    def read_metrics(self) -> dict[str, list[float | str]]:
        """The metrics, column by column.

        Raises:
            ValueError: If the run has no metrics yet.
        """
        if not self.metrics_file.exists():
            raise ValueError(f"{self.path} has no metrics yet: let fit run for longer.")
        with self.metrics_file.open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if None not in row.values()]  # a kill cuts the last one
        return {name: [_number(row[name]) for row in rows] for name in (rows[0] if rows else {})}


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
