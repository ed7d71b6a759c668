"""GPT-2's tokenizer as one of ours: the same merges, and ids that leave room for our special tokens."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import models, pre_tokenizers

from ..data.tokenizer import Tokenizer, read_core

__all__ = ["GPT2Tokens", "read_gpt2_tokenizer"]


class GPT2Tokens(NamedTuple):
    """A tokenizer, and which token of GPT-2 each of its tokens is, the special ones left out."""

    tokenizer: Tokenizer
    ids: list[int]


def read_gpt2_tokenizer(folder: Path) -> GPT2Tokens:
    """The tokenizer in a folder: ``tokenizer.json`` or, where that is missing, ``vocab.json`` and ``merges.txt``.

    Our special tokens come first, then what a text can consist of, the bytes and what merges make of them, in GPT-2's
    order: token t of the published GPT-2 becomes t + 3. Its own special token, ``<|endoftext|>``, is left out, and so
    is whatever else no text leads to.

    Raises:
        ValueError: If there is none, or it is not byte-level BPE as GPT-2's.
    """
    whole, vocab, merges = (folder / name for name in ("tokenizer.json", "vocab.json", "merges.txt"))
    if whole.exists():
        vocabulary, pairs = _read_whole(whole)
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
        return GPT2Tokens(Tokenizer.from_merges(tokens, pairs), [vocabulary[token] for token in tokens])
    except ValueError as error:
        raise ValueError(f"the tokenizer in {folder} is not GPT-2's byte-level BPE: {error}") from error


def _read_whole(path: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The vocabulary and the merges of a file of the ``tokenizers`` library."""
    content = json.loads(read_core(path).to_str())
    for part, rules in _GPT2.items():
        for name, allowed in rules.items():
            value = (content[part] or {}).get(name)
            if value not in allowed:
                raise ValueError(
                    f"{path} is not GPT-2's byte-level BPE: {name} of its {part} is {value}, not {allowed[0]}."
                )
    if content["normalizer"] is not None:
        raise ValueError(f"{path} is not GPT-2's byte-level BPE: its normalizer would change texts.")
    return content["model"]["vocab"], [(left, right) for left, right in content["model"]["merges"]]


_GPT2: dict[str, dict[str, tuple[Any, ...]]] = {  # what each part must say; the first is how it is usually said
    "model": {
        "type": ("BPE",),
        "continuing_subword_prefix": (None, ""),
        "end_of_word_suffix": (None, ""),
        "ignore_merges": (False, None),
    },
    "pre_tokenizer": {"type": ("ByteLevel",), "add_prefix_space": (False,), "use_regex": (True,)},
}
