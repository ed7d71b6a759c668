"""pyroformer reconstruct."""

from ..common import given_texts, load_run, rule, say_json

__all__ = ["reconstruct"]


def reconstruct(
    run: str,
    *,
    text: str | None = None,
    data: str | None = None,
    field: str | None = None,
    condition: str | None = None,
    n: int | None = None,
    min_weight: float = 0.0,
    seed: int = 0,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    trust: list[str] | None = None,
) -> None:
    """Encode texts and write them again from the mean of their posterior: one line of JSON for each.

    Without --text and --data it takes five held-out texts of the run. The most probable token is taken each time unless
    --temperature, --top_k or --top_p says how to draw.

    Example:
      pyroformer reconstruct runs/reviews --text "I would read it again."

    Arguments:
        run: The folder that fit wrote.
        text: A text to encode.
        data: A file of texts to encode.
        field: The key of a .jsonl file, or the column of a .tsv file, that holds the text.
        condition: For a run on pairs: what --text answers to, or the key or column of --data that holds it.
        n: At most so many texts.
        min_weight: Vectors of a mixture that weigh less leave before anything is written, which takes less time then.
        seed: Of the draws.
        temperature: Below 1 sharpens the distribution of each token, above 1 flattens it.
        top_k: Draw from so many most probable tokens; 0 is all of them.
        top_p: Draw from the most probable tokens that together have this share of the probability.
        trust: Classes outside pyroformer that the run may import, such as my_priors.Sticky.
    """
    chosen = rule(temperature, top_k, top_p)
    if text is not None and data is not None:
        raise ValueError("both --text and --data say what to encode: give one of them.")
    if text is not None and not text.strip():
        raise ValueError("--text is empty: give a text of at least one word.")
    if n is not None and n < 1:
        raise ValueError(f"-n is {n}: give a positive whole number.")
    if text is None and data is None and condition is not None:
        raise ValueError(f"--condition is {condition!r}, but of no text: give --text or --data with it.")
    given = None if data is None else given_texts(data, field, condition)[:n]
    if text is not None:
        given = [text] if condition is None else [(condition, text)]
    loaded = load_run(run, trust)
    if given is None:
        given = loaded.corpus.entries("test", n or HELD_OUT)
    from ...data.pairs import unzip_pairs

    texts, conditions = unzip_pairs(given)
    for found in loaded.reconstruct(texts, conditions=conditions, min_weight=min_weight, seed=seed, **chosen):
        item = found.as_dict()
        say_json({"original": item.pop("original"), "reconstruction": item.pop("text")} | item)


HELD_OUT = 5  # texts that `reconstruct` shows
