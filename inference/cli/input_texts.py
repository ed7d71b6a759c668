"""Texts that commands take from the command line or from files."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .output import print_notice

__all__ = ["check_all_fit", "fitting_texts", "read_test_texts", "require_text", "texts_to_encode"]

if TYPE_CHECKING:  # torch is imported when a command runs, not for its help
    from ..runs.fitted import FittedModel


def require_text(flag: str, text: str | None) -> str:
    """The text behind a flag.

    Raises:
        ValueError: If it is missing or blank.
    """
    if text is None or not text.strip():
        raise ValueError(f"{flag} is {'missing' if text is None else 'empty'}: give a text of at least one word.")
    return text


def read_test_texts(data: str, field: str | None, condition: str | None = None) -> Any:
    """The texts or pairs of a file, or of the test file in a folder."""
    from ..data.sources.readers import read_split

    return read_split(data, "test", field, condition=condition)


def texts_to_encode(
    texts: Sequence[str], data: str | None, field: str | None, condition: str | None, n: int | None
) -> Any:
    """At most ``n`` texts or pairs, of ``--text`` or of ``--data``; None if neither is set.

    Raises:
        ValueError: If both are set, a condition comes without a text, or ``n`` is below 1.
    """
    if texts and data is not None:
        raise ValueError("both --text and --data say what to encode: give one of them.")
    if n is not None and n < 1:
        raise ValueError(f"-n is {n}: give a positive whole number.")
    if texts:
        return (texts if condition is None else [(condition, text) for text in texts])[:n]
    if data is not None:
        return read_test_texts(data, field, condition)[:n]
    if condition is not None:
        raise ValueError(f"--condition is {condition!r}, but of no text: give --text or --data with it.")
    return None


def fitting_texts(
    run: "FittedModel", texts: Sequence[str], conditions: Sequence[str] | None
) -> tuple[Sequence[str], Sequence[str] | None, int]:
    """The texts of at most the model's max_length, their conditions, and the number of the others.

    Each of the others gets a line on standard error. Where none fits, all are returned, for an error of the library.
    """
    largest = run.corpus.max_length
    sizes = [len(ids) for ids in run.tokenizer.encode_batch(list(texts))]
    kept = [number for number, size in enumerate(sizes) if size <= largest]
    if not kept or len(kept) == len(sizes):
        return texts[:], None if conditions is None else conditions[:], 0
    for number, size in enumerate(sizes):
        if size > largest:
            line = f"left out: text {number + 1}, {texts[number][:40]!r}..., has {size} tokens, and the max_length is"
            print_notice(f"{line} {largest}: shorten it.")
    paired = None if conditions is None else [conditions[number] for number in kept]
    return [texts[number] for number in kept], paired, len(sizes) - len(kept)


def check_all_fit(left_out: int) -> None:
    """Raises a ValueError if texts were left out, so that the exit code says that something is missing."""
    if left_out:
        texts = "1 text was" if left_out == 1 else f"{left_out} texts were"
        raise ValueError(f"{texts} left out, and the others are written: shorten what does not fit.")
