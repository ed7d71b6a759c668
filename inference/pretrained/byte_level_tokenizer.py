"""Any byte-level BPE of the ``tokenizers`` library as a :class:`~.tokenizer.Tokenizer`: Llama 3's, Qwen's and more."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import tokenizers
from tokenizers import decoders, pre_tokenizers

from ..data.tokenizer import SPECIALS, Tokenizer, read_core

__all__ = ["NO_ROW", "PretrainedTokens", "read_byte_level_tokenizer"]

NO_ROW = -1  # of a byte that is no token there
_PROBE = "It's 1,024 tokens:\n\n  naïve 東京 🏳️‍🌈\tand\r\nWE'LL see  <bos> x_1 = 2.5e-3 \x00 "


class PretrainedTokens(NamedTuple):
    """A tokenizer, and the id of each of its tokens except the special ones in the folder that it was read from."""

    tokenizer: Tokenizer
    ids: list[int]


def read_byte_level_tokenizer(folder: Path) -> PretrainedTokens:
    """The tokenizer of Llama 3, SmolLM 2, Qwen, or of a Mistral since NeMo, from ``tokenizer.json``.

    Our special tokens come first, then its own in their order, but its special and added ones: ``<|im_start|>`` in a
    text is letters. Bytes that are no token there, since no text has them, come last. A text is cut into the same
    tokens, except that it is not normalized: every text comes back as it was, also one that is not in Unicode's NFC.

    Raises:
        ValueError: If there is none, or it is not byte-level BPE, or would change texts.
    """
    path = folder / "tokenizer.json"
    if not path.exists():
        raise ValueError(f"{folder} holds no tokenizer.json: save its tokenizer with AutoTokenizer there.")
    content = json.loads(read_core(path).to_str())
    model = content["model"]
    _check_byte_level(path, content)
    if any(part["type"] != "NFC" for part in _parts(content["normalizer"], "normalizers")):
        raise ValueError(f"{path} cannot be used: its normalizer would change texts.")
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    whole = model["vocab"] if model.get("ignore_merges") else [*alphabet, *("".join(pair) for pair in model["merges"])]
    possible = set(whole) - {token["content"] for token in content["added_tokens"]}
    tokens = sorted(possible & model["vocab"].keys(), key=model["vocab"].__getitem__)
    ids, missing = [model["vocab"][token] for token in tokens], sorted(set(alphabet) - set(tokens))
    vocabulary = {token: index for index, token in enumerate([*SPECIALS.values(), *tokens, *missing])}
    model |= {"vocab": vocabulary, "unk_token": None}
    content |= {"added_tokens": [], "normalizer": None, "post_processor": None, "truncation": None, "padding": None}
    try:
        core = tokenizers.Tokenizer.from_str(json.dumps(content))
    except Exception as error:  # the library raises bare exceptions
        raise ValueError(f"{path} holds no byte-level BPE: {error}.") from error
    core.add_special_tokens(list(SPECIALS.values()))
    core.decoder = decoders.ByteLevel()
    tokenizer = Tokenizer(core)
    if tokenizer.decode(tokenizer.encode(_PROBE)) != _PROBE:
        raise ValueError(f"{path} cannot be used: its pre_tokenizer would change texts.")
    return PretrainedTokens(tokenizer, ids + [NO_ROW] * len(missing))


def _check_byte_level(path: Path, content: dict[str, Any]) -> None:
    """Raises a ValueError unless it is byte-level BPE that adds no blank to a text."""
    model, kinds = content["model"], list(_parts(content["pre_tokenizer"], "pretokenizers"))
    levels = [part for part in kinds if part["type"] == "ByteLevel"]
    if model["type"] != "BPE" or model.get("byte_fallback") or not levels:
        what = "SentencePiece" if model.get("byte_fallback") else model["type"]
        raise ValueError(f"{path} is a tokenizer of another kind ({what}), and only byte-level BPE can be used.")
    if any(part["add_prefix_space"] for part in levels):
        raise ValueError(f"{path} cannot be used: it puts a blank before every text (add_prefix_space).")


def _parts(node: dict[str, Any] | None, key: str) -> Iterator[dict[str, Any]]:
    """The normalizers or pre-tokenizers of a sequence, or the only one."""
    if node is not None and node["type"] == "Sequence":
        for part in node[key]:
            yield from _parts(part, key)
    elif node is not None:
        yield node
