"""What several commands share: runs, texts and decoding options."""

import json as javascript
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .progress import say

__all__ = ["chosen_decoding", "given_texts", "load_run", "needed_text", "rank", "rule", "say_json", "two_texts"]

if TYPE_CHECKING:  # torch is imported when a command runs, not for its help
    from ..run import Run


def rank() -> int:
    """The number of this process among those that train together; only the first one speaks."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", 0)))


def load_run(path: str, trust: Sequence[str] | None) -> "Run":
    """The run in a folder, on the GPU if there is one."""
    import torch

    from ..run import load
    from ..runs.folder import RunFolder
    from .prepare import read_config

    read_config(RunFolder(path))
    return load(path, trust=trust or (), device="cuda" if torch.cuda.is_available() else "cpu")


def given_texts(data: str, field: str | None, condition: str | None = None) -> Any:
    """The texts or pairs of a file, or of a folder's test file."""
    from ..data.readers import read_file, read_texts

    if Path(data).is_dir():
        return read_texts(data, field, condition=condition)[0]["test"]
    return read_file(data, field, condition=condition)[0]


def rule(
    temperature: float | None = None, top_k: int | None = None, top_p: float | None = None, greedy: bool = False
) -> dict[str, Any]:
    """How tokens are chosen, as far as it was said; what is wrong with it is told before anything is loaded."""
    from ..generation.decoding import Decoding

    asked = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "greedy": greedy or None}
    given: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    Decoding(**given)
    return given


def say_json(item: Mapping[str, Any]) -> None:
    """Print a line of JSON."""
    say(javascript.dumps(item, ensure_ascii=False, allow_nan=False))


def two_texts(text: str | None, other: str | None) -> tuple[str, str]:
    return needed_text("--text", text), needed_text("--other", other)


def needed_text(flag: str, text: str | None) -> str:
    if text is None or not text.strip():
        raise ValueError(f"{flag} is {'missing' if text is None else 'empty'}: give a text of at least one word.")
    return text


def chosen_decoding(temperature: float | None, top_k: int | None, top_p: float | None) -> dict[str, Any]:
    """How tokens are chosen, if it was said."""
    from ..generation.decoding import Decoding

    said = rule(temperature, top_k, top_p)
    return {"decoding": Decoding(**said)} if said else {}
