r"""Regression in context from keys that are not equally reliable: one layer learns it, or does not.

    python benchmarks/in_context.py [--seeds 5] [--steps 700] [--out FOLDER]

A task has 16 hidden keys of 6 dimensions, N(0, I), each with a value N(0, 1). The context shows a token for each: the
key with noise, the log variance of that noise, and the value. Half of the keys, others in each task, have noise of
standard deviation 1.5, the rest of 0.1. A query is one of the hidden keys with noise of 0.3, and the network, which
sees it as one more token, has to give that key's value.

Every network embeds tokens in 32 dimensions, adds what attention of 2 heads gives, and reads off the query's token;
*wide* has as many parameters as the largest of one layer. Each is trained by Adam on tasks that are new in every step,
at one seed the same for all. Its mean squared error is measured on 4,096 other tasks, and once more where the noisy
keys have twice the noise (*shifted*). The Bayes oracle knows how tasks are drawn. Results in FOLDER are kept, and
``--seeds 0`` prints the tables of those that are there.
"""

import argparse
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from reporting import Scores, add, table
from resumable import make_missing, parameters, read
from torch import Tensor, nn

import pyroformer as pf
from pyroformer.models.attention.bayes_rule import responsibilities
from pyroformer.models.transformer.self_attention import SelfAttention

CONTEXT, WIDTH, HEADS, DIMENSIONS = 16, 32, 2, 6
QUIET, NOISY, QUERY = 0.1, 1.5, 0.3
BATCH, TESTS, RATE = 128, 4096, 3e-3
LOOKS = (100, 300, 700)
FOLDER = Path(__file__).parent / "results" / "in_context"


class Tasks(NamedTuple):
    """Noisy keys [b n d], the variances of their noise [b n 1], values [b n 1], queries [b 1 d], answers [b 1 1]."""

    keys: Tensor
    variances: Tensor
    values: Tensor
    queries: Tensor
    answers: Tensor

    @classmethod
    def draw(cls, number: int, generator: torch.Generator, noisy: float = NOISY) -> "Tasks":
        def normal(*shape: int) -> Tensor:
            return torch.randn(number, *shape, generator=generator)

        hidden, values = normal(CONTEXT, DIMENSIONS), normal(CONTEXT, 1)
        order = torch.rand(number, CONTEXT, generator=generator).argsort(-1)
        deviations = torch.where(order < CONTEXT // 2, noisy, QUIET)[..., None]
        keys = hidden + deviations * normal(CONTEXT, DIMENSIONS)
        queries = hidden[:, :1] + QUERY * normal(1, DIMENSIONS)  # keys are exchangeable: the first is any
        return cls(keys, deviations.square(), values, queries, values[:, :1])

    def tokens(self) -> Tensor:
        """The context and the query as tokens: key, log variance, value, and whether it is the query."""
        context = [self.keys, self.variances.log(), self.values, torch.zeros_like(self.values)]
        one = torch.ones_like(self.queries[..., :1])
        query = torch.cat([self.queries, 0 * one, 0 * one, one], -1)
        return torch.cat([torch.cat(context, -1), query], 1)

    def oracle(self) -> Tensor:
        """The posterior mean of the value: given its noisy key a hidden one is Gaussian, and the query is near one."""
        shrinkage = 1 / (1 + self.variances)
        means, variances = shrinkage * self.keys, shrinkage * self.variances
        mixture = pf.Mixture(torch.zeros(len(means), CONTEXT), means, variances, noise_variance=QUERY**2)
        return responsibilities(self.queries, mixture) @ self.values


class Network(nn.Module):
    """Tokens, attention layers with residual connections, and the query's answer."""

    def __init__(self, width: int, layers: list[nn.Module]) -> None:
        super().__init__()
        self.embed, self.layers = nn.Linear(DIMENSIONS + 3, width), nn.ModuleList(layers)
        self.read = nn.Linear(width, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for layer in self.layers:
            x = x + layer(x)
        return self.read(x[:, -1:])


def softmax(width: int = WIDTH, layers: int = 1) -> Network:
    return Network(width, [SelfAttention(width, HEADS) for _ in range(layers)])


def probabilistic(**options: Any) -> Network:
    return Network(WIDTH, [pf.ProbabilisticAttention(WIDTH, HEADS, **options)])


NETWORKS = {
    "softmax": softmax,
    "softmax, wide": lambda: softmax(width=36),
    "softmax, two layers": lambda: softmax(layers=2),
    "a gate of the prior": lambda: probabilistic(precision="shared"),
    "a precision for each key": lambda: probabilistic(precision="key"),
    "diagonal precisions": lambda: probabilistic(precision="diagonal"),
}


def trained(name: str, seed: int, steps: int) -> dict[str, Any]:
    """One network's errors on the way."""
    torch.manual_seed(seed)
    network = NETWORKS[name]()
    optimizer = torch.optim.Adam(network.parameters(), RATE)
    generator = torch.Generator().manual_seed(1000 + seed)
    curve: dict[str, dict[str, float]] = {}
    for step in range(1, steps + 1):
        tasks = Tasks.draw(BATCH, generator)
        loss = (network(tasks.tokens()) - tasks.answers).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step in LOOKS or step == steps:
            curve[str(step)] = tested(network)
    return {"network": name, "seed": seed, "parameters": parameters(network), "curve": curve}


@torch.no_grad()
def tested(network: nn.Module | None) -> dict[str, float]:
    """Mean squared errors on tasks of the same kind and on those with more noise; without a network, the oracle's."""
    errors = {}
    for column, noisy in (("error", NOISY), ("shifted", 2 * NOISY)):
        tasks = Tasks.draw(TESTS, torch.Generator().manual_seed(7), noisy)
        answers = tasks.oracle() if network is None else network(tasks.tokens())
        errors[column] = float((answers - tasks.answers).square().mean())
    return errors


def report(seeds: int, steps: int, out: Path) -> str:
    """Trains what is missing, and the tables of what is there."""
    tasks = []
    for seed in range(seeds):
        for name in NETWORKS:
            file = f"{name.replace(', ', '-').replace(' ', '-')}.seed{seed}"
            tasks.append((file, partial(trained, name, seed, steps)))
    make_missing(out, tasks)
    return tables(out)


def tables(out: Path) -> str:
    """Errors after each look, their means over seeds with standard errors; and what is left of softmax's excess."""
    scores: Scores = {}
    oracle = tested(None)
    results = sorted(read(out), key=lambda result: list(NETWORKS).index(result["network"]))
    for result in results:
        last = max(result["curve"], key=int)
        columns = {f"{step} steps": entry["error"] for step, entry in result["curve"].items()}
        columns["shifted"] = result["curve"][last]["shifted"]
        add(scores, f"{result['network']} ({result['parameters']:,})", **columns)
    lines = [f"Bayes oracle: {oracle['error']:.3f}, shifted {oracle['shifted']:.3f}.", "", table(scores)]
    by_network = {name: [r for r in results if r["network"] == name] for name in NETWORKS}
    base = {r["seed"]: r for r in by_network["softmax"]}
    excess: Scores = {}
    for name, others in by_network.items():
        for result in others:
            if result["seed"] in base and name != "softmax":
                columns = {}
                for step, entry in result["curve"].items():
                    before = base[result["seed"]]["curve"][step]["error"] - oracle["error"]
                    columns[f"{step} steps"] = 1 - (entry["error"] - oracle["error"]) / before
                add(excess, name, **columns)
    gone = "Share of softmax's excess over the oracle that is gone, paired by seed:"
    return "\n".join(["## One layer, keys of unequal reliability", "", *lines, gone, "", table(excess, 2)])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--out", type=Path, default=FOLDER)
    options = parser.parse_args()
    print(report(options.seeds, options.steps, options.out))
