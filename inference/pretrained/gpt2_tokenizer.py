"""GPT-2's tokenizer as a :class:`~.tokenizer.Tokenizer`: the same merges, with ids after our special tokens."""

import json
from pathlib import Path
from typing import Any

from tokenizers import models, pre_tokenizers

from ..data.tokenizer import Tokenizer, read_core
from .byte_level_tokenizer import PretrainedTokens

__all__ = ["read_gpt2_tokenizer"]


def read_gpt2_tokenizer(folder: Path) -> PretrainedTokens:
    """The tokenizer in a folder: ``tokenizer.json`` or, where that is missing, ``vocab.json`` and ``merges.txt``.

    Our special tokens come first, then the tokens that a text can have, the bytes and the results of merges, in GPT-2's
    order: token t of the published GPT-2 becomes t + 3. Its special token ``<|endoftext|>`` is left out, and so are all
    other tokens that no text is encoded to.

    Raises:
        ValueError: If there is none, or it is not byte-level BPE as GPT-2's.
    """
    single, vocab, merges = (folder / name for name in ("tokenizer.json", "vocab.json", "merges.txt"))
    if single.exists():
        vocabulary, pairs = _read_tokenizer_json(single)
    elif vocab.exists() and merges.exists():
        try:
            vocabulary, pairs = models.BPE.read_file(str(vocab), str(merges))
        except Exception as error:  # the library raises bare exceptions
            raise ValueError(f"{vocab} and {merges.name} hold no tokenizer ({error}).") from error
    else:
        raise ValueError(f"{folder} holds no tokenizer: put tokenizer.json there, or vocab.json and merges.txt.")
    possible = {*pre_tokenizers.ByteLevel.alphabet(), *(left + right for left, right in pairs)}
    tokens = sorted(possible & vocabulary.keys(), key=vocabulary.__getitem__)
    try:
        return PretrainedTokens(Tokenizer.from_merges(tokens, pairs), [vocabulary[token] for token in tokens])
    except ValueError as error:
        raise ValueError(f"the tokenizer in {folder} is not GPT-2's byte-level BPE: {error}") from error


def _read_tokenizer_json(path: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The vocabulary and the merges of a file of the ``tokenizers`` library."""
    content = json.loads(read_core(path).to_str())
    for part, settings in _GPT2.items():
        for name, allowed in settings.items():
            value = (content[part] or {}).get(name)
            if value not in allowed:
                raise ValueError(
                    f"{path} is not GPT-2's byte-level BPE: {name} of its {part} is {value}, not {allowed[0]}."
                )
    if content["normalizer"] is not None:
        raise ValueError(f"{path} is not GPT-2's byte-level BPE: its normalizer would change texts.")
    return content["model"]["vocab"], [(left, right) for left, right in content["model"]["merges"]]


_GPT2: dict[str, dict[str, tuple[Any, ...]]] = {  # allowed settings of each part, the usual one first
    "model": {
        "type": ("BPE",),
        "continuing_subword_prefix": (None, ""),
        "end_of_word_suffix": (None, ""),
        "ignore_merges": (False, None),
    },
    "pre_tokenizer": {"type": ("ByteLevel",), "add_prefix_space": (False,), "use_regex": (True,)},
}
