"""A prior made of the guide's posteriors, against the posteriors of texts."""

import copy
import math
from typing import Any

import jaxtyping
import pyro
import pytest
import torch
import torch.nn.functional as F

import pyroformer as pf
from pyroformer.models.transformer.config import TransformerConfig

TEXTS = pf.Batch.pad([[5, 6, 2], [7, 8, 2], [9, 9, 2]])


def pair(structure: str = "chain", positions: str = "learned", **options: Any) -> tuple[Any, Any]:
    config = TransformerConfig(
        vocabulary=20, max_length=8, width=8, layers=2, heads=2, dropout=0.0, positions=positions, **options
    )  # fmt: skip
    prior = pf.priors.VampPrior(8, components=3, length=3)
    model = pf.DELLA(config, latent_size=4, structure=structure, latent_prior=prior)
    return model.eval(), pf.DELLAGuide(model).eval()


@pytest.mark.parametrize("structure", ["chain", "independent", "single"])
@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_at_the_embeddings_of_texts_it_is_the_mean_of_their_posteriors(structure: str, positions: str) -> None:
    model, guide = pair(structure, positions)
    for head in guide.heads:
        torch.nn.init.normal_(head.weight)
    assert TEXTS.tokens is not None
    before = F.pad(TEXTS.tokens[:, :-1], (1, 0), value=model.config.bos)
    model.latent_prior.pseudo_texts.data = guide.encoder.embedding(before).detach()
    encodings = guide.read(TEXTS)
    for index in range(len(model.latents)):
        summary, z = torch.randn(5, model.summary_size), torch.randn(5, model.latent_size)
        each = torch.stack(
            [guide.conditional(index, summary, [layer[k] for layer in encodings]).log_prob(z) for k in range(3)]
        )
        expected = each.logsumexp(0) - math.log(3)
        torch.testing.assert_close(model.prior(summary, index).log_prob(z), expected)


def test_the_condition_reaches_it() -> None:
    model, guide = pair(max_condition_length=4)
    torch.nn.init.normal_(guide.heads[0].weight)
    conditions = torch.tensor([[3, 4], [5, 6]])
    batch = pf.Batch.unobserved(2)._replace(
        condition_tokens=conditions, condition_mask=torch.ones_like(conditions, dtype=torch.bool)
    )
    trace = pyro.poutine.trace(model).get_trace(batch)
    means = trace.nodes["z_1"]["fn"].component_distribution.mean
    assert means.shape == (2, 3, 4) and not torch.allclose(means[0], means[1])


def test_particles_go_on_the_left() -> None:
    loss = pf.ELBO(data_size=10, num_particles=5)(*pair())
    assert loss(TEXTS).isfinite()


def test_a_model_alone_is_refused_until_there_is_a_guide() -> None:
    model = pf.DELLA(pair()[0].config, latent_size=4, latent_prior=pf.priors.VampPrior(8))
    with pytest.raises(ValueError, match="VampPrior is made of posteriors, and its model has no guide yet: make the"):
        model(pf.Batch.unobserved(2))


def test_the_guide_that_was_made_first_is_refused_until_the_prior_sees_it() -> None:
    model, guide = pair()
    pf.DELLAGuide(model)
    with pytest.raises(ValueError, match="VampPrior sees another DELLAGuide of this model, made later: take that one"):
        pf.ELBO(data_size=10)(model, guide)(TEXTS)
    model.latent_prior.set_guide(guide)
    assert pf.ELBO(data_size=10)(model, guide)(TEXTS).isfinite()


def test_a_copy_sees_its_own_guide() -> None:
    model, guide = copy.deepcopy(pair())
    assert model.latent_prior.guide is guide and guide.model is model
    assert not any("guide" in name for name in model.state_dict())


def test_a_residual_posterior_is_refused() -> None:
    with pytest.raises(ValueError, match="a residual posterior needs a diagonal Gaussian prior, and this one is a Mix"):
        pf.DELLAGuide(pair()[0], posterior="residual")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"width": 0}, "width is 0: give a whole number of at least 1"),
        ({"width": 8, "components": 0}, "components is 0: give a whole number of at least 1"),
        ({"width": 8, "components": 2.5}, "components is 2.5: give a whole number, such as 2"),
        ({"width": 8, "length": -1}, "length is -1: give a whole number of at least 1"),
    ],
)
def test_numbers_out_of_range_are_refused(
    arguments: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users have it
    with pytest.raises(ValueError, match=message):
        pf.priors.VampPrior(**arguments)


@pytest.mark.parametrize("prior", [pf.priors.VampPrior(6), pf.priors.VampPrior(8, length=9)])
def test_pseudo_texts_that_do_not_fit_the_network_are_refused(prior: Any) -> None:
    model = pf.DELLA(pair()[0].config, latent_size=4, latent_prior=prior)
    with pytest.raises(
        ValueError, match=r"a pseudo-text has . vectors of width ., and the network reads 8 of width 8: give"
    ):
        pf.DELLAGuide(model)


def test_a_guide_that_cannot_read_vectors_is_refused() -> None:
    model = pf.VAE(pair()[0].config, base_measure=pf.priors.VampPrior(8))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a VAEGuide reads no pseudo-texts of a VampPrior: give that prior to a DELLA"):
        pf.VAEGuide(model)
