"""The command that evaluates a run."""

import json as json_format
from typing import Literal, Unpack

from ...utils.terminal import output_columns
from ..input_texts import read_test_texts
from ..options.shared_options import RunOptions, open_run
from ..output import print_line, with_flags

__all__ = ["evaluate"]


def evaluate(
    *,
    data: str | None = None,
    field: str | None = None,
    condition: str | None = None,
    split: Literal["train", "valid", "test"] = "test",
    json: str | None = None,
    num_particles: int = 64,
    limit: int | None = None,
    samples: int = 0,
    judge: str | None = None,
    min_weight: float = 0.0,
    seed: int = 0,
    **options: Unpack[RunOptions],
) -> None:
    """Evaluate a run on held-out texts: bounds of log p(x), reconstruction and other metrics.

    Example:
      pyroformer evaluate runs/reviews --json reviews.json

    Arguments:
        data: Other texts to evaluate on: a file, or a folder, of which it takes the test file.
        field: Field that holds the text: the key of a JSON object or the column of a table.
        condition: Field that holds the condition (label, question) of each text, if the run was trained on pairs.
        split: The split of the run's own texts to evaluate on.
        json: A file to write all metrics to.
        num_particles: Draws of the importance-weighted bound; more make it tighter and take longer.
        limit: Largest number of texts.
        samples: Number of texts to generate from the prior, for the metrics of their variety.
        judge: A language model whose loss on the generated texts is measured: a run of fit lm, a folder in Hugging Face
            format, or a name on its hub.
        min_weight: Vectors of a mixture with a smaller weight are dropped before texts are reconstructed.
        seed: Random seed.
    """
    from ...evaluation.judge import Judge
    from ...evaluation.metrics import METRICS, Judged
    from ...utils.outputs import check_output, write_output
    from ..pretrained_parts import read_language_model

    if json is not None:
        check_output("--json", json, [data])
    if judge is not None and not samples:
        raise ValueError(f"--judge is {judge}, and there is nothing to judge: give --samples, such as --samples 200.")
    metrics = None if judge is None else [*METRICS, Judged(Judge(read_language_model(judge)))]
    texts = None if data is None else read_test_texts(data, field, condition)
    evaluation = open_run(options).evaluate(
        texts,
        metrics=metrics,
        split=split,
        num_particles=num_particles,
        limit=limit,
        samples=samples,
        min_weight=min_weight,
        seed=seed,
    )
    print_line(evaluation.table(output_columns()).replace(evaluation.verdict, with_flags(evaluation.verdict)))
    if json is not None:
        content = json_format.dumps(evaluation.as_dict(), indent=2, allow_nan=False) + "\n"
        write_output(json, content.encode())
