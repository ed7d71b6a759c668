"""What metrics of all texts read: numbers of draws, batches of texts and their seeds, references."""

from typing import Any

import pytest
import torch

from pyroformer.guides.della import DELLAGuide
from pyroformer.guides.vae import VAEGuide
from pyroformer.inference.data.corpus import Corpus
from pyroformer.inference.data.texts import evenly_spaced
from pyroformer.inference.evaluation import context as context_module
from pyroformer.inference.evaluation.context import EvaluationContext, EvaluationOptions
from pyroformer.inference.evaluation.latent_information import LatentInformation
from pyroformer.inference.run import Run
from pyroformer.inference.runs.folder import RunFolder
from pyroformer.models.della import DELLA
from pyroformer.models.language_model import LanguageModel
from pyroformer.models.vae import VAE

CORPUS = Corpus.from_texts([f"Ones and {n * n * n} more." for n in range(60)], vocabulary=270, max_length=24)
ELBO: dict[str, Any] = {"name": "elbo", "is_bound": True, "kl_weights": {}}
GUIDES: dict[Any, Any] = {VAE: VAEGuide, DELLA: DELLAGuide, LanguageModel: lambda model: None}


def context(cls: Any = VAE, objective: dict[str, Any] = ELBO, texts: int = 7, **options: Any) -> EvaluationContext:
    model = cls.for_corpus(CORPUS, width=16, layers=1, heads=2)
    run = Run(model, GUIDES[cls](model), CORPUS, RunFolder(CORPUS.folder), {"objective": objective}, 0)
    return EvaluationContext(run, evenly_spaced(CORPUS.train, texts), EvaluationOptions(**options))


@pytest.mark.parametrize(
    ("trained", "num_particles", "draws"), [(1, 1, 1), (1, 3, 3), (1, 64, 8), (3, 64, 2), (3, 1, 1)]
)
def test_terms_are_of_at_most_eight_draws(trained: int, num_particles: int, draws: int) -> None:
    objective = ELBO if trained == 1 else ELBO | {"name": "iw", "num_particles": trained}
    found = context(objective=objective, num_particles=num_particles)
    assert (found.draws, found.objective.num_particles) == (draws, trained)
    assert found.objective.data_size == len(CORPUS.train)
    assert (found.about["num_particles"], found.about["draws"]) == (num_particles, draws * trained)


def test_nothing_is_drawn_where_nothing_is_latent() -> None:
    assert not {"num_particles", "draws"} & set(context(LanguageModel).about)


def test_batches_of_texts_have_numbers_and_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def reconstruct(run: Run, texts: list[str], **options: Any) -> list[Any]:
        calls.append((len(texts), options))
        return []

    def sample(run: Run, n: int, **options: Any) -> list[str]:
        calls.append((n, options))
        return ["a"] * n

    monkeypatch.setattr(context_module, "reconstruct", reconstruct)
    monkeypatch.setattr(context_module, "sample", sample)
    some = context(reconstructions=5, samples=5, batch_size=3, seed=4, min_weight=0.2)
    assert some.reconstructions == [] and some.samples == ["a"] * 5
    given = {"conditions": None, "min_weight": 0.2, "seed": 4, "batch_size": 3}
    assert calls[:2] == [(3, {**given, "start": 0}), (2, {**given, "start": 3})]
    assert calls[2:] == [(3, {"seed": 4, "start": 0}), (2, {"seed": 4, "start": 3})]


def test_ten_held_out_texts_for_each_generated_one() -> None:
    found = context(samples=2)
    found.run.corpus = Corpus.from_texts([f"{n} texts" for n in range(1000)], tokenizer="bytes", max_length=24)
    assert len(found.run.corpus.test) > 20
    assert found.references == evenly_spaced(found.run.corpus.test, 20)[:]


def test_information_is_of_two_texts_at_least_and_of_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = []

    def measured(*_: Any, **__: Any) -> LatentInformation:
        seeds.append(torch.initial_seed())
        return information

    information = LatentInformation(*(torch.full((1,), float(n)) for n in range(len(LatentInformation._fields))))
    monkeypatch.setattr(context_module, "latent_information", measured)
    assert context(DELLA, texts=1).latent_information is None and context(VAE).latent_information is None
    found = context(DELLA, seed=5).latent_information
    assert seeds == [5] and found is not None
    assert found.marginal_kl == information.kl - information.mutual_information
