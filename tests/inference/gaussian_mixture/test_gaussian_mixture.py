"""What the estimator does beyond scikit-learn's: tensors, missing coordinates, weights, batches, priors, models."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO
from pyro.infer.autoguide import init_to_value
from pyro.infer.mcmc.util import initialize_model
from torch import Tensor
from torch.distributions import Dirichlet, Gamma, LKJCholesky, MultivariateNormal, Normal

import pyroformer as pf
from pyroformer.inference.gaussian_mixture.missing import observed_log_joint, observed_statistics
from pyroformer.models.attention.em.expected_statistics import Covariance
from pyroformer.models.attention.mixture import Mixture
from pyroformer.models.attention.variances import Covariances

KINDS = ["spherical", "diag", "tied", "full"]


def clusters(rows: int = 60, width: int = 2) -> Tensor:
    """Two clusters, in double precision."""
    centers = torch.where(torch.arange(rows) % 2 == 0, -2.0, 2.0).double()
    return centers[:, None] + torch.randn(rows, width).double()


def with_holes(x: Tensor, share: float = 0.3) -> Tensor:
    return torch.where(torch.rand(x.shape) < share, torch.nan, x)


def a_mixture(kind: str) -> Mixture:
    """Three components in three dimensions."""
    means, weights = torch.randn(3, 3).double(), torch.tensor([0.2, 0.3, 0.5]).double()
    factor = torch.randn(3, 3, 3).double()
    full = Covariances(factor @ factor.mT + 0.5 * torch.eye(3).double())
    variances = {
        "full": full,
        "diagonal": torch.rand(3, 3).double() + 0.5,
        "isotropic": torch.rand(3, 1).double() + 0.5,
    }
    return Mixture(weights.log(), means, variances[kind], noise_variance=0.0)


def matrices_of(mixture: Mixture) -> Tensor:
    if isinstance(mixture.variances, Covariances):
        return mixture.variances.matrices
    assert isinstance(mixture.variances, Tensor)
    return torch.diag_embed(mixture.variances.expand(3, 3))


def by_definition(rows: Tensor, means: Tensor, matrices: Tensor, weights: Tensor) -> Tensor:
    """log pi_n + log N of the known coordinates, by torch's distributions, one row and component at a time."""
    joint = weights.log().expand(len(rows), -1).clone()
    for m, row in enumerate(rows):
        known = ~row.isnan()
        if known.any():
            normals = [
                MultivariateNormal(mean[known], matrix[known][:, known])
                for mean, matrix in zip(means, matrices, strict=True)
            ]
            joint[m] = joint[m] + torch.stack([normal.log_prob(row[known]) for normal in normals])
    return joint


@pytest.mark.parametrize("kind", ["isotropic", "diagonal", "full"])
def test_statistics_of_incomplete_rows_are_the_gradients_of_their_density(kind: Covariance) -> None:
    mixture, rows, counts = a_mixture(kind), with_holes(torch.randn(12, 3).double()), torch.rand(12).double()
    rows[0] = torch.nan
    means, matrices = mixture.means.clone().requires_grad_(), matrices_of(mixture).clone().requires_grad_()
    joint = by_definition(rows, means, matrices, mixture.log_weights.exp())
    torch.testing.assert_close(observed_log_joint(rows, mixture), joint.detach())
    (counts @ joint.logsumexp(-1)).backward()
    found = observed_statistics(rows, counts, mixture, kind, about_means=True)
    torch.testing.assert_close(found.evidence, counts @ joint.detach().logsumexp(-1))
    torch.testing.assert_close(found.counts, counts @ joint.detach().softmax(-1))
    inverse = torch.linalg.inv(matrices.detach())
    torch.testing.assert_close((inverse @ found.queries[..., None])[..., 0], means.grad)
    assert found.squares is not None and matrices.grad is not None  # Fisher's identity for covariances
    scatter = (
        2 * matrices.detach() @ matrices.grad @ matrices.detach() + found.counts[:, None, None] * matrices.detach()
    )
    if kind == "full":
        torch.testing.assert_close(found.squares, scatter)
    else:
        own = scatter.diagonal(dim1=-2, dim2=-1)
        torch.testing.assert_close(found.squares, own if kind == "diagonal" else own.sum(-1, keepdim=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("priors", [None, pf.em.ConjugatePriors(pseudo_counts=0.5, shape=1.5, concentration=2.0)])
@pytest.mark.filterwarnings("ignore:.*not converged")
def test_the_objective_never_falls(kind: Any, priors: pf.em.ConjugatePriors | None) -> None:
    options: dict[str, Any] = dict(
        covariance_type=kind, priors=priors, reg_covar=0.0, tol=0.0, max_iter=12, random_state=0
    )
    for table in (clusters(), with_holes(clusters())):
        bounds = torch.tensor(pf.GaussianMixture(3, **options).fit(table).lower_bounds_)
        assert (bounds.diff() >= -1e-10).all() and bounds[-1] > bounds[0]


@pytest.mark.parametrize("kind", KINDS)
def test_missing_coordinates_are_integrated_out(kind: Any) -> None:
    """Rows without any coordinate change nothing; means are found where a third is missing."""
    table = clusters(400)
    holes = with_holes(table)
    fitted = pf.GaussianMixture(2, covariance_type=kind, random_state=0).fit(holes)
    means = fitted.means_[fitted.means_[:, 0].argsort()]
    assert (means - torch.tensor([[-2.0], [2.0]])).abs().max() < 0.3
    more = torch.cat([holes, torch.full((5, 2), torch.nan).double()])
    again = pf.GaussianMixture(2, covariance_type=kind, random_state=0, means_init=fitted.means_).fit(more)
    once = pf.GaussianMixture(2, covariance_type=kind, random_state=0, means_init=fitted.means_).fit(holes)
    torch.testing.assert_close(again.means_, once.means_, atol=1e-3, rtol=1e-3)
    assert fitted.score_samples(more)[-5:].abs().max() < 1e-14
    torch.testing.assert_close(fitted.predict_proba(more)[-1], fitted.weights_)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.0, 0.1])
def test_weights_of_rows_are_repetitions(kind: Any, share: float) -> None:
    table, weights = with_holes(clusters(40), share), torch.randint(0, 4, (40,))
    given = {"means_init": torch.tensor([[-1.0, -1.0], [1.0, 1.0]])}
    once = pf.GaussianMixture(2, covariance_type=kind, **given).fit(table, sample_weight=weights)
    repeated = pf.GaussianMixture(2, covariance_type=kind, **given).fit(table.repeat_interleave(weights, 0))
    assert once.n_iter_ == repeated.n_iter_
    torch.testing.assert_close(once.covariances_, repeated.covariances_)
    torch.testing.assert_close(once.lower_bound_, repeated.lower_bound_)
    for name in ("score", "bic", "aic"):
        expected = getattr(repeated, name)(table.repeat_interleave(weights, 0))
        torch.testing.assert_close(getattr(once, name)(table, sample_weight=weights), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_batches_and_memory_maps_give_the_fit_of_the_whole_table(kind: Any, tmp_path: Path) -> None:
    table = with_holes(clusters(90), 0.1).numpy()
    np.save(tmp_path / "table.npy", table)
    on_disk = np.load(tmp_path / "table.npy", mmap_mode="r")
    options: dict[str, Any] = dict(covariance_type=kind, random_state=0)
    whole = pf.GaussianMixture(2, **options).fit(table)
    by_parts: list[Callable[[], pf.GaussianMixture]] = [
        lambda: pf.GaussianMixture(2, batch_size=17, **options).fit(on_disk),
        lambda: pf.GaussianMixture(2, **options).fit_batches([table[:50], table[50:]]),
        lambda: pf.GaussianMixture(2, **options).fit_batches(lambda: (table[n : n + 30] for n in (0, 30, 60))),
    ]
    for fit in by_parts:
        parts = fit()
        assert parts.n_iter_ == whole.n_iter_
        np.testing.assert_allclose(parts.means_, whole.means_, rtol=1e-8)
        np.testing.assert_allclose(parts.covariances_, whole.covariances_, rtol=1e-7)


def test_results_have_the_form_of_the_input() -> None:
    table = clusters()
    tensors = pf.GaussianMixture(2, random_state=0).fit(table.float())
    for value in (tensors.means_, tensors.predict_proba(table.float()), tensors.sample(3)[0], tensors.precisions_):
        assert isinstance(value, Tensor) and value.dtype == torch.float32
    assert tensors.predict(table).dtype == torch.int64
    assert tensors.predict_proba(table.numpy()).dtype == np.float64
    arrays = pf.GaussianMixture(2, random_state=0).fit(table.float().numpy())
    for value in (arrays.means_, arrays.score_samples(table.float().numpy()), arrays.sample(3)[0]):
        assert isinstance(value, np.ndarray) and value.dtype == np.float32
    frame = pd.DataFrame({"a": [1.0, None, 3.0, 4.0], "b": [1, 2, pd.NA, 5]}, dtype=object)
    masked = np.ma.masked_invalid([[1.0, 1.0], [np.nan, 2.0], [3.0, np.nan], [4.0, 5.0]])
    np.testing.assert_allclose(pf.GaussianMixture().fit(frame).means_, pf.GaussianMixture().fit(masked).means_)
    loaded = pickle.loads(pickle.dumps(tensors))
    assert torch.equal(loaded.predict_proba(table), tensors.predict_proba(table))


def test_answers_are_those_of_parameters_that_are_not_rounded() -> None:
    """Two columns so near to one another that their covariance has no inverse in float32."""
    table = (1000 * clusters()[:, :1]).float().expand(-1, 2)
    exact = pf.GaussianMixture(2, random_state=0).fit(table.double())
    fitted = pf.GaussianMixture(2, random_state=0).fit(table)
    for each in (fitted, copy.deepcopy(fitted), pickle.loads(pickle.dumps(fitted))):
        assert each.bic(table) == exact.bic(table)
        assert torch.equal(each.precisions_, exact.precisions_.float())
        assert torch.equal(each.sample(3)[0], exact.sample(3)[0].float())
    assert fitted.partial_fit(table).bic(table) == exact.partial_fit(table.double()).bic(table)
    fitted.covariances_ = torch.eye(2).expand(2, 2, 2)
    assert torch.equal(fitted.precisions_, fitted.covariances_)  # attributes that somebody has set count


@pytest.mark.parametrize("kind", KINDS)
def test_samples_have_the_moments_of_the_mixture(kind: Any) -> None:
    table = clusters(80) @ torch.tensor([[1.0, 0.5], [0.0, 1.0]]).double()
    fitted = pf.GaussianMixture(2, covariance_type=kind, random_state=0).fit(table)
    rows, labels = fitted.sample(20000)
    for label in range(2):
        chosen = rows[labels == label]
        own = fitted.covariances_ if kind == "tied" else fitted.covariances_[label]
        own = own if own.ndim == 2 else torch.diag_embed(own.expand(2))
        assert abs(len(chosen) / 20000 - fitted.weights_[label]) < 0.02
        torch.testing.assert_close(chosen.mean(0), fitted.means_[label], atol=0.1, rtol=0)
        torch.testing.assert_close(torch.cov(chosen.T), own, atol=0.2, rtol=0.1)
    assert torch.equal(fitted.sample(5)[0], fitted.sample(5)[0])


@pytest.mark.parametrize("kind", ["spherical", "diag"])
@pytest.mark.parametrize("rate", [None, 0.7])
@pytest.mark.filterwarnings("ignore:.*not converged")
def test_the_model_has_the_objective_of_em_as_log_joint(kind: Any, rate: float | None) -> None:
    table, priors = clusters(20), pf.em.ConjugatePriors(pseudo_counts=0.3, shape=1.7, rate=rate, concentration=1.4)
    joints, objectives = [], []
    for number in range(2):
        given: dict[str, Any] = dict(
            weights_init=[0.3 + 0.2 * number, 0.7 - 0.2 * number], means_init=torch.randn(2, 2)
        )
        options: dict[str, Any] = dict(covariance_type=kind, priors=priors, random_state=number, reg_covar=0.0, **given)
        fitted = pf.GaussianMixture(2, max_iter=0, **options).fit(table)
        joints.append(log_joint(fitted, table))
        objectives.append(60 / 3 * pf.GaussianMixture(2, max_iter=1, **options).fit(table).lower_bounds_[0])
    assert abs(joints[0] - joints[1]) > 0.1
    assert joints[0] - joints[1] == pytest.approx(objectives[0] - objectives[1], abs=1e-6)


def log_joint(fitted: pf.GaussianMixture, table: Tensor) -> float:
    """The log joint density of rows and of the parameters at the fit, with assignments summed out."""
    conditioned = poutine.condition(fitted.to_model(), data=fitted.sites())
    return -float(TraceEnum_ELBO(max_plate_nesting=1).loss(conditioned, lambda *_: None, table))


@pytest.mark.parametrize("kind", ["tied", "full"])
def test_models_of_matrices_have_the_joint_density_that_is_said(kind: Any) -> None:
    """Written out by torch's distributions, at the fit's own sites."""
    table, priors = clusters(20), pf.em.ConjugatePriors(pseudo_counts=0.3, shape=1.7, rate=0.6, concentration=1.4)
    fitted = pf.GaussianMixture(2, covariance_type=kind, priors=priors, random_state=0).fit(table)
    sites, covariances = fitted.sites(), fitted.covariances_.expand(2, 2, 2)
    rows = MultivariateNormal(fitted.means_, covariances).log_prob(table[:, None]) + fitted.weights_.log()
    alone = covariances.diagonal(dim1=-2, dim2=-1)
    joint = rows.logsumexp(-1).sum() + Normal(table.mean(0), (alone / 0.3).sqrt()).log_prob(fitted.means_).sum()
    joint = joint + Dirichlet(torch.full((2,), 1.4).double()).log_prob(fitted.weights_)
    if kind == "full":
        assert sites.keys() == {"weights", "keys", "precision", "correlation"}
        joint = joint + Gamma(1.7, 0.6).log_prob(1 / alone).sum()
        joint = joint + LKJCholesky(2, 1.0).log_prob(sites["correlation"]).sum()
        factor = alone.sqrt()[..., None] * sites["correlation"]
        torch.testing.assert_close(factor @ factor.mT, covariances)
    else:
        assert sites.keys() == {"weights", "keys"}
    assert log_joint(fitted, table) == pytest.approx(float(joint), abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_models_of_one_column(kind: Any) -> None:
    fitted = pf.GaussianMixture(2, covariance_type=kind, random_state=0).fit(clusters(20, 1))
    assert np.isfinite(log_joint(fitted, clusters(20, 1))) and "correlation" not in fitted.sites()


def test_the_potential_of_chains_has_a_gradient_in_all_sites() -> None:
    """Chains themselves take half a minute to move."""
    table = clusters(40)
    fitted = pf.GaussianMixture(2, random_state=0).fit(table)
    start = {"init_strategy": init_to_value(values=fitted.sites()), "max_plate_nesting": 1}
    sites, potential, *_ = initialize_model(fitted.to_model(), (table,), **start)
    assert sites.keys() == {"weights", "keys", "precision", "correlation"}
    leaves = {name: value.requires_grad_() for name, value in sites.items()}
    for gradient in torch.autograd.grad(potential(leaves), list(leaves.values())):
        assert gradient.isfinite().all() and (gradient != 0).any()


def test_the_tied_mode_is_the_mode_of_its_posterior() -> None:
    """No step away from the fit raises the log joint, written out here."""
    table, priors = clusters(30), pf.em.ConjugatePriors(pseudo_counts=0.4, shape=1.6, rate=0.8)
    options: dict[str, Any] = dict(covariance_type="tied", priors=priors, reg_covar=0.0, tol=1e-14, max_iter=2000)
    fitted = pf.GaussianMixture(2, random_state=0, **options).fit(table)
    center = table.mean(0)

    def objective(means: Tensor, precision: Tensor) -> Tensor:
        rows = MultivariateNormal(means, precision_matrix=precision).log_prob(table[:, None]) + fitted.weights_.log()
        of_means = MultivariateNormal(center, precision_matrix=0.4 * precision).log_prob(means).sum()
        return rows.logsumexp(-1).sum() + of_means + 0.6 * precision.logdet() - 0.8 * precision.trace()

    gradients = torch.func.grad(objective, (0, 1))(fitted.means_, fitted.precisions_)
    assert gradients[0].abs().max() < 1e-4 and gradients[1].abs().max() < 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_typical_variances_are_worth_one_row_without_a_prior_of_means(kind: Any) -> None:
    table = torch.cat([clusters(30, 1), torch.tensor([[50.0]])])
    rate = 0.5 * float(table.var(correction=0)) / 2**2  # V^0 / 2
    options: dict[str, Any] = dict(covariance_type=kind, random_state=0, reg_covar=0.0, means_init=[[0.0], [50.0]])
    one, other = (
        pf.GaussianMixture(2, priors=pf.em.ConjugatePriors(pseudo_counts=0.0, rate=each), **options)
        for each in (None, rate)
    )
    torch.testing.assert_close(one.fit(table).covariances_, other.fit(table).covariances_)


def test_weak_priors_keep_a_component_off_equal_rows() -> None:
    table = torch.cat([torch.randn(30, 2), torch.full((4, 2), 9.0)])
    assert pf.GaussianMixture(2, random_state=0).fit(table).covariances_.diagonal(dim1=-2, dim2=-1).min() < 1e-5
    regular = pf.GaussianMixture(2, random_state=0, priors=pf.em.ConjugatePriors(pseudo_counts=0.01)).fit(table)
    assert regular.covariances_.diagonal(dim1=-2, dim2=-1).min() > 0.1


def test_more_starts_are_never_worse_and_seeds_repeat() -> None:
    table = torch.randn(60, 2)
    one, five = (pf.GaussianMixture(4, n_init=n, random_state=3, tol=1e-2).fit(table) for n in (1, 5))
    assert five.lower_bound_ >= one.lower_bound_
    again = pf.GaussianMixture(4, n_init=5, random_state=3, tol=1e-2).fit(table)
    assert torch.equal(again.means_, five.means_)
    for how in ("k-means++", "random_from_data", "random"):
        assert pf.GaussianMixture(2, init_params=how, tol=1e-2, random_state=0).fit(table).weights_.sum() > 0.999  # type: ignore[arg-type]


def test_units_of_columns_do_not_matter() -> None:
    table, units = torch.randn(80, 3).double(), torch.tensor([1.0, 1e4, 1e-3]).double()
    one, other = (
        pf.GaussianMixture(3, random_state=0, reg_covar=0.0).fit(x) for x in (table, table * units + 1e3 * units)
    )
    torch.testing.assert_close(other.predict_proba(table * units + 1e3 * units), one.predict_proba(table))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"n_components": 0}, "n_components is 0: give a finite number of at least 1"),
        ({"n_components": 2.5}, "n_components is 2.5: give a whole number"),
        ({"n_components": "three"}, "n_components is 'three', a str: give a number"),
        ({"n_components": 99}, "n_components is 99 and X has only n_samples = 20 that count: give at least one row"),
        ({"covariance_type": "diagonal"}, "covariance_type is 'diagonal': choose one of .* mean diag"),
        ({"init_params": "kmean"}, "init_params is 'kmean': choose one of .* mean kmeans"),
        ({"tol": -1.0}, "tol is -1.0: give a finite number of at least 0"),
        ({"reg_covar": float("nan")}, "reg_covar is nan: give a finite number of at least 0"),
        ({"max_iter": None}, "max_iter is None"),
        ({"n_init": 0}, "n_init is 0: give a finite number of at least 1"),
        ({"batch_size": 0}, "batch_size is 0: give a finite number of at least 1"),
        ({"random_state": "seed"}, "random_state is 'seed': give a whole number"),
        ({"priors": 0.1}, r"priors has type float: give pf.em.ConjugatePriors"),
        ({"priors": pf.em.ConjugatePriors(pseudo_counts=torch.ones(2))}, "priors.pseudo_counts is a tensor"),
        ({"weights_init": [0.4, 0.4], "n_components": 2}, "weights_init has .* the sum 0.8: give weights"),
        ({"means_init": [[0.0, 0.0]], "n_components": 2}, r"means_init has shape \(1, 2\): give \(2, 2\)"),
        ({"precisions_init": [[[1.0, 2.0], [2.0, 1.0]]]}, "precisions_init is not symmetric and positive definite"),
        (
            {"precisions_init": [-1.0], "covariance_type": "spherical"},
            "precisions_init is -1: give positive",
        ),
    ],
)
def test_options_out_of_range_are_refused_in_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        pf.GaussianMixture(**options).fit(clusters(20))
    assert "\n" not in str(raised.value)


def infinite() -> Tensor:
    return torch.tensor([[1.0, torch.inf], [0.0, 0.0]])


def improper(**options: Any) -> object:
    return pf.GaussianMixture().fit(clusters(9)).to_model(pf.em.ConjugatePriors(**options))


def changed(**options: Any) -> pf.GaussianMixture:
    return pf.GaussianMixture().partial_fit(clusters(9)).set_params(**options)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: pf.GaussianMixture().fit([["a", "b"]]), "X is no table of numbers"),
        (lambda: pf.GaussianMixture().fit([[1.0], [1.0, 2.0]]), "X is no table of numbers"),
        (lambda: pf.GaussianMixture().fit(infinite()), "X has an infinite entry: give finite ones, or NaN"),
        (lambda: pf.GaussianMixture().fit([[1.0, np.nan], [2.0, np.nan]]), "column 1 of X has no known entry"),
        (lambda: pf.GaussianMixture().fit(torch.zeros(2, 2).to_sparse()), "X is a sparse tensor"),
        (lambda: pf.GaussianMixture().fit(torch.zeros(4)), "Reshape your data"),
        (lambda: pf.GaussianMixture().fit(clusters(4), sample_weight=[1.0]), "one weight for each row"),
        (lambda: pf.GaussianMixture().fit(clusters(2), sample_weight=[1.0, -1.0]), "sample_weight is -1: give finite"),
        (lambda: pf.GaussianMixture().fit_batches(iter([clusters(4)])), "batches is a .*, which can be read once"),
        (lambda: pf.GaussianMixture().fit_batches([]), "batches is empty"),
        (lambda: pf.GaussianMixture().fit_batches(clusters(9)), "batches is a Tensor: give a list of tables"),
        (lambda: pf.GaussianMixture().fit(clusters(4) * 1e200), "squares are infinite: divide it by its largest"),
        (lambda: pf.GaussianMixture().fit({"a": [1.0]}), "X is no table of numbers .it is a dict"),
        (lambda: pf.GaussianMixture().fit(clusters(4), sample_weight="w"), "sample_weight is a str: give an array"),
        (lambda: pf.GaussianMixture().fit_batches([3.0]), "a batch has shape"),
        (lambda: pf.GaussianMixture().fit_batches([clusters(4), clusters(4, 3)]), "3 columns and the first 2"),
        (lambda: pf.GaussianMixture(reg_covar=0.0).fit([[1.0, 1.0], [1.0, 1.0]]), "singular with reg_covar=0"),
        (lambda: pf.GaussianMixture(reg_covar=0, covariance_type="diag").fit([[1.0], [1.0]]), "is singular"),
        (lambda: pf.GaussianMixture().fit(clusters(9)).sample(0), "n_samples is 0: give a finite number of at least 1"),
        (lambda: pf.GaussianMixture().fit(clusters(9)).predict(torch.zeros(0, 2)), "X has 0 rows"),
        (lambda: pf.GaussianMixture().sites(), "this GaussianMixture is not fitted yet"),
        (lambda: improper(pseudo_counts=0.0), "priors.pseudo_counts is 0.0: give a positive number"),
        (lambda: improper(rate=0.0), "priors.rate is 0.0: give a positive number"),
        (lambda: pf.GaussianMixture(learning_decay=0.5).partial_fit(clusters(9)), "learning_decay is 0.5: give"),
        (lambda: pf.GaussianMixture(learning_decay=1.1).partial_fit(clusters(9)), "above 0.5 and at most 1, such"),
        (lambda: pf.GaussianMixture().partial_fit(clusters(9)).partial_fit(clusters(9, 3)), "X has 3 features, but"),
        (lambda: pf.GaussianMixture(learning_decay="a").partial_fit(clusters(9)), "learning_decay is 'a', a str: give"),
        (lambda: changed(n_components=2).partial_fit(clusters(9)), "n_components is 2 and the fit has 1: leave it"),
        (lambda: changed(covariance_type="diag").partial_fit(clusters(9)), "covariance_type is 'diag' and the fit has"),
        (lambda: pf.GaussianMixture().set_params(components=3), "an option is 'components': choose one of"),
    ],
)  # fmt: skip
def test_bad_tables_are_refused_in_one_line(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        call()
    assert "\n" not in str(raised.value)
