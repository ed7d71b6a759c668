"""Generated texts do not depend on the batch and follow the model's distribution."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pyroformer.guides.nvae import NVAEGuide
from pyroformer.inference.data.corpus import Corpus
from pyroformer.inference.generation.decoding import Decoding
from pyroformer.inference.generation.generate import decode, encode, reconstruct, sample
from pyroformer.inference.run import Run
from pyroformer.inference.runs.folder import RunFolder
from pyroformer.models.batch import BOS, EOS, PAD
from pyroformer.models.language_model import LanguageModel
from pyroformer.models.nvae import NVAE
from pyroformer.models.transformer.text_distribution import AutoregressiveText
from pyroformer.models.transformer.token_likelihood import TokenLikelihood

TEXTS = [f"{'Ones' if n % 3 else 'A few'} and {n * n * n} more." for n in range(40)]
HOT = Decoding(temperature=3.0)


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return Corpus.from_texts(TEXTS, vocabulary=270, max_length=24)


def made(corpus: Corpus, name: str, **options: Any) -> Run:
    """An untrained run with large weights, so that its texts differ."""
    torch.manual_seed(0)
    shape = {"width": 16, "layers": 2, "heads": 2, "positions": "learned", "init_std": 0.02}
    shape |= {"norm": "layer", "activation": "gelu_tanh", "bias": True}
    if name == "nvae":
        options.setdefault("base_measure", "gaussian")
    model = (NVAE if name == "nvae" else LanguageModel).for_corpus(corpus, **shape, **options)
    guide = NVAEGuide(model) if isinstance(model, NVAE) else None
    for module in (model, guide):
        for parameter in [] if module is None else module.parameters():
            parameter.data.add_(0.2 * torch.randn_like(parameter))
    config = {"objective": {"name": "elbo", "is_bound": True, "kl_weights": {}}}
    return Run(model, guide, corpus, RunFolder(corpus.folder), config, 0)


@pytest.fixture(scope="module")
def nvae(corpus: Corpus) -> Run:
    return made(corpus, "nvae")


@pytest.fixture(scope="module")
def lm(corpus: Corpus) -> Run:
    return made(corpus, "lm")


def always(run: Run, token: int) -> None:
    """Makes the decoder predict one token with certainty."""
    decoder: Any = run.model.decoder
    row = decoder.embedding.tokens.weight.data[token]
    decoder.norm = Constant(1e3 * row / row.square().sum())


class Constant(nn.Module):
    """A norm that forgets what it is given."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.register_buffer("value", value)

    def forward(self, x: Tensor) -> Tensor:
        return self.value.expand_as(x)


def test_greedy_reconstruction_is_the_argmax_one_token_after_the_other(nvae: Run) -> None:
    model: Any = nvae.model
    memory = encode(nvae, TEXTS[3]).memory()
    tokens = [PAD]
    model.eval()
    with torch.no_grad():
        while tokens[-2:-1] != [EOS] and len(tokens) <= nvae.corpus.max_length:
            logits = model.likelihood(memory, None).likelihood(torch.tensor([tokens])).logits()[0, -1]
            logits[[PAD, BOS]] = -torch.inf
            tokens[-1:] = [int(logits.argmax()), PAD]
    assert reconstruct(nvae, [TEXTS[3]])[0].text == nvae.tokenizer.decode(tokens)


@pytest.mark.parametrize("decoding", [Decoding(greedy=True), HOT], ids=["greedy", "drawn"])
def test_a_reconstruction_does_not_depend_on_the_batch(nvae: Run, decoding: Decoding) -> None:
    together = [item.text for item in reconstruct(nvae, TEXTS[:7], decoding)]
    assert together == [item.text for item in reconstruct(nvae, TEXTS[:7], decoding, batch_size=2)]
    assert len(set(together)) > 1


@pytest.mark.parametrize("name", ["nvae", "lm"])
def test_samples_are_a_function_of_seed_and_number(name: str, request: pytest.FixtureRequest) -> None:
    run = request.getfixturevalue(name)
    texts = sample(run, 7, HOT, seed=1)
    assert texts == sample(run, 7, HOT, seed=1, batch_size=3)
    assert texts[:3] == sample(run, 3, HOT, seed=1)
    assert texts != sample(run, 7, HOT, seed=2)
    assert len(set(texts)) == 7


def test_latents_of_samples_differ(nvae: Run) -> None:
    assert len(set(sample(nvae, 8, Decoding(greedy=True)))) > 1


def test_the_first_token_follows_the_model(lm: Run) -> None:
    tokens = torch.zeros(1, 1, dtype=torch.long)
    lm.model.eval()
    with torch.no_grad():
        logits = lm.model.likelihood().likelihood(tokens).logits()[0, 0] * 20  # type: ignore[operator]
    logits[[PAD, BOS]] = -torch.inf
    cold = Decoding(temperature=1 / 20)
    drawn = sample(lm, 100, cold, batch_size=100)
    piece, share = lm.tokenizer.pieces([int(logits.argmax())])[0], float(logits.softmax(-1).max())
    got = sum(text.startswith(piece) for text in drawn) / len(drawn)
    assert abs(got - share) < 4 * (share * (1 - share) / 100) ** 0.5 + 1e-3


def test_an_empty_output_stays_an_item(corpus: Corpus) -> None:
    for name in ("nvae", "lm"):
        run = made(corpus, name)
        always(run, EOS)
        assert sample(run, 3) == ["", "", ""]
    assert [item.text for item in reconstruct(made_sure(corpus, EOS), TEXTS[:2])] == ["", ""]


def made_sure(corpus: Corpus, token: int) -> Run:
    run = made(corpus, "nvae")
    always(run, token)
    return run


@pytest.mark.parametrize("token", [PAD, BOS])
def test_padding_and_beginning_are_never_written(corpus: Corpus, token: int) -> None:
    (item,) = reconstruct(made_sure(corpus, token), TEXTS[:1])
    assert item.text


def test_the_fields_of_a_reconstruction(nvae: Run) -> None:
    one, two = reconstruct(nvae, [TEXTS[0], TEXTS[30]])
    assert one.original == TEXTS[0] and "".join(one.tokens) == TEXTS[0] + "<eos>"
    for item in (one, two):
        assert len(item.token_weights) == len(item.tokens)
        assert sum(item.token_weights) + item.prior_weight == pytest.approx(1, abs=1e-5)
    expected = nvae.encode(TEXTS[0]).log_weights.exp()[0]
    torch.testing.assert_close(torch.tensor([one.prior_weight, *one.token_weights]), expected, atol=1e-5, rtol=1e-5)
    assert one.as_dict()["exact"] is (one.text == one.original)


def test_kappa_vectors_of_a_token_are_weighed_together(corpus: Corpus) -> None:
    one, two = (
        reconstruct(made(corpus, "nvae", samples_per_component=samples_per_component), TEXTS[:1])[0]
        for samples_per_component in (1, 2)
    )
    assert two.token_weights == pytest.approx(one.token_weights, abs=1e-5)


@pytest.mark.parametrize("samples_per_component", [1, 2])
def test_vectors_below_a_weight_leave_before_anything_is_written(corpus: Corpus, samples_per_component: int) -> None:
    run, drawn = made(corpus, "nvae", samples_per_component=samples_per_component), Decoding()
    weights = run.encode(TEXTS[:3]).log_weights.exp()
    threshold = float(weights.median())
    whole, thin = (reconstruct(run, TEXTS[:3], drawn, min_weight=below) for below in (0.0, threshold))
    memory = run.encode(TEXTS[:3]).memory()
    mask = memory.mask & ((weights >= threshold) | (torch.arange(memory.components) < samples_per_component))
    assert [item.text for item in thin] == decode(run, replace(memory, mask=mask), drawn)
    assert [item.text for item in thin] != [item.text for item in whole]
    assert [item.token_weights for item in thin] == [item.token_weights for item in whole]
    assert run.reconstruct(TEXTS[:3], min_weight=threshold, greedy=False) == thin


def test_a_prompt_begins_every_text(lm: Run, nvae: Run) -> None:
    for run in (lm, nvae):
        assert all(text.startswith("A few") for text in sample(run, 4, HOT, prompt="A few"))
    assert sample(lm, 2, HOT, prompt="") == sample(lm, 2, HOT)


def test_encode_and_decode_are_a_reconstruction(nvae: Run) -> None:
    mixture = nvae.encode(TEXTS[:3]).memory()
    assert decode(nvae, mixture) == [item.text for item in reconstruct(nvae, TEXTS[:3])]
    assert not mixture.means.requires_grad


def test_the_methods_of_a_run(nvae: Run) -> None:
    assert nvae.reconstruct(TEXTS[0]) == nvae.reconstruct([TEXTS[0]])[0]
    assert nvae.reconstruct(TEXTS[:2], greedy=False, seed=3) == reconstruct(nvae, TEXTS[:2], Decoding(), seed=3)
    assert nvae.sample(2, seed=5, top_k=3) == sample(nvae, 2, Decoding(top_k=3), seed=5)
    assert nvae.decode(nvae.encode(TEXTS[:2]).memory()) == [item.text for item in nvae.reconstruct(TEXTS[:2])]


@pytest.mark.parametrize("name", ["nvae", "lm"])
def test_nothing_is_left_changed(name: str, request: pytest.FixtureRequest) -> None:
    run = request.getfixturevalue(name)
    parts: list[nn.Module] = [part for part in (run.model, run.guide) if part is not None]
    for part in parts:
        part.train()
    state = torch.get_rng_state()
    sample(run, 2)
    if run.guide is not None:
        reconstruct(run, TEXTS[:2])
    assert torch.equal(state, torch.get_rng_state())
    assert all(module.training for part in parts for module in part.modules())
    assert torch.is_grad_enabled()


def test_dropout_plays_no_part(corpus: Corpus) -> None:
    run = made(corpus, "nvae", dropout=0.9)
    run.model.train()
    assert reconstruct(run, TEXTS[:2]) == reconstruct(run, TEXTS[:2], seed=1)


class Ended(AutoregressiveText):
    """Texts that end at once, by the distribution of tokens."""

    def token_likelihood(self, hidden: Tensor, mask: Tensor | None = None) -> TokenLikelihood:
        bias = torch.full((self.decoder.config.vocabulary,), -99.0).index_fill(0, torch.tensor(EOS), 0.0)
        return TokenLikelihood(0 * hidden, self.decoder.readout[0], bias, mask)


class Scored(AutoregressiveText):
    def log_prob(self, value: Tensor) -> Tensor:
        return 2 * super().log_prob(value)


def test_texts_are_written_by_the_likelihood_of_the_model_or_not_at_all(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = made(corpus, "nvae")
    monkeypatch.setattr(run.model, "likelihood", lambda memory, mask=None: Ended(run.model.decoder, memory, mask))
    assert run.sample(2) == ["", ""] and run.reconstruct(TEXTS[0]).text == ""
    monkeypatch.setattr(run.model, "likelihood", lambda memory, mask=None: Scored(run.model.decoder, memory, mask))
    with pytest.raises(ValueError, match=r"Scored defines log_prob, which writing .* does not read: define token_like"):
        run.reconstruct(TEXTS[0])


def test_no_texts(nvae: Run) -> None:
    assert sample(nvae, 0) == [] and reconstruct(nvae, []) == []


def test_invalid_requests(lm: Run, nvae: Run) -> None:
    for call in (lambda: lm.reconstruct(TEXTS[0]), lambda: lm.encode(TEXTS[0])):
        with pytest.raises(
            ValueError, match="a LanguageModel has no latents, so no posterior .* sample from it instead"
        ):
            call()
    with pytest.raises(ValueError, match="n is -1: give how many"):
        lm.sample(-1)
    with pytest.raises(ValueError, match=r"the prompt has \d+ tokens, the max_length is 24: shorten it"):
        lm.sample(1, prompt="word " * 40)
    with pytest.raises(ValueError, match="tokens, the model's max_length is 24: shorten it"):
        nvae.reconstruct("word " * 40)
    with pytest.raises(ValueError, match="temperature is 0.0: give 1e-30 to"):
        lm.sample(1, temperature=0.0)
    with pytest.raises(ValueError, match="min_weight is -0.5: give a weight from 0 to below 1"):
        nvae.reconstruct(TEXTS[0], min_weight=-0.5)
    with pytest.raises(ValueError, match="batch_size is 0"):
        sample(lm, 1, batch_size=0)


def test_noise_is_not_that_of_the_latents() -> None:
    from pyroformer.inference.generation.decoding import uniforms
    from pyroformer.inference.utils.seeds import derived_seed

    torch.manual_seed(derived_seed(3, 0, "latents"))
    latent: Tensor = torch.rand(5)
    assert not torch.equal(latent, uniforms(3, [0], 5)[0])
