"""Self-attention over mixtures: brute force, masks, order, and the sites of an NVAE whose encoder has such layers."""

import math
from typing import Any

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch import Tensor

from pyroformer.guides.mixture_encoder import MixtureEncoder
from pyroformer.guides.nvae import NVAEGuide
from pyroformer.inference.data.corpus import Corpus
from pyroformer.inference.objectives.elbo import ELBO
from pyroformer.inference.objectives.nvib import NVIB
from pyroformer.inference.objectives.registry import describe_objective
from pyroformer.inference.options import TrainingOptions
from pyroformer.inference.plots.weight_strip import token_weights, weights
from pyroformer.inference.posterior.export import to_arviz
from pyroformer.inference.training.fit import fit
from pyroformer.models.attention.mixture import Mixture
from pyroformer.models.batch import EOS, Batch
from pyroformer.models.nvae import NVAE
from pyroformer.models.transformer.config import TransformerConfig
from pyroformer.models.transformer.mixtures.block import MixtureBlock
from pyroformer.models.transformer.mixtures.posterior import LEAST_LOG_ALPHA

CONFIG = TransformerConfig(vocabulary=30, max_length=12, width=16, layers=3, heads=2, dropout=0.0)
BATCH = Batch.pad([[5, 6, 7, 8, EOS], [9, EOS], [10, 11, 12, EOS]])


def stirred(module: torch.nn.Module) -> Any:
    for parameter in module.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return module.eval()


def pair(layers: int = 2, **options: Any) -> tuple[NVAE, NVAEGuide]:
    torch.manual_seed(0)
    model = NVAE(CONFIG, nvib_layers=layers)
    return stirred(model), stirred(NVAEGuide(model, **options))


def by_hand(block: MixtureBlock, x: Tensor, log_weights: Tensor, vectors: Tensor, row: int, visible: int) -> Tensor:
    """The output for one token of one text, in loops and without a kernel: softmax(q k / s + log pi - |z|^2 / 2s)."""
    attention, size = block.attention, 16 // 2
    query = attention.query(block.attention_norm(x[row]))
    keys, values = attention.key(vectors), attention.value(vectors)
    parts = []
    for head in range(2):
        of_head = slice(head * size, (head + 1) * size)
        logits = [
            (query[of_head] @ keys[n, of_head] - vectors[n].square().sum() / 2) / math.sqrt(size) + log_weights[n]
            for n in range(visible)
        ]
        weights = torch.stack(logits).softmax(0)
        parts.append(sum(weight * values[n, of_head] for n, weight in enumerate(weights)))
    y = x[row] + attention.out(torch.cat(parts))  # type: ignore[arg-type]
    return y + block.mlp(block.mlp_norm(y))


@pytest.mark.parametrize("causal", [False, True])
def test_a_block_is_denoising_of_its_tokens_by_hand(causal: bool) -> None:
    block = stirred(MixtureBlock(CONFIG)).double()
    x = torch.randn(5, 16).double()
    log_weights, vectors = torch.randn(6).double().log_softmax(-1), torch.randn(6, 16).double()
    found = block(x, Mixture(log_weights, vectors), causal=causal)
    for row in range(5):
        expected = by_hand(block, x, log_weights, vectors, row, row + 2 if causal else 6)
        torch.testing.assert_close(found[row], expected, rtol=1e-8, atol=1e-8)


def test_a_causal_block_reads_nothing_of_later_tokens() -> None:
    block = stirred(MixtureBlock(CONFIG))
    mask = torch.ones(1, 7, dtype=torch.bool)
    x = torch.randn(1, 7, 16)
    other = torch.cat([x[:, :4], torch.randn(1, 3, 16)], 1)

    def run(states: Tensor) -> Tensor:
        mixture = block.posterior(states, mask).memory()
        weights = mixture.log_weights + block.posterior(states, mask).log_alpha.logsumexp(-1, keepdim=True)
        output: Tensor = block(states, Mixture(weights, mixture.means, mixture.variances, mixture.mask), causal=True)
        return output

    torch.testing.assert_close(run(x)[:, :4], run(other)[:, :4], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(run(x)[:, 4:], run(other)[:, 4:], atol=1e-2)


def test_a_memory_without_cross_attention_is_refused() -> None:
    block, x = MixtureBlock(CONFIG), torch.randn(2, 5, 16)
    mixture = block.posterior(x, torch.ones(2, 5, dtype=torch.bool)).memory()
    with pytest.raises(ValueError, match="this decoder has no cross-attention"):
        block(x, mixture, memory=mixture)


def test_the_first_mixture_is_near_softmax_attention() -> None:
    """With a quadratic head and no variance, each token has the bias of softmax attention, without the prior's."""
    block = MixtureBlock(CONFIG, alpha="quadratic", log_variance=-30.0).eval()
    x, mask = torch.randn(1, 5, 16), torch.ones(1, 5, dtype=torch.bool)
    h, attention = block.attention_norm(x), block.attention
    posterior = block.posterior(x, mask)
    present = torch.tensor([[False] + [True] * 5])
    tokens = Mixture(posterior.log_weights, posterior.mean, mask=present)
    q, k, v = (
        layer(h).unflatten(-1, (2, 8)).transpose(1, 2) for layer in (attention.query, attention.key, attention.value)
    )
    softmax = torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2)
    torch.testing.assert_close(attention(h, tokens), attention.out(softmax), rtol=1e-4, atol=1e-4)


def test_log_concentrations_add_up_over_layers() -> None:
    low, high = (stirred(MixtureBlock(CONFIG, alpha=form)) for form in ("relu", "linear"))
    x, mask = torch.randn(2, 5, 16), torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    below = low.posterior(x, mask)
    below = below._replace(log_alpha=below.log_alpha.index_fill(-1, torch.tensor([2]), LEAST_LOG_ALPHA - 5))
    alone, above = high.posterior(x, mask), high.posterior(x, mask, below)
    expected = (alone.log_alpha + below.log_alpha).masked_fill(
        below.log_alpha < LEAST_LOG_ALPHA + 1e-3, LEAST_LOG_ALPHA
    )
    torch.testing.assert_close(above.log_alpha[:, 1:], expected[:, 1:].clamp(min=LEAST_LOG_ALPHA))
    assert (above.log_alpha[:, 0] == 0).all() and above.kept[:, 0].all()
    assert torch.equal(above.mask, torch.tensor([[True] * 6, [True] * 4 + [False] * 2]))


@pytest.mark.parametrize("lower_is_off", [True, False])
def test_a_vector_that_one_layer_switches_off_is_off(lower_is_off: bool) -> None:
    """However large its concentration in the other layer: draws give it no weight, so evaluation does not either."""
    low, high = (MixtureBlock(CONFIG, alpha="relu") for _ in range(2))
    for block, bias in zip((low, high), (-1.0, 50.0) if lower_is_off else (50.0, -1.0), strict=True):
        block.alpha.linear.weight.data.zero_()
        block.alpha.linear.bias.data.fill_(bias)
    x, mask = torch.randn(2, 5, 16), torch.ones(2, 5, dtype=torch.bool)
    above = high.posterior(x, mask, low.posterior(x, mask))
    assert above.kept.tolist() == [[True] + [False] * 5] * 2
    assert (above.log_alpha[:, 1:] == LEAST_LOG_ALPHA).all()


def test_padding_and_batches_change_nothing() -> None:
    encoder = stirred(MixtureEncoder(CONFIG, 2))
    wide = Batch.pad([[5, 6, 7, 8, EOS], [9, EOS]], padded_length=9)
    assert wide.tokens is not None and wide.mask is not None
    together = encoder(wide.tokens, wide.mask)
    alone = encoder(torch.tensor([[9, EOS]]), torch.ones(1, 2, dtype=torch.bool))
    torch.testing.assert_close(together[1:, :2], alone, rtol=1e-4, atol=1e-5)
    with_scribbles = encoder(torch.where(wide.mask, wide.tokens, 17), wide.mask)
    torch.testing.assert_close(with_scribbles[wide.mask], together[wide.mask], rtol=1e-4, atol=1e-5)


def test_sites_are_those_of_the_model_and_weigh_what_pyro_says() -> None:
    model, guide = pair()
    assert model.latents == ("weights_2", "vectors_2", "weights_3", "vectors_3", "weights", "vectors")
    trace = poutine.trace(guide).get_trace(BATCH)
    assert [name for name in trace.nodes if name in model.latents] == list(model.latents)
    torch.manual_seed(1)
    ours = ELBO().log_weights(model, guide, BATCH)
    torch.manual_seed(1)
    assert -float(ours.detach().sum()) == pytest.approx(Trace_ELBO().loss(model, guide, BATCH), rel=1e-5)


def test_the_mixture_that_a_layer_reads_is_its_draw() -> None:
    """A replayed guide with other vectors in a layer has another posterior of the text; the text's density stays."""
    model, guide = pair()
    trace = poutine.trace(guide).get_trace(BATCH)
    changed = {"vectors_2": trace.nodes["vectors_2"]["value"] + 1.0}
    values = {name: trace.nodes[name]["value"] for name in model.latents}
    same, other = (
        poutine.trace(poutine.condition(guide, values | more)).get_trace(BATCH)  # type: ignore[arg-type]
        for more in ({}, changed)
    )
    means = [each.nodes["vectors"]["fn"].mean for each in (same, other)]
    assert not torch.allclose(*means, atol=1e-3)
    texts = [poutine.trace(poutine.condition(model, values | more)).get_trace(BATCH) for more in ({}, changed)]
    densities = [each.nodes["text"]["fn"].log_prob(BATCH.tokens) for each in texts]
    assert torch.equal(*densities)


def test_both_objectives_charge_every_layer() -> None:
    model, guide = pair()
    described = describe_objective(model, TrainingOptions(objective="nvib", lambda_d=0.6, lambda_g=0.3))
    weights = described["kl_weights"]
    assert [weights[f"weights{layer}"] for layer in ("_2", "_3", "")] == pytest.approx([0.2, 0.4, 0.6])
    assert [weights[f"vectors{layer}"] for layer in ("_2", "_3", "")] == pytest.approx([0.1, 0.2, 0.3])
    assert NVIB.from_description(described, 1, 1).kl_weights == weights
    for objective in (ELBO(), NVIB()):
        terms = objective.terms(model, guide, BATCH)
        assert set(terms.penalty) >= set(model.latents)
        assert all((terms.penalty[site] > 0).all() for site in model.latents)
    assert {"kept", "kept_2", "kept_3"} == set(NVIB().terms(model, guide, BATCH).counts)


def test_every_parameter_has_a_gradient() -> None:
    model, guide = pair(alpha="quadratic", variance="isotropic")
    objective = ELBO()(model, guide)
    objective(BATCH).backward()
    assert not [n for n, p in objective.named_parameters() if p.grad is None or not p.grad.any()]


def test_arviz_has_the_mixtures_of_layers() -> None:
    model, guide = pair(1)
    data = to_arviz(model, guide, BATCH, draws=3)
    assert data.posterior["vectors_3"].dims == ("chain", "draw", "text", "component", "dimension")
    weights = data.posterior["weights_3"]
    assert weights.sum("component", skipna=True).to_numpy() == pytest.approx(1.0)
    assert dict(weights.sizes) == dict(data.posterior["weights"].sizes)


def test_a_run_says_what_stays_in_each_layer() -> None:
    torch.manual_seed(0)
    corpus = Corpus.from_texts([f"Number {n} is {n}." for n in range(60)], vocabulary=270, max_length=24)
    model = NVAE.for_corpus(corpus, base_measure="gaussian", width=16, layers=2, heads=2, nvib_layers=2)
    run = fit(model, NVAEGuide(model, alpha="relu"), corpus, steps=3, batch_size=8)
    evaluation = run.evaluate(corpus.test[:4], metrics=["kept", "kept_layers"])
    posterior: Any = run.encode(corpus.test[:4])
    assert len(posterior.lower) == 2
    for layer, lower in posterior.lower.items():
        share = (lower.kept.sum(-1) - 1) / (lower.mask.sum(-1) - 1)
        assert evaluation[f"kept_layer_{layer}"]["of the text's"] == pytest.approx(float(share.double().mean()))
    assert len(run.folder.read_metrics()["kept_1"]) > 0
    first = posterior.lower[1].token_weights()[0]
    drawn = token_weights(run, corpus.test[0], layer=1).weights
    assert drawn[1:] == pytest.approx(first[: len(drawn) - 1].detach().numpy(), abs=1e-5)
    with pytest.raises(ValueError, match=r"layer is 3, and that layer of the encoder has no mixture: layers with one"):
        weights(run, "Number 1 is 1.", layer=3)
    plain = fit_plain(corpus)
    assert "kept_layer_1" not in plain.evaluate(corpus.test[:4], metrics=["kept", "kept_layers"])
    with pytest.raises(ValueError, match=r"layer is 1, and that layer of the encoder has no mixture: fit an nvae with"):
        weights(plain, "Number 1 is 1.", layer=1)


def fit_plain(corpus: Corpus) -> Any:
    model = NVAE.for_corpus(corpus, base_measure="gaussian", width=16, layers=1, heads=2)
    return fit(model, NVAEGuide(model), corpus, steps=1, batch_size=8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nvib_layers": 4}, "nvib_layers is 4: give a number of the encoder's layers, from 0 to 3"),
        ({"nvib_layers": -1}, "nvib_layers is -1: give a number of the encoder's layers, from 0 to 3"),
    ],
)
def test_bad_numbers_of_layers_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NVAE(CONFIG, **options)


def test_rotary_positions_are_refused() -> None:
    config = TransformerConfig(vocabulary=30, max_length=12, width=16, layers=2, heads=2, positions="rotary")
    with pytest.raises(ValueError, match=r"positions are rotary, which attention to a mixture has not"):
        NVAEGuide(NVAE(config, nvib_layers=1))


@pytest.mark.compile
def test_a_block_is_one_graph() -> None:
    block = stirred(MixtureBlock(CONFIG))
    x, mask = torch.randn(2, 5, 16), torch.ones(2, 5, dtype=torch.bool)

    def whole(states: Tensor) -> Tensor:
        posterior = block.posterior(states, mask)
        output: Tensor = block(states, Mixture(posterior.log_weights, posterior.mean, posterior.variance))
        return output

    with pyro.settings.context(validate_distributions_torch=False):
        compiled = torch.compile(whole, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), whole(x), rtol=1e-4, atol=1e-4)


def test_a_guide_makes_no_other_encoder() -> None:
    model = NVAE(CONFIG, nvib_layers=1)
    torch.manual_seed(1)
    made = NVAEGuide(model).encoder.state_dict()
    torch.manual_seed(1)
    alone = MixtureEncoder(CONFIG, 1, model.decoder.embedding, "linear", "diagonal", log_variance=-3.0).state_dict()
    assert all(torch.equal(value, alone[name]) for name, value in made.items())
