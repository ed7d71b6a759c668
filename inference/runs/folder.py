"""Folder of a run: configuration, checkpoints and metrics."""

import csv
import pickle
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from ..utils.errors import first_line
from ..utils.files import write_atomically
from .old_runs import current_config, current_state

__all__ = ["RunFolder"]


class RunFolder:
    """The folder that ``fit`` writes and every other command reads.

    ::

        config.yaml             the model, the guide, the training options, the corpus
        corpus/                 tokenizer and token arrays
        checkpoints/start.ckpt  pretrained weights that the run starts from, needed until last.ckpt exists
        checkpoints/last.ckpt   the state to resume from
        checkpoints/best.ckpt   the weights with the best validation loss
        metrics.csv             training and validation metrics, one row per report

    Arguments:
        path: Path of the folder; it need not exist.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config_file = self.path / "config.yaml"
        self.corpus = self.path / "corpus"
        self.start = self.path / "checkpoints" / "start.ckpt"
        self.last = self.path / "checkpoints" / "last.ckpt"
        self.best = self.path / "checkpoints" / "best.ckpt"
        self.metrics_file = self.path / "metrics.csv"

    def prepare(self, resume: bool) -> None:
        """Create the folder, or check that the run in it may be resumed.

        Raises:
            ValueError: If it contains a run and ``resume`` is False, contains other files, or is not writable.
        """
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"{self.path} is a file: a run needs a folder, choose another --out.")
        if self.config_file.exists() and not resume:
            at = f"step {self.step():,}" if self.last.exists() else "no step yet"
            raise ValueError(
                f"{self.path} already holds a run ({at}). Continue it with --resume, or choose another --out."
            )
        foreign = self.path.is_dir() and not self.config_file.exists()
        if foreign and any(item.name not in ("corpus", "checkpoints") for item in self.path.iterdir()):
            raise ValueError(f"{self.path} holds files that are not a run's: choose an empty or new folder with --out.")
        try:
            self.last.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path / ".writable", lambda file: file.write_bytes(b""))
            (self.path / ".writable").unlink()
        except OSError as error:
            raise ValueError(f"{self.path} cannot be written ({error.strerror}): choose another --out.") from error

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write the configuration as YAML."""
        text = yaml.safe_dump(dict(config), sort_keys=False, width=100)
        write_atomically(self.config_file, lambda file: file.write_text(text))

    def keep_corpus(self, corpus: Path) -> None:
        """Copy a corpus into the folder, unless there is one already: the run is then self-contained."""
        if not self.corpus.exists():
            write_atomically(self.corpus, lambda temporary: shutil.copytree(corpus, temporary))

    def read_config(self) -> dict[str, Any]:
        """The configuration.

        Raises:
            ValueError: If the folder does not exist or contains no valid configuration.
        """
        if not self.path.is_dir():
            raise ValueError(f"{self.path} is not a folder: give the --out of an earlier fit.")
        if not self.config_file.exists():
            raise ValueError(
                f"{self.path} holds no run (no {self.config_file.name}): give the --out of an earlier fit."
            )
        try:
            config = yaml.safe_load(self.config_file.read_text())
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{self.config_file} is damaged: {first_line(error)}.") from error
        if not isinstance(config, dict) or "model" not in config:
            raise ValueError(f"{self.config_file} is not a run's configuration: it names no model.")
        return current_config(config)

    def keep_start(self, model: nn.Module) -> None:
        """Save pretrained weights, so that a run that is killed before its first checkpoint can be resumed."""
        write_atomically(self.start, lambda path: torch.save({"state_dict": model.state_dict()}, path))

    def step(self) -> int:
        """The step of the last checkpoint; 0 if there is none."""
        return int(read_checkpoint(self.last)["global_step"]) if self.last.exists() else 0

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
        kept = rows[:1] + [row for row in rows[1:] if len(row) == len(rows[0]) and int(row[at]) <= step]

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


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint, loaded without executing any code in it.

    Raises:
        ValueError: If it is missing, truncated, or contains anything but tensors and plain data.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ValueError(f"{path} does not exist: the run has no checkpoint yet, let fit run for longer.") from error
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path} holds more than tensors and plain data, or is damaged: it was not loaded.") from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"{path} cannot be read ({first_line(error)}): it is cut short or not a checkpoint."
        ) from error
    if not isinstance(content, dict) or "state_dict" not in content:
        raise ValueError(f"{path} is not a checkpoint of pyroformer: it holds no weights.")
    return content


def objective_state(checkpoint: Mapping[str, Any], objective: nn.Module) -> dict[str, torch.Tensor]:
    """The weights of model and guide in a checkpoint, by the names that ``objective`` has for them."""
    prefix = "objective."
    state = checkpoint["state_dict"].items()
    weights = {name.removeprefix(prefix): value for name, value in state if name.startswith(prefix)}
    return current_state(weights, objective.state_dict())


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
