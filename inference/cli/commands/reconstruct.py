"""The command that reconstructs texts."""

from typing import Unpack

from ..input_texts import check_all_fit, fitting_texts, require_text, texts_to_encode
from ..options.shared_options import DecodingOptions, decoding_strategy, open_run
from ..output import print_json

__all__ = ["reconstruct"]

PART = 64  # texts that are decoded at a time, and printed before the next
HELD_OUT_TEXTS = 5  # reconstructed where neither --text nor --data is set


def reconstruct(
    *,
    text: str | None = None,
    data: str | None = None,
    field: str | None = None,
    condition: str | None = None,
    n: int | None = None,
    min_weight: float = 0.0,
    **options: Unpack[DecodingOptions],
) -> None:
    """Encode texts and decode them from the mean of their posterior: one line of JSON each.

    Without --text and --data it takes five held-out texts of the run. Decoding is greedy unless --temperature, --top_k
    or --top_p is set.

    Example:
      pyroformer reconstruct runs/reviews --text "I would read it again."

    Arguments:
        text: A text to encode.
        data: A file of texts to encode.
        field: Field that holds the text: the key of a JSON object or the column of a table.
        condition: For a run on pairs: the condition of --text, or the field of --data that holds the conditions.
        n: Largest number of texts.
        min_weight: Vectors of a mixture with a smaller weight are dropped before decoding, which is then faster.
    """
    from ...data.pairs import unzip_pairs
    from ...generation.generate import reconstruct as encode_and_decode

    decoding = decoding_strategy(options)
    entries = texts_to_encode([] if text is None else [require_text("--text", text)], data, field, condition, n)
    run = open_run(options)
    texts, conditions = unzip_pairs(run.corpus.entries("test", n or HELD_OUT_TEXTS) if entries is None else entries)
    texts, conditions, left_out = fitting_texts(run, texts, conditions)
    seed = options.get("seed", 0)
    for start in range(0, len(texts), PART):
        part = slice(start, start + PART)
        of_part = None if conditions is None else conditions[part]
        for item in encode_and_decode(
            run, texts[part], decoding, conditions=of_part, min_weight=min_weight, seed=seed, start=start
        ):
            values = item.as_dict()
            print_json({"original": values.pop("original"), "reconstruction": values.pop("text")} | values)
    check_all_fit(left_out)
