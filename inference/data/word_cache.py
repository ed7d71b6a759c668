"""Tokens of many texts, in which each frequent word is tokenized once."""

import os
from collections.abc import Sequence
from itertools import chain

import tokenizers

__all__ = ["WordCache"]

LONGEST_WORD = 64  # characters; a text with a longer one, such as a line of Chinese, is tokenized as a whole
MAX_WORDS = 100_000  # kept in memory, about 30 MB
MANY_CORES = 4  # so many are faster than a cache, whose look-ups take one

Ids = list[int]


class WordCache:
    """The tokens of words that a byte-level tokenizer has seen.

    GPT-2's rule, by which such a tokenizer cuts a text before it merges anything, always cuts between a word and the
    single blank before the next one. So the tokens of a text are those of its words, each with that blank. Most words
    of a corpus are among the frequent ones, and tokenizing each of them once takes a third of the time.

    Texts with other white space than single blanks between words, and those of a tokenizer with another rule, are
    tokenized as a whole, and so are all texts on machines of many cores: there the library's own threads, which take
    0.85 seconds a megabyte together, are done before the 0.4 seconds of a cache on one core. Several threads may use
    one cache.

    Arguments:
        core: A tokenizer of the ``tokenizers`` library.

    Examples:
        >>> core = tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0, "Ġ": 1}, []))
        >>> core.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        >>> WordCache(core).encode(["a aa", " a"])
        [[0, 1, 0, 0], [1, 0]]
    """

    def __init__(self, core: tokenizers.Tokenizer) -> None:
        self.core = core
        self.known: dict[str, Ids] = {}  # of words, with the blank before them if there is one

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """The tokens of each text, without an end token."""
        if usable_cores() >= MANY_CORES or not _cuts_between_words(self.core):
            return self._encode_whole(texts)
        rows = [_words(text) for text in texts]
        unseen = set(chain.from_iterable(rows)) - self.known.keys()
        new = dict(zip(unseen, self._encode_whole(list(unseen)), strict=True))
        if len(self.known) < MAX_WORDS:
            self.known.update((word, ids) for word, ids in new.items() if len(word) <= LONGEST_WORD)
        known = self.known
        return [list(chain.from_iterable([known[w] if w in known else new[w] for w in row])) for row in rows]

    def _encode_whole(self, texts: Sequence[str]) -> list[Ids]:
        return [encoding.ids for encoding in self.core.encode_batch_fast(texts)]


def usable_cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _words(text: str) -> list[str]:
    """The words of a text, with the blank before each but the first; or the whole text, if it cannot be cut so."""
    words = text.split()
    if " ".join(words) != text or len(max(words, key=len, default="")) > LONGEST_WORD:
        return [text]
    return [words[0], *[" " + word for word in words[1:]]] if words else []


def _cuts_between_words(core: tokenizers.Tokenizer) -> bool:
    """Whether a tokenizer cuts texts by GPT-2's rule, and does nothing else with them."""
    rule = core.pre_tokenizer
    return (
        isinstance(rule, tokenizers.pre_tokenizers.ByteLevel)
        and rule.use_regex
        and not rule.add_prefix_space
        and core.normalizer is None
        and core.post_processor is None
        and core.truncation is None
        and core.padding is None
        and isinstance(core.model, tokenizers.models.BPE)
        and not core.model.dropout
        and all(token.special for token in core.get_added_tokens_decoder().values())
        and core.encode_special_tokens
    )
