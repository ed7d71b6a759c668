"""Vectors that are switched off: their exact divergence is infinite, in every number that is reported."""

import json
import math
from typing import Any

import pytest
import torch

from pyroformer.guides.nvae import NVAEGuide
from pyroformer.inference.data.corpus import Corpus
from pyroformer.inference.evaluation.verdict import validation_rate
from pyroformer.inference.objectives.elbo import ELBO
from pyroformer.inference.objectives.nvib import NVIB
from pyroformer.inference.objectives.registry import make_objective
from pyroformer.inference.objectives.switched_off import switched_off
from pyroformer.inference.options import TrainingOptions
from pyroformer.inference.run import Run
from pyroformer.inference.training.fit import fit
from pyroformer.inference.training.fit_prior import fit_prior
from pyroformer.models.base import SWITCHES_OFF
from pyroformer.models.batch import Batch
from pyroformer.models.distributions.log_dirichlet import LogDirichlet
from pyroformer.models.nvae import NVAE
from pyroformer.models.priors.weights import SymmetricDirichlet
from pyroformer.models.transformer.config import TransformerConfig
from pyroformer.models.transformer.mixtures.posterior import LEAST_LOG_ALPHA, MixturePosterior

BATCH = Batch.pad([[5, 6, 7, 2], [7, 2]])
SMALL: dict[str, Any] = {"width": 16, "layers": 1, "heads": 2}


def pair(alpha: Any = "relu", **options: Any) -> tuple[NVAE, NVAEGuide]:
    torch.manual_seed(0)
    model = NVAE(TransformerConfig(vocabulary=20, max_length=8, **SMALL), **options)
    return model, NVAEGuide(model, alpha=alpha)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"samples_per_component": 3},
        {"presence": 0.9},
        {"nvib_layers": 1},
        {"weight_prior": SymmetricDirichlet(1.0)},
    ],
    ids=str,
)
def test_the_divergence_is_infinite_and_the_penalty_is_not(options: dict[str, Any]) -> None:
    model, guide = pair(**options)
    with torch.no_grad():
        guide.alpha.linear.weight.zero_()
        guide.alpha.linear.bias.fill_(-1.0)
        terms = NVIB()(model, guide).terms(BATCH)
        weights = ELBO().log_weights(model, guide, BATCH)
    assert terms.kl["weights"].tolist() == [math.inf, math.inf] and weights.tolist() == [-math.inf, -math.inf]
    assert terms.kl["vectors"].isfinite().all() and all(value.isfinite().all() for value in terms.penalty.values())
    kept, linear = (
        ELBO().terms(*pair("linear", **options), BATCH),
        ELBO().log_weights(*pair("linear", **options), BATCH),
    )
    assert kept.bound.isfinite().all() and linear.isfinite().all()


class Tiny(NVAEGuide):
    """A guide of one's own, whose vectors of tokens have concentrations that are as small, and are not 0."""

    def encode(self, batch: Batch) -> MixturePosterior:
        posterior = super().encode(batch)
        return posterior._replace(log_alpha=posterior.log_alpha.index_fill(-1, torch.arange(1, 5), -21.0))


def test_a_guide_that_does_not_switch_off_has_its_divergence() -> None:
    model, _ = pair()
    with torch.no_grad():
        terms = ELBO().terms(model, Tiny(model), BATCH)
        q, p = Tiny(model).encode(BATCH).weights(), model.weight_prior(torch.arange(5) < 1 + BATCH.lengths[:, None])
    torch.testing.assert_close(terms.kl["weights"], torch.distributions.kl_divergence(q, p).float())
    assert terms.bound.isfinite().all() and ELBO().log_weights(model, Tiny(model), BATCH).isfinite().all()


@pytest.mark.parametrize(
    ("posterior", "prior", "present", "expected"),
    [
        ([0.0, LEAST_LOG_ALPHA], [0.0, 0.0], None, True),
        ([0.0, LEAST_LOG_ALPHA + 5e-4], [0.0, 0.0], None, True),  # the bound, rounded
        ([0.0, LEAST_LOG_ALPHA + 0.1], [0.0, 0.0], None, False),
        ([0.0, LEAST_LOG_ALPHA], [0.0, LEAST_LOG_ALPHA], None, False),  # the prior has none there either
        ([0.0, LEAST_LOG_ALPHA], [0.0, 0.0], [True, False], False),
    ],
)
def test_what_is_off_is_at_the_bound_in_the_posterior_alone(
    posterior: list[float], prior: list[float], present: list[bool] | None, expected: bool
) -> None:
    mask = None if present is None else torch.tensor(present)
    p, q = (LogDirichlet(torch.tensor(each), mask) for each in (prior, posterior))
    sites, own = ({"weights": {"fn": fn, "infer": {SWITCHES_OFF: True}}} for fn in (p, q))
    assert bool(switched_off(sites, own)["weights"]) == expected


def test_a_text_of_no_weight_counts_for_nothing() -> None:
    losses = NVIB()(*pair()).losses(BATCH._replace(weight=torch.tensor([1.0, 0.0])))
    assert losses["kl_weights"] == losses["bound"] == math.inf and losses["objective"].isfinite()


@pytest.mark.parametrize("options", [{"objective": "elbo"}, {"objective": "iw", "num_particles": 2}], ids=str)
def test_an_objective_that_charges_it_refuses_the_guide(options: dict[str, Any]) -> None:
    model, guide = pair()
    with pytest.raises(ValueError, match=r"alpha is relu, .* is infinite then: choose the objective nvib, .*, or give"):
        make_objective(model, guide, TrainingOptions(**options), 2)


@pytest.fixture(scope="module")
def run() -> Run:
    corpus = Corpus.from_texts([f"The number {n} is even." for n in range(60)], vocabulary=270, max_length=32)
    torch.manual_seed(0)
    model = NVAE.for_corpus(corpus, base_measure="gaussian", **SMALL)
    return fit(model, NVAEGuide(model, alpha="relu"), corpus, steps=1, batch_size=8, validations=1)


def test_a_run_has_no_bound_and_no_verdict(run: Run) -> None:
    assert validation_rate(run) is None
    evaluation = run.evaluate(limit=4, num_particles=2, reconstructions=2)
    for name in ("bound", "bound_given_length", "importance_weighted"):
        assert evaluation[name].value is None and evaluation[name].bounds == "not a bound"
    assert evaluation["kl_weights"].value is None and evaluation["kl_vectors"].value is not None
    assert "KL of weights, infinite: vectors are switched off  " in evaluation.table()
    assert "carry" not in evaluation.table() and json.dumps(evaluation.as_dict(), allow_nan=False)


def test_no_prior_is_fitted_to_it(run: Run) -> None:
    with pytest.raises(ValueError, match=r"alpha='relu', .* no exact bound to fit a prior by: give a run with another"):
        fit_prior(run, "mixture", steps=1)
