"""Pretrained networks that a new model starts from, or that its guide reads texts with."""

from collections.abc import Collection, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

from ...guides.encoders.text_encoder import TextEncoder
from ..pretrained.pretrained import Pretrained
from ..run import load
from ..runs.folder import RunFolder
from ..utils.registry import MODELS
from .options.option_help import options
from .source import ENCODER
from .usage_errors import type_members

__all__ = ["read_backbone", "read_language_model", "read_text_encoder", "text_encoder_source"]


def read_backbone(
    source: str, size: str | None, texts: Mapping[str, Any], model: Mapping[str, Any], trust: Collection[str] = ()
) -> Pretrained:
    """A pretrained model or the language model of a run, read before any text is.

    Raises:
        ValueError: If it cannot be read, or an option that it determines is set to another value.
    """
    own = {"size": size, "vocabulary": texts["vocabulary"], "tokenizer": texts.get("tokenizer")}
    for name, value in own.items():
        if value not in (None, "auto"):
            raise ValueError(f"--{name} is {value}, but {source} has one of its own: leave it out.")
    backbone = read_language_model(source, trust)
    backbone.check(**model, max_length=texts["max_length"] or 0)
    return backbone


def read_language_model(source: str, trust: Collection[str] = ()) -> Pretrained:
    """A language model by the folder of its run, a folder in Hugging Face format, or a name on its hub."""
    folder = RunFolder(source)
    return (
        load(folder.path, trust=trust).backbone if folder.config_file.exists() else Pretrained.from_pretrained(source)
    )


def text_encoder_source(name: str, guide: Mapping[str, Any]) -> str | None:
    """The folder or the name of a pretrained encoder among the options of a model's guide.

    None if it is the name of a kind of encoder, or there is none.
    """
    value = guide.get("encoder")
    return value if isinstance(value, str) and value not in _encoder_kinds(name) else None


def read_text_encoder(name: str, source: str) -> TextEncoder:
    """A pretrained encoder by its folder, or its name on the Hugging Face hub, read before any text is.

    Raises:
        ValueError: If it cannot be read, or is a kind of encoder with a slip.
    """
    kinds = _encoder_kinds(name)
    near = get_close_matches(source, kinds, n=1)
    if near and not Path(source).exists():
        raise ValueError(
            f"--{ENCODER} is {source!r}: did you mean {near[0]}? Give one of {', '.join(kinds)}, or the folder of a "
            "pretrained encoder."
        )
    return TextEncoder.from_pretrained(source)


def _encoder_kinds(name: str) -> list[str]:
    """The kinds of encoder, by name, that the guide of a model has beside a pretrained one."""
    found = [option.kind for option in options(MODELS[name].guide or "") if option.name == "encoder"]
    return [kind for each in found for member in type_members(each) for kind in get_args(member)]
