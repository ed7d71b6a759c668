r"""Regression in context from keys with errors: one layer learns to use what is known about them, or does not.

    python benchmarks/in_context.py [--kind noisy] [--seeds 5] [--steps 700] [--networks NAME ...] [--out FOLDER]

What is asked is told in ``in_context_tasks.py``: some keys are ``noisy``, ``incomplete`` or ``contaminated``. Every
network embeds tokens in 32 dimensions, adds what attention of 2 heads gives, and reads off the query's token; *wide*
has as many parameters as the largest of one layer. Each is trained by Adam on tasks that are new in every step, at one
seed the same for all. Its mean squared error is measured on 4,096 other tasks, and once more where more keys, or
entries of keys, are bad (*shifted*). The Bayes oracle knows how tasks are drawn. Results in FOLDER are kept, and
``--seeds 0`` prints the tables of those that are there.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from in_context_tasks import KINDS, token_width
from reporting import Scores, add, argument_parser, table
from resumable import file_name, make_missing, parameters, read
from torch import Tensor, nn

import pyroformer as pf
from pyroformer.models.transformer.self_attention import SelfAttention

WIDTH, HEADS = 32, 2
BATCH, TESTS, RATE = 128, 4096, 3e-3
LOOKS = (100, 300, 700, 2100)
STEPS = 700
FOLDER = Path(__file__).parent / "results" / "in_context"
TITLES = {
    "noisy": "One layer, keys of unequal reliability",
    "incomplete": "One layer, keys with missing entries",
    "contaminated": "One layer, keys with gross errors",
}


class Network(nn.Module):
    """Tokens, attention layers with residual connections, and the query's answer."""

    def __init__(self, kind: str, width: int, layers: list[nn.Module]) -> None:
        super().__init__()
        self.embed, self.layers = nn.Linear(token_width(kind), width), nn.ModuleList(layers)
        self.read = nn.Linear(width, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for layer in self.layers:
            x = x + layer(x)
        return self.read(x[:, -1:])


def softmax(kind: str, width: int = WIDTH, layers: int = 1) -> Network:
    return Network(kind, width, [SelfAttention(width, HEADS) for _ in range(layers)])


def probabilistic(kind: str, **options: Any) -> Network:
    return Network(kind, WIDTH, [pf.ProbabilisticAttention(WIDTH, HEADS, **options)])


NETWORKS = {
    "softmax": softmax,
    "softmax, wide": partial(softmax, width=36),
    "softmax, two layers": partial(softmax, layers=2),
    "a gate of the prior": partial(probabilistic, precision="shared"),
    "a precision for each key": partial(probabilistic, precision="key"),
    "diagonal precisions": partial(probabilistic, precision="diagonal"),
    "Student's t": partial(probabilistic, precision="shared", density="student"),
}


def trained(kind: str, name: str, seed: int, steps: int) -> dict[str, Any]:
    """One network's errors on the way."""
    torch.manual_seed(seed)
    network = NETWORKS[name](kind)
    optimizer = torch.optim.Adam(network.parameters(), RATE)
    generator = torch.Generator().manual_seed(1000 + seed)
    curve: dict[str, dict[str, float]] = {}
    for step in range(1, steps + 1):
        tasks = KINDS[kind](BATCH, generator)
        loss = (network(tasks.tokens()) - tasks.answers).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step in LOOKS or step == steps:
            curve[str(step)] = tested(kind, network)
    return {"network": name, "seed": seed, "parameters": parameters(network), "curve": curve}


@torch.no_grad()
def tested(kind: str, network: nn.Module | None) -> dict[str, float]:
    """Mean squared errors on tasks of the same kind and on shifted ones; without a network, the oracle's."""
    errors = {}
    for column, shifted in (("error", False), ("shifted", True)):
        tasks = KINDS[kind](TESTS, torch.Generator().manual_seed(7), shifted)
        answers = tasks.expected if network is None else network(tasks.tokens())
        errors[column] = float((answers - tasks.answers).square().mean())
    return errors


def report(kind: str, seeds: int, steps: int, out: Path, networks: Sequence[str] | None = None) -> str:
    """Trains what is missing, and the tables of what is there."""
    further = [] if steps == STEPS else [f"steps{steps}"]
    tasks = [
        (file_name(name, f"seed{seed}", *further), partial(trained, kind, name, seed, steps))
        for seed in range(seeds)
        for name in networks or NETWORKS
    ]
    make_missing(out / kind, tasks)
    return tables(kind, out / kind)


def tables(kind: str, out: Path) -> str:
    """Errors after each look, their means over seeds with standard errors; and what is left of softmax's excess."""
    scores: Scores = {}
    oracle = tested(kind, None)
    longest = {(r["network"], r["seed"]): r for r in sorted(read(out), key=lambda r: max(map(int, r["curve"])))}
    results = sorted(longest.values(), key=lambda result: list(NETWORKS).index(result["network"]))
    for result in results:
        columns = {f"{step} steps": entry["error"] for step, entry in result["curve"].items()}
        usual = str(STEPS) if str(STEPS) in result["curve"] else max(result["curve"], key=int)
        columns[f"shifted, {usual} steps"] = result["curve"][usual]["shifted"]
        add(scores, f"{result['network']} ({result['parameters']:,})", **columns)
    lines = [f"Bayes oracle: {oracle['error']:.3f}, shifted {oracle['shifted']:.3f}.", "", table(scores)]
    base = {r["seed"]: r for r in results if r["network"] == "softmax"}
    excess: Scores = {}
    for result in results:
        if result["seed"] not in base or result["network"] == "softmax":
            continue
        columns = {}
        for step, entry in result["curve"].items():
            if step in base[result["seed"]]["curve"]:
                before = base[result["seed"]]["curve"][step]["error"] - oracle["error"]
                columns[f"{step} steps"] = 1 - (entry["error"] - oracle["error"]) / before
        add(excess, result["network"], **columns)
    gone = "Share of softmax's excess over the oracle that is gone, paired by seed:"
    return "\n".join([f"## {TITLES[kind]}", "", *lines, gone, "", table(excess, 2)])


if __name__ == "__main__":
    parser = argument_parser(__doc__, seeds=5, steps=STEPS, out=FOLDER)
    parser.add_argument("--kind", choices=list(KINDS), default="noisy")
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), metavar="NAME", help="; ".join(NETWORKS))
    options = parser.parse_args()
    print(report(options.kind, options.seeds, options.steps, options.out, options.networks))
