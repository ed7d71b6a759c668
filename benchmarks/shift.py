r"""Covariate shift with a few labeled queries: gain of adaptation, and its cost without a shift.

    python benchmarks/shift.py [--seeds 10] [--out FILE]

scikit-learn's digits, first 20 principal components of 900 source images. The memory is 4 k-means centers of each class
with the class as value. The queries are 400 other images, all moved, rotated or inverted, of which 0, 10, 40 or 100 are
labeled with their class. Scores are accuracies on the queries that are not.

Every method's settings, the baselines' too, are those of the best mean accuracy over 0, 10 and 40 labels on
blurred images of two other splits; no reported shift tunes anything.

The last tables are of a gate, run from end to end: keys and values adapt only if the mean evidence of the first 50
queries is more than 3 standard deviations below that of batches of 50 held-out source images; otherwise it is L2
attention that answers.
"""

from collections.abc import Callable
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from reporting import Scores, add, command_line, table
from scipy import ndimage
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.semi_supervised import LabelSpreading
from torch import Tensor

import pyroformer as pf

CLASSES, SOURCE, QUERIES, STEPS, BATCH, THRESHOLD = 10, 900, 400, 30, 50, -3.0
LABELED = (0, 10, 40, 100)
TUNED_ON = (0, 10, 40)

Images = np.ndarray
Settings = tuple[float, ...]


def none(images: Images) -> Images:
    return images


def blur(images: Images) -> Images:
    return ndimage.gaussian_filter(images, (0, 0.9, 0.9))


def move(images: Images) -> Images:
    return np.roll(images, 1, axis=2)


def rotate(images: Images) -> Images:
    return np.clip(ndimage.rotate(images, 25, axes=(2, 1), reshape=False, order=1), 0, 1)


def invert(images: Images) -> Images:
    return 1 - images


SHIFTS = {"none": none, "move 1 pixel": move, "rotate 25°": rotate, "invert": invert}


class Problem(NamedTuple):
    """The input of a method, and the classes of the queries, of which it may use the labeled ones."""

    source: Tensor
    source_labels: Tensor
    held_out: Tensor
    memory: Tensor
    values: Tensor
    queries: Tensor
    labels: Tensor
    value_mask: Tensor

    @property
    def one_hot(self) -> Tensor:
        return torch.nn.functional.one_hot(self.labels, CLASSES).double()

    def mixture(self, precision: float, value_precision: float | None = None) -> pf.Mixture:
        """Equal weights, the memory's centers, one precision of queries and one of values."""
        own = None if value_precision is None else torch.full((1, 1), 1 / value_precision, dtype=torch.float64)
        weights = torch.zeros(len(self.memory), dtype=torch.float64).log_softmax(-1)
        return pf.Mixture(weights, self.memory, values=self.values, noise_variance=1 / precision, value_variances=own)

    def with_labels(self, count: int, seed: int) -> "Problem":
        value_mask = torch.zeros(len(self.labels), dtype=torch.bool)
        value_mask[np.random.default_rng(seed).permutation(len(self.labels))[:count]] = True
        return self._replace(value_mask=value_mask)


def draw(shift: Callable[[Images], Images], seed: int) -> Problem:
    digits = load_digits()
    images, labels = digits.images / 16, torch.as_tensor(digits.target)
    train, test, rest = np.split(np.random.default_rng(seed).permutation(len(images)), [SOURCE, SOURCE + QUERIES])
    pca = PCA(20, random_state=0).fit(images[train].reshape(SOURCE, -1))

    def project(some: Images) -> Tensor:
        return torch.as_tensor(pca.transform(some.reshape(len(some), -1)))

    source, classes = project(images[train]), labels[train]
    each = [KMeans(4, n_init=2, random_state=seed).fit(source[classes == c].numpy()) for c in range(CLASSES)]
    memory = torch.as_tensor(np.concatenate([fit.cluster_centers_ for fit in each]))
    values = torch.eye(CLASSES, dtype=torch.float64).repeat_interleave(4, 0)
    held_out, queries = project(images[rest]), project(shift(images[test]))
    unlabeled = torch.zeros(QUERIES, dtype=torch.bool)
    return Problem(source, classes, held_out, memory, values, queries, labels[test], unlabeled)


Method = Callable[..., Tensor]


def dot_product(problem: Problem, temperature: float) -> Tensor:
    scale = temperature * problem.memory.shape[-1] ** 0.5
    return pf.attend(scale * problem.queries, pf.Mixture.from_attention(problem.memory, problem.values))


def squared_distance(problem: Problem, precision: float) -> Tensor:
    return pf.attend(problem.queries, problem.mixture(precision))


def moments_matched(problem: Problem, precision: float) -> Tensor:
    """Queries standardized to the memory's mean and standard deviation in every dimension."""
    queries, memory = problem.queries, problem.memory
    moved = (queries - queries.mean(0)) / queries.std(0) * memory.std(0) + memory.mean(0)
    return pf.attend(moved, problem.mixture(precision))


def keys(problem: Problem, precision: float, prior: float) -> Tensor:
    """Keys adapt to all queries; labels are not used."""
    priors = pf.em.ConjugatePriors(pseudo_counts=prior)
    state = pf.em.adapt(problem.queries, problem.mixture(precision), steps=STEPS, priors=priors)
    return pf.attend(problem.queries, state.mixture)


def adapted_to_labels(moves: tuple[pf.em.Moves, ...]) -> Method:
    """The parameters in ``moves`` adapt; labels enter the E-step."""

    def method(problem: Problem, precision: float, prior: float, value_precision: float, value_prior: float) -> Tensor:
        state = pf.em.adapt(
            problem.queries,
            problem.mixture(precision, value_precision),
            values=problem.one_hot,
            value_mask=problem.value_mask,
            steps=STEPS,
            moves=moves,
            priors=pf.em.ConjugatePriors(pseudo_counts=prior, value_pseudo_counts=value_prior),
        )
        return pf.attend(problem.queries, state.mixture)

    return method


def logistic(problem: Problem, strength: float, weight: float) -> Tensor:
    """Logistic regression on the source and the labeled queries, which weigh more."""
    inputs = torch.cat([problem.source, problem.queries[problem.value_mask]]).numpy()
    labels = torch.cat([problem.source_labels, problem.labels[problem.value_mask]]).numpy()
    weights = np.where(np.arange(len(labels)) < len(problem.source), 1.0, weight)
    model = LogisticRegression(C=strength, max_iter=1000).fit(inputs, labels, sample_weight=weights)
    return torch.as_tensor(model.predict_proba(problem.queries.numpy()))


def spreading(problem: Problem, gamma: float, alpha: float) -> Tensor:
    """Labels of the labeled queries spread over all queries."""
    if not problem.value_mask.any():
        return torch.full((len(problem.queries), CLASSES), torch.nan)
    return _spread(problem.queries, torch.where(problem.value_mask, problem.labels, -1), gamma, alpha)


def spreading_with_source(problem: Problem, gamma: float, alpha: float) -> Tensor:
    """Labels of the source and of the labeled queries spread over both."""
    labels = torch.cat([problem.source_labels, torch.where(problem.value_mask, problem.labels, -1)])
    return _spread(torch.cat([problem.source, problem.queries]), labels, gamma, alpha)[len(problem.source) :]


def _spread(points: Tensor, labels: Tensor, gamma: float, alpha: float) -> Tensor:
    model = LabelSpreading(gamma=gamma, alpha=alpha, max_iter=1000, tol=1e-3).fit(points.numpy(), labels.numpy())
    shares = torch.zeros(len(points), CLASSES, dtype=torch.float64)
    shares[:, model.classes_] = torch.as_tensor(model.label_distributions_)
    return shares


PRECISIONS, PRIORS = (3.0, 6.0, 12.0), (1.0, 3.0, 10.0, 30.0)
FULL = tuple(product(PRECISIONS, PRIORS, (2.0, 8.0), (0.1, 0.5, 2.0)))
METHODS: dict[str, tuple[Method, tuple[Settings, ...]]] = {
    "dot product": (dot_product, tuple((t,) for t in (0.5, 1.0, 2.0, 4.0, 8.0, 16.0))),
    "L2": (squared_distance, tuple((p,) for p in (0.5, 1.0, 3.0, 6.0, 12.0, 25.0))),
    "L2, moments matched": (moments_matched, tuple((p,) for p in (0.5, 1.0, 3.0, 6.0, 12.0, 25.0))),
    "keys, labels ignored": (keys, tuple(product(PRECISIONS, PRIORS))),
    "keys": (adapted_to_labels(("means",)), tuple(product(PRECISIONS, PRIORS, (2.0, 8.0), (1.0,)))),
    "values": (adapted_to_labels(("values",)), tuple(product(PRECISIONS, (1.0,), (2.0, 8.0), (0.1, 0.5, 2.0)))),
    "keys and values": (adapted_to_labels(("means", "values")), FULL),
    "logistic regression": (logistic, tuple(product((0.1, 1.0, 10.0), (1.0, 5.0, 25.0)))),
    "label spreading": (spreading, tuple(product((0.5, 2.0, 5.0), (0.2, 0.8)))),
    "label spreading, source too": (spreading_with_source, tuple(product((0.5, 2.0, 5.0), (0.2, 0.8)))),
}


def accuracy(shares: Tensor, problem: Problem) -> float:
    if shares.isnan().any():
        return float("nan")
    right = shares.argmax(-1) == problem.labels
    return float(right[~problem.value_mask].double().mean())


def tune(splits: int = 2) -> dict[str, Settings]:
    """Every method's best settings on blurred images."""
    problems = [draw(blur, 100 + s).with_labels(n, s) for s in range(splits) for n in TUNED_ON]

    def score(method: Method, settings: Settings) -> float:
        return float(np.nanmean([accuracy(method(p, *settings), p) for p in problems]))

    return {name: max(grid, key=lambda s: score(method, s)) for name, (method, grid) in METHODS.items()}


def compare(settings: dict[str, Settings], shift: Callable[[Images], Images], seeds: int) -> Scores:
    scores: Scores = {}
    for seed in range(seeds):
        problem = draw(shift, seed)
        for count in LABELED:
            some = problem.with_labels(count, seed)
            for name, (method, _) in METHODS.items():
                result = accuracy(method(some, *settings[name]), some)
                if not np.isnan(result):
                    add(scores, name, **{f"{count} labeled": result})
    return scores


def surprise(problem: Problem, precision: float, seed: int) -> float:
    """Standard deviations between the evidence of the first queries and that of batches of held-out source images."""
    mixture, generator = problem.mixture(precision), np.random.default_rng(seed)
    familiar = pf.attend(problem.held_out, mixture, returns="evidence").numpy()
    batches = [generator.choice(familiar, BATCH, replace=False).mean() for _ in range(20)]
    seen = float(pf.attend(problem.queries[:BATCH], mixture, returns="evidence").mean())
    return float((seen - np.mean(batches)) / np.std(batches))


def gate(settings: dict[str, Settings], seeds: int, count: int) -> Scores:
    """Attention as it is, always adapted, adapted where the gate opens, and how often it does."""
    scores: Scores = {}
    adapt, _ = METHODS["keys and values"]
    for name, shift in {**SHIFTS, "blur": blur}.items():
        for seed in range(seeds):
            problem = draw(shift, seed).with_labels(count, seed)
            plain = accuracy(squared_distance(problem, *settings["L2"]), problem)
            moved = accuracy(adapt(problem, *settings["keys and values"]), problem)
            z = surprise(problem, settings["keys and values"][0], seed)
            gated, opened = (moved, 1.0) if z < THRESHOLD else (plain, 0.0)
            add(scores, name, never=plain, always=moved, gated=gated, **{"gate opened": opened, "z": z})
    return scores


def report(seeds: int) -> str:
    settings = tune()
    parts = [f"Settings chosen on blur: {'; '.join(f'{n} {s}' for n, s in settings.items())}\n"]
    for name, shift in SHIFTS.items():
        parts.append(f"Shift: {name}, {seeds} seeds\n\n{table(compare(settings, shift, seeds))}")
    for count in (0, 10):
        parts.append(
            f"Gate at z < {THRESHOLD:g}, {count} labeled, {seeds} seeds\n\n{table(gate(settings, seeds, count))}"
        )
    return "\n".join(parts)


if __name__ == "__main__":
    command_line(report, __doc__, seeds=10)
