r"""Mixtures in context: the class of each point, from one labeled point a class and the unlabeled points themselves.

    python benchmarks/mixtures_in_context.py [--seeds 3] [--steps 2000] [--out FOLDER]

A task has K classes with means N(0, 1.5^2 I) in d dimensions, and points N(mean, I): one labeled of each class, with
a label out of eight, and 32 unlabeled. K is drawn from 2 to 5 and d from 2 to 6 for each batch of 64 tasks. A network
sees points as tokens, attends once or twice without layers in between, and gives each unlabeled point the
probabilities of the labels. The measure is the KL divergence, in nats a point, from the posterior of one who knows the
class means; on 512 tasks each in the range of training, with 8 classes, with 8 dimensions, and with means half as far
apart. *cross* attends from all points to the labeled ones alone; with EM its keys adapt to all points first, and the
gradient is that of all steps, or of the fixed point.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from reporting import Scores, add, argument_parser, table
from resumable import file_name, make_missing, parameters, read
from torch import Tensor, nn

import pyroformer as pf
from pyroformer.models.attention.bayes_rule import responsibilities
from pyroformer.models.attention.key_adaptation import adapt_keys
from pyroformer.models.transformer.self_attention import SelfAttention

LABELS, MOST, UNLABELED, SPREAD = 8, 8, 32, 1.5
WIDTH, HEADS, BATCH, TESTS, RATE = 32, 2, 64, 512, 3e-3
CLASSES, DIMENSIONS = (2, 5), (2, 6)
SETTINGS = {"in range": (4, 4, 1.5), "8 classes": (8, 4, 1.5), "8 dimensions": (4, 8, 1.5), "half as far": (4, 4, 0.75)}
FOLDER = Path(__file__).parent / "results" / "mixtures_in_context"


class Tasks(NamedTuple):
    """Points [b K+32 d], of which the first K are labeled, the labels [b K] of the classes, and their means [b K d]."""

    points: Tensor
    labels: Tensor
    means: Tensor

    @classmethod
    def draw(cls, number: int, classes: int, width: int, spread: float, generator: torch.Generator) -> "Tasks":
        means = spread * torch.randn(number, classes, width, generator=generator)
        own = torch.randint(classes, (number, UNLABELED), generator=generator)
        own = torch.cat([torch.arange(classes).expand(number, -1), own], 1)
        points = means.gather(1, own[..., None].expand(-1, -1, width))
        points = points + torch.randn(points.shape, generator=generator)
        return cls(points, torch.rand(number, LABELS, generator=generator).argsort(-1)[:, :classes], means)

    @property
    def classes(self) -> int:
        return self.labels.shape[1]

    def tokens(self) -> Tensor:
        """Points padded to 8 dimensions, and their labels, zero where there is none."""
        labels = F.one_hot(self.labels, LABELS).float()
        return torch.cat(
            [F.pad(self.points, (0, MOST - self.points.shape[-1])), F.pad(labels, (0, 0, 0, UNLABELED))], -1
        )

    def posterior(self, mixture: pf.Mixture) -> Tensor:
        """Probabilities of the labels of unlabeled points under a mixture with one component for each class."""
        weights = responsibilities(self.points[:, self.classes :], mixture)
        return weights @ F.one_hot(self.labels, LABELS).float()

    def mixture(self, means: Tensor) -> pf.Mixture:
        return pf.Mixture(torch.zeros(means.shape[:2]), means, noise_variance=1.0)

    def oracle(self) -> Tensor:
        return self.posterior(self.mixture(self.means))


class Network(nn.Module):
    """Tokens, attention with residual connections, and log probabilities of the labels that a task has."""

    def __init__(self, layers: list[nn.Module], cross: bool = False) -> None:
        super().__init__()
        self.embed, self.read = nn.Linear(MOST + LABELS, WIDTH), nn.Linear(WIDTH, LABELS)
        self.layers, self.cross = nn.ModuleList(layers), cross

    def forward(self, tasks: Tasks) -> Tensor:
        x = self.embed(tasks.tokens())
        for layer in self.layers:
            x = x + (layer(x, x[:, : tasks.classes]) if self.cross else layer(x))
        known = F.one_hot(tasks.labels, LABELS).sum(1, keepdim=True).bool()
        return torch.where(known, self.read(x[:, tasks.classes :]), -torch.inf).log_softmax(-1)


def softmax(layers: int) -> Network:
    return Network([SelfAttention(WIDTH, HEADS) for _ in range(layers)])


def cross(layers: int = 1, **options: Any) -> Network:
    return Network([pf.ProbabilisticCrossAttention(WIDTH, HEADS, **options) for _ in range(layers)], cross=True)


NETWORKS: dict[str, Callable[[], Network]] = {
    "softmax, one layer": partial(softmax, 1),
    "softmax, two layers": partial(softmax, 2),
    "cross, softmax": partial(cross, precision="shared", prior="magnitude"),
    "cross, a gate of the prior": partial(cross, precision="shared"),
    "cross, one EM step": partial(cross, precision="shared", steps=1),
    "cross, EM to its end": partial(cross, precision="shared", steps=10, tolerance=0.05),
    "cross, fixed point": partial(cross, precision="shared", steps=30, tolerance=0.01, gradient="implicit"),
}


def divergence(log_probabilities: Tensor, oracle: Tensor) -> Tensor:
    """KL(oracle || network) in nats, its mean over points."""
    safe = torch.where(oracle > 0, log_probabilities, 0)
    return (torch.special.xlogy(oracle, oracle) - oracle * safe).sum(-1).mean()


def trained(name: str, seed: int, steps: int) -> dict[str, Any]:
    """One network's divergences after training on the labels that points truly have."""
    torch.manual_seed(seed)
    network, generator = NETWORKS[name](), torch.Generator().manual_seed(1000 + seed)
    optimizer = torch.optim.Adam(network.parameters(), RATE)
    for _ in range(steps):
        classes, width = (
            int(torch.randint(low, high + 1, (), generator=generator)) for low, high in (CLASSES, DIMENSIONS)
        )
        tasks = Tasks.draw(BATCH, classes, width, SPREAD, generator)
        loss = divergence(network(tasks), tasks.oracle())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
    with torch.no_grad():
        tested = {setting: float(divergence(network(tasks), tasks.oracle())) for setting, tasks in test_tasks()}
    return {"network": name, "seed": seed, "parameters": parameters(network), "divergence": tested}


def test_tasks() -> list[tuple[str, Tasks]]:
    return [(name, Tasks.draw(TESTS, *how, torch.Generator().manual_seed(7))) for name, how in SETTINGS.items()]


def references() -> Scores:
    """EM that knows the noise, without training: on the labeled points alone, and on all points."""
    scores: Scores = {}
    for setting, tasks in test_tasks():
        start, oracle = tasks.mixture(tasks.points[:, : tasks.classes]), tasks.oracle()
        for name, steps in (("labeled points as means", 0), ("EM, one step", 1), ("EM, 50 steps", 50)):
            fitted = adapt_keys(tasks.points[:, tasks.classes :], start, steps=steps)
            add(scores, name, **{setting: float(divergence(tasks.posterior(fitted).log(), oracle))})
    return scores


def report(seeds: int, steps: int, out: Path) -> str:
    """Trains what is missing, and the table of what is there."""
    tasks = [
        (file_name(name, f"seed{seed}"), partial(trained, name, seed, steps))
        for seed in range(seeds)
        for name in NETWORKS
    ]
    make_missing(out, tasks)
    scores: Scores = {}
    for result in sorted(read(out), key=lambda result: list(NETWORKS).index(result["network"])):
        add(scores, f"{result['network']} ({result['parameters']:,})", **result["divergence"])
    untrained = references()
    lines = [
        "| " + " | ".join([name, *(f"{x[0]:.3f}" for x in row.values())]) + " |" for name, row in untrained.items()
    ]
    return "\n".join(["## Mixtures in context", "", table(scores).rstrip(), *lines, ""])


if __name__ == "__main__":
    options = argument_parser(__doc__, seeds=3, steps=2000, out=FOLDER).parse_args()
    print(report(options.seeds, options.steps, options.out))
