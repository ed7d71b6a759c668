"""Causal self-attention over mixtures: token by token, by brute force, and as sites of an NVAE."""

import itertools
import math
import warnings
from dataclasses import replace
from typing import Any

import matplotlib.pyplot as plt
import pytest
import torch
import torch.nn.functional as F
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch import Tensor

from pyroformer.guides.nvae import NVAEGuide
from pyroformer.inference.data.corpus import Corpus
from pyroformer.inference.objectives.elbo import ELBO
from pyroformer.inference.objectives.nvib import NVIB, vector_regularizer, weight_regularizer
from pyroformer.inference.objectives.registry import describe_objective
from pyroformer.inference.objectives.trace_pair import trace_pair
from pyroformer.inference.options import TrainingOptions
from pyroformer.inference.plots.weight_strip import BEGINNING, token_weights, weights
from pyroformer.inference.posterior.export import to_arviz
from pyroformer.inference.training.fit import fit
from pyroformer.models.attention.mixture import Mixture
from pyroformer.models.batch import EOS, Batch
from pyroformer.models.nvae import NVAE
from pyroformer.models.transformer.backbone import Backbone
from pyroformer.models.transformer.config import TransformerConfig
from pyroformer.models.transformer.memory import Context
from pyroformer.models.transformer.mixtures import decoder as mixture_decoder
from pyroformer.models.transformer.mixtures.decoder import MixtureDecoder
from pyroformer.models.transformer.mixtures.drawn_text import DrawnText
from pyroformer.models.transformer.mixtures.posterior import MixturePosterior
from pyroformer.models.transformer.stacks import Decoder
from pyroformer.models.transformer.text_distribution import AutoregressiveText

CONFIG = TransformerConfig(vocabulary=30, max_length=12, width=16, layers=3, heads=2, dropout=0.0)
BATCH = Batch.pad([[5, 6, 7, 8, EOS], [9, EOS], [10, 11, 12, EOS]])


def stirred(module: torch.nn.Module) -> Any:
    for parameter in module.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return module.eval()


def decoder_and_memory(**options: Any) -> tuple[MixtureDecoder, Mixture, Tensor]:
    torch.manual_seed(0)
    decoder = stirred(MixtureDecoder(CONFIG, 2, **options))
    return decoder, Mixture(torch.zeros(3, 4), torch.randn(3, 4, 16)), torch.randint(3, 30, (3, 8))


def pair(**options: Any) -> tuple[NVAE, NVAEGuide]:
    torch.manual_seed(0)
    model = NVAE(CONFIG, **{"nvib_decoder_layers": 2, "nvib_decoder_alpha": "relu", **options})
    return stirred(model), stirred(NVAEGuide(model))


@torch.no_grad()
def stepped(decoder: MixtureDecoder, memory: Mixture, tokens: Tensor, sizes: tuple[int, ...], draws: bool) -> Tensor:
    """Hidden states of texts that are read a few tokens at a time."""
    cache = decoder.cache((3,), 8, memory)
    cache.draws = draws
    parts = F.pad(tokens[:, :-1], (1, 0), value=CONFIG.bos).split(sizes, -1)
    return torch.cat([decoder.step(part, cache) for part in parts], 1)


@pytest.mark.parametrize("sizes", [(1,) * 8, (5, 1, 2)])
@pytest.mark.parametrize(
    ("alpha", "variance"), [("linear", "diagonal"), ("relu", "isotropic"), ("quadratic", "shared")]
)
def test_token_by_token_is_the_parallel_form(sizes: tuple[int, ...], alpha: str, variance: str) -> None:
    decoder, memory, tokens = decoder_and_memory(alpha=alpha, variance=variance)
    expected = decoder(tokens, memory)
    torch.testing.assert_close(stepped(decoder, memory, tokens, sizes, False), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_condition_is_read_before_the_text() -> None:
    config = replace(CONFIG, max_condition_length=4)
    decoder = stirred(MixtureDecoder(config, 2))
    context = Context(
        condition_tokens=torch.tensor([[5, 6, 7], [0, 8, 9]]),
        condition_mask=torch.tensor([[1, 1, 1], [0, 1, 1]]).bool(),
    )
    texts = torch.randint(3, 30, (2, 5))
    expected = decoder(texts, context)
    tokens = torch.cat([context.condition_tokens, F.pad(texts[:, :-1], (1, 0), value=CONFIG.bos)], 1)
    hidden = decoder.step(tokens, decoder.cache((2,), 8, context), F.pad(context.present, (0, 5), value=True))
    torch.testing.assert_close(hidden[:, 3:], expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(decoder(texts), expected, atol=1e-2)


@torch.no_grad()
def test_the_vector_of_a_place_is_found_as_without_mixtures() -> None:
    """From the prior ``language_model``, where decoding a text from its vectors is exact before any training."""
    config, bounds = replace(CONFIG, width=64), []
    for layers in (0, 1, 3):
        torch.manual_seed(0)
        model = NVAE(config, base_measure="language_model", nvib_decoder_layers=layers).eval()
        guide = NVAEGuide(model).eval()
        torch.manual_seed(1)
        bounds.append(ELBO(num_particles=4).terms(model, guide, BATCH).bound)
        for draws in (False, True):
            text = AutoregressiveText(model.decoder, guide.encode(BATCH).memory())
            texts = text.decode(lambda logits: logits.argmax(-1), (3,), draws=draws)
            assert torch.equal(texts, BATCH.tokens)
    for bound in bounds[1:]:
        torch.testing.assert_close(bound, bounds[0], rtol=0, atol=0.02)


def test_what_is_drawn_token_by_token_is_a_draw_of_the_parallel_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same noise for the same token: gamma draws are weights, up to a factor that cancels."""
    decoder, memory, tokens = decoder_and_memory(alpha="quadratic")
    noise = torch.randn(3, 9, 16)
    places = iter([slice(0, 9)] * 2 + [[0, t + 1] for t in range(8) for _ in range(2)])

    def noisy(posterior: MixturePosterior) -> Mixture:
        some = noise[:, next(places)]
        return Mixture(posterior.log_alpha + some[..., 0], posterior.mean + posterior.variance.sqrt() * some)

    together = decoder(tokens, memory, draw=lambda layer, posterior: noisy(posterior))
    monkeypatch.setattr(mixture_decoder, "drawn", noisy)
    torch.testing.assert_close(stepped(decoder, memory, tokens, (1,) * 8, True), together, rtol=1e-4, atol=1e-4)


def test_prompts_of_several_lengths_are_padded_on_the_left() -> None:
    decoder, memory, tokens = decoder_and_memory()
    read = F.pad(tokens[:, :5], (1, 0), value=CONFIG.bos)
    padded = F.pad(read, (2, 0), value=CONFIG.pad)
    cache = decoder.cache((3,), 12, memory)
    with torch.no_grad():
        hidden = decoder.step(padded, cache, F.pad(torch.ones_like(read, dtype=torch.bool), (2, 0)))[:, 2:]
    torch.testing.assert_close(hidden, decoder(tokens, memory)[:, :6], rtol=1e-4, atol=1e-5)


def test_no_token_reads_a_later_one() -> None:
    decoder, memory, tokens = decoder_and_memory()
    other = tokens.clone()
    other[:, 4:] = 29
    assert torch.equal(decoder(tokens, memory)[:, :5], decoder(other, memory)[:, :5])
    assert not torch.allclose(decoder(tokens, memory)[:, 5:], decoder(other, memory)[:, 5:], atol=1e-2)


@torch.no_grad()
def test_texts_are_written_with_the_probabilities_of_the_parallel_form() -> None:
    """All texts of at most two of three tokens, against the mean density over draws."""
    config = TransformerConfig(vocabulary=4, max_length=2, width=8, layers=1, heads=1)
    torch.manual_seed(0)
    decoder = stirred(MixtureDecoder(config, 1, log_variance=1.0))
    for parameter in decoder.parameters():
        parameter.mul_(2.0)
    count = 8_000
    written = DrawnText(decoder).expand([count]).sample()
    for first, second in itertools.product(range(4), repeat=2):
        if first == EOS and second != config.pad:
            continue
        text = torch.tensor([first, second])
        probability = DrawnText(decoder).expand([count]).log_prob(text.expand(count, 2)).exp()
        error = math.sqrt(float(probability.mean()) / count) + float(probability.std()) / math.sqrt(count)
        frequency = float((written == text).all(-1).float().mean())
        assert frequency == pytest.approx(float(probability.mean()), abs=4 * error)
    assert float(probability.std()) > 1e-3  # what is drawn matters


def test_sites_are_drawn_by_the_model_and_cost_nothing() -> None:
    model, guide = pair(nvib_layers=1)
    own = [f"{site}_decoder_{layer}" for layer in (2, 3) for site in ("weights", "vectors")]
    model_trace, guide_trace = trace_pair(model, guide, BATCH)
    assert [name for name in model_trace.nodes if "_decoder_" in name] == own
    assert not [name for name in guide_trace.nodes if "_decoder_" in name]
    assert not {*own} & {*model.latents, *ELBO().terms(model, guide, BATCH).kl}
    model_trace.compute_log_prob()
    assert all(not model_trace.nodes[name]["log_prob"].any() for name in own)
    torch.manual_seed(1)
    ours = ELBO().log_weights(model, guide, BATCH)
    torch.manual_seed(1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Found vars in model but not guide")
        pyros = Trace_ELBO().loss(model, guide, BATCH)
    assert -float(ours.detach().sum()) == pytest.approx(pyros, rel=1e-5)


def test_the_text_depends_on_what_a_layer_draws() -> None:
    model, guide = pair()
    trace, _ = trace_pair(model, guide, BATCH)
    values = {name: trace.nodes[name]["value"] for name in trace.nodes if "_decoder_" in name or name in model.latents}
    changed = values | {"vectors_decoder_2": values["vectors_decoder_2"] + 1.0}
    densities = []
    for given in (values, values, changed):
        text: Any = poutine.trace(poutine.condition(model, given)).get_trace(BATCH).nodes["text"]["fn"]
        densities.append(text.log_prob(BATCH.tokens))
    assert torch.equal(*densities[:2])
    assert torch.equal(densities[0], trace.nodes["text"]["fn"].log_prob(BATCH.tokens))
    assert (densities[2] - densities[0]).abs().min() > 1e-3


def test_the_published_objective_charges_each_layer() -> None:
    model, guide = pair()
    described = describe_objective(model, TrainingOptions(objective="nvib", lambda_d=0.6, lambda_g=0.3))
    linear = described["kl_weights"]
    assert [linear[f"weights{layer}"] for layer in ("_decoder_2", "_decoder_3", "")] == pytest.approx([0.3, 0.6, 0.6])
    options = TrainingOptions(objective="nvib", lambda_d=0.6, lambda_g=0.3, layer_weights="equal")
    equal = describe_objective(model, options)["kl_weights"]
    assert {equal[name] for name in equal if name.startswith("vectors")} == {0.3}
    terms = NVIB().terms(model, guide, BATCH)
    assert all((terms.penalty[f"{site}_decoder_2"] > 0).all() for site in ("weights", "vectors"))
    assert {"kept", "kept_decoder_2", "kept_decoder_3"} == set(terms.counts)
    assert not terms.bound.isnan().any() and "weights_decoder_2" not in terms.kl


def test_a_penalty_is_that_of_the_layers_own_distribution() -> None:
    model, guide = pair(nvib_decoder_layers=1)
    torch.manual_seed(2)
    penalty = NVIB().terms(model, guide, BATCH).penalty
    torch.manual_seed(2)
    trace, _ = trace_pair(model, guide, BATCH)
    q, normal = trace.nodes["weights_decoder_3"]["fn"], trace.nodes["vectors_decoder_3"]["fn"]
    length, mask, zero = BATCH.lengths, q.present, torch.zeros(16)
    alpha0 = q.log_concentration.masked_fill(~mask, -math.inf).logsumexp(-1)
    per_token = length / (length + 1)
    expected = per_token * weight_regularizer(alpha0, (1 + 0.3 * length).log(), length + 1)
    torch.testing.assert_close(penalty["weights_decoder_3"], expected.float())
    expected = per_token * vector_regularizer(
        q.log_concentration, normal.mean, normal.variance, zero, zero + 1, mask, reduction="mean"
    )
    torch.testing.assert_close(penalty["vectors_decoder_3"], expected.float())


def test_a_vector_that_is_off_in_one_layer_is_off_above_and_for_good() -> None:
    decoder, memory, tokens = decoder_and_memory(alpha="relu")
    low, high = decoder.blocks[1], decoder.blocks[2]
    for block, bias in ((low, -1.0), (high, 50.0)):
        block.alpha.linear.weight.data.zero_()  # type: ignore[union-attr, operator]
        block.alpha.linear.bias.data.fill_(bias)  # type: ignore[union-attr, operator]
    found: dict[int, MixturePosterior] = {}

    def collect(layer: int, posterior: MixturePosterior) -> Mixture:
        found[layer] = posterior
        return mixture_decoder.mean_mixture(posterior)

    decoder(tokens, memory, draw=collect)
    assert all(posterior.kept.tolist() == [[True] + [False] * 8] * 3 for posterior in found.values())


def test_arviz_has_what_layers_draw() -> None:
    model, guide = pair(nvib_decoder_layers=1)
    data = to_arviz(model, guide, BATCH, draws=3, predictive=1)
    assert data.posterior["vectors_decoder_3"].dims == ("chain", "draw", "text", "decoder_component", "dimension")
    assert data.posterior["weights_decoder_3"].sum("decoder_component").to_numpy() == pytest.approx(1.0)
    assert "weights_decoder_3" not in data.prior
    some = to_arviz(model, guide, BATCH, draws=1, sites=["weights_decoder_3"])
    assert list(some.posterior.data_vars) == ["weights_decoder_3"]


def test_every_parameter_has_a_gradient() -> None:
    model, guide = pair(nvib_decoder_alpha="quadratic")
    objective = ELBO()(model, guide)
    objective(BATCH).backward()
    assert not [n for n, p in objective.named_parameters() if p.grad is None or not p.grad.any()]


def test_a_run_says_and_shows_what_stays_in_each_layer() -> None:
    torch.manual_seed(0)
    corpus = Corpus.from_texts([f"Number {n} is {n}." for n in range(60)], vocabulary=270, max_length=24)
    model = NVAE.for_corpus(
        corpus,
        base_measure="gaussian",
        width=16,
        layers=2,
        heads=2,
        nvib_layers=1,
        nvib_decoder_layers=1,
        nvib_decoder_alpha="relu",
    )
    run = fit(model, NVAEGuide(model, alpha="relu"), corpus, steps=3, batch_size=8, validations=1)
    evaluation = run.evaluate(corpus.test[:4], metrics=["kept_layers"])
    text = corpus.test[0]
    layer = model.decoder_layers(run.encode([text]).memory(), run.batch([text]))[2]
    one = run.evaluate([text], metrics=["kept_layers"])
    assert one["kept_decoder_layer_2"].value == float(layer.kept.sum() - 1)
    assert "kept_layer_2" in evaluation and "layer 2 of the decoder" in str(evaluation)
    assert len(run.folder.read_metrics()["kept_decoder_2"]) > 0
    shown = token_weights(run, text, layer=2, stack="decoder")
    assert shown.pieces == [BEGINNING, *run.tokenizer.pieces(text)[:-1]]
    assert shown.weights.sum() == pytest.approx(1.0)
    weights(run, text, layer=2, stack="decoder")
    plt.close("all")
    assert len(run.reconstruct([text])) == 1 and len(run.sample(2)) == 2
    with pytest.raises(ValueError, match=r"layer is 1, and that layer of the decoder has no mixture: layers with one"):
        weights(run, text, layer=1, stack="decoder")
    with pytest.raises(ValueError, match=r"stack is decoder, and there is no layer: say which layer"):
        weights(run, text, stack="decoder")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nvib_decoder_layers": 4}, "nvib_decoder_layers is 4: give a number of the decoder's layers, from 0 to 3"),
        ({"nvib_decoder_layers": -1}, "nvib_decoder_layers is -1: give a number of the decoder's layers, from 0 to 3"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NVAE(CONFIG, **options)


def test_a_backbone_with_softmax_attention_is_refused() -> None:
    config = replace(CONFIG, layers=2)
    backbone = Backbone("trained", config, Decoder(config).state_dict())
    with pytest.raises(ValueError, match=r"nvib_decoder_layers is 1, and all layers of trained have softmax attention"):
        NVAE.check_start(backbone, "all", {"nvib_decoder_layers": 1})


def test_rotary_positions_are_refused() -> None:
    config = TransformerConfig(vocabulary=30, max_length=12, width=16, layers=2, heads=2, positions="rotary")
    with pytest.raises(ValueError, match=r"positions are rotary, which attention to a mixture has not"):
        NVAE(config, nvib_decoder_layers=1)


def test_layers_are_those_of_given_texts() -> None:
    model, guide = pair()
    memory = guide.encode(BATCH).memory()
    for layer in model.decoder_layers(memory, BATCH).values():
        assert layer.mask.sum(-1).tolist() == (BATCH.lengths + 1).tolist()
    with pytest.raises(ValueError, match="the batch is unobserved"):
        model.decoder_layers(memory, Batch.unobserved(3))


def test_weights_of_layers_belong_to_the_published_objective() -> None:
    with pytest.raises(ValueError, match=r"layer_weights is equal, an option of the objective nvib"):
        describe_objective(NVAE(CONFIG), TrainingOptions(objective="elbo", layer_weights="equal"))
    with pytest.raises(ValueError, match=r"layer_weights is equal, and no layer of the model attends to a mixture of"):
        describe_objective(NVAE(CONFIG), TrainingOptions(layer_weights="equal"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"attention": "probabilistic"},
            "attention is probabilistic, which attention to a mixture has",
        ),
        (
            {"key_value_heads": 1},
            "key_value_heads is 1, which attention to a mixture has not",
        ),
        ({"head_size": 4}, "head_size is 4, which attention to a mixture has not: leave it out"),
        ({"qkv_bias": True}, "qkv_bias is True, which attention to a mixture has not"),
        ({"query_key_norm": True}, "query_key_norm is True, which attention to a mixture has not"),
    ],
)
def test_what_layers_over_mixtures_would_ignore_is_refused(options: dict[str, Any], message: str) -> None:
    corpus = Corpus.from_texts([f"Number {n}." for n in range(40)], vocabulary=270, max_length=16)
    sizes: dict[str, Any] = {"width": 16, "layers": 2, "heads": 2, "positions": "learned"}
    with pytest.raises(ValueError, match=message):
        NVAE.for_corpus(corpus, base_measure="gaussian", nvib_layers=2, nvib_decoder_layers=2, **sizes, **options)
    with pytest.raises(
        ValueError, match="nvib_decoder_alpha is relu, and no layer of the decoder attends to a mixture"
    ):
        NVAE.for_corpus(corpus, base_measure="gaussian", nvib_decoder_alpha="relu", **sizes)
    NVAE.for_corpus(
        corpus, base_measure="gaussian", nvib_layers=1, nvib_decoder_layers=2, **sizes, **options
    )  # the other layer reads it
    same: dict[str, Any] = {"key_value_heads": 2, "head_size": 8, "qkv_bias": False}
    assert (
        NVAE.for_corpus(
            corpus, base_measure="gaussian", nvib_layers=2, nvib_decoder_layers=2, **sizes, **same
        ).nvib_layers
        == 2
    )
