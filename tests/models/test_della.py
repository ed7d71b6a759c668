"""DELLA: its joint density written out, where latents enter, priors that swap, conditions, word dropout."""

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from types import SimpleNamespace
from typing import Any, get_args

import jaxtyping
import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn.functional as F
from pyro import poutine
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from pyroformer.guides.della import DELLAGuide
from pyroformer.models.batch import BOS, EOS, PAD, Batch
from pyroformer.models.della import DELLA, Structure
from pyroformer.models.language_model import LanguageModel
from pyroformer.models.priors.latents import LinearGaussian
from pyroformer.models.priors.roles import LatentPrior
from pyroformer.models.transformer.config import TransformerConfig
from pyroformer.models.transformer.fusion import FusionKind
from pyroformer.models.transformer.memory import Context

CONFIG = TransformerConfig(vocabulary=30, max_length=8, width=16, layers=3, heads=2, positions="learned", init_std=0.3)
TOLD = replace(CONFIG, max_condition_length=4)
SIZE = 4
TEXTS = [[5, 6, 7, 8, EOS], [9, EOS], [10, 11, 12, EOS]]
CONDITIONS = [[20, 21, 22], [23], []]
BATCH = Batch.pad(TEXTS)
ANSWERS = Batch.pad(TEXTS, conditions=CONDITIONS)
STRUCTURES = get_args(Structure)


def away(module: nn.Module, scale: float = 0.2) -> Any:
    """The module, somewhere else than where it starts."""
    for parameter in module.parameters():
        parameter.data.add_(scale * torch.randn_like(parameter))
    return module


def build(config: TransformerConfig = CONFIG, **options: Any) -> DELLA:
    return DELLA(config, **{"latent_size": SIZE, "rank": 2} | options).eval()


def close(actual: Tensor, expected: Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(actual, expected, atol=atol, rtol=0)


def latents_for(model: DELLA, *batch: int) -> Tensor:
    return torch.randn(*(batch or (3,)), len(model.latents), model.latent_size)


def run(model: DELLA, batch: Batch, latents: Tensor) -> pyro.poutine.Trace:
    """A run of the model with latents that are given."""
    given = {name: latents[..., number, :] for number, name in enumerate(model.latents)}
    trace = poutine.trace(poutine.condition(model, data=given)).get_trace(batch)
    trace.compute_log_prob()
    return trace


# --- the density ------------------------------------------------------------------------------------------------------


def priors_by_hand(model: DELLA, latents: Tensor, conditions: list[Tensor] | None = None) -> list[Distribution]:
    """The recursion and the prior of each latent, from the formulas of the paper and nothing of the model's own."""
    chain, prior = model.structure == "chain", model.latent_prior
    below = torch.zeros(len(latents), SIZE)
    found = []
    for number in range(latents.shape[1]):
        z = latents[:, number]
        nothing = z.new_zeros(len(z), 0)
        summary = torch.cat([below if chain else nothing, conditions[number] if conditions else nothing], -1)
        scores = torch.zeros(len(latents), 2 * z.shape[-1])
        if str(number) in prior.weights:
            scores = scores + summary @ prior.weights[str(number)].mT
        if str(number) in prior.biases:
            scores = scores + prior.biases[str(number)]
        mean, log_variance = scores.chunk(2, -1)
        variance = torch.exp(5 * torch.tanh(log_variance / 5))
        found.append(Independent(Normal(mean, variance.sqrt()), 1))
        if chain and number < latents.shape[1] - 1:
            link = model.recursions[number]
            score = z @ link.latent.weight.mT + link.latent.bias
            if number > 0:
                score = score + below @ link.below.weight.mT
            below = torch.tanh(score)
    return found


def text_by_hand(model: DELLA, batch: Batch, memory: Context) -> Tensor:
    """log p of each text, token by token, from the decoder's hidden states."""
    assert batch.tokens is not None
    logits = F.linear(model.decoder(batch.tokens, memory), *model.decoder.readout).log_softmax(-1)
    scores = [sum(logits[i, t, token] for t, token in enumerate(text)) for i, text in enumerate(TEXTS)]
    return torch.stack(scores)  # type: ignore[arg-type]


@pytest.mark.parametrize("first_prior", ["standard", "learned"])
@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("conditional", [False, True])
def test_the_joint_density_by_hand(structure: Structure, first_prior: str, conditional: bool) -> None:
    model = away(build(TOLD if conditional else CONFIG, structure=structure, first_prior=first_prior))
    batch, latents = ANSWERS if conditional else BATCH, latents_for(model)
    conditions = None
    if conditional:  # read alone and without padding, so that nothing of the batch can leak
        rows = [torch.tensor([[BOS, *condition]]) for condition in CONDITIONS]
        read = [model.condition_encoder(row, torch.ones_like(row, dtype=torch.bool)) for row in rows]
        conditions = [torch.cat(each) for each in zip(*read, strict=True)]
    trace = run(model, batch, latents)
    for number, prior in enumerate(priors_by_hand(model, latents, conditions)):
        close(trace.nodes[model.latents[number]]["log_prob"], prior.log_prob(latents[:, number]))
    memory = Context(latents, batch.condition_tokens, batch.condition_mask)
    close(trace.nodes["text"]["log_prob"], text_by_hand(model, batch, memory), atol=1e-4)


@pytest.mark.parametrize(
    ("options", "names", "size"),
    [
        ({}, ("z_1", "z_2", "z_3"), 4),
        ({"first_layer": 2, "latent_prior": LinearGaussian(4, 4, 2)}, ("z_2", "z_3"), 4),
        ({"last_layer": 2, "structure": "independent"}, ("z_1", "z_2"), 4),
        ({"first_layer": 3, "last_layer": 3}, ("z_3",), 4),
        ({"structure": "single"}, ("z",), 12),
        ({"structure": "single", "first_layer": 2}, ("z",), 8),
    ],
)
def test_sites_stand_in_the_order_of_the_layers(options: dict[str, Any], names: tuple[str, ...], size: int) -> None:
    model = build(**options)
    trace = poutine.trace(model).get_trace(BATCH)
    sites = [name for name, site in trace.nodes.items() if site["type"] == "sample" and name != "texts"]
    assert tuple(sites) == (*names, "text") == (*model.latents, "text")
    assert all(trace.nodes[name]["value"].shape == (3, size) for name in names)
    summary = size if model.structure == "chain" else 0
    assert model.prior_sizes == {"latent_size": size, "summary_size": summary, "layers": len(names)}
    if model.structure == "single":
        assert model.layers == (2,), "it depends on the highest encoding of the text"


def test_every_prior_is_standard_normal_at_the_start() -> None:
    for config, structure in product((CONFIG, TOLD), STRUCTURES):
        model = build(config, structure=structure, first_prior="learned")
        trace = run(model, BATCH if config is CONFIG else ANSWERS, latents := latents_for(model))
        for number, name in enumerate(model.latents):
            expected = Normal(0.0, 1.0).log_prob(latents[:, number]).sum(-1)
            close(trace.nodes[name]["log_prob"], expected)


def test_what_a_prior_depends_on() -> None:
    """Each latent on all those below in a chain, on none where they are independent."""
    for structure, depends in (("chain", True), ("independent", False)):
        model = away(build(structure=structure))
        latents = latents_for(model)
        before = run(model, BATCH, latents)
        for changed in range(3):
            moved = latents.clone()
            moved[:, changed] += 1
            after = run(model, BATCH, moved)
            for number, name in enumerate(model.latents):
                same = torch.equal(before.nodes[name]["fn"].mean, after.nodes[name]["fn"].mean)
                assert same == (number <= changed or not depends), (structure, changed, name)


def test_samples_of_the_model_follow_its_priors() -> None:
    """Latents that are drawn are those of the recursion by hand: its means explain them and leave noise."""
    model = away(build(replace(CONFIG, max_length=1), first_prior="learned"), 0.5)
    trace = poutine.trace(model).get_trace(Batch.unobserved(4000))
    latents = torch.stack([trace.nodes[name]["value"] for name in model.latents], 1)
    for number, prior in enumerate(priors_by_hand(model, latents)):
        noise = (latents[:, number] - prior.mean) / prior.variance.sqrt()
        assert noise.mean(0).abs().max() < 0.07 and (noise.std(0) - 1).abs().max() < 0.06


def test_particles_broadcast_over_texts() -> None:
    model = away(build(TOLD))
    latents = latents_for(model, 5, 3)
    together = run(model, ANSWERS, latents)
    for s in range(5):
        alone = run(model, ANSWERS, latents[s])
        for name in (*model.latents, "text"):
            close(together.nodes[name]["log_prob"][s], alone.nodes[name]["log_prob"], atol=1e-4)
    known = {name: latents[0 if number == 0 else slice(None), :, number] for number, name in enumerate(model.latents)}
    mixed = poutine.trace(poutine.condition(model, data=known)).get_trace(ANSWERS)
    assert mixed.nodes["text"]["fn"].batch_shape == (5, 3), "the lowest latent is the same for all particles"


# --- where latents enter ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fusion", ["product", "film", "memory"])
def test_a_latent_enters_its_layer_only(fusion: FusionKind) -> None:
    model = away(build(fusion=fusion, first_layer=2))
    inputs: dict[int, Tensor] = {}
    for layer, block in enumerate(model.decoder.blocks):
        block.register_forward_pre_hook(lambda _, args, layer=layer: inputs.update({layer: args[0]}))
    latents = latents_for(model)
    outputs = [model.likelihood(Context(latents), BATCH.mask).log_prob(BATCH.tokens)]
    before = dict(inputs)
    for number in range(2):
        moved = latents.clone()
        moved[:, number] += 1
        outputs.append(model.likelihood(Context(moved), BATCH.mask).log_prob(BATCH.tokens))
        assert [torch.equal(inputs[layer], before[layer]) for layer in range(3)] == [True, True, number == 1]
        assert ((outputs[-1] - outputs[0]).abs() > 1e-4).all()


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("fusion", [kind for kind in get_args(FusionKind) if kind != "memory"])
def test_it_starts_as_the_language_model_of_its_decoder(fusion: FusionKind, structure: Structure) -> None:
    model, plain = build(fusion=fusion, structure=structure), LanguageModel(CONFIG).eval()
    own = {name: part for name, part in model.decoder.state_dict().items() if "fusion" not in name}
    plain.decoder.load_state_dict({name: part for name, part in own.items() if "shift" not in name})
    trace = run(model, BATCH, 3 * latents_for(model))
    expected = poutine.trace(plain).get_trace(BATCH)
    expected.compute_log_prob()
    close(trace.nodes["text"]["log_prob"], expected.nodes["text"]["log_prob"])


# --- conditions -------------------------------------------------------------------------------------------------------


def moments(model: DELLA, batch: Batch, latents: Tensor) -> list[tuple[Tensor, Tensor]]:
    trace = run(model, batch, latents)
    return [(trace.nodes[name]["fn"].mean, trace.nodes[name]["fn"].variance) for name in model.latents]


@pytest.mark.parametrize("structure", STRUCTURES)
def test_the_prior_of_every_latent_depends_on_the_condition_of_its_text(structure: Structure) -> None:
    model = away(build(TOLD, structure=structure))
    latents = latents_for(model)
    other = Batch.pad(TEXTS, conditions=[[20, 21, 22], [24], [25]])
    for before, after in zip(moments(model, ANSWERS, latents), moments(model, other, latents), strict=True):
        for one, two in zip(before, after, strict=True):
            moved = (one - two).abs().amax(-1)
            assert moved[0] < 1e-6 and moved[1] > 1e-4 and moved[2] > 1e-4


def test_each_layer_reads_the_condition_for_itself() -> None:
    model = away(build(TOLD, structure="independent"))
    read = model.read_condition(ANSWERS)
    assert len(read) == 3 and (read[0] - read[1]).abs().min() > 0 and (read[1] - read[2]).abs().min() > 0


@pytest.mark.parametrize("junk", [PAD, 17, EOS])
def test_padding_of_a_condition_changes_nothing(junk: int) -> None:
    model = away(build(TOLD))
    latents = latents_for(model)
    expected = run(model, ANSWERS, latents)
    assert ANSWERS.condition_tokens is not None and ANSWERS.condition_mask is not None
    condition = torch.where(ANSWERS.condition_mask, ANSWERS.condition_tokens, junk)
    wide = ANSWERS._replace(
        condition_tokens=F.pad(condition, (0, 1), value=junk), condition_mask=F.pad(ANSWERS.condition_mask, (0, 1))
    )
    actual = run(model, wide, latents)
    for name in (*model.latents, "text"):
        close(actual.nodes[name]["log_prob"], expected.nodes[name]["log_prob"], atol=1e-4)
    for i in range(3):
        alone = run(model, Batch.pad([TEXTS[i]], conditions=[CONDITIONS[i]]), latents[i : i + 1])
        for name in (*model.latents, "text"):
            close(alone.nodes[name]["log_prob"][0], expected.nodes[name]["log_prob"][i], atol=1e-4)


def test_a_condition_may_be_padded_on_the_left() -> None:
    model = away(build(TOLD))
    latents = latents_for(model)
    assert ANSWERS.condition_tokens is not None and ANSWERS.condition_mask is not None
    width = ANSWERS.condition_tokens.shape[-1]
    turn = (torch.arange(width) + ANSWERS.condition_mask.sum(-1, keepdim=True)) % width
    left = ANSWERS._replace(
        condition_tokens=ANSWERS.condition_tokens.gather(-1, turn),
        condition_mask=ANSWERS.condition_mask.gather(-1, turn),
    )
    assert left.condition_mask[:2, -1].all() and not left.condition_mask[:2].all()  # the third is empty
    expected, actual = (run(model, batch, latents) for batch in (ANSWERS, left))
    for name in (*model.latents, "text"):
        close(actual.nodes[name]["log_prob"], expected.nodes[name]["log_prob"], atol=1e-4)
    guide = away(DELLAGuide(model))
    close(guide.encode(left).mean, guide.encode(ANSWERS).mean, atol=1e-4)


def test_an_empty_condition_says_as_much_as_none() -> None:
    model = away(build(TOLD))
    memory = latents_for(model)
    empty = torch.zeros(3, 4, dtype=torch.long), torch.zeros(3, 4, dtype=torch.bool)
    assert BATCH.tokens is not None
    close(model.decoder(BATCH.tokens, Context(memory, *empty)), model.decoder(BATCH.tokens, Context(memory)))


def test_a_condition_without_a_mask_is_there_everywhere() -> None:
    model = away(build(TOLD))
    latents = latents_for(model)
    batch = Batch.pad(TEXTS, conditions=[[20, 21], [22, 23], [24, 25]])
    expected, actual = run(model, batch, latents), run(model, batch._replace(condition_mask=None), latents)
    for name in (*model.latents, "text"):
        close(actual.nodes[name]["log_prob"], expected.nodes[name]["log_prob"])


def test_between_two_texts_the_condition_is_that_of_the_first() -> None:
    model = build(TOLD)
    ends = [model.context(latents_for(model), batch) for batch in (ANSWERS, ANSWERS._replace(condition_mask=None))]
    between = model.interpolate(*ends, 0.25)
    assert between.condition_tokens is ANSWERS.condition_tokens and between.condition_mask is ANSWERS.condition_mask
    close(between.latents, 0.75 * ends[0].latents + 0.25 * ends[1].latents)  # type: ignore[arg-type, operator]


def test_answers_are_drawn_as_likely_as_they_are() -> None:
    """Conditions of different lengths in one batch: two tokens of each answer against the decoder's probabilities."""
    model = away(build(replace(TOLD, max_length=2)))
    assert ANSWERS.condition_tokens is not None and ANSWERS.condition_mask is not None
    memory = Context(latents_for(model), ANSWERS.condition_tokens, ANSWERS.condition_mask)
    draws = model.likelihood(memory).sample((3000,))
    for text in range(3):
        told = Context(
            *(part[text : text + 1] for part in (memory.latents, memory.condition_tokens, memory.condition_mask))
        )
        first = draws[:, text, 0].bincount(minlength=30)
        favorite = int(first[3:].argmax()) + 3  # not the end, after which there is nothing
        hidden = model.decoder(torch.tensor([[favorite, 3]]), told)[0]
        expected = F.linear(hidden, *model.decoder.readout).softmax(-1)
        close(first / 3000, expected[0], atol=0.04)
        second = draws[draws[:, text, 0] == favorite, text, 1]
        assert len(second) > 150
        close(second.bincount(minlength=30) / len(second), expected[1], atol=0.15)


@pytest.mark.parametrize(
    ("config", "batch", "message"),
    [
        (CONFIG, ANSWERS, "the model takes no condition, and one was given: build the model for such texts"),
        (TOLD, BATCH, "the model takes a condition, and none was given: build the model for such texts"),
        (TOLD, Batch.unobserved(3), "the model takes a condition, and none was given"),
        (CONFIG, Batch.unobserved(3, conditions=CONDITIONS), "the model takes no condition, and one was given"),
        (
            TOLD,
            Batch.unobserved(2, conditions=[[5] * 5, []]),
            "a condition of 5 tokens does not fit max_condition_length = 4: shorten it, or build",
        ),
        (TOLD, Batch.unobserved(2, conditions=[[5] * 40, []]), "a condition of 40 tokens does not fit"),
    ],
)
def test_conditions_and_models_that_do_not_go_together(config: TransformerConfig, batch: Batch, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(config)(batch)


# --- word dropout -----------------------------------------------------------------------------------------------------


def read_in_training(model: DELLA, batch: Batch) -> Tensor:
    """Token ids that the decoder's embedding is given."""
    seen: list[Tensor] = []
    handle = model.decoder.embedding.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    memory = Context(latents_for(model, len(batch.weight)), batch.condition_tokens, batch.condition_mask)
    model.likelihood(memory, batch.mask).log_prob(batch.tokens)
    handle.remove()
    return seen[0]


def test_a_share_of_the_words_is_hidden_in_training_and_never_the_beginning() -> None:
    model = build(replace(TOLD, word_dropout=0.3))
    tokens = torch.randint(3, 30, (600, 8))
    batch = Batch(tokens, torch.ones_like(tokens, dtype=torch.bool), torch.ones(600) / 600)
    batch = batch._replace(condition_tokens=tokens[:, :4], condition_mask=batch.mask[:, :4])  # type: ignore[index]
    before = F.pad(tokens[:, :-1], (1, 0), value=BOS)
    assert torch.equal(read_in_training(model, batch), torch.cat([tokens[:, :4], before], 1))
    seen = read_in_training(model.train(), batch)
    assert torch.equal(seen[:, :4], tokens[:, :4]) and (seen[:, 4] == BOS).all()
    hidden = seen[:, 5:] == PAD
    assert torch.equal(seen[:, 5:][~hidden], before[:, 1:][~hidden])
    assert abs(hidden.float().mean() - 0.3) < 0.03 and (hidden.float().mean(0) - 0.3).abs().max() < 0.1
    again = read_in_training(model, batch)
    assert not torch.equal(again, seen)


def test_hidden_words_change_what_training_sees_and_nothing_else() -> None:
    model = away(build(replace(CONFIG, word_dropout=0.5)))
    plain = build()
    plain.load_state_dict(model.state_dict())
    latents = latents_for(model)
    expected = run(plain, BATCH, latents).nodes["text"]["log_prob"]
    assert torch.equal(run(model, BATCH, latents).nodes["text"]["log_prob"], expected)
    assert not torch.allclose(run(model.train(), BATCH, latents).nodes["text"]["log_prob"], expected)


# --- types and sizes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.double])
@pytest.mark.parametrize("config", [CONFIG, TOLD])
def test_models_of_other_types_write_texts(dtype: torch.dtype, config: TransformerConfig) -> None:
    model = away(build(config, first_prior="learned")).to(dtype)
    with torch.no_grad():
        assert model(Batch.unobserved(2, conditions=[[5], []] if config is TOLD else None)).shape == (2, 8)


def test_half_precision_is_near_single() -> None:
    model = away(build(), 0.05)
    latents = latents_for(model)
    expected = run(model, BATCH, latents)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        autocast = run(model, BATCH, latents)
    half = run(model.bfloat16(), BATCH, latents)
    for name, trace in product((*model.latents, "text"), (autocast, half)):
        actual = trace.nodes[name]["log_prob"]
        assert actual.dtype == torch.float32
        torch.testing.assert_close(actual, expected.nodes[name]["log_prob"], atol=0.3, rtol=0.05)


def test_for_corpus_has_the_blocks_of_llama() -> None:
    corpus = SimpleNamespace(vocabulary=40, max_length=12, conditional=False, max_condition_length=0)
    model = DELLA.for_corpus(corpus, latent_size=8, max_condition_length=5, fusion="add")
    config = model.config
    assert (config.positions, config.norm, config.activation, config.bias) == ("rotary", "rms", "swiglu", False)
    assert (config.init_std, config.max_condition_length) == (0.02, 5)
    assert model.latent_size == 8 and model.decoder.fusion is not None and model.decoder.fusion.kind == "add"


# --- what is refused --------------------------------------------------------------------------------------------------


def test_a_prior_of_the_first_latent_beside_a_prior_of_all_is_refused() -> None:
    corpus = SimpleNamespace(vocabulary=40, max_length=12, conditional=False, max_condition_length=0)
    prior = LinearGaussian(8, 8, 2)
    with pytest.raises(
        ValueError, match="first_prior is learned, and there is a latent_prior beside it, which has a fi"
    ):
        DELLA.for_corpus(corpus, latent_size=8, latent_prior=prior, first_prior="learned")


class Unfinished(LatentPrior):
    pass


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latent_size": 0}, "latent_size is 0: give a whole number of at least 1"),
        ({"rank": 0}, "rank is 0: give a whole number of at least 1"),
        ({"structure": "tree"}, "structure is 'tree': choose one of chain, independent, single"),
        ({"fusion": "concat"}, "fusion is 'concat': choose one of product, collapsed"),
        ({"first_prior": "flat"}, "first_prior is 'flat': choose one of standard, learned"),
        ({"first_prior": "flat", "config": TOLD}, "first_prior is 'flat': choose one of standard, learned"),
        ({"first_layer": 0}, "latents enter layers 0 to 3: give first_layer and last_layer in this order, from 1 to"),
        ({"first_layer": True}, "first_layer is True, a bool: give a number"),
        ({"last_layer": 1.5}, "last_layer is 1.5: give a whole number, such as 2"),
        ({"last_layer": 4}, "latents enter layers 1 to 4: .* from 1 to the 3 layers that there are"),
        ({"first_layer": 3, "last_layer": 2}, "latents enter layers 3 to 2"),
        (
            {"config": replace(CONFIG, attention="probabilistic")},
            "choose fusion 'embedding' or 'softmax', or attention",
        ),
        (
            {"latent_prior": dist.Normal(torch.zeros(5), 1.0).to_event(1)},
            r"latent_prior Independent gave event shape \(5,\), expected \(4,\): return a distribution over one vector",
        ),
        ({"latent_prior": dist.Normal(torch.zeros(4), 1.0)}, r"gave event shape \(\), expected \(4,\)"),
        (
            {"latent_prior": lambda summary, layer: dist.Normal(torch.zeros(7, 4), 1.0).to_event(1)},
            r"gave batch shape \(7,\), expected \(2,\)",
        ),
        (
            {"latent_prior": lambda summary, layer: dist.Normal(torch.zeros(5 if layer else 4), 1.0).to_event(1)},
            r"gave event shape \(5,\), expected \(4,\)",
        ),
        (
            {"latent_prior": dist.Gamma(torch.ones(4), 1.0).to_event(1)},
            "give one of all real numbers, which posteriors reach",
        ),
        ({"latent_prior": lambda summary, layer: summary}, "returned a Tensor: return a torch or Pyro distribution"),
        ({"latent_prior": Unfinished()}, "Unfinished is a LatentPrior: write forward"),
        ({"latent_prior": 3}, "latent_prior 3: give a LatentPrior, a distribution, or a function"),
    ],
)
def test_models_that_cannot_be(options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users have it
    make: Callable[..., object] = build
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_texts_that_are_too_long_are_refused() -> None:
    with pytest.raises(ValueError, match="texts of 9 tokens do not fit the decoder's max_length of 8"):
        build()(Batch.pad([[5] * 9]))
