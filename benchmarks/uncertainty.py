r"""Predictive uncertainty: attention's mean with a constant residual, its variance, and the whole mixture.

    python benchmarks/uncertainty.py [--seeds 20] [--out FILE]

Regression in one dimension on 300 points of context, x uniform in [-3, 3]; each seed is another draw, scored on 500
points. In the first table the noise depends on x (sd 0.05 on the left, 0.55 on the right) around sin 2x; in the second
the answer is +-(0.3 + |x| / 2) with either sign. Precisions of queries and values have the greatest leave-one-out
density; the first method's precision has the least leave-one-out squared error, and its residual is the one that it
leaves.

Columns: NLL in nats; how often the answer lies in the interval of 90 % posterior probability, everywhere and on the
right; error of the point estimate (distance to sin 2x, root mean square; or to the nearer branch, mean).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from reporting import Scores, add, command_line, table
from torch import Tensor

import pyroformer as pf
from pyroformer.models.attention.bayes_rule import evidence, posterior_mean, responsibilities

CONTEXT, TEST = 300, 500
PRECISIONS = tuple(float(x) for x in np.geomspace(1, 3000, 12))


class Points(NamedTuple):
    inputs: Tensor
    answers: Tensor


class Answer(NamedTuple):
    """The prediction of a method: log density of the true answers, its CDF at them, and a point estimate."""

    log_density: Tensor
    probability: Tensor
    point: Tensor


def heteroscedastic(seed: int, count: int) -> Points:
    generator = np.random.default_rng(seed)
    x = generator.uniform(-3, 3, count)
    return _points(x, np.sin(2 * x) + generator.normal(size=count) * (0.05 + 0.5 * (x > 0)))


def bimodal(seed: int, count: int) -> Points:
    generator = np.random.default_rng(seed)
    x = generator.uniform(-3, 3, count)
    sign = generator.choice([-1.0, 1.0], count)
    return _points(x, sign * (0.3 + np.abs(x) / 2) + generator.normal(0, 0.1, count))


def _points(x: np.ndarray, y: np.ndarray) -> Points:
    return Points(torch.as_tensor(x)[:, None], torch.as_tensor(y)[:, None])


def root_mean_square(points: Points, estimate: Tensor) -> float:
    return float((estimate - torch.sin(2 * points.inputs)).square().mean().sqrt())


def to_nearer_branch(points: Points, estimate: Tensor) -> float:
    return float((estimate.abs() - 0.3 - points.inputs.abs() / 2).abs().mean())


def mixture(context: Points, precision: float, value_precision: float | None = None) -> pf.Mixture:
    own = None if value_precision is None else torch.full((1, 1), 1 / value_precision, dtype=torch.float64)
    weights = torch.zeros(len(context.inputs), dtype=torch.float64).log_softmax(-1)
    return pf.Mixture(
        weights, context.inputs, values=context.answers, noise_variance=1 / precision, value_variances=own
    )


def log_density(points: Points, model: pf.Mixture, attn_mask: Tensor | None = None) -> Tensor:
    """log p(v | u) = log p(u, v) - log p(u)."""
    joint = evidence(points.inputs, model, attn_mask, values=points.answers)
    return joint - evidence(points.inputs, model, attn_mask)


def constant(context: Points, points: Points) -> Answer:
    """The mean, with one residual variance for all."""
    others = ~torch.eye(len(context.inputs), dtype=torch.bool)

    def error(precision: float) -> float:
        means = posterior_mean(context.inputs, mixture(context, precision), others)
        return float((means - context.answers).square().mean())

    best = min(PRECISIONS, key=error)
    mean = pf.attend(points.inputs, mixture(context, best))
    return _normal(points, mean, torch.full_like(mean, error(best)))


def tuned(context: Points) -> pf.Mixture:
    others = ~torch.eye(len(context.inputs), dtype=torch.bool)
    grid = [mixture(context, a, b) for a in PRECISIONS for b in PRECISIONS]
    return max(grid, key=lambda model: float(log_density(context, model, others).mean()))


def matched(model: pf.Mixture, points: Points) -> Answer:
    """One Gaussian with the mean and the variance of the mixture, as returned by attention."""
    mean = pf.attend(points.inputs, model)
    return _normal(points, mean, pf.attend(points.inputs, model, returns="variance"))


def whole(model: pf.Mixture, points: Points) -> Answer:
    """The mixture itself; the point is its mode, by EM from the mean."""
    assert model.values is not None and model.value_variances is not None
    standardized = (points.answers - model.values.mT) / model.value_variances.sqrt()
    below = responsibilities(points.inputs, model) * torch.special.ndtr(standardized)
    return Answer(log_density(points, model), below.sum(-1), pf.em.value_map(points.inputs, model, steps=200))


def _normal(points: Points, mean: Tensor, variance: Tensor) -> Answer:
    standardized = (points.answers - mean) / variance.sqrt()
    density = -0.5 * (standardized.square() + (2 * math.pi * variance).log())
    return Answer(density[:, 0], torch.special.ndtr(standardized)[:, 0], mean)


def compare(draw: Callable[[int, int], Points], error: Callable[[Points, Tensor], float], seeds: int) -> Scores:
    scores: Scores = {}
    for seed in range(seeds):
        context, points = draw(seed, CONTEXT), draw(100 + seed, TEST)
        model = tuned(context)
        answers = {
            "mean, constant residual": constant(context, points),
            "mean and variance": matched(model, points),
            "mixture, mode": whole(model, points),
        }
        right = points.inputs[:, 0] > 0
        for name, answer in answers.items():
            inside = ((answer.probability > 0.05) & (answer.probability < 0.95)).double()
            add(
                scores, name, NLL=-float(answer.log_density.mean()),
                **{"90 % interval": float(inside.mean()), "on the right": float(inside[right].mean())},
                error=error(points, answer.point),
            )  # fmt: skip
    return scores


def report(seeds: int) -> str:
    first, second = compare(heteroscedastic, root_mean_square, seeds), compare(bimodal, to_nearer_branch, seeds)
    return f"Noise that varies, {seeds} seeds\n\n{table(first)}\nTwo branches, {seeds} seeds\n\n{table(second)}"


if __name__ == "__main__":
    command_line(report, __doc__, seeds=20)
