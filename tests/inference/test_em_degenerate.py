"""EM on data without spread, with masked and empty components: J never falls beyond rounding, and nothing is NaN."""

from dataclasses import replace
from typing import Any

import jaxtyping
import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from pyroformer.inference.em import Adapted, ConjugatePriors, adapt
from pyroformer.models.attention.bayes_rule import evidence
from pyroformer.models.attention.em.m_step import update_log_weights
from pyroformer.models.attention.mixture import Mixture
from pyroformer.models.attention.variances import Covariances

EVERYTHING: Any = ("means", "variances", "weights")
OUTLIER = torch.tensor([[0.0, 0.0], [1e3, 1e3], [-1.0, 1.0]])


def data() -> list[dict[str, Tensor]]:
    """Data whose variances may keep their size, and data on which they shrink: EM computes the two differently."""
    x = torch.randn(40, 2)
    kept = {
        "random": x,
        "zero rows": torch.cat([x[:30], torch.zeros(10, 2)]),
        "equal rows": torch.cat([x, x[:1].expand(12, 2)]),
        "collinear": x[:, :1].expand(40, 2),
        "far from zero": x + 1e3,
        "far clusters": torch.cat([0.01 * x - 100, 0.01 * x + 100]),
    }
    shrinking = {
        "integers": torch.randint(2, (60, 2)).float(),
        "outlier": torch.cat([x, torch.full((1, 2), 1e3)]),
        "all equal": torch.ones(20, 2),
        "one": x[:1],
        "three": x[:3],
    }
    return [kept, shrinking]


def start(dtype: torch.dtype) -> Mixture:
    return Mixture(torch.zeros(3, dtype=dtype).log_softmax(-1), OUTLIER.to(dtype), noise_variance=1.0)


def check(state: Adapted, names: list[str], tolerance: float = 1e-7) -> None:
    objective = state.objective
    assert objective.isfinite().all()
    fallen = (objective.diff() < -tolerance * (1 + objective[:, :-1].abs())).any(-1)
    assert not fallen.any(), [name for name, fell in zip(names, fallen.tolist(), strict=True) if fell]
    variances = state.mixture.variances
    each = variances.matrices if isinstance(variances, Covariances) else variances
    assert isinstance(each, Tensor) and each.isfinite().all() and state.mixture.means.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float, torch.double])
@pytest.mark.parametrize(("kappa", "rate"), [(1.0, None), (0.0, None), (1.0, 0.0), (0.0, 1e-3)])
@pytest.mark.parametrize("covariance", ["isotropic", "diagonal", "full"])
def test_never_falls_on_degenerate_data(covariance: Any, kappa: float, rate: float | None, dtype: torch.dtype) -> None:
    priors = ConjugatePriors(pseudo_counts=kappa, rate=rate)
    for tables in data():
        queries = pad_sequence([x.to(dtype) for x in tables.values()], batch_first=True)
        lengths = torch.tensor([len(x) for x in tables.values()])
        mask = torch.arange(queries.shape[1]) < lengths[:, None]
        state = adapt(
            queries, start(dtype), mask=mask, steps=12, moves=EVERYTHING, covariance=covariance, priors=priors
        )
        check(state, names=list(tables))
        if kappa and rate is None:
            assert evidence(queries, state.mixture)[mask].isfinite().all()


def test_empty_components_keep_their_variance() -> None:
    queries = torch.randn(40, 2, dtype=torch.double)
    means = torch.tensor([[0.0, 0.0], [1.0, 0.0], [500.0, 0.0]], dtype=torch.double)
    mixture = Mixture(torch.zeros(3, dtype=torch.double).log_softmax(-1), means, noise_variance=0.7)
    for covariance, expected in (("isotropic", 0.7), ("diagonal", 0.7), ("full", 0.7 * torch.eye(2).double())):
        for priors in (None, ConjugatePriors(pseudo_counts=0.0)):
            moves: Any = ("means", "variances")
            end = adapt(queries, mixture, steps=20, moves=moves, covariance=covariance, priors=priors).mixture  # type: ignore[arg-type]
            own = end.variances.matrices if isinstance(end.variances, Covariances) else end.variances
            assert isinstance(own, Tensor)
            torch.testing.assert_close(own[2], torch.as_tensor(expected).double().expand_as(own[2]))


def test_tight_clusters_far_apart_in_single_precision() -> None:
    noise = 0.01 * torch.randn(50, 2)
    queries = torch.cat([noise - 100, noise + 100])
    mixture = Mixture(torch.zeros(2).log_softmax(-1), torch.tensor([[-90.0, -90], [90, 90]]), noise_variance=1.0)
    end = adapt(queries, mixture, steps=5, moves=EVERYTHING, priors=ConjugatePriors(pseudo_counts=0.0)).mixture
    assert isinstance(end.variances, Tensor)
    variance = (queries[:50].double().var(0, correction=0)).mean()
    torch.testing.assert_close(end.variances.double(), variance.expand(2, 1), rtol=1e-3, atol=0)


def test_batches_have_floors_of_their_own() -> None:
    x = torch.randn(20, 2, dtype=torch.double)
    mixture = start(torch.double)
    queries = torch.stack([x, 1e6 * x])
    both = adapt(queries, mixture, steps=4, moves=EVERYTHING)
    alone = adapt(x, mixture, steps=4, moves=EVERYTHING)
    torch.testing.assert_close(both.objective[0], alone.objective, rtol=1e-9, atol=1e-9)


def test_masked_and_weightless_components_get_no_weight() -> None:
    queries, means = torch.randn(60, 2).double(), torch.randn(4, 2).double()
    log_weights = torch.tensor([0.5, 0.5, 1e-30, 0.0]).double().log()
    mask, priors = torch.tensor([True, True, False, True]), ConjugatePriors(concentration=5.0)
    options: Any = {"steps": 5, "moves": ("means", "weights"), "priors": priors}
    state = adapt(queries, Mixture(log_weights, means, noise_variance=1.0, mask=mask), **options)
    alone = adapt(queries, Mixture(log_weights[:2], means[:2], noise_variance=1.0), **options)
    torch.testing.assert_close(state.objective, alone.objective, rtol=1e-10, atol=1e-10)
    assert state.mixture.log_weights[:2].exp().sum() == pytest.approx(1)
    assert (state.mixture.log_weights[2:] == -torch.inf).all() and (alone.objective.diff() >= -1e-9).all()


def test_weights_stay_where_no_query_counts() -> None:
    log_weights = torch.tensor([[0.3, 0.7], [0.2, 0.8]]).double().log()
    mixture = Mixture(log_weights, torch.randn(2, 2, 2).double(), noise_variance=1.0)
    mask = torch.tensor([[True] * 5, [False] * 5])
    for moves in (("weights",), EVERYTHING):
        state = adapt(torch.randn(2, 5, 2).double(), mixture, steps=3, moves=moves, mask=mask)
        torch.testing.assert_close(state.mixture.log_weights[1], log_weights[1])
        assert state.objective.isfinite().all()
    assert update_log_weights(torch.tensor([3.0, 1.0]), 2.0, present=torch.tensor([True, False])).exp().tolist() == [
        1,
        0,
    ]


def test_full_covariances_with_noise_are_the_isotropic_ones() -> None:
    """The objective is EM's also where the variances do not move: they are those of queries, noise included."""
    queries, means = 2 * torch.randn(40, 2).double(), torch.randn(3, 2).double()
    log_weights, priors = torch.zeros(3).double().log_softmax(-1), ConjugatePriors(pseudo_counts=5.0)
    one = Mixture(log_weights, means, torch.full((3, 1), 0.2, dtype=torch.double), noise_variance=1.0)
    other = replace(one, variances=Covariances(0.2 * torch.eye(2).double().expand(3, 2, 2)))
    states = [adapt(queries, mixture, steps=10, priors=priors) for mixture in (one, other)]
    torch.testing.assert_close(states[0].objective, states[1].objective, rtol=1e-10, atol=1e-10)
    assert (states[1].objective.diff() >= -1e-9).all()


@pytest.mark.parametrize(
    ("queries", "mixture", "message"),
    [
        (torch.full((4, 2), torch.nan), {}, "queries that count are NaN or infinite: give finite ones, or leave"),
        (
            torch.ones(4, 2).long(),
            {},
            r"queries has dtype int64: give .* as queries.float\(\) does",
        ),
        (torch.ones(4, 2), {"means": torch.full((3, 2), torch.inf)}, "means are NaN or infinite"),
        (torch.ones(0, 2), {}, r"there are no queries: their shape is \(0, 2\): give at least one"),
        (
            torch.ones(4, 2),
            {"log_weights": torch.tensor([torch.nan, 0.0, 0.0])},
            "log_weights are NaN or infinite: give",
        ),
        (
            torch.ones(4, 2),
            {"log_weights": torch.tensor([torch.inf, 0.0, 0.0])},
            "log_weights are NaN or infinite: give",
        ),
        (torch.ones(4, 2), {"variances": torch.ones(3, 2)}, "diagonal variances: give covariance='diagonal'"),
    ],
)
def test_bad_numbers(queries: Tensor, mixture: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users have it
    with pytest.raises(ValueError, match=message):
        adapt(queries, replace(start(torch.float), **mixture), moves=EVERYTHING)


def test_singular_covariances() -> None:
    singular = Covariances(torch.tensor([[1.0, 1.0], [1.0, 1.0]]).expand(3, 2, 2) - 1e-3 * torch.eye(2))
    mixture = replace(start(torch.float), variances=singular, noise_variance=0.0)
    with pytest.raises(ValueError, match="the covariance of component 0 is not positive definite: add to its diagonal"):
        adapt(torch.randn(9, 2), mixture)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_known_values_are_finite(bad: float) -> None:
    mixture = replace(start(torch.float), values=torch.randn(3, 1), value_variances=torch.ones(3, 1))
    values, queries = torch.tensor([[bad], [0.5], [1.0], [2.0]]), torch.randn(4, 2)
    with pytest.raises(
        ValueError, match="values that are known are NaN or infinite: .* or leave them out with value_mask"
    ):
        adapt(queries, mixture, values=values)
    unknown = torch.tensor([False, True, True, True])
    assert adapt(queries, mixture, values=values, value_mask=unknown).objective.isfinite().all()
    assert adapt(queries, mixture, values=values, mask=unknown).objective.isfinite().all()


@pytest.mark.parametrize("name", ["pseudo_counts", "value_pseudo_counts", "shape", "rate", "concentration"])
@pytest.mark.parametrize(
    ("bad", "shown"),
    [
        (torch.inf, "inf"),
        (torch.nan, "nan"),
        (-1.0, "-1.0"),
        (True, "True"),
        ("1", "'1'"),
        ({}, r"\{\}"),
    ],
)
def test_priors_are_finite_numbers(name: str, bad: Any, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users have it
    with pytest.raises(ValueError, match=rf"^{name} is {shown}(, a \w+)?: give a (finite )?number.*\.$"):
        ConjugatePriors(**{name: bad})


@pytest.mark.parametrize("name", ["pseudo_counts", "value_pseudo_counts"])
def test_each_pseudo_count_is_a_finite_number(name: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name} is -2.0: give a finite number of at least 0, or one for each"):
        ConjugatePriors(**{name: torch.tensor([1.0, -2.0])})  # type: ignore[arg-type]
