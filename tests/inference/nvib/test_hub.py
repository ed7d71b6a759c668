"""BERT, GPT-2 and BART of transformers with NVIB attention: the oracle is the model before it was wrapped."""

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pyroformer as pf

transformers = pytest.importorskip("transformers", reason="its models are what is wrapped here")

WORDS = 40
SIZES = {"vocab_size": WORDS, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3}
SIZES |= {"intermediate_size": 32, "max_position_embeddings": 40, "initializer_range": 0.3}
GPT2 = {"vocab_size": WORDS, "n_embd": 24, "n_layer": 2, "n_head": 3, "n_positions": 40, "initializer_range": 0.3}
GPT2 |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
BART = {"vocab_size": WORDS, "d_model": 24, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 3}
BART |= {"decoder_attention_heads": 3, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_position_embeddings": 40}
BART |= {"init_std": 0.3, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "decoder_start_token_id": 2}
BART |= {"forced_eos_token_id": None}


def bert(**options: Any) -> Any:
    return transformers.BertModel(transformers.BertConfig(**SIZES | options))


def gpt2(**options: Any) -> Any:
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**GPT2 | options))


def bart(**options: Any) -> Any:
    return transformers.BartForConditionalGeneration(transformers.BartConfig(**BART | options))


def texts() -> dict[str, Tensor]:
    """Three texts, two of them padded on the right."""
    mask = torch.arange(7) < torch.tensor([[7], [4], [5]])
    return {"input_ids": torch.randint(3, WORDS, (3, 7)) * mask, "attention_mask": mask.long()}


def pairs() -> dict[str, Tensor]:
    return texts() | {"decoder_input_ids": torch.randint(3, WORDS, (3, 5))}


def read_by_a_decoder() -> dict[str, Tensor]:
    """A text for a decoder, with the states of an encoder."""
    mask = torch.arange(6) < torch.tensor([[6], [2], [5]])
    return texts() | {"encoder_hidden_states": torch.randn(3, 6, 24), "encoder_attention_mask": mask.long()}


def unmasked() -> dict[str, Tensor]:
    return {"input_ids": torch.randint(3, WORDS, (3, 7))}


DECODER = {"is_decoder": True, "add_cross_attention": True}
KINDS: dict[str, tuple[Callable[[], Any], Callable[[], dict[str, Tensor]]]] = {
    "bert": (bert, texts),
    "bert without padding": (bert, unmasked),
    "bert by hand": (lambda: bert(attn_implementation="eager"), texts),
    "a decoder of bert": (lambda: bert(**DECODER), read_by_a_decoder),
    "gpt2": (gpt2, texts),
    "gpt2 without padding": (gpt2, unmasked),
    "gpt2 by hand": (lambda: gpt2(attn_implementation="eager"), texts),
    "gpt2 scaled by layer": (lambda: gpt2(scale_attn_by_inverse_layer_idx=True), texts),
    "gpt2 without scale": (lambda: gpt2(scale_attn_weights=False), texts),
    "gpt2 with an encoder": (lambda: gpt2(add_cross_attention=True), read_by_a_decoder),
    "bart": (bart, pairs),
    "bart by hand": (lambda: bart(attn_implementation="eager"), pairs),
}
each_kind = pytest.mark.parametrize("kind", KINDS)


def made(kind: str, folder: Path | None = None) -> tuple[Any, dict[str, Tensor]]:
    """A random model, read from the folder that it saved, and its inputs."""
    make, inputs = KINDS[kind]
    model = make()
    for name, parameter in model.named_parameters():
        if name.endswith("bias") or "norm" in name.lower() or "ln_" in name:
            nn.init.normal_(parameter, mean=float("weight" in name), std=0.2)
    if folder is not None:
        model.save_pretrained(folder)
        model = type(model).from_pretrained(folder, attn_implementation=model.config._attn_implementation)
    return model.eval(), inputs()


def outputs(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """What the model says where texts are not padded."""
    with torch.no_grad():
        result = model(**inputs)
    y = result.last_hidden_state if "last_hidden_state" in result else result.logits
    mask = inputs.get("attention_mask")
    return y if mask is None or mask.shape != y.shape[:2] else y[mask.bool()]


def regularized(model: Any, inputs: dict[str, Tensor], **taus: float) -> Any:
    pf.nvib.fit_priors(pf.nvib.wrap(model), [inputs])
    return pf.nvib.regularize(model, **taus or {"tau_alpha": 0.0, "tau_sigma": 0.3})


@each_kind
def test_wrapping_changes_nothing(kind: str, tmp_path: Path) -> None:
    model, inputs = made(kind, tmp_path)
    before = outputs(model, inputs)
    assert pf.nvib.wrap(model) is model
    torch.testing.assert_close(outputs(model, inputs), before, rtol=0, atol=1e-4)
    assert pf.nvib.layers(model)
    names = {name for name in model.state_dict() if ".nvib." not in name}
    assert names == set(KINDS[kind][0]().state_dict())
    model = pf.nvib.unwrap(model)
    assert torch.equal(outputs(model, inputs), before) and set(model.state_dict()) == names


@each_kind
def test_the_dial_back_at_its_start_is_the_model_as_it_was(kind: str) -> None:
    model, inputs = made(kind)
    before = outputs(model, inputs)
    regularized(model, inputs)
    assert (outputs(model, inputs) - before).abs().max() > 1e-2
    pf.nvib.regularize(model, tau_alpha=float("inf"), tau_sigma=0.0)
    torch.testing.assert_close(outputs(model, inputs), before, rtol=0, atol=1e-4)
    pf.nvib.regularize(model, tau_alpha=60.0)  # the paper's own way to say so
    torch.testing.assert_close(outputs(model, inputs), before, rtol=0, atol=1e-2)


@each_kind
def test_padding_and_other_texts_change_nothing(kind: str) -> None:
    model, inputs = made(kind)
    regularized(model, inputs)
    with torch.no_grad():
        together = model(**inputs)
        alone = model(**{name: value[1:2] for name, value in inputs.items()})
    name = "last_hidden_state" if "last_hidden_state" in together else "logits"
    length = 4 if "attention_mask" in inputs else 5
    torch.testing.assert_close(together[name][1, :length], alone[name][0, :length], rtol=1e-4, atol=1e-4)
    if "attention_mask" in inputs and "decoder_input_ids" not in inputs:
        other = inputs | {"input_ids": torch.where(inputs["attention_mask"] == 1, inputs["input_ids"], 5)}
        torch.testing.assert_close(outputs(model, other), outputs(model, inputs), rtol=1e-4, atol=1e-4)


def test_priors_are_the_moments_of_what_a_layer_reads() -> None:
    """Of the vectors that are not padded, over all batches; they do not depend on the dial."""
    model, _ = made("bert")
    batches = [texts() for _ in range(3)]
    with torch.no_grad():
        hidden = [model(**batch, output_hidden_states=True).hidden_states[1] for batch in batches]
    rows = torch.cat([h[batch["attention_mask"].bool()] for h, batch in zip(hidden, batches, strict=True)]).double()
    pf.nvib.fit_priors(pf.nvib.wrap(model), batches)
    layer = pf.nvib.layers(model)["encoder.layer.1.attention.self"]
    torch.testing.assert_close(layer.prior_mean.double(), rows.mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layer.prior_variance.double(), rows.var(0), rtol=1e-4, atol=1e-5)
    log_alpha = rows.square().sum(-1) / (2 * 8**0.5)
    torch.testing.assert_close(layer.prior_log_alpha.double(), log_alpha.mean(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(layer.log_alpha_std.double(), log_alpha.std(), rtol=1e-3, atol=1e-4)
    assert int(layer.count) == 48
    first = layer.prior_mean.clone()
    pf.nvib.regularize(model, tau_alpha=-1.0, tau_sigma=0.5)
    pf.nvib.fit_priors(model, iter(batches))
    torch.testing.assert_close(layer.prior_mean, first)
    assert layer.tau.alpha == -1


def test_layers_of_cross_attention_share_their_prior() -> None:
    model, inputs = made("bart")
    pf.nvib.fit_priors(pf.nvib.wrap(model), [inputs])
    cross = list(pf.nvib.layers(model, "cross").values())
    assert len(cross) == 2 and torch.equal(cross[0].prior_mean, cross[1].prior_mean)
    assert int(cross[0].count) == int(inputs["attention_mask"].sum())
    assert [len(pf.nvib.layers(model, group)) for group in ("encoder", "decoder")] == [2, 2]


def test_the_dial_of_some_layers() -> None:
    model, inputs = made("bart")
    pf.nvib.fit_priors(pf.nvib.wrap(model), [inputs])
    pf.nvib.regularize(model, tau_alpha=-2.0, select="encoder")
    pf.nvib.regularize(model, tau_sigma=0.5, select="*decoder.layers.1.*")
    alphas = {name: layer.tau.alpha for name, layer in pf.nvib.layers(model).items()}
    assert {name for name, alpha in alphas.items() if alpha == -2} == set(pf.nvib.layers(model, "encoder"))
    sigmas = {name for name, layer in pf.nvib.layers(model).items() if layer.tau.sigma}
    assert sigmas == {f"model.decoder.layers.1.{name}" for name in ("self_attn", "encoder_attn")}


# generation with a cache


def prompts(side: str) -> dict[str, Tensor]:
    batch = texts()
    return batch if side == "right" else {name: value.flip(1) for name, value in batch.items()}


START, TURNED = {"tau_alpha": float("inf")}, {"tau_alpha": -0.5, "tau_sigma": 0.6}


@pytest.mark.parametrize(
    ("kind", "taus", "beams"),
    [
        ("gpt2", TURNED, 1),
        ("gpt2", TURNED, 3),
        ("gpt2 by hand", TURNED, 1),
        ("gpt2", START, 1),
        ("bart", TURNED, 1),
        ("bart", TURNED, 3),
        ("bart", START, 1),
    ],
)
def test_generation_with_the_cache_is_generation_without(kind: str, taus: dict[str, float], beams: int) -> None:
    model, inputs = made(kind)
    regularized(model, inputs, **taus)
    batch = prompts("left" if "gpt2" in kind else "right")
    options = {"max_new_tokens": 6, "do_sample": False, "num_beams": beams, "pad_token_id": 0, "eos_token_id": None}
    cached = model.generate(**batch, **options, use_cache=True)
    assert torch.equal(cached, model.generate(**batch, **options, use_cache=False))
    assert cached.shape[1] >= 6


def test_a_step_with_the_cache_is_a_step_without() -> None:
    """Logits, and not only the words that they choose; also where several tokens are read at once."""
    model, inputs = made("gpt2 without padding")
    regularized(model, inputs, tau_alpha=-0.5, tau_sigma=0.6)
    tokens = inputs["input_ids"]
    with torch.no_grad():
        whole = model(tokens).logits
        start = model(tokens[:, :3], use_cache=True)
        more = model(tokens[:, 3:6], past_key_values=start.past_key_values, use_cache=True)
        last = model(tokens[:, 6:], past_key_values=more.past_key_values, use_cache=True)
    torch.testing.assert_close(torch.cat([start.logits, more.logits, last.logits], 1), whole, rtol=1e-4, atol=1e-4)


def test_generation_with_a_static_cache() -> None:
    model, inputs = made("gpt2 without padding")
    regularized(model, inputs, tau_alpha=-0.5, tau_sigma=0.6)
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    static = model.generate(**inputs, **options, cache_implementation="static", disable_compile=True)
    assert torch.equal(static, model.generate(**inputs, **options, use_cache=False))


# attention weights, training, copies


@pytest.mark.parametrize("kind", ["bert by hand", "gpt2 by hand", "bart by hand", "bert"])
def test_attention_weights_come_out(kind: str) -> None:
    model, inputs = made(kind)
    with torch.no_grad():
        before = model(**inputs, output_attentions="hand" in kind)
        pf.nvib.wrap(model)
        after = model(**inputs, output_attentions=True)
    names = [name for name in after if name.endswith("attentions") and after[name]]
    assert names
    for name in names:
        if "hand" in kind:
            for ours, theirs in zip(after[name], before[name], strict=True):
                torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    regularized(pf.nvib.unwrap(model), inputs, tau_alpha=-1.0)
    with torch.no_grad():
        shares = model(**inputs, output_attentions=True)[names[0]][0].sum(-1)
    assert 0 < float(shares.min()) < 0.99  # the rest is the prior's


@pytest.mark.parametrize("kind", ["bert", "gpt2", "bart"])
def test_gradients_reach_the_model(kind: str) -> None:
    model, inputs = made(kind)
    pf.nvib.fit_priors(pf.nvib.wrap(model, learn=True, variance="diagonal"), [inputs])
    pf.nvib.regularize(model, tau_alpha=0.0, tau_sigma=0.3).train()
    result = model(**inputs)
    y = result.last_hidden_state if "last_hidden_state" in result else result.logits
    divergences = pf.nvib.kl(model)
    (y.square().mean() + divergences.loss).backward()
    silent = {name for name, p in model.named_parameters() if p.grad is None}
    cancels = ("key.bias", "k_proj.bias")  # the same for all logits of a query
    assert all(name.endswith(cancels) or "pooler" in name for name in silent), silent
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    assert set(divergences.weights) == set(pf.nvib.layers(model))
    assert all(value.shape == (3,) for value in divergences.vectors.values())


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_fine_tuning_with_the_divergences_lowers_them(kind: str) -> None:
    model, inputs = made(kind)
    pf.nvib.fit_priors(pf.nvib.wrap(model, learn=True), [inputs])
    pf.nvib.regularize(model, tau_alpha=0.0, tau_sigma=0.3).train()
    optimizer = torch.optim.Adam([p for n, p in model.named_parameters() if ".nvib." in n], lr=0.02)
    losses = []
    for _ in range(12):
        model(**inputs)
        loss = pf.nvib.kl(model).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_a_copy_and_a_pickle_are_the_same_model(tmp_path: Path) -> None:
    model, inputs = made("bert")
    regularized(model, inputs).train()
    model(**inputs)  # leaves a graph behind
    model.eval()
    torch.save(model, tmp_path / "model.pt")
    expected = outputs(model, inputs)
    for other in (copy.deepcopy(model), torch.load(tmp_path / "model.pt", weights_only=False)):
        assert torch.equal(outputs(other, inputs), expected)


@pytest.mark.parametrize("form", ["exact", "published"])
def test_a_state_dict_is_all_that_is_needed(form: Any) -> None:
    model, inputs = made("bart")
    pf.nvib.fit_priors(pf.nvib.wrap(model, form=form), [inputs])
    pf.nvib.regularize(model, tau_alpha=-0.7, tau_sigma=0.2)
    state = model.state_dict()
    older = {name: value[:4] if name.endswith("_extra_state") else value for name, value in state.items()}
    for other, saved in ((pf.nvib.wrap(bart()), state), (pf.nvib.wrap(bart(), form=form), older)):
        other.eval().load_state_dict(saved)
        assert torch.equal(outputs(other, inputs), outputs(model, inputs))


def test_autocast_computes_distributions_in_float32() -> None:
    model, inputs = made("bert")
    plain = outputs(model, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        before = outputs(model, inputs)
        after = outputs(pf.nvib.wrap(model), inputs)
    assert (after - plain).abs().max() < 2 * (before - plain).abs().max() + 0.02


@pytest.mark.compile
@pytest.mark.parametrize("kind", ["bert", "gpt2 without padding", "bart"])
def test_compiled_without_a_graph_break(kind: str) -> None:
    """The attention layers themselves, on the arguments that the model gives them."""
    model, inputs = made(kind)
    regularized(model, inputs)
    calls: dict[str, tuple[Any, Any]] = {}
    modules = {name: model.get_submodule(name) for name in pf.nvib.layers(model)}
    hooks = [
        module.register_forward_pre_hook(lambda _, a, k, name=name: calls.update({name: (a, k)}), with_kwargs=True)
        for name, module in modules.items()
    ]
    with torch.no_grad():
        model(**inputs, use_cache=False)
    for hook in hooks:
        hook.remove()
    for name, (args, kwargs) in list(calls.items())[-2:]:
        module = modules[name]
        kwargs.pop("past_key_values", None)
        compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
        with torch.no_grad():
            torch.testing.assert_close(compiled(*args, **kwargs)[0], module(*args, **kwargs)[0], rtol=1e-4, atol=1e-4)


# what is refused


def test_other_families_are_named_with_those_that_are_supported() -> None:
    config = transformers.LlamaConfig(vocab_size=9, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
                                      num_attention_heads=2)  # fmt: skip
    with pytest.raises(
        ValueError, match=r"the LlamaModel has no attention .* \(it has LlamaAttention\): supported are"
    ):
        pf.nvib.wrap(transformers.LlamaModel(config))


def test_an_attention_that_computes_itself_is_refused() -> None:
    model = bert()
    model.config._attn_implementation = "flex_attention"
    with pytest.raises(ValueError, match=r"attention\.self': attn_implementation is 'flex_attention': load the model"):
        pf.nvib.wrap(model)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (
            torch.ones(3, 7, dtype=torch.bool),
            r"gets an attention_mask of shape \(3, 7\), and needs \(batch, 1, queries",
        ),
        (
            torch.ones(3, 1, 7, 7, dtype=torch.long),
            "attention_mask has dtype int64: give booleans, True where attention",
        ),
        ("all", r"gets an attention_mask of type str, and needs \(batch, 1, queries, keys\)"),
    ],
)
def test_masks_of_another_kind(mask: Any, message: str) -> None:
    layer = pf.nvib.wrap(bert()).encoder.layer[0].attention.self
    with pytest.raises(ValueError, match=message):
        layer(torch.randn(3, 7, 24), mask)


def test_half_precision_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"cannot wrap 'encoder\.layer\.0\.attention\.self': its weights are bfloat16, "
    ):
        pf.nvib.wrap(bert().bfloat16())
    model = pf.nvib.wrap(bert()).half().eval()
    with pytest.raises(ValueError, match=r"the priors of the layers are float16, .*: call model\.float\(\)"):
        model(input_ids=torch.ones(1, 3, dtype=torch.long))


def test_projections_that_are_not_plain_are_refused() -> None:
    model = bert()
    model.encoder.layer[1].attention.self.query = nn.Sequential(nn.Linear(24, 24))
    with pytest.raises(ValueError, match=r"layer\.1\.attention\.self': query is a Sequential, not a plain projection"):
        pf.nvib.wrap(model)


# a real one


@pytest.fixture(scope="module")
def real() -> Path:
    folder = os.environ.get("PYROFORMER_BERT")
    if not folder:
        pytest.skip("needs PYROFORMER_BERT, the folder of a BERT that save_pretrained wrote, with its tokenizer")
    return Path(folder)


SENTENCES = [
    "A man is playing a guitar on stage.",
    "Two dogs run through the snow.",
    "Nobody is outside.",
    "The children are eating lunch in the park while their parents watch.",
    "A woman in a red coat is waiting for the bus.",
]


@pytest.mark.slow
def test_a_real_model(real: Path) -> None:
    model = transformers.AutoModel.from_pretrained(real).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(real)
    batch = dict(tokenizer(SENTENCES, return_tensors="pt", padding=True))
    before = outputs(model, batch)
    torch.testing.assert_close(outputs(pf.nvib.wrap(model), batch), before, rtol=0, atol=1e-4)
    pf.nvib.fit_priors(model, [batch])
    distances, shares = [], []
    for tau_alpha in (20.0, 2.0, 0.0, -2.0):
        pf.nvib.regularize(model, tau_alpha=tau_alpha)
        distances.append(float((outputs(model, batch) - before).norm()))
        shares.append(sum(kept.prior for kept in pf.nvib.kept(model, [batch]).values()))
    assert distances == sorted(distances) and shares == sorted(shares)
