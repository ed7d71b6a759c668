"""GPT-2's tokenizer as a :class:`~.tokenizer.Tokenizer`: the same merges, with ids after our special tokens."""

from pathlib import Path

from tokenizers import models, pre_tokenizers

from ..data.tokenizer import Tokenizer
from .byte_level_tokenizer import PretrainedTokens, read_byte_level_tokenizer

__all__ = ["read_gpt2_tokenizer"]


def read_gpt2_tokenizer(folder: Path) -> PretrainedTokens:
    """The tokenizer in a folder: ``tokenizer.json`` or, where that is missing, ``vocab.json`` and ``merges.txt``.

    Our special tokens come first, then the tokens that a text can have, the bytes and the results of merges, in GPT-2's
    order: token t of the published GPT-2 becomes t + 3. Its special token ``<|endoftext|>`` is left out, and so are all
    other tokens that no text is encoded to.

    Raises:
        ValueError: If there is none, or it is not byte-level BPE as GPT-2's.
    """
    if (folder / "tokenizer.json").exists():
        return read_byte_level_tokenizer(folder)
    vocab, merges = folder / "vocab.json", folder / "merges.txt"
    if not (vocab.exists() and merges.exists()):
        raise ValueError(f"{folder} holds no tokenizer: put tokenizer.json there, or vocab.json and merges.txt.")
    try:
        vocabulary, pairs = models.BPE.read_file(str(vocab), str(merges))
    except Exception as error:  # the library raises bare exceptions
        raise ValueError(f"{vocab} and {merges.name} hold no tokenizer ({error}).") from error
    possible = {*pre_tokenizers.ByteLevel.alphabet(), *(left + right for left, right in pairs)}
    tokens = sorted(possible & vocabulary.keys(), key=vocabulary.__getitem__)
    try:
        return PretrainedTokens(Tokenizer.from_merges(tokens, pairs), [vocabulary[token] for token in tokens])
    except ValueError as error:
        raise ValueError(f"the tokenizer in {folder} is not GPT-2's byte-level BPE: {error}") from error
