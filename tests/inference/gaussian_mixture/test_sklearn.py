"""The estimator against scikit-learn: its contract, and its own mixture from the same start on eight real data sets."""

import re
from pathlib import Path

import numpy as np
import pytest
import sklearn.datasets
import sklearn.mixture
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import pyroformer as pf

KINDS = ["spherical", "diag", "tied", "full"]


def rows(name: str) -> np.ndarray:
    """A data set that ships inside scikit-learn; digits with every fifth pixel, images as pixels."""
    if name == "china":
        return sklearn.datasets.load_sample_image("china.jpg")[::24, ::24].reshape(-1, 3) / 255
    if name == "flower":
        return sklearn.datasets.load_sample_image("flower.jpg")[::24, ::24].reshape(-1, 3) / 255
    table = getattr(sklearn.datasets, f"load_{name}")().data
    return table[::2, ::5] if name == "digits" else table


def start(table: np.ndarray, kind: str, components: int) -> dict[str, object]:
    precision = 1 / (table.var(0) + 1e-2)
    precisions = {
        "spherical": np.full(components, precision.mean()),
        "diag": np.tile(precision, (components, 1)),
        "tied": np.diag(precision),
        "full": np.tile(np.diag(precision), (components, 1, 1)),
    }
    means = table[np.random.RandomState(0).permutation(len(table))[:components]]
    return {
        "weights_init": np.full(components, 1 / components),
        "means_init": means,
        "precisions_init": precisions[kind],
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["iris", "wine", "breast_cancer", "digits", "diabetes", "linnerud", "china", "flower"])
@pytest.mark.filterwarnings("ignore:.*converge:sklearn.exceptions.ConvergenceWarning")
def test_all_is_as_in_scikit_learn(name: str, kind: str) -> None:
    table = rows(name)
    options = {"covariance_type": kind, "reg_covar": 1e-4, "max_iter": 12, "tol": 1e-4, **start(table, kind, 2)}
    theirs = sklearn.mixture.GaussianMixture(2, **options).fit(table)
    ours = pf.GaussianMixture(2, **options).fit(table)
    assert ours.n_iter_ == theirs.n_iter_ and ours.converged_ == theirs.converged_
    np.testing.assert_allclose(ours.lower_bounds_, theirs.lower_bounds_, rtol=1e-9)
    for name in ("weights_", "means_", "covariances_", "precisions_"):
        value = getattr(theirs, name)
        np.testing.assert_allclose(getattr(ours, name), value, rtol=1e-6, atol=1e-8 * np.abs(value).max(), err_msg=name)
    np.testing.assert_allclose(ours.predict_proba(table), theirs.predict_proba(table), atol=1e-8)
    np.testing.assert_allclose(ours.score_samples(table), theirs.score_samples(table), rtol=1e-8, atol=1e-8)
    for criterion in ("score", "bic", "aic"):
        np.testing.assert_allclose(getattr(ours, criterion)(table), getattr(theirs, criterion)(table), rtol=1e-9)


@pytest.mark.filterwarnings("ignore:Estimator GaussianMixture does not inherit:UserWarning")
@pytest.mark.parametrize("kind", ["full", "spherical"])
def test_it_is_an_estimator_to_scikit_learn(kind: str) -> None:
    check_estimator(pf.GaussianMixture(covariance_type=kind), on_skip=None)


def test_it_goes_into_pipelines_and_searches() -> None:
    table = rows("iris")
    steps = make_pipeline(StandardScaler(), pf.GaussianMixture(random_state=0, tol=1e-2))
    search = GridSearchCV(steps, {"gaussianmixture__n_components": [1, 3]}, cv=2).fit(table[::2])
    assert search.best_params_ == {"gaussianmixture__n_components": 3} or search.best_score_ < 0
    copy = clone(pf.GaussianMixture(2, priors=pf.em.ConjugatePriors(pseudo_counts=0.1)))
    assert copy.priors == pf.em.ConjugatePriors(pseudo_counts=0.1) and copy.n_components == 2


def test_its_warning_and_error_are_those_that_users_of_scikit_learn_know() -> None:
    with pytest.warns(ConvergenceWarning, match=r"not converged in max_iter=2 steps.*Raise max_iter or tol"):
        pf.GaussianMixture(3, max_iter=2, tol=0.0).fit(rows("iris"))
    with pytest.raises(NotFittedError, match="this GaussianMixture is not fitted yet: call fit"):
        pf.GaussianMixture().predict(rows("iris"))


def test_the_library_does_not_need_scikit_learn() -> None:
    root = Path(__file__).resolve().parents[3]
    files = (root / "inference" / "gaussian_mixture").glob("*.py")
    lines = [
        line for file in files for line in file.read_text().splitlines() if re.match(r" *(from|import) sklearn", line)
    ]
    assert not lines
