"""Mixtures against other programs' results: faithful and iris by EM, galaxies by SVI.

R's mclust and scikit-learn agree on the first two. R's bayesm has 3 to 6 components of the galaxies in 79 % of draws.
"""

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from torch import Tensor

from pyroformer.inference.em import ConjugatePriors, adapt
from pyroformer.models.attention.bayes_rule import evidence
from pyroformer.models.attention.mixture import Mixture
from pyroformer.models.attention.variances import Covariances


@pytest.fixture(scope="module")
def oracles(data: Path) -> Path:
    """The folder of small data sets with other programs' results."""
    folder = data / "oracles"
    if not folder.is_dir():
        pytest.skip(f"needs the oracles: {folder} is not a folder")
    return folder


def start(queries: Tensor, components: int) -> Mixture:
    """Each cluster of k-means as a component with its own weight, mean and covariance."""
    labels = torch.from_numpy(KMeans(components, n_init=10, random_state=0).fit(queries.numpy()).labels_)
    groups = [queries[labels == n] for n in range(components)]
    covariances = torch.stack([torch.cov(group.T, correction=0) for group in groups])
    weights = torch.tensor([len(group) / len(queries) for group in groups], dtype=torch.double)
    return Mixture(
        weights.log(), torch.stack([group.mean(0) for group in groups]), Covariances(covariances), noise_variance=0.0
    )


@pytest.mark.parametrize(
    "name, columns, components, expected", [("faithful", 2, 2, -1130.2640), ("iris", 4, 3, -180.185)]
)
def test_log_likelihood_is_theirs(oracles: Path, name: str, columns: int, components: int, expected: float) -> None:
    table = np.loadtxt(oracles / f"{name}.csv", delimiter=",", skiprows=1, usecols=range(columns))
    queries = torch.from_numpy(table)
    end = adapt(
        queries, start(queries, components), steps=2000, tolerance=1e-12, covariance="full",
        moves=("means", "variances", "weights"), priors=ConjugatePriors(pseudo_counts=0.0),
    )  # fmt: skip
    assert end.converged
    assert (end.objective.diff() >= -1e-9 * (1 + end.objective[1:].abs())).all()
    assert abs(evidence(queries, end.mixture).sum() - expected) < 1e-3


def test_galaxies_have_a_few_components(oracles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[2] / "benchmarks")
    galaxies = importlib.import_module("galaxies")
    queries = galaxies.velocities(oracles / "galaxies.csv")
    counts, others = galaxies.expected_counts(queries, steps=150, draws=10), galaxies.scikit_learn(queries)
    print(f"\nSVI: {counts.tolist()}\nscikit-learn: {others.tolist()}")
    assert abs(counts.sum() - len(queries)) < 1e-2
    assert 2 <= (counts >= 1).sum() <= 7
    assert 2 <= (others >= 1).sum() <= 7
