"""Interpolation: the ends are the reconstructions, and other layers keep their latents."""

from typing import Any

import pytest
import torch

from pyroformer.guides.della import DELLAGuide
from pyroformer.guides.nvae import NVAEGuide
from pyroformer.inference.data.corpus import Corpus
from pyroformer.inference.generation.decoding import Decoding
from pyroformer.inference.generation.generate import decode, encode
from pyroformer.inference.generation.interpolation import interpolate, swap, swaps
from pyroformer.inference.run import Run
from pyroformer.inference.runs.folder import RunFolder
from pyroformer.models.attention.editing import interpolated
from pyroformer.models.attention.mixture import Mixture
from pyroformer.models.della import DELLA
from pyroformer.models.language_model import LanguageModel
from pyroformer.models.nvae import NVAE
from pyroformer.models.transformer.memory import Context

FIRST, SECOND = "A few and 64 more.", "Ones and 125 more."
TEXTS = [FIRST, SECOND] + [f"{'Ones' if n % 3 else 'A few'} and {n * n * n} more." for n in range(40)]


def made(**options: Any) -> Run:
    """An untrained run whose decoder depends on its latents."""
    corpus = Corpus.from_texts(TEXTS, vocabulary=270, max_length=24)
    torch.manual_seed(0)
    model = DELLA.for_corpus(corpus, width=16, layers=3, heads=2, latent_size=4, **options)
    guide = DELLAGuide(model)
    for module in (model, guide):
        for parameter in module.parameters():
            parameter.data.add_(0.5 * torch.randn_like(parameter))
    config = {"objective": {"name": "elbo", "is_bound": True, "kl_weights": {}}}
    return Run(model, guide, corpus, RunFolder(corpus.folder), config, 0)


@pytest.fixture(scope="module")
def run() -> Run:
    return made()


def own(run: Run, text: str) -> str:
    return decode(run, encode(run, text).memory())[0]


def test_the_ends_are_what_each_texts_own_latents_write(run: Run) -> None:
    results = interpolate(run, FIRST, SECOND, steps=3)
    assert [item.t for item in results] == [0.0, 0.5, 1.0]
    assert results[0].text == own(run, FIRST) != own(run, SECOND) == results[-1].text


def test_the_middle_is_the_mean_of_the_latents(run: Run) -> None:
    latents = encode(run, [FIRST, SECOND]).mean
    assert interpolate(run, FIRST, SECOND, steps=3)[1].text == decode(run, Context(latents.mean(0, keepdim=True)))[0]


def test_t_is_between_0_and_1(run: Run) -> None:
    memory = encode(run, FIRST).memory()
    with pytest.raises(ValueError, match=r"t is 1\.5: give a number from 0, all of the first, to 1, all of the se"):
        run.model.interpolate(memory, memory, 1.5)


@pytest.mark.parametrize(
    ("memory", "message"),
    [
        (Context(torch.zeros(1, 3, 5)), "3 latents of 5 dimensions, the model 3 of 4: give as many and as wide ones"),
        (Context(torch.zeros(1, 2, 4)), "2 latents of 4 dimensions, the model 3 of 4"),
        (Context(condition_tokens=torch.ones(1, 2, dtype=torch.long)), "the context has no latents, the model 3 of 4"),
        (Context(torch.zeros(3, 4)), r"the memory is of batch shape \(\): give one row for each text"),
        (Context(torch.zeros(2, 2, 3, 4)), r"the memory is of batch shape \(2, 2\): give one row for each text"),
        (Mixture(torch.zeros(1, 2), torch.zeros(1, 2, 16)), "the memory is a Mixture, but the decoder takes latents"),
    ],
)
def test_only_what_fits_the_decoder_is_written(run: Run, memory: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run.decode(memory)


def test_latents_of_other_sizes_or_of_more_texts_have_nothing_between(run: Run) -> None:
    memory = encode(run, FIRST).memory()
    with pytest.raises(ValueError, match="latents of 7 dimensions, the model 3 of 4"):
        run.model.interpolate(memory, Context(torch.zeros(1, 3, 7)), 0.5)
    with pytest.raises(ValueError, match=r"batch shapes \(1,\) and \(2,\): give as many texts of each"):
        run.model.interpolate(memory, encode(run, [FIRST, SECOND]).memory(), 0.5)


def test_only_the_named_layers_are_interpolated(run: Run) -> None:
    latents = encode(run, [FIRST, SECOND]).mean
    mixed = torch.stack([latents[0, 0], latents[1, 1], latents[0, 2]])[None]
    end = interpolate(run, FIRST, SECOND, steps=2, layers=[2])[-1]
    assert end.layers == (2,)
    assert end.text == decode(run, Context(mixed))[0] == swap(run, FIRST, SECOND, [2]).text
    assert swap(run, FIRST, SECOND, torch.tensor([2])).layers == (2,)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="layers is 2: give a list of numbers"):
        swap(run, FIRST, SECOND, 2)  # type: ignore[arg-type]


def test_swaps_go_from_the_texts_own_latents_to_the_others(run: Run) -> None:
    results = swaps(run, FIRST, SECOND)
    assert [item.layers for item in results] == [(), (1,), (2,), (3,), (1, 2, 3)]
    assert results[0].text == own(run, FIRST)
    assert results[-1].text == own(run, SECOND)


def test_the_same_seed_draws_the_same_texts(run: Run) -> None:
    hot = Decoding(temperature=3.0)
    once, again, other = (interpolate(run, FIRST, SECOND, decoding=hot, seed=seed) for seed in (1, 1, 2))
    assert once == again != other


def test_layers_are_those_that_have_a_latent() -> None:
    upper = made(first_layer=2)
    assert [item.layers for item in swaps(upper, FIRST, SECOND)] == [(), (2,), (3,), (2, 3)]
    with pytest.raises(ValueError, match="layer 1 has no latent: choose among 2, 3"):
        swap(upper, FIRST, SECOND, [1])


def test_one_latent_for_the_whole_text_can_only_move_as_a_whole() -> None:
    single = made(structure="single")
    assert interpolate(single, FIRST, SECOND, steps=2)[-1].text == own(single, SECOND)
    with pytest.raises(ValueError, match="belong to no layers .it has one for the whole text"):
        swap(single, FIRST, SECOND, [1])


@pytest.fixture(scope="module", params=["diagonal", "shared"])
def nvae(request: pytest.FixtureRequest) -> Run:
    return mixed_run(variance=request.param)


def mixed_run(**options: Any) -> Run:
    """An untrained NVAE whose decoder depends on its mixture."""
    corpus = Corpus.from_texts(TEXTS, vocabulary=270, max_length=24)
    torch.manual_seed(0)
    model = NVAE.for_corpus(corpus, base_measure="gaussian", width=16, layers=2, heads=2, samples_per_component=2)
    guide = NVAEGuide(model, **options)
    for module in (model, guide):
        for parameter in module.parameters():
            parameter.data.add_(0.4 * torch.randn_like(parameter))
    return Run(model, guide, corpus, RunFolder(corpus.folder), {}, 0)


def test_the_way_between_mixtures_is_their_mixture(nvae: Run) -> None:
    results = interpolate(nvae, FIRST, SECOND, steps=3)
    assert [item.t for item in results] == [0.0, 0.5, 1.0] and not any(item.layers for item in results)
    assert results[0].text == own(nvae, FIRST) != own(nvae, SECOND) == results[-1].text
    middle = interpolated(encode(nvae, FIRST).memory(), encode(nvae, SECOND).memory(), 0.5)
    assert results[1].text == decode(nvae, middle)[0]
    assert nvae.interpolate(FIRST, SECOND, 3) == [item.text for item in results]


def test_mixtures_have_no_layers(nvae: Run) -> None:
    with pytest.raises(ValueError, match="latents of this NVAE belong to no layers .it has weights, vectors.: fit a d"):
        interpolate(nvae, FIRST, SECOND, layers=[1])


def test_a_custom_model_defines_its_interpolation(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DELLA, "interpolate", lambda self, first, second, t: second)
    assert {item.text for item in interpolate(run, FIRST, SECOND)} == {own(run, SECOND)}


def test_a_model_without_latents_says_so() -> None:
    corpus = Corpus.from_texts(TEXTS, vocabulary=270, max_length=24)
    plain = Run(LanguageModel.for_corpus(corpus, width=16), None, corpus, RunFolder(corpus.folder), {}, 0)
    with pytest.raises(ValueError, match="LanguageModel has no latents"):
        interpolate(plain, FIRST, SECOND)


def test_vectors_of_a_mixture_are_dropped_and_latents_of_layers_are_not(run: Run) -> None:
    with pytest.raises(
        ValueError, match="min_weight is 0.1, but a DELLA has no weights to drop vectors by: leave it out"
    ):
        run.reconstruct(FIRST, min_weight=0.1)


def test_there_are_at_least_two_ends(run: Run) -> None:
    with pytest.raises(ValueError, match="steps is 1: give at least 2"):
        interpolate(run, FIRST, SECOND, steps=1)
