"""Model folders in the format of Hugging Face: configuration and weights, local or from the hub."""

import json
import pickle
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...models.utils.errors import first_line
from ...models.utils.hub import check_holds_model, local_folder
from ..utils.files import as_path

__all__ = ["find_folder", "read_config", "read_generation_config", "read_weights"]


def find_folder(source: str | Path) -> Path:
    """The folder of a model: a local folder, or else the download of that name from the hub.

    Nothing is downloaded if the folder exists, or a second time.

    Raises:
        ValueError: If there is no such folder, and no such model on the hub, or the hub cannot be reached.
    """
    folder = local_folder(as_path(source, "the pretrained model"))
    return _download(str(source)) if folder is None else folder


def read_config(folder: Path) -> dict[str, Any]:
    """The content of ``config.json``.

    Raises:
        ValueError: If it is missing or damaged.
    """
    check_holds_model(folder)
    return _read_json(folder / "config.json")


def read_generation_config(folder: Path) -> dict[str, Any]:
    """The content of ``generation_config.json``; empty if there is none."""
    path = folder / "generation_config.json"
    return _read_json(path) if path.exists() else {}


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The weights by name, from ``model.safetensors`` or ``pytorch_model.bin``, in one file or several.

    Raises:
        ValueError: If there are none, a file is missing or damaged, or holds more than tensors.
    """
    for name, read in _READERS.items():
        index = folder / f"{name}.index.json"
        if (folder / name).exists():
            return read(folder / name)
        if index.exists():
            return _read_shards(index, read)
    raise ValueError(f"{folder} holds no weights: put {' or '.join(_READERS)} there.")


def _read_shards(index: Path, read: Callable[[Path], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The weights from several files; the index maps each weight to its file."""
    places = _read_json(index).get("weight_map")
    if not isinstance(places, dict):
        raise ValueError(f"{index} is damaged: it has no weight_map.")
    weights: dict[str, Tensor] = {}
    for shard in sorted({Path(str(place)).name for place in places.values()}):
        if not (index.parent / shard).exists():
            raise ValueError(f"{index.parent} lacks {shard}, which {index.name} names: put it there.")
        weights |= read(index.parent / shard)
    return weights


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise ValueError(f"reading {path} needs the package safetensors: pip install safetensors.") from error
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise _damaged(path, error) from error


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path} holds more than tensors, or is damaged: it was not loaded.") from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise _damaged(path, error) from error
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise ValueError(f"{path} is not the state_dict of a model: it holds more than tensors by name.")
    return weights


_READERS = {"model.safetensors": _read_safetensors, "pytorch_model.bin": _read_pickle}  # in order of preference
_TEXTS = ["config.json", "generation_config.json", "tokenizer.json", "vocab.json", "merges.txt"]


def _download(name: str) -> Path:
    """The folder of a model downloaded from the hub: only the files that are read here, with weights in one format."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ValueError(
            f"{name} is no folder, and the hub needs the package huggingface-hub: pip install huggingface-hub."
        ) from error

    def files(kind: str) -> Iterable[str]:
        stem, _, ending = kind.partition(".")
        return [kind, f"{stem}-*.{ending}", f"{kind}.index.json"]

    try:
        for kind in _READERS:
            folder = Path(snapshot_download(name, allow_patterns=[*_TEXTS, *files(kind)]))
            if any(folder.glob(f"{kind.partition('.')[0]}*")):
                break
    except Exception as error:  # of the hub, of the network, of the disk
        raise ValueError(
            f"{name} is no folder, and the hub did not give it ({first_line(error)}): give the folder of a model, or "
            "its name on the hub while online."
        ) from error
    return folder


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, RecursionError, ValueError) as error:
        raise _damaged(path, error) from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged: it holds no object.")
    return content


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path} cannot be read ({first_line(error)}): it is cut short or damaged, get it again.")
