"""Checkpoints in shards: small files with all but the sharded tensors, and beside them a file of each process.

The shards are written and read by :mod:`torch.distributed.checkpoint`, so that any number of processes reads what any
other number has written. Its index is a pickle; here it is read without executing what may be in one.
"""

import pickle
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor

from ...models.utils.errors import first_line

__all__ = [
    "WEIGHTS",
    "add_shards",
    "free_folder",
    "put_back",
    "read_shards",
    "shard_sizes",
    "split_off",
    "write_shards",
]

WEIGHTS = "weights"


def split_off(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """Takes the sharded tensors out of a checkpoint, and returns them by their names in the shards."""
    found: dict[str, Tensor] = {}
    for place, tensors in _places(checkpoint):
        for key in [key for key, value in tensors.items() if isinstance(value, DTensor)]:
            found[f"{place}/{key}"] = tensors.pop(key)
    return found


def put_back(checkpoint: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Puts tensors with the names of shards into a checkpoint, where :func:`split_off` took them from."""
    places = dict(_places(checkpoint))
    for name, tensor in tensors.items():
        place, key = name.split("/", 1)
        places[place][key] = tensor


def add_shards(checkpoint: Mapping[str, Any], folder: Path, moments: bool = True) -> None:
    """Puts the tensors of a folder of shards into a checkpoint, whole, on the CPU.

    Raises:
        ValueError: If the shards are missing or damaged.
    """
    sizes = shard_sizes(folder)
    wanted = {name: size for name, size in sizes.items() if moments or name.startswith(f"{WEIGHTS}/")}
    tensors = {name: torch.empty(size.size, dtype=size.properties.dtype) for name, size in wanted.items()}
    read_shards(tensors, folder, together=False)
    put_back(checkpoint, tensors)


def shard_sizes(folder: Path) -> dict[str, TensorStorageMetadata]:
    """Sizes and types of the tensors in a folder of shards, by name.

    Raises:
        ValueError: If the index is missing or damaged.
    """
    return _index(folder)[1]


def write_shards(tensors: dict[str, Tensor], folder: Path) -> None:
    """Writes the shares of all processes, which call it together, and then the index; on the disk when it returns.

    Raises:
        OSError: If it cannot be written by one of them; all of them raise it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        save(tensors, storage_writer=FileSystemWriter(folder))
    except CheckpointException as error:  # no Exception: nobody else would handle it
        cause = _cause(error)
        raise OSError(getattr(cause, "errno", None), f"{folder} could not be written: {first_line(cause)}") from error


def read_shards(tensors: dict[str, Tensor], folder: Path, together: bool) -> None:
    """Reads tensors in place; of sharded ones the share of each process.

    Arguments:
        tensors: The tensors by their names in the shards.
        folder: The folder of the shards.
        together: Whether all processes call it, or this one for itself.

    Raises:
        ValueError: If the shards are missing or damaged.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # what is asked for
            load(tensors, storage_reader=_Reader(folder), no_dist=not together)
    except CheckpointException as error:
        raise _damaged(folder, _cause(error)) from error
    except (OSError, RuntimeError, ValueError, KeyError, AssertionError, pickle.UnpicklingError) as error:
        raise _damaged(folder, error) from error


def free_folder(path: Path, step: int) -> str:
    """A name for the shards of a checkpoint that no folder beside it has."""
    name = f"{path.stem}-{step}"
    while (path.parent / name).exists():  # of a write that was killed
        name += "-again"
    return name


def _places(checkpoint: Mapping[str, Any]) -> Iterator[tuple[str, dict[Any, Any]]]:
    """The dictionaries of tensors in a checkpoint, by name."""
    yield WEIGHTS, checkpoint["state_dict"]
    for number, optimizer in enumerate(checkpoint.get("optimizer_states", ())):
        for index, entries in optimizer["state"].items():
            yield f"optimizer {number} {index}", entries


class _Reader(FileSystemReader):
    """A reader of shards that executes nothing: tensors are loaded as data, and so is the index."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        index, _ = _index(Path(self.path))
        index.storage_meta = StorageMeta(load_id=self.load_id)
        return index


class _Unpickler(pickle.Unpickler):
    """The classes of an index and no others (Python library reference, "Restricting globals")."""

    KNOWN = {
        "torch": ("Size",),
        "torch.serialization": ("_get_layout",),
        "torch.distributed.checkpoint.filesystem": ("_StorageInfo",),
        "torch.distributed.checkpoint.metadata": (
            *("Metadata", "MetadataIndex", "StorageMeta", "TensorStorageMetadata", "ChunkStorageMetadata"),
            *("TensorProperties", "_MEM_FORMAT_ENCODING"),
        ),
    }

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "pathlib":  # where it was written: of no interest, and maybe of another system
            return PurePath
        if module == "torch" and isinstance(dtype := getattr(torch, name, None), torch.dtype):
            return dtype
        if name in self.KNOWN.get(module, ()):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} is not of an index")


def _index(folder: Path) -> tuple[Metadata, dict[str, TensorStorageMetadata]]:
    """The index of a folder of shards, and the tensors in it."""
    try:
        with (folder / ".metadata").open("rb") as file:
            index = _Unpickler(file).load()
        tensors = {
            name: entry for name, entry in index.state_dict_metadata.items() if isinstance(entry, TensorStorageMetadata)
        }
        if len(tensors) < len(index.state_dict_metadata):
            raise pickle.UnpicklingError("not all of it are tensors")
    except Exception as error:  # a damaged pickle raises almost anything
        raise _damaged(folder, error) from error
    return index, tensors


def _cause(error: CheckpointException) -> BaseException:
    """The error of the first process that failed."""
    return next(iter(error.failures.values()))[0]


def _damaged(folder: Path, error: BaseException) -> ValueError:
    return ValueError(
        f"the shards in {folder} cannot be read ({first_line(error)}): files are missing or damaged, or were not all "
        "copied."
    )
