"""A guide with ``forward`` alone: what it can do, and what says that it needs more."""

from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from pyroformer.guides.base import Guide, check_pair, encodes
from pyroformer.guides.della import DELLAGuide
from pyroformer.guides.nvae import NVAEGuide
from pyroformer.guides.posteriors import TextPosterior
from pyroformer.guides.vae import VAEGuide
from pyroformer.inference import plots
from pyroformer.inference.data.corpus import Corpus
from pyroformer.inference.evaluation.evaluate import text_bounds
from pyroformer.inference.generation.editing import edit
from pyroformer.inference.generation.generate import encode, reconstruct, sample
from pyroformer.inference.generation.interpolation import interpolate
from pyroformer.inference.generation.traversal import traverse
from pyroformer.inference.run import Run
from pyroformer.inference.training.fit import fit
from pyroformer.models.base import LocalModule, Model
from pyroformer.models.batch import Batch
from pyroformer.models.language_model import LanguageModel
from pyroformer.models.nvae import NVAE
from pyroformer.models.serialization import Configurable
from pyroformer.models.transformer.config import TransformerConfig
from pyroformer.models.transformer.memory import Context
from pyroformer.models.vae import VAE

TEXTS = [f"The number {n} is even." for n in range(0, 60, 2)]


def draw_vectors(embedding: nn.Embedding, plate: Any, batch: Batch) -> Tensor:
    assert batch.tokens is not None and batch.mask is not None
    normal = dist.Normal(embedding(batch.tokens), 0.1).to_event(1)
    with plate:
        return pyro.sample("vectors", normal.mask(batch.mask).to_event(1))


class ForwardOnly(Guide):
    def __init__(self, model: VAE) -> None:
        super().__init__(model)
        self.embedding = nn.Embedding(model.config.vocabulary, model.config.width)

    def forward(self, batch: Batch) -> Tensor:
        return draw_vectors(self.embedding, self.texts(batch), batch)


class Independent(Configurable, LocalModule):
    def __init__(self, model: VAE) -> None:
        super().__init__()
        self.embedding = nn.Embedding(model.config.vocabulary, model.config.width)

    def forward(self, batch: Batch) -> Tensor:
        return draw_vectors(self.embedding, pyro.plate("texts", len(batch.weight), dim=-1), batch)


@pytest.fixture(scope="module", params=[ForwardOnly, Independent])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    corpus = Corpus.from_texts(TEXTS, vocabulary=270, max_length=32)
    model = VAE.for_corpus(corpus, base_measure="gaussian", width=16, layers=1, heads=2)
    return fit(
        model, request.param(model), corpus, steps=3, batch_size=8, validations=1, out=tmp_path_factory.mktemp("run")
    )


def test_it_trains_evaluates_and_samples(run: Run) -> None:
    assert run.step == 3
    bounds = text_bounds(run, TEXTS[:3], num_particles=2)
    assert bounds.shape == (3,) and bounds.isfinite().all()
    evaluation = run.evaluate(TEXTS[:3], num_particles=2)
    assert "bound" in evaluation and "bleu" not in evaluation
    assert len(sample(run, 2)) == 2


def test_its_pictures_are_the_curves(run: Run, tmp_path: Path) -> None:
    assert [path.name for path in plots.save_all(run, tmp_path)] == ["curves.png"]


@pytest.mark.parametrize(
    "operation",
    [
        lambda run: encode(run, TEXTS[0]),
        lambda run: reconstruct(run, TEXTS[:1]),
        lambda run: interpolate(run, TEXTS[0], TEXTS[1]),
        lambda run: traverse(run, TEXTS[0]),
        lambda run: edit(run, TEXTS[0], drop=[1]),
        lambda run: plots.attention(run, TEXTS[0]),
        lambda run: plots.weights(run, TEXTS[0]),
        lambda run: run.evaluate(TEXTS[:1], min_weight=0.1),
    ],
)
def test_what_needs_a_posterior_of_texts_says_so(run: Run, operation: Any) -> None:
    name = type(run.guide).__name__
    message = rf"the guide {name} has no encode\(batch\), which this needs: define it, as docs/own_guide.md shows."
    with pytest.raises(ValueError, match=message) as error:
        operation(run)
    assert "\n" not in str(error.value)


def test_a_guide_that_does_not_define_encode_refuses() -> None:
    corpus = Corpus.from_texts(TEXTS, vocabulary=270, max_length=32)
    model = VAE.for_corpus(corpus, base_measure="gaussian", width=16, layers=1, heads=2)
    assert encodes(VAEGuide(model)) and not encodes(ForwardOnly(model)) and not encodes(None)
    with pytest.raises(ValueError, match="the guide ForwardOnly has no encode"):
        ForwardOnly(model).encode(Batch.pad([[5, 2]]))


def test_a_model_that_does_not_define_a_likelihood_refuses() -> None:
    with pytest.raises(ValueError, match=r"the model Model has no likelihood\(memory, mask\), .* define it"):
        Model().likelihood(None)


def test_a_posterior_needs_a_memory_alone() -> None:
    class PointMass(TextPosterior):
        def memory(self) -> Context:
            return Context(torch.zeros(2, 1, 8))

    posterior = PointMass()
    assert posterior.layers == () and posterior.moments() is None and posterior.token_weights() is None
    with pytest.raises(ValueError, match="the latents of a PointMass form no table"):
        posterior.memory_at(torch.zeros(2, 1, 8))


@pytest.mark.parametrize("samples_per_component", [1, 3])
def test_token_weights_and_the_priors_sum_to_one(samples_per_component: int) -> None:
    config = TransformerConfig(vocabulary=20, max_length=8, width=16, layers=1, heads=2)
    guide = NVAEGuide(NVAE(config, samples_per_component=samples_per_component))
    batch = Batch.pad([[5, 6, 2], [7, 2]])
    posterior = guide.encode(batch)
    weights = posterior.token_weights()
    assert weights.shape == (2, 3) and (weights[1, 2] == 0).all()
    prior = posterior.log_weights[:, :samples_per_component].exp().sum(-1)
    torch.testing.assert_close(1 - weights.sum(-1).float(), prior)
    assert isinstance(posterior, TextPosterior) and posterior.layers == () and posterior.moments() is None


@pytest.mark.parametrize("guide", [NVAEGuide, VAEGuide, DELLAGuide])
def test_a_guide_of_another_model_is_refused(guide: type[Guide]) -> None:
    """Where types are not checked, as they are in tests before a guide's own constructor runs."""
    model = LanguageModel(TransformerConfig(vocabulary=20, max_length=8, width=16, layers=1, heads=2, dropout=0.0))
    with pytest.raises(ValueError, match=f"{guide.__name__} is a guide of .*, not of LanguageModel: build a model"):
        Guide.__init__(guide.__new__(guide, model), model)


@pytest.mark.parametrize(("model", "guide"), [(NVAE, NVAEGuide), (VAE, VAEGuide)])
def test_the_initial_log_variance_is_finite(model: type[Model], guide: type[Guide]) -> None:
    config = TransformerConfig(vocabulary=20, max_length=8, width=16, heads=2)
    with pytest.raises(ValueError, match=r"log_variance is nan: give a finite number"):
        guide(model(config), log_variance=float("nan"))


def test_a_guide_of_a_model_of_another_class_is_named() -> None:
    config = TransformerConfig(vocabulary=20, max_length=8, width=16, layers=1, heads=2)
    message = (
        "the guide is a NVAEGuide of the model NVAE, and the model is of the class VAE: give a guide that was made"
    )
    with pytest.raises(ValueError, match=message):
        check_pair(VAE(config), NVAEGuide(NVAE(config)))
