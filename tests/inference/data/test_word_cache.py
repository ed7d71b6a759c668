"""Words that are tokenized once: the same tokens as of whole texts."""

import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import tokenizers
from tokenizers import normalizers, pre_tokenizers

from pyroformer.inference.data import word_cache
from pyroformer.inference.data.tokenizer import MANY, Tokenizer
from pyroformer.inference.data.word_cache import WordCache

BLANKS = [" "] * 12 + [
    "  ",
    "\t",
    "\n",
    " \n ",
    "\u00a0",
    "\u2003",
    "\u3000",
    "\x1c",
    "\x85",
    "\u2028",
    "\ufeff",
    "\u200b",
]
WORDS = [
    "it's", "we'll", "'s", "'", "don''t", "a", "Äpfel", "大", "大きい犬", "😀", "👩‍👩‍👧", "e\u0301", "12",
    "1,000.5", "x2", "²", "½", "<eos>", "<pad>", "...", "--", "(a", "b)", "ﷺ", "\u0000", "word" * 40, "٣", "नमस्ते", "",
]  # fmt: skip
RNG = random.Random(0)
TEXTS = ["".join(RNG.choice(WORDS) + RNG.choice(BLANKS) for _ in range(RNG.randint(0, 9))) for _ in range(2 * MANY)]
TEXTS += [" ".join(RNG.choices(WORDS[:-1], k=6)) for _ in range(MANY)]
TOKENIZER = Tokenizer.train(TEXTS, 400)


@pytest.fixture(autouse=True)
def few_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word_cache, "usable_cores", lambda: 2)


@pytest.fixture
def one_by_one() -> list[list[int]]:
    return [TOKENIZER.core.encode_batch_fast([text])[0].ids for text in TEXTS]


def test_tokens_are_those_of_whole_texts(one_by_one: list[list[int]]) -> None:
    assert Tokenizer(TOKENIZER.core).encode_batch(TEXTS) == [[*ids, 2] for ids in one_by_one]


@pytest.mark.parametrize("most", [0, 50])
def test_few_words_are_kept(most: int, one_by_one: list[list[int]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word_cache, "MAX_WORDS", most)
    cache = WordCache(TOKENIZER.core)
    assert [ids for start in range(0, len(TEXTS), 30) for ids in cache.encode(TEXTS[start : start + 30])] == one_by_one
    assert len(cache.known) <= most + 300 and max(map(len, cache.known), default=0) <= word_cache.LONGEST_WORD + 1


def test_known_words_are_not_tokenized_again(monkeypatch: pytest.MonkeyPatch) -> None:
    cache, asked = WordCache(TOKENIZER.core), list[str]()
    whole = cache._encode_whole
    monkeypatch.setattr(cache, "_encode_whole", lambda texts: asked.extend(texts) or whole(texts))
    cache.encode(["a rose is a rose", "a rose"])
    cache.encode(["is a rose", "so a rose is"])
    assert sorted(asked) == [" a", " is", " rose", "a", "is", "so"]


def test_threads_share_a_cache(one_by_one: list[list[int]]) -> None:
    cache = WordCache(TOKENIZER.core)
    parts = [TEXTS[start : start + 100] for start in range(0, len(TEXTS), 100)]
    with ThreadPoolExecutor(4) as pool:
        assert [ids for part in pool.map(cache.encode, parts) for ids in part] == one_by_one


def test_many_cores_tokenize_whole_texts(one_by_one: list[list[int]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word_cache, "usable_cores", lambda: word_cache.MANY_CORES)
    cache = WordCache(TOKENIZER.core)
    assert cache.encode(TEXTS) == one_by_one and not cache.known


def byte_pairs() -> tokenizers.Tokenizer:
    """A tokenizer that merges across blanks if its rule lets it."""
    return Tokenizer.from_merges([*pre_tokenizers.ByteLevel.alphabet(), "ro", "eĠ"], [("r", "o"), ("e", "Ġ")]).core


def test_another_rule_is_not_cut_at_blanks() -> None:
    changes: list[tuple[str, Any]] = [
        ("pre_tokenizer", pre_tokenizers.ByteLevel(add_prefix_space=True)),
        ("pre_tokenizer", pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)),
        ("normalizer", normalizers.Replace("is a", "was")),
    ]
    texts = ["a rose is a rose", "it's a <b>"] * 3
    cores = [byte_pairs() for _ in range(6)]
    for core, (name, value) in zip(cores, changes, strict=False):
        setattr(core, name, value)
    cores[3].add_tokens(["is a"])
    cores[4].add_special_tokens(["is a"])
    cores[4].encode_special_tokens = False
    cores[5].enable_truncation(5)
    for core in cores:
        assert WordCache(core).encode(texts) == [encoding.ids for encoding in core.encode_batch_fast(texts)]


def test_words_with_dropped_merges_are_drawn_anew() -> None:
    core = byte_pairs()
    core.model.dropout = 0.5
    assert len(set(map(tuple, WordCache(core).encode(["rose"] * 50)))) == 2
