"""Reading of checkpoints, without executing any code in them."""

import pickle
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...models.utils.errors import first_line
from .old_runs import current_state

__all__ = ["FROZEN", "SHARDS", "objective_state", "read_checkpoint", "read_unsharded", "remove_other_shards"]

FROZEN = "frozen.ckpt"
SHARDS = "shards"  # the key that names the folder of a checkpoint's shards


def read_checkpoint(path: Path, moments: bool = True, mmap: bool = True) -> dict[str, Any]:
    """The whole content of a checkpoint, with its shards and the frozen weights of its run.

    Arguments:
        path: The file.
        moments: Whether the state of the optimizer is needed; without it, that of a sharded checkpoint stays on disk.
        mmap: Whether tensors may stay in the file until they are used, which may not be written to meanwhile.

    Raises:
        ValueError: If it is missing, truncated, or contains anything but tensors and plain data; or the frozen weights
            beside it are not those that it was trained with; or its shards are missing or damaged.
    """
    content = read_unsharded(path, mmap)
    if SHARDS in content:
        from .shards import add_shards  # its imports take half a second

        add_shards(content, path.parent / content.pop(SHARDS), moments)
    return content


def read_unsharded(path: Path, mmap: bool = True) -> dict[str, Any]:
    """The content of a checkpoint and the frozen weights of its run; where ``SHARDS`` is in it, without its shards.

    Raises:
        ValueError: As :func:`read_checkpoint`.
    """
    content = _read(path, mmap)
    if "frozen" in content:
        frozen = _read(path.parent / FROZEN, mmap=True)
        if frozen.get("frozen") != content["frozen"]:
            raise ValueError(
                f"{path.parent / FROZEN} has other weights than {path.name} was trained with: restore the files of one "
                "run."
            )
        content["state_dict"] = frozen["state_dict"] | content["state_dict"]
    return content


def objective_state(checkpoint: Mapping[str, Any], objective: nn.Module) -> dict[str, torch.Tensor]:
    """The weights of model and guide in a checkpoint, by the names that ``objective`` has for them."""
    prefix = "objective."
    state = checkpoint["state_dict"].items()
    weights = {name.removeprefix(prefix): value for name, value in state if name.startswith(prefix)}
    return current_state(weights, objective.state_dict())


def remove_other_shards(path: Path, current: str | None) -> None:
    """Removes the shards of earlier checkpoints at a path, and those of a write that was killed.

    Arguments:
        path: The file of the checkpoint.
        current: The folder of its shards; None if it has none.
    """
    for folder in path.parent.glob(f"{path.stem}-*"):
        if folder.is_dir() and folder.name != current:
            shutil.rmtree(folder, ignore_errors=True)


def _read(path: Path, mmap: bool) -> dict[str, Any]:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol")  # of what is refused anyway
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
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
