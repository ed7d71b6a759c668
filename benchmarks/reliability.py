r"""Keys of unequal reliability and keys with missing entries: attention with a variance for each.

    python benchmarks/reliability.py [--seeds 20] [--out FILE]

A memory of K = 64 vectors in d = 16 dimensions; a query is one of them with noise of sd 0.3, and the task is to say
which. In the first table half of the stored keys are corrupted with sd 1.5, the others with 0.1, and the sd is known.
In the second 60 % of the entries of the keys are missing. A mixture represents both by its variances, the uncertainty
of the vector given its key. Baselines have their temperature tuned by NLL on five draws of their own.

Columns: how often the right component has the most weight, its NLL in nats, mean squared error of the value.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from reporting import Scores, add, command_line, table
from torch import Tensor

import pyroformer as pf
from pyroformer.models.attention.bayes_rule import log_joint

UNITS, WIDTH, VALUES, QUERIES = 64, 16, 8, 512
NOISE = 0.3**2
TEMPERATURES = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0, 12.0)


class Draw(NamedTuple):
    """Stored keys, the variance of their corruption, a mask of known entries, queries and the true vectors."""

    keys: Tensor
    corruption: Tensor
    known: Tensor
    values: Tensor
    queries: Tensor
    truth: Tensor


Method = Callable[[Draw], Tensor]
Tuned = Callable[[Draw, float], Tensor]


def unequal(seed: int) -> Draw:
    """Half of the keys corrupted with sd 1.5, the others with 0.1."""
    return _draw(seed, lambda g: torch.where(torch.rand(UNITS, 1, generator=g) < 0.5, 1.5, 0.1).double().square(), 0.0)


def missing(seed: int) -> Draw:
    """60 % of the entries unknown."""
    return _draw(seed, lambda g: torch.zeros(UNITS, 1, dtype=torch.float64), 0.6)


def _draw(seed: int, corruption: Callable[[torch.Generator], Tensor], hidden: float) -> Draw:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    vectors, variances = normal(UNITS, WIDTH), corruption(generator)
    known = torch.rand(UNITS, WIDTH, generator=generator) >= hidden
    keys = (vectors + variances.sqrt() * normal(UNITS, WIDTH)) * known
    truth = torch.randint(UNITS, (QUERIES,), generator=generator)
    queries = vectors[truth] + NOISE**0.5 * normal(QUERIES, WIDTH)
    return Draw(keys, variances, known, normal(UNITS, VALUES), queries, truth)


def dot_product(draw: Draw, temperature: float) -> Tensor:
    mixture = pf.Mixture.from_attention(draw.keys, draw.values)
    return log_joint(temperature * WIDTH**0.5 * draw.queries, mixture)


def squared_distance(draw: Draw, temperature: float) -> Tensor:
    return log_joint(draw.queries, mixture(draw, draw.keys, noise=1 / temperature))


def known_entries(draw: Draw, temperature: float) -> Tensor:
    """The mean squared distance over the entries that are known."""
    distances = (draw.queries[:, None] - draw.keys).square() * draw.known
    return -0.5 * temperature * WIDTH * distances.sum(-1) / draw.known.sum(-1).clamp_min(1)


def precision(draw: Draw) -> Tensor:
    """The posterior of each vector: its prior N(0, I) times the likelihood of its corrupted key."""
    return log_joint(draw.queries, _posterior(draw))


def precision_unshrunk(draw: Draw) -> Tensor:
    """The corruption alone, without the prior of the vectors."""
    return log_joint(draw.queries, mixture(draw, draw.keys, draw.corruption))


def precision_without_log_det(draw: Draw) -> Tensor:
    """The formula of the authors' published code: weights that cancel the Gaussians' normalizers."""
    posterior = _posterior(draw)
    assert isinstance(posterior.variances, Tensor)
    normalizer = 0.5 * WIDTH * (posterior.variances[:, 0] + NOISE).log()
    return log_joint(draw.queries, mixture(draw, posterior.means, posterior.variances, log_weights=normalizer))


def unsupervised(draw: Draw) -> Tensor:
    """EM of keys and precisions on the queries; which keys are corrupted is unknown."""
    start = mixture(draw, draw.keys, torch.ones_like(draw.corruption), noise=0.0)
    priors = pf.em.ConjugatePriors(pseudo_counts=1.0, shape=2.0, rate=0.5)
    state = pf.em.adapt(draw.queries, start, steps=20, moves=("means", "variances"), priors=priors)
    return log_joint(draw.queries, state.mixture)


def variational(draw: Draw) -> Tensor:
    """Keys adapted to the queries with known corruption, and a posterior for each vector."""
    posterior = _posterior(draw)
    assert isinstance(posterior.variances, Tensor)
    priors = pf.em.ConjugatePriors(pseudo_counts=NOISE / posterior.variances[:, 0])
    start = mixture(draw, posterior.means)
    return log_joint(draw.queries, pf.em.adapt(draw.queries, start, steps=30, priors=priors, variational=True).mixture)


def marginalized(draw: Draw) -> Tensor:
    """A missing entry is one with its prior variance, 1."""
    return log_joint(draw.queries, mixture(draw, draw.keys, (~draw.known).double()))


def mixture(
    draw: Draw,
    vectors: Tensor,
    variances: Tensor | None = None,
    log_weights: Tensor | None = None,
    noise: float = NOISE,
) -> pf.Mixture:
    weights = draw.keys.new_zeros(UNITS) if log_weights is None else log_weights
    return pf.Mixture(weights.log_softmax(-1), vectors, variances, values=draw.values, noise_variance=noise)


def _posterior(draw: Draw) -> pf.Mixture:
    shrinkage = 1 / (1 + draw.corruption)
    return mixture(draw, shrinkage * draw.keys, shrinkage * draw.corruption)


def scores(logits: Tensor, draw: Draw) -> dict[str, float]:
    weights = logits.softmax(-1)
    right = logits.log_softmax(-1)[torch.arange(QUERIES), draw.truth]
    return {
        "top-1": float((logits.argmax(-1) == draw.truth).double().mean()),
        "NLL": -float(right.mean()),
        "value MSE": float((weights @ draw.values - draw.values[draw.truth]).square().mean()),
    }


def tune(method: Tuned, draw: Callable[[int], Draw]) -> float:
    """The temperature with the lowest NLL on five separate draws."""
    draws = [draw(1000 + index) for index in range(5)]
    return min(TEMPERATURES, key=lambda t: sum(scores(method(d, t), d)["NLL"] for d in draws))


def compare(draw: Callable[[int], Draw], tuned: dict[str, Tuned], untuned: dict[str, Method], seeds: int) -> Scores:
    results: Scores = {}
    for name, method in tuned.items():
        temperature = tune(method, draw)
        for seed in range(seeds):
            data = draw(seed)
            add(results, f"{name} ({temperature:g})", **scores(method(data, temperature), data))
    for name, fixed in untuned.items():
        for seed in range(seeds):
            data = draw(seed)
            add(results, name, **scores(fixed(data), data))
    return results


def report(seeds: int) -> str:
    first = compare(
        unequal,
        {"dot product, tuned": dot_product, "L2, tuned": squared_distance},
        {
            "precision of each unit": precision,
            "the same without log-determinant": precision_without_log_det,
            "the same without shrinking keys": precision_unshrunk,
            "EM, precisions unknown": unsupervised,
            "variational keys, corruption known": variational,
        },
        seeds,
    )
    second = compare(
        missing,
        {"dot product, zeros": dot_product, "L2, zeros": squared_distance, "L2 of known entries": known_entries},
        {"precision of each entry": marginalized},
        seeds,
    )
    parts = {"Keys of unequal reliability": first, "Missing entries": second}
    return "\n".join(f"{title}, {seeds} seeds\n\n{table(scores)}" for title, scores in parts.items())


if __name__ == "__main__":
    command_line(report, __doc__, seeds=20)
