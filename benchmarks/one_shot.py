r"""Classification with one labeled example per class and unlabeled ones: keys adapt to the queries.

    python benchmarks/one_shot.py [--seeds 300] [--out FILE]

A task has 5 Gaussian classes in d = 16 dimensions, means N(0, 0.75^2 I), unit variance; one labeled example of each
and 15 unlabeled ones, all classified together. A seed is a task. Every temperature is tuned by NLL on 40 tasks that
are not reported. Columns: accuracy on the unlabeled examples and NLL of their classes in nats. Tasks of digits are five
of scikit-learn's ten, in 16 principal components of unit variance within classes; half of the images are for tuning,
components and class means, the other half for the tasks that are reported.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from reporting import Scores, command_line, table
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.semi_supervised import LabelSpreading
from torch import Tensor

import pyroformer as pf
from pyroformer.models.attention.bayes_rule import responsibilities

CLASSES, WIDTH, QUERIES, SPREAD = 5, 16, 15, 0.75
PRECISIONS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5)


class Tasks(NamedTuple):
    """Class means, one labeled example per class, unlabeled examples class by class; a batch of tasks."""

    means: Tensor
    support: Tensor
    queries: Tensor

    @property
    def truth(self) -> Tensor:
        return torch.arange(CLASSES).repeat_interleave(QUERIES)

    @classmethod
    def draw(cls, seeds: range) -> "Tasks":
        return cls(*(torch.stack(x) for x in zip(*(_task(seed) for seed in seeds), strict=True)))


def _task(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    means = SPREAD * normal(CLASSES, WIDTH)
    support = means + normal(CLASSES, WIDTH)
    return means, support, means.repeat_interleave(QUERIES, 0) + normal(CLASSES * QUERIES, WIDTH)


def tasks_of_digits(seeds: range, held_out: bool) -> Tasks:
    """Tasks of images of one half, with the class means of the half for tuning."""
    pixels, labels = load_digits(return_X_y=True)
    first = np.random.default_rng(0).permutation(len(pixels)) < len(pixels) // 2
    components = PCA(WIDTH, random_state=0).fit(pixels[first])
    images = torch.as_tensor(components.transform(pixels))
    means = torch.stack([images[first & (labels == digit)].mean(0) for digit in range(10)])
    deviation = (images[first] - means[labels[first]]).square().mean().sqrt()
    images, means = images / deviation, means / deviation
    own = first != held_out
    tasks = []
    for seed in seeds:
        generator = np.random.default_rng(seed)
        digits = generator.permutation(10)[:CLASSES]
        chosen = [generator.permutation(np.flatnonzero(own & (labels == digit)))[: 1 + QUERIES] for digit in digits]
        support = images[[rows[0] for rows in chosen]]
        tasks.append((means[digits], support, images[np.concatenate([rows[1:] for rows in chosen])]))
    return Tasks(*(torch.stack(parts) for parts in zip(*tasks, strict=True)))


Method = Callable[[Tasks, float], Tensor]


def dot_product(tasks: Tasks, temperature: float) -> Tensor:
    return responsibilities(
        temperature * WIDTH**0.5 * tasks.queries, pf.Mixture.from_attention(tasks.support, tasks.support)
    )


def squared_distance(tasks: Tasks, precision: float) -> Tensor:
    return responsibilities(tasks.queries, _mixture(tasks.support, precision))


def adapted(steps: int, variational: bool = False) -> Method:
    """EM of the class means, each under the prior N(its labeled example, I)."""

    def method(tasks: Tasks, precision: float) -> Tensor:
        priors = pf.em.ConjugatePriors(pseudo_counts=1 / precision)
        start = _mixture(tasks.support, precision)
        state = pf.em.adapt(tasks.queries, start, steps=steps, priors=priors, variational=variational)
        return responsibilities(tasks.queries, state.mixture)

    return method


def k_means(tasks: Tasks, _: float) -> Tensor:
    """Lloyd's algorithm from the labeled examples; hard assignments."""
    labels = [
        KMeans(CLASSES, init=support, n_init=1).fit_predict(queries)
        for support, queries in zip(tasks.support.numpy(), tasks.queries.numpy(), strict=True)
    ]
    return torch.nn.functional.one_hot(torch.as_tensor(np.stack(labels)).long(), CLASSES).double()


def label_spreading(tasks: Tasks, gamma: float) -> Tensor:
    """Label spreading from the labeled examples over the graph of all."""
    known = np.concatenate([np.arange(CLASSES), np.full(CLASSES * QUERIES, -1)])
    shares = [
        LabelSpreading(gamma=gamma, max_iter=200).fit(torch.cat(both).numpy(), known).label_distributions_[CLASSES:]
        for both in zip(tasks.support, tasks.queries, strict=True)
    ]
    return torch.as_tensor(np.stack(shares))


def oracle(tasks: Tasks, _: float) -> Tensor:
    return responsibilities(tasks.queries, _mixture(tasks.means, 1.0))


def _mixture(vectors: Tensor, precision: float) -> pf.Mixture:
    return pf.Mixture(vectors.new_zeros(CLASSES).log_softmax(-1), vectors, noise_variance=1 / precision)


METHODS: dict[str, Method] = {
    "dot product": dot_product,
    "L2": squared_distance,
    "keys adapted, 1 step": adapted(1),
    "keys adapted, 3 steps": adapted(3),
    "keys adapted, 20 steps": adapted(20),
    "variational keys, 20 steps": adapted(20, variational=True),
    "k-means from the labeled": k_means,
    "label spreading": label_spreading,
    "oracle: the class means": oracle,
}


def scores(shares: Tensor, truth: Tensor) -> dict[str, list[float]]:
    """Accuracy and NLL of every task."""
    right = shares.gather(-1, truth.expand(shares.shape[:-1])[..., None])[..., 0]
    hits = (shares.argmax(-1) == truth).double()
    return {"accuracy": hits.mean(-1).tolist(), "NLL": (-right.clamp_min(1e-12).log()).mean(-1).tolist()}


def compared(tasks: Tasks, others: Tasks) -> Scores:
    """The scores of all methods, each at the precision that is best on the other tasks."""
    results: Scores = {}
    for name, method in METHODS.items():
        if method in (oracle, k_means):
            results[name] = scores(method(tasks, 1.0), tasks.truth)
        else:
            best = min(PRECISIONS, key=lambda p: sum(scores(method(others, p), others.truth)["NLL"]))
            results[f"{name} ({best:g})"] = scores(method(tasks, best), tasks.truth)
    del results["k-means from the labeled"]["NLL"]  # it has no probabilities
    return results


def gains(results: Scores) -> str:
    """What adapting keys adds to the accuracy of attention by distance, paired by task."""
    rows = {name.split(" (")[0]: np.array(row["accuracy"]) for name, row in results.items()}
    added: Scores = {"": {}}
    for steps in ("1 step", "3 steps", "20 steps"):
        added[""][steps] = (rows[f"keys adapted, {steps}"] - rows["L2"]).tolist()
    return f"Accuracy less that of L2, paired by task:\n\n{table(added)}"


def report(seeds: int) -> str:
    gaussian = compared(Tasks.draw(range(seeds)), Tasks.draw(range(9000, 9040)))
    digits = compared(tasks_of_digits(range(seeds), True), tasks_of_digits(range(9000, 9040), False))
    named = {f"digits, {name}": row for name, row in digits.items()}
    return "\n".join(
        [f"{seeds} tasks; in brackets the tuned precision\n", table(gaussian), table(named), gains(digits)]
    )


if __name__ == "__main__":
    command_line(report, __doc__, seeds=300)
