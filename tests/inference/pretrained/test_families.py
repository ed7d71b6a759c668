"""Llama, Mistral and Qwen: small models that transformers saved are the oracle; then a real one, where there is one."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
import torch.nn.functional as F
from tokenizers import Regex, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor

from pyroformer.inference.data.corpus import Corpus
from pyroformer.inference.pretrained.byte_level_tokenizer import read_byte_level_tokenizer
from pyroformer.inference.pretrained.pretrained import Pretrained
from pyroformer.models.batch import BOS, EOS, PAD
from pyroformer.models.della import DELLA
from pyroformer.models.language_model import LanguageModel
from pyroformer.models.transformer.memory import Context

transformers = pytest.importorskip("transformers", reason="it writes the models that are read here")

TEXTS = [f"Number {i} is {'even' if i % 2 == 0 else 'odd'}, the next is {i + 1}." for i in range(80)]
SPECIALS = ["<|begin|>", "<|end|>", "<|tool|>"]
ORDINARY = [*TEXTS[:5], "It's 1,024 tokens;\n\n that isn't many, is it?", "  naïve 東京\r\n\tx ", ""]
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "llama tied": ("Llama", {"tie_word_embeddings": True}),
    "llama 3": ("Llama", {"rope_parameters": {**LLAMA3, "original_max_position_embeddings": 16}}),
    "llama linear": ("Llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}}),
    "llama with biases": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "llama of wide heads": ("Llama", {"head_dim": 12}),
    "mistral": ("Mistral", {"sliding_window": None}),
    "mistral with a window": ("Mistral", {"sliding_window": 48}),
    "qwen2": ("Qwen2", {}),
    "qwen2 tied": ("Qwen2", {"tie_word_embeddings": True, "rms_norm_eps": 1e-3}),
    "qwen2 with a window": ("Qwen2", {"use_sliding_window": True, "sliding_window": 48, "max_window_layers": 1}),
    "qwen3": ("Qwen3", {"head_dim": 16}),
    "qwen3 tied": ("Qwen3", {"head_dim": 8, "tie_word_embeddings": True}),
}


def tokenizer(kind: str = "llama3") -> tokenizers.Tokenizer:
    """A tokenizer as Llama 3's, Qwen's or SmolLM 2's, with special tokens last or first."""
    core = tokenizers.Tokenizer(models.BPE(ignore_merges=kind == "llama3"))
    pattern = Regex(r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+")
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=kind == "smollm2")
    first = (
        pre_tokenizers.Digits(individual_digits=True)
        if kind == "smollm2"
        else pre_tokenizers.Split(pattern, "isolated")
    )
    core.pre_tokenizer = pre_tokenizers.Sequence([first, level])
    if kind == "qwen":
        core.normalizer = normalizers.NFC()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=SPECIALS if kind == "smollm2" else [],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator(TEXTS, trainer)
    core.add_special_tokens(SPECIALS)
    core.post_processor = processors.ByteLevel(trim_offsets=False)
    return core


def save(
    folder: Path, form: str = "llama", shards: str = "1GB", dtype: torch.dtype = torch.float32, **more: Any
) -> Any:
    """A small model of random weights, as save_pretrained leaves it, with its tokenizer."""
    family, options = FORMS[form]
    core = tokenizer()
    ends = {"bos_token_id": core.token_to_id("<|begin|>"), "eos_token_id": core.token_to_id("<|end|>")}
    sizes = {**SIZES, "vocab_size": core.get_vocab_size() + 5, **ends, **options, **more}
    torch.manual_seed(1)
    model = getattr(transformers, f"{family}ForCausalLM")(getattr(transformers, f"{family}Config")(**sizes)).eval()
    for name, parameter in model.named_parameters():
        if name.endswith(("bias", "norm.weight")):
            torch.nn.init.normal_(parameter, mean=float("norm" in name), std=0.2)
    model.to(dtype).save_pretrained(folder, max_shard_size=shards)
    core.save(str(folder / "tokenizer.json"))
    return model


def rows_of(backbone: Pretrained, core: tokenizers.Tokenizer) -> Tensor:
    """The id that each of our tokens has there, by its letters; padding has none."""
    names = [backbone.tokenizer.core.id_to_token(token) for token in range(3, len(backbone.tokenizer))]
    return torch.tensor([core.token_to_id(name) for name in ["<|end|>", "<|begin|>", "<|end|>", *names]])


def check_logits(
    backbone: Pretrained, theirs: Any, rows: Tensor, texts: list[str], known: Tensor | slice = slice(1, None)
) -> None:
    """Every token that is known has the logit that it has there; by default all but padding."""
    corpus = Corpus.from_texts(texts, tokenizer=backbone.tokenizer, max_length=min(64, backbone.config.max_length))
    model = LanguageModel.for_corpus(corpus, backbone=backbone).eval()
    batch = next(corpus.batches("valid", 4))
    assert batch.tokens is not None and batch.mask is not None
    with torch.no_grad():
        expected = theirs(rows[F.pad(batch.tokens[:, :-1], (1, 0), value=BOS)]).logits[..., rows]
        ours = F.linear(model.decoder(batch.tokens), *model.decoder.readout)
    assert expected.std() > 0.3
    torch.testing.assert_close(ours[batch.mask][:, known], expected[batch.mask][:, known], atol=1e-4, rtol=0)


@pytest.mark.parametrize("form", FORMS)
def test_every_token_gets_the_logit_of_transformers(form: str, tmp_path: Path) -> None:
    theirs = save(tmp_path, form)
    backbone = Pretrained.from_pretrained(tmp_path)
    check_logits(backbone, theirs, rows_of(backbone, tokenizer()), TEXTS)
    assert backbone.config.max_length == (48 if "window" in form else 64)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_in_half_precision_and_in_several_files(dtype: torch.dtype, tmp_path: Path) -> None:
    save(tmp_path, "qwen2", shards="20KB", dtype=dtype)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    backbone = Pretrained.from_pretrained(tmp_path)
    assert backbone.weights["norm.weight"].dtype == dtype
    check_logits(backbone, theirs, rows_of(backbone, tokenizer()), TEXTS)


def test_configurations_of_transformers_4(tmp_path: Path) -> None:
    theirs = save(tmp_path, "llama 3")
    content = json.loads((tmp_path / "config.json").read_text())
    rope = content.pop("rope_parameters")
    content |= {"rope_theta": rope.pop("rope_theta"), "rope_scaling": rope, "head_dim": None}
    (tmp_path / "config.json").write_text(json.dumps(content))
    backbone = Pretrained.from_pretrained(tmp_path)
    assert (backbone.config.rotary_base, backbone.config.rotary_length) == (5e5, 16)
    check_logits(backbone, theirs, rows_of(backbone, tokenizer()), TEXTS)


@pytest.mark.parametrize("fusion", ["product", "film", "embedding"])
def test_della_starts_as_the_language_model(fusion: Any, tmp_path: Path) -> None:
    save(tmp_path, "qwen3")
    backbone = Pretrained.from_pretrained(tmp_path)
    corpus = Corpus.from_texts(TEXTS, tokenizer=backbone.tokenizer)
    plain = LanguageModel.for_corpus(corpus, backbone=backbone).eval()
    model = DELLA.for_corpus(corpus, backbone=backbone, fusion=fusion, latent_size=4).eval()
    tokens = torch.as_tensor(corpus.test.ids(0))[None]
    ours = model.likelihood(Context(torch.randn(1, len(model.latents), 4))).likelihood(tokens).logits()
    torch.testing.assert_close(ours, plain.likelihood().likelihood(tokens).logits(), atol=1e-4, rtol=0)


# tokenizers


@pytest.mark.parametrize("kind", ["llama3", "qwen", "smollm2"])
def test_texts_are_cut_as_there(kind: str, tmp_path: Path) -> None:
    core = tokenizer(kind)
    core.save(str(tmp_path / "tokenizer.json"))
    ours, ids = read_byte_level_tokenizer(tmp_path)
    assert len(ids) == core.get_vocab_size() - len(SPECIALS)
    for text in ORDINARY:
        *tokens, end = ours.encode(text)
        assert end == EOS and min(tokens, default=3) >= 3
        assert [ids[token - 3] for token in tokens] == core.encode(text).ids
        assert ours.decode(tokens) == text


def test_every_text_comes_back_also_with_names_of_special_tokens(tmp_path: Path) -> None:
    tokenizer("qwen").save(str(tmp_path / "tokenizer.json"))
    ours, _ = read_byte_level_tokenizer(tmp_path)
    for text in ("e\u0301 is not composed", "a<|end|><|tool|>b", "<eos>"):
        assert ours.decode(ours.encode(text)) == text


def test_a_byte_that_is_no_token_there(tmp_path: Path) -> None:
    save(tmp_path, "llama")
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    letter = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str("ÿ")[0][0][0]  # 0xC3, in no merge
    del content["model"]["vocab"][letter]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    backbone = Pretrained.from_pretrained(tmp_path)
    last = len(backbone.tokenizer) - 1
    assert backbone.tokenizer.core.id_to_token(last) == letter
    for weight in (backbone.weights["embedding.tokens.weight"], backbone.weights["head.weight"]):
        assert torch.equal(weight[last], weight[PAD])
    assert backbone.tokenizer.decode(backbone.tokenizer.encode("ÿ")) == "ÿ"


def test_ends_may_stand_in_the_generation_config(tmp_path: Path) -> None:
    theirs = save(tmp_path, "llama")
    rewritten(eos_token_id=None, bos_token_id=None)(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    del content["eos_token_id"], content["bos_token_id"]
    (tmp_path / "config.json").write_text(json.dumps(content))
    (tmp_path / "generation_config.json").write_text(json.dumps({"bos_token_id": 7, "eos_token_id": [9, 3]}))
    rows, table = (
        Pretrained.from_pretrained(tmp_path).weights["embedding.tokens.weight"],
        theirs.model.embed_tokens.weight,
    )
    assert torch.equal(rows[BOS], table[7]) and torch.equal(rows[EOS], table[9])


# what cannot be read


def rewritten(name: str = "config.json", **changes: Any) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(content | changes))

    return change


def reweighted(**changes: Tensor | None) -> Callable[[Path], object]:
    from safetensors.torch import load_file, save_file

    def change(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        for name, value in changes.items():
            name = name.replace("__", ".")
            weights.pop(name, None)
            weights |= {} if value is None else {name: value}
        save_file(weights, folder / "model.safetensors")

    return change


def sentencepiece(folder: Path) -> None:
    core = tokenizers.Tokenizer(models.BPE({"a": 0}, [], byte_fallback=True))
    core.save(str(folder / "tokenizer.json"))


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "another family": (
        rewritten(model_type="gemma3"),
        "model_type is 'gemma3', and only 'gpt2', 'llama', .* can be loa",
    ),
    "no family": (rewritten(model_type=None), "model_type is None, and only"),
    "quantized": (
        rewritten(quantization_config={"quant_method": "awq"}),
        r"its weights are quantized \(awq\): save it wi",
    ),
    "bytes": (
        reweighted(model__norm__weight=torch.zeros(32, dtype=torch.int8)),
        "model.norm.weight holds torch.int8: sa",
    ),
    "another activation": (rewritten(hidden_act="gelu"), "hidden_act is 'gelu', and only silu can be loaded"),
    "yarn": (
        rewritten(rope_parameters={"rope_type": "yarn"}),
        "positions are scaled by 'yarn', and only linear and lla",
    ),
    "old longrope": (rewritten(rope_parameters=None, rope_scaling={"type": "longrope"}), "are scaled by 'longrope'"),
    "no factor": (
        rewritten(rope_parameters={"rope_type": "linear"}),
        "factor of its rotary positions is None: a number",
    ),
    "a part of heads": (
        rewritten(rope_parameters={"partial_rotary_factor": 0.5}),
        "only a part of each head has rotary",
    ),
    "each layer its own": (
        rewritten(rope_parameters={"full_attention": {}}),
        "its layers have rotary positions of thei",
    ),
    "one bias": (rewritten(attention_bias=True), "attention_bias and mlp_bias are True, False: both or none can be"),
    "no width": (rewritten(hidden_size=None), "hidden_size is None, and a llama needs a positive whole number there"),
    "heads that do not fit": (
        rewritten(num_key_value_heads=3),
        "key_value_heads is 3, which does not divide heads = 4",
    ),
    "no keys": (
        reweighted(model__layers__1__self_attn__k_proj__weight=None),
        r"queries, keys and values are not complete: blocks\.1\.attention\.k\.weight is missing",
    ),
    "no head": (
        reweighted(lm_head__weight=None),
        "it has no lm_head.weight, and is not tied: save the model with its he",
    ),
    "a weight more": (
        reweighted(model__layers__0__mlp__router=torch.ones(2)),
        r"no place for the weight blocks\.0\.mlp\.r",
    ),
    "another end": (rewritten(eos_token_id=999), "eos_token_id is 999, which is no token: give config.json that of"),
    "no end": (rewritten(eos_token_id=None), "eos_token_id is None, which is no token"),
    "no tokenizer": (
        lambda folder: (folder / "tokenizer.json").unlink(),
        r"holds no tokenizer\.json: save its tokenizer",
    ),
    "sentencepiece": (
        sentencepiece,
        r"tokenizer\.json is a tokenizer of another kind \(SentencePiece\), and only byte-le",
    ),
    "a blank more": (
        rewritten(
            "tokenizer.json", pre_tokenizer={"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True}
        ),
        r"tokenizer\.json cannot be used: it puts a blank before every text",
    ),
    "lower case": (rewritten("tokenizer.json", normalizer={"type": "Lowercase"}), "its normalizer would change texts"),
    "lost blanks": (
        rewritten(
            "tokenizer.json",
            pre_tokenizer={
                "type": "Sequence",
                "pretokenizers": [
                    {"type": "WhitespaceSplit"},
                    {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
                ],
            },
        ),
        "its pre_tokenizer would change texts",
    ),
}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    save(folder)
    return folder


@pytest.mark.parametrize("case", BAD)
def test_a_folder_that_cannot_be_read(case: str, llama: Path, tmp_path: Path) -> None:
    change, message = BAD[case]
    folder = shutil.copytree(llama, tmp_path / "llama")
    change(folder)
    with pytest.raises(ValueError, match=message) as caught:
        Pretrained.from_pretrained(folder)
    assert str(caught.value).startswith(f"cannot start from {folder}: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("form", "change", "message"),
    [
        ("qwen3", {"attention_bias": True}, "attention_bias is True, and only a Qwen 3 without biases can be loaded"),
        ("mistral with a window", {"hidden_act": "relu"}, "hidden_act is 'relu', and only silu can be loaded"),
    ],
)
def test_options_of_other_families(form: str, change: dict[str, Any], message: str, tmp_path: Path) -> None:
    save(tmp_path, form)
    rewritten(**change)(tmp_path)
    with pytest.raises(ValueError, match=message):
        Pretrained.from_pretrained(tmp_path)


def test_a_text_beyond_the_window(tmp_path: Path) -> None:
    save(tmp_path, "mistral with a window")
    with pytest.raises(ValueError, match="a max_length of 49 exceeds the 48 positions of .*: give at most 48"):
        Pretrained.from_pretrained(tmp_path).check(max_length=49)


# a real one


@pytest.fixture(scope="module")
def real() -> Path:
    folder = os.environ.get("PYROFORMER_PRETRAINED")
    if not folder:
        pytest.skip("needs PYROFORMER_PRETRAINED, the folder of a Llama, Mistral or Qwen that save_pretrained wrote")
    return Path(folder)


@pytest.mark.slow
def test_a_real_model_gives_every_token_its_logit(real: Path) -> None:
    theirs = transformers.AutoModelForCausalLM.from_pretrained(real, dtype=torch.float32).eval()
    core = transformers.AutoTokenizer.from_pretrained(real)
    backbone = Pretrained.from_pretrained(real)
    tokens, ids = read_byte_level_tokenizer(real)
    ends = [theirs.config.eos_token_id, theirs.config.bos_token_id, theirs.config.eos_token_id]
    rows = torch.tensor([*ends, *(row if row >= 0 else 0 for row in ids)])
    for text in ORDINARY:
        assert rows[tokens.encode(text)[:-1]].tolist() == core(text, add_special_tokens=False)["input_ids"]
    known = torch.tensor([row >= 0 for row in [0, 0, 0, *ids]])
    known[PAD] = False
    check_logits(backbone, theirs, rows, TEXTS, known)
