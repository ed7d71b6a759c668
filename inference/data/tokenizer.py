"""Byte-level BPE tokenizer: lossless on every text."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import tokenizers
from jaxtyping import Int, UInt
from tokenizers import decoders, models, pre_tokenizers, trainers
from torch import Tensor

from ...models.batch import BOS, EOS, PAD
from ...models.utils.choices import check_choice
from ..utils.files import as_path
from .word_cache import WordCache

__all__ = ["MIN_VOCABULARY", "Tokenizer", "TokenizerKind", "check_tokenizer", "check_vocabulary", "read_core"]

TokenizerKind = Literal["bpe", "bytes", "characters"]

SPECIALS = {PAD: "<pad>", BOS: "<bos>", EOS: "<eos>"}
MIN_VOCABULARY = len(SPECIALS) + 256  # every byte is a token, so that no text is unknown
MANY = 1000  # texts from which on their words are kept, to be tokenized once
LONGEST_RUN = 4000  # characters of one kind that a tokenizer learns from at once
KINDS = (r"[^\W\d_]", r"\d", r"[^\w\s]", r"\s")  # letters, digits, signs and white space, which texts are cut between

Tokens = Sequence[int] | Int[Tensor, "_"] | Int[np.ndarray, "_"]


class Tokenizer:
    r"""Byte-pair encoding over UTF-8 bytes.

    Token 0 is padding, token 1 begins and token 2 ends a text; the 256 single bytes follow, then the merges. There is
    no unknown token and no normalization:

        decode(encode(text)) == text    for every text,

    also if a text contains the name of a special token.

    Arguments:
        core: A byte-level tokenizer of the ``tokenizers`` library whose first tokens are the three special ones.

    Raises:
        ValueError: If the special tokens have other ids or a byte is missing.

    References:
        Neural Machine Translation of Rare Words with Subword Units (Sennrich et al., 2016),
        https://arxiv.org/abs/1508.07909

    Examples:
        >>> tokenizer = Tokenizer.train(["low lower lowest"] * 9, vocabulary=262)
        >>> tokenizer.pieces("low or lower")
        ['low', ' ', 'o', 'r', ' low', 'e', 'r', '<eos>']
        >>> tokenizer.decode(tokenizer.encode("Größe <eos> 大"))
        'Größe <eos> 大'
    """

    def __init__(self, core: tokenizers.Tokenizer) -> None:
        missing = [name for index, name in SPECIALS.items() if core.id_to_token(index) != name]
        if missing:
            raise ValueError(f"tokens 0, 1, 2 must be {', '.join(SPECIALS.values())}: train one with Tokenizer.train.")
        missing = [letter for letter in pre_tokenizers.ByteLevel.alphabet() if core.token_to_id(letter) is None]
        if missing:
            raise ValueError(f"the tokenizer lacks {len(missing)} of the 256 bytes: train one with Tokenizer.train.")
        core.encode_special_tokens = True  # "<eos>" in a text is five letters, not its end
        self.core = core
        self.words = WordCache(core)

    @classmethod
    def train(cls, texts: Iterable[str], vocabulary: int = 4000) -> "Tokenizer":
        """Learns at most ``vocabulary`` tokens from ``texts``; fewer if the texts are too short for so many.

        Raises:
            ValueError: If the vocabulary is too small for every byte, or a text holds half a character.
        """
        check_vocabulary(vocabulary)
        core = _byte_level(models.BPE())
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=list(SPECIALS.values()),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        try:
            core.train_from_iterator(_without_long_runs(texts), trainer)
        except UnicodeEncodeError as error:
            raise _half_a_character(error) from error
        return cls(core)

    @classmethod
    def train_kind(cls, kind: TokenizerKind, texts: Iterable[str], vocabulary: int = 4000) -> "Tokenizer":
        """A tokenizer by the name of its kind.

        ============== ====================================================================================
        kind           its tokens
        ============== ====================================================================================
        ``bpe``        pieces of words, at most ``vocabulary`` of them
        ``bytes``      the 256 bytes; no text is needed
        ``characters`` each character of ``texts``, however many bytes it has; another one is several tokens
        ============== ====================================================================================

        Raises:
            ValueError: If there is no such kind, or the vocabulary is too small.

        Examples:
            >>> for kind in ("bytes", "characters"):
            ...     Tokenizer.train_kind(kind, ["für 大"]).pieces("für 大")
            ['f', '\\\\xc3', '\\\\xbc', 'r', ' ', '\\\\xe5', '\\\\xa4', '\\\\xa7', '<eos>']
            ['f', 'ü', 'r', ' ', '大', '<eos>']
        """
        check_choice("tokenizer", kind, get_args(TokenizerKind))
        if kind == "bpe":
            return cls.train(texts, vocabulary)
        characters = set(chain.from_iterable(texts)) if kind == "characters" else set[str]()
        return cls.from_merges(*_character_merges(characters))

    @classmethod
    def from_merges(cls, tokens: Sequence[str], merges: Sequence[tuple[str, str]]) -> "Tokenizer":
        """A tokenizer with the merges of another byte-level BPE.

        Arguments:
            tokens: The tokens after the special ones, in order of their ids: the 256 bytes, as the letters that stand
                for them, and the result of every merge.
            merges: The pairs of tokens that are merged, in order of priority.

        Raises:
            ValueError: If a byte or a token of a merge is missing.

        Examples:
            >>> tokenizer = Tokenizer.from_merges([*pre_tokenizers.ByteLevel.alphabet(), "ab"], [("a", "b")])
            >>> tokenizer.pieces("abba")
            ['ab', 'b', 'a', '<eos>']
        """
        vocabulary = {token: index for index, token in enumerate([*SPECIALS.values(), *tokens])}
        try:
            core = _byte_level(models.BPE(vocab=vocabulary, merges=list(merges)))
        except Exception as error:  # the library raises bare exceptions
            raise ValueError(f"the merges do not fit the tokens ({error}).") from error
        core.add_special_tokens(list(SPECIALS.values()))
        return cls(core)

    @property
    def vocabulary(self) -> int:
        """Number of tokens, special ones included."""
        return self.core.get_vocab_size()

    def has_tokens_of(self, other: "Tokenizer") -> bool:
        """Whether each token is the same piece of text as in another tokenizer."""
        return self.core.get_vocab() == other.core.get_vocab()

    @property
    def kind(self) -> TokenizerKind:
        """What the tokens are: ``bytes`` if there are no others, ``characters`` if none is more than one."""
        others = [self._bytes(token) for token in range(MIN_VOCABULARY, self.vocabulary)]
        if not others:
            return "bytes"
        return "characters" if all(len(piece.decode(errors="replace")) == 1 for piece in others) else "bpe"

    def __len__(self) -> int:
        return self.vocabulary

    def __repr__(self) -> str:
        return f"Tokenizer({self.vocabulary:,} tokens)"

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, with an end token."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        texts = _encodable(texts)
        if len(texts) >= MANY:
            return [[*ids, EOS] for ids in self.words.encode(texts)]
        return [encoding.ids + [EOS] for encoding in self.core.encode_batch_fast(texts)]

    def decode(self, tokens: Tokens) -> str:
        """The text of a sequence of tokens, up to the end token; bytes that are not UTF-8 become �."""
        return self.decode_batch([tokens])[0]

    def decode_batch(self, rows: Sequence[Tokens] | Int[Tensor, "B T"] | Int[np.ndarray, "B T"]) -> list[str]:
        return self.core.decode_batch([_until_end(row) for row in rows])

    def pieces(self, text: str | Tokens) -> list[str]:
        r"""One readable string for each token, for labels; part of a character becomes an escape such as ``\xe4``."""
        tokens = self.encode(text) if isinstance(text, str) else [int(token) for token in text]
        return [SPECIALS.get(token) or self._bytes(token).decode(errors="backslashreplace") for token in tokens]

    def token_bytes(self) -> list[bytes]:
        """The bytes of text of each token; none for special tokens."""
        return [self._bytes(token) for token in range(self.vocabulary)]

    def byte_lengths(self) -> UInt[np.ndarray, " V"]:
        """The number of bytes of text in each token; 0 for special tokens."""
        return np.array([len(self._bytes(token)) for token in range(self.vocabulary)], np.uint16)

    def _bytes(self, token: int) -> bytes:
        return b"" if token in SPECIALS else bytes(_BYTES[letter] for letter in self.core.id_to_token(token) or "")

    def save(self, path: str | Path) -> None:
        """Writes one JSON file in the format of the ``tokenizers`` library."""
        as_path(path, "path").write_text(self.core.to_str(), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """Reads a file that ``save`` wrote.

        Raises:
            ValueError: If the file is missing or contains no such tokenizer.
        """
        return cls(read_core(path))

    def __getstate__(self) -> dict[str, Any]:
        return {"core": self.core.to_str()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(tokenizers.Tokenizer.from_str(state["core"]))  # type: ignore[misc]


def read_core(path: str | Path) -> tokenizers.Tokenizer:
    """Any tokenizer of the ``tokenizers`` library.

    Raises:
        ValueError: If the file is missing or contains none.
    """
    try:
        text = as_path(path, "path").read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"cannot read the tokenizer {path}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} holds no tokenizer: it is not UTF-8 text.") from error
    try:
        json.loads(text)
        return tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library raises bare exceptions
        raise ValueError(f"{path} holds no tokenizer ({error}).") from error


def check_vocabulary(vocabulary: int) -> None:
    """Raises a ValueError if a vocabulary is too small for every byte."""
    if vocabulary < MIN_VOCABULARY:
        raise ValueError(
            f"a vocabulary of {vocabulary} is too small: 256 bytes and {len(SPECIALS)} special tokens take "
            f"{MIN_VOCABULARY}. Give at least {MIN_VOCABULARY}."
        )


def check_tokenizer(tokenizer: object, vocabulary: object) -> None:
    """Raises a ValueError unless a tokenizer is one, None or the name of a kind, with a vocabulary that it may have."""
    if tokenizer is None or isinstance(tokenizer, Tokenizer):
        return
    check_choice("tokenizer", tokenizer, get_args(TokenizerKind))
    if tokenizer != "bpe" and vocabulary != "auto":
        raise ValueError(
            f"vocabulary is {vocabulary}, but a tokenizer of {tokenizer} has as many tokens as there are {tokenizer}: "
            "leave vocabulary out, or choose the tokenizer bpe."
        )


def _character_merges(characters: Iterable[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Tokens and merges that join the bytes of each character, from left to right."""
    letters = {byte: letter for letter, byte in _BYTES.items()}
    merges: dict[tuple[str, str], None] = {}
    for character in sorted(characters):
        spelled = [letters[byte] for byte in character.encode(errors="replace")]
        for end in range(1, len(spelled)):
            merges["".join(spelled[:end]), spelled[end]] = None
    return [*sorted(letters.values()), *("".join(pair) for pair in merges)], list(merges)


def _byte_level(model: models.BPE) -> tokenizers.Tokenizer:
    core = tokenizers.Tokenizer(model)
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return core


def _without_long_runs(texts: Iterable[str]) -> Iterator[str]:
    """The texts, cut inside runs of letters, digits, signs or white space that are longer than any word.

    Learning merges takes the square of the length of such a run: 7 s for 120,000 letters. The cuts hide one pair of
    neighbors in 4,000 from it, and texts are tokenized without them.
    """
    for text in texts:
        start = 0
        if len(text) > LONGEST_RUN and (_BLANKS.search(text) or max(map(len, text.split()), default=0) > LONGEST_RUN):
            for run in _LONG_RUN.finditer(text):
                yield text[start : run.end()]
                start = run.end()
        yield text[start:]


def _encodable(texts: Iterable[str]) -> list[str]:
    texts = list(texts)
    try:
        for text in texts:
            text.encode()
    except UnicodeEncodeError as error:
        raise _half_a_character(error) from error
    return texts


def _half_a_character(error: UnicodeEncodeError) -> ValueError:
    return ValueError(
        f"a text holds {error.object[error.start]!a} at position {error.start}, half of a character: "
        "give whole Unicode characters."
    )


def _until_end(row: Tokens) -> list[int]:
    tokens: list[int] = row.tolist() if isinstance(row, Tensor | np.ndarray) else list(row)
    if EOS in tokens:
        tokens = tokens[: tokens.index(EOS)]
    return [token for token in tokens if token not in SPECIALS]


def _byte_letters() -> dict[str, int]:
    """The byte of each letter: its own code where it is printable, else in order from U+0100 (as in GPT-2)."""
    printing = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printing]
    return {chr(byte): byte for byte in printing} | {chr(256 + index): byte for index, byte in enumerate(others)}


_BYTES = _byte_letters()
_BLANKS = re.compile(rf"\s{{{LONGEST_RUN}}}")
_LONG_RUN = re.compile("|".join(rf"{kind}{{{LONGEST_RUN}}}" for kind in KINDS))
