"""pyroformer evaluate."""

import json as javascript
from pathlib import Path
from typing import Any, Literal

from ..common import given_texts, load_run
from ..progress import say

__all__ = ["evaluate"]


def evaluate(
    run: str,
    *,
    data: str | None = None,
    field: str | None = None,
    condition: str | None = None,
    split: Literal["train", "valid", "test"] = "test",
    json: str | None = None,
    num_particles: int = 64,
    limit: int | None = None,
    samples: int = 0,
    min_weight: float = 0.0,
    seed: int = 0,
    trust: list[str] | None = None,
) -> None:
    """Measure a run on texts that it was not trained on: bounds of log p(x), and what comes back from the posterior.

    Example:
      pyroformer evaluate runs/reviews --json reviews.json

    Arguments:
        run: The folder that fit wrote.
        data: Other texts to measure it on: a file, or a folder, of which it takes the test file.
        field: The key of a .jsonl file, or the column of a .tsv file, that holds the text.
        condition: The key or the column that holds what each text is written for, if the run was trained on pairs.
        split: Which of the run's own texts to measure it on.
        json: A file to write every number to.
        num_particles: Draws of the importance-weighted bound; more make it tighter and take longer.
        limit: At most so many texts.
        samples: Make up so many texts and tell how they differ from each other and from held-out ones.
        min_weight: Vectors of a mixture that weigh less leave before texts are written again.
        seed: Of all noise.
        trust: Classes outside pyroformer that the run may import, such as my_priors.Sticky.
    """
    from ...utils.files import write_atomically

    if json is not None and not Path(json).parent.is_dir():
        raise ValueError(f"--json {json} lies in no folder: make {Path(json).parent} first.")
    texts = None if data is None else given_texts(data, field, condition)
    options: dict[str, Any] = {
        "split": split,
        "num_particles": num_particles,
        "limit": limit,
        "samples": samples,
        "seed": seed,
    }
    found = load_run(run, trust).evaluate(texts, min_weight=min_weight, **options)
    say(found.table())
    if json is not None:
        content = javascript.dumps(found.as_dict(), indent=2, allow_nan=False) + "\n"
        write_atomically(Path(json), lambda path: path.write_text(content, encoding="utf-8"))
