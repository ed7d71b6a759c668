r"""Gain and cost of removing vectors of little weight from a text's mixture before it is decoded.

    python benchmarks/compaction.py --run RUN [--thresholds 1e-9 0.01 0.03] [--out FILE]

Held-out texts of a run of an NVAE are encoded once, and decoded greedily from the mean of their posterior without
the vectors whose weight is below a threshold. The first row, 0, is the whole mixture, in which vectors that a `relu`
head has switched off are masked; a threshold of 1e-9 removes just those. The thresholds take turns, and a time is that
of the fastest round, because other load on the machine can only increase it.

    vectors      share of the texts' vectors that are kept and not switched off
    tokens/s     of whole greedy decoding: the removal, the projection to keys and values, and every step
    attention    queries/s of the decoder's cross-attention alone, over the same queries and all layers
    cache        bytes of keys and values that all layers keep for the batch
    BLEU, lost   of the reconstructions, of 100, and the loss from that of the whole mixture
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from measuring import place, seconds
from reporting import argument_parser, evenly, markdown, show
from torch import Tensor

from pyroformer.inference.evaluation.bleu import bleu
from pyroformer.inference.generation.decoding import Decoding, uniforms
from pyroformer.inference.generation.generate import write
from pyroformer.inference.run import Run, load
from pyroformer.inference.utils.seeded_eval import seeded_eval
from pyroformer.models.attention.editing import compacted
from pyroformer.models.attention.mixture import Mixture
from pyroformer.models.nvae import NVAE

THRESHOLDS = (1e-9, 0.001, 0.003, 0.01, 0.03, 0.1)
QUERIES = 32  # of each text, in every layer


class Cost(NamedTuple):
    """Kept vectors, speed and quality at one threshold."""

    vectors: float
    tokens_per_second: float
    queries_per_second: float
    cache: int
    bleu: float


def report(run: Run, thresholds: Sequence[float] = THRESHOLDS, texts: int = 64, rounds: int = 5) -> str:
    """The table, for a number of held-out texts."""
    if not isinstance(run.model, NVAE):
        raise ValueError(f"a {type(run.model).__name__} has no mixture to thin: give a run of an nvae.")
    originals = evenly(run.corpus.test, texts)
    with seeded_eval(run.model, run.guide, seed=0):
        costs = measure(run, originals, [0.0, *(below for below in thresholds if below)], rounds)
    return table(
        costs, f"{len(originals)} texts, {rounds} rounds, torch {torch.__version__}, {place(run.model.device.type)}"
    )


def measure(run: Run, originals: Sequence[str], thresholds: Sequence[float], rounds: int) -> dict[float, Cost]:
    """The costs of each threshold, all from one encoding."""
    model: Any = run.model
    posterior: Any = run.encode(originals)
    whole = posterior.memory()
    x = torch.randn(len(originals), QUERIES, model.config.width, device=model.device)
    memories = {below: thinned(model, whole, below) for below in thresholds}
    projected = {below: model.decoder.project(memory) for below, memory in memories.items()}
    tokens: dict[float, Tensor] = {}

    def decode(below: float) -> None:
        tokens[below] = written(run, thinned(model, whole, below))

    def attend(below: float) -> None:
        for block, seen in zip(model.decoder.blocks, projected[below], strict=True):
            block.cross(x, seen)

    device = run.model.device.type
    decoding = seconds({below: partial(decode, below) for below in thresholds}, rounds, device)
    attending = seconds({below: partial(attend, below) for below in thresholds}, rounds, device)
    queries = x.shape[0] * x.shape[1] * len(model.decoder.blocks)
    costs = {}
    for below, memory in memories.items():
        count = int((tokens[below] != model.config.pad).sum())
        texts = run.tokenizer.decode_batch(tokens[below])
        costs[below] = Cost(
            float(memory.present.sum() / posterior.mask.sum()),
            count / decoding[below],
            queries / attending[below],
            sum(seen.keys.nbytes + seen.values.nbytes for seen in projected[below]),
            bleu(texts, list(originals)),
        )
    return costs


def thinned(model: NVAE, memory: Mixture, below: float) -> Mixture:
    return compacted(memory, below, keep=model.samples_per_component) if below else memory


def written(run: Run, memory: Mixture) -> Tensor:
    """Greedy decoding."""
    model: Any = run.model
    noise = uniforms(0, range(len(memory.means)), run.corpus.max_length).to(model.device)
    return write(model.likelihood(memory), Decoding(greedy=True), noise, text_vocabulary=run.tokenizer.vocabulary)


def table(costs: dict[float, Cost], about: str) -> str:
    """The table as markdown, with ratios to the whole mixture in brackets."""
    base, rows = costs[0.0], []
    for below, cost in costs.items():
        rows.append(
            [
                f"{below:g}",
                f"{100 * cost.vectors:.1f} %",
                f"{cost.tokens_per_second:.0f} ({cost.tokens_per_second / base.tokens_per_second:.2f})",
                f"{cost.queries_per_second:.0f} ({cost.queries_per_second / base.queries_per_second:.2f})",
                f"{cost.cache} ({cost.cache / base.cache:.2f})",
                f"{cost.bleu:.2f}",
                f"{base.bleu - cost.bleu:.2f}",
            ]
        )
    head = ["below", "vectors", "tokens/s", "attention, queries/s", "cache, bytes", "BLEU", "lost"]
    return f"{about}; in brackets: times the whole mixture\n\n{markdown(head, rows, left=0)}"


def main() -> None:
    parser = argument_parser(
        __doc__, thresholds=list(THRESHOLDS), texts=64, rounds=5, device="cuda" if torch.cuda.is_available() else "cpu"
    )
    parser.add_argument("--run", type=Path, required=True, help="folder of a fitted nvae")
    parser.add_argument("--out", type=Path, help="file to write the table to as well")
    options = parser.parse_args()
    run = load(options.run, device=options.device)
    show(report(run, options.thresholds, options.texts, options.rounds), options.out)


if __name__ == "__main__":
    main()
