"""Fingerprints of corpora: whether two have the same texts and tokens."""

import hashlib
import json

import numpy as np

from ..data.corpus import Corpus

__all__ = ["corpus_fingerprint"]


def corpus_fingerprint(corpus: Corpus) -> str:
    """A hash of the tokens of every split, of the tokenizer and of the labels.

    Examples:
        >>> first, again = (pf.Corpus.from_texts([f"Number {n}." for n in range(30)], vocabulary=270) for _ in range(2))
        >>> other = pf.Corpus.from_texts([f"Zahl {n}." for n in range(30)], vocabulary=270)
        >>> corpus_fingerprint(first) == corpus_fingerprint(again)
        True
        >>> corpus_fingerprint(first) == corpus_fingerprint(other)
        False
    """
    digest = hashlib.blake2b(digest_size=16)
    for file in sorted(corpus.folder.glob("*.npy")):
        array = np.load(file, mmap_mode="r")
        digest.update(f"{file.name} {array.dtype} {array.shape}".encode())
        flat = array.reshape(-1)
        for start in range(0, len(flat), 1 << 22):
            digest.update(np.ascontiguousarray(flat[start : start + (1 << 22)]).tobytes())
    for file in sorted(corpus.folder.glob("tokenizer*.json")):
        content = json.loads(file.read_text(encoding="utf-8"))
        affixes = ("continuing_subword_prefix", "end_of_word_suffix")  # empty and none are the same
        content["model"] |= {name: content["model"].get(name) or None for name in affixes}
        digest.update(json.dumps(content, sort_keys=True).encode())
    digest.update(repr((corpus.max_length, corpus.labels, corpus.conditional)).encode())
    return digest.hexdigest()
