"""The source of a pretrained network: a folder in the format of Hugging Face, or a name on its hub."""

import re
from pathlib import Path

__all__ = ["check_holds_model", "local_folder"]


def local_folder(source: str | Path, kind: str = "a model") -> Path | None:
    """The folder that a user gave; None for a name on the hub.

    Arguments:
        source: The folder or the name.
        kind: What the folder is of, for the message.

    Raises:
        ValueError: If it is a file, or neither a folder that exists nor a name that the hub could have.

    Examples:
        >>> local_folder("openai-community/gpt2") is None
        True
        >>> local_folder("my/own/gpt2")
        Traceback (most recent call last):
        ValueError: my/own/gpt2 does not exist: give the folder of a model, or its name on the Hugging Face hub.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise ValueError(f"{path} is a file: give the folder that holds config.json.")
    if not re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", str(source)):
        raise ValueError(f"{path} does not exist: give the folder of {kind}, or its name on the Hugging Face hub.")
    return None


def check_holds_model(folder: Path) -> None:
    """Raises a ValueError if a folder has no configuration of a model."""
    if not (folder / "config.json").exists():
        raise ValueError(f"{folder} holds no model (no config.json): give a folder that save_pretrained wrote.")
