"""A guide that reads texts with a pretrained encoder: transformers' own model is the oracle."""

import copy
import json
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import small_bert
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from pyroformer.guides.della import DELLAGuide
from pyroformer.guides.encoders.state_cache import OVERHEAD
from pyroformer.guides.encoders.text_encoder import TextEncoder
from pyroformer.inference.data.corpus import Corpus
from pyroformer.inference.objectives.elbo import ELBO
from pyroformer.inference.svi import SVI
from pyroformer.models.batch import EOS, Batch
from pyroformer.models.della import DELLA
from pyroformer.models.priors.vamp import VampPrior

transformers = pytest.importorskip("transformers", reason="its models are the encoders")

ODD = [
    "",
    " two  blanks ",
    "Größe 大 🏳️‍🌈",
    "a [SEP] b [PAD]",
    "tab\tand\r\nlines\n",
    "<eos> is five letters",
    "\x00",
    "é",
]
TEXTS = [f"Number {i} is {'even' if i % 2 == 0 else 'odd'}, the next is {i + 1}." for i in range(60)]
SIZES: dict[str, Any] = {"width": 16, "layers": 2, "heads": 2, "latent_size": 4, "dropout": 0.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_bert.save_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return Corpus.from_texts(TEXTS + [text for text in ODD if text], vocabulary=300, max_length=60)


@pytest.fixture
def encoder(folder: Path, corpus: Corpus) -> TextEncoder:
    return TextEncoder.from_pretrained(folder, corpus.tokenizer)


def pair(corpus: Corpus, encoder: TextEncoder, pool: Any = "attention", **options: Any) -> tuple[DELLA, DELLAGuide]:
    model = DELLA.for_corpus(corpus, **SIZES, **options)
    guide = DELLAGuide(model, encoder=encoder, pool=pool)
    for part in (model, guide.heads, guide.encoder):
        for parameter in part.parameters():
            if parameter.requires_grad:
                parameter.data.add_(0.1 * torch.randn_like(parameter))
    return model.eval(), guide.eval()


def theirs(folder: Path, texts: list[str]) -> tuple[Tensor, Tensor]:
    """Last hidden states by transformers' own tokenizer and model, padded, with their mask."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(texts, return_tensors="pt", padding=True, truncation=False)
    with torch.no_grad():
        states = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()(**inputs).last_hidden_state
    return states, inputs["attention_mask"].bool()


def calls(encoder: TextEncoder) -> list[int]:
    """The number of rows of every call of the network from now on."""
    rows: list[int] = []
    encoder.network.register_forward_hook(
        lambda module, args, options, output: rows.append(len(options["input_ids"])), with_kwargs=True
    )
    return rows


# --- hidden states ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", small_bert.FAMILIES)
def test_states_are_those_of_transformers(family: str, tmp_path: Path) -> None:
    folder = small_bert.save_bert(tmp_path, family)
    encoder = TextEncoder.from_pretrained(folder)
    texts = [*TEXTS[:3], "one", "", TEXTS[0] + TEXTS[1]]
    states, present = encoder.encode(texts)
    expected, mask = theirs(folder, texts)
    assert torch.equal(present, mask) and expected.std() > 0.3
    torch.testing.assert_close(states[present], expected[mask], atol=1e-5, rtol=0)
    rebuilt = TextEncoder(encoder.arguments["config"])
    rebuilt.load_state_dict(encoder.state_dict())
    assert torch.equal(rebuilt.encode(texts)[0], states)


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_the_longest_text_fills_every_position(family: str, tmp_path: Path) -> None:
    folder = small_bert.save_bert(tmp_path, family)
    encoder = TextEncoder.from_pretrained(folder)
    assert encoder.max_tokens == (64 if family == "bert" else 63)
    longest = "w " * (encoder.max_tokens - 2)
    torch.testing.assert_close(encoder.encode([longest])[0], theirs(folder, [longest])[0], atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match=rf"'w w .*'\.\.\. has {encoder.max_tokens + 1} tokens .* lower max_length"):
        encoder.encode([longest + "w"])


def test_states_of_a_text_are_the_same_in_any_batch(encoder: TextEncoder) -> None:
    together, present = encoder.encode(TEXTS)
    encoder.cache.clear()
    for row, text in enumerate(TEXTS):
        encoder.cache.clear()
        assert torch.equal(encoder.encode([text])[0][0], together[row][present[row]]), text


def test_names_of_special_tokens_in_a_text_are_letters(encoder: TextEncoder) -> None:
    assert encoder.encode(["a [SEP] b"])[1].sum() > encoder.encode(["a b"])[1].sum() + 1


def test_what_a_language_model_head_leaves_is_an_encoder(tmp_path: Path) -> None:
    folder = small_bert.save_bert(tmp_path, kind="ForMaskedLM")
    torch.testing.assert_close(
        TextEncoder.from_pretrained(folder).encode(TEXTS[:2])[0], theirs(folder, TEXTS[:2])[0], atol=1e-5, rtol=0
    )


def test_autocast_and_inference_mode_change_nothing(encoder: TextEncoder) -> None:
    plain = encoder.encode(TEXTS[:4])[0]
    encoder.cache.clear()
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode():
        assert torch.equal(encoder.encode(TEXTS[:4])[0], plain)
    kept = encoder.cache.get(TEXTS[0])
    assert kept is not None and not kept.states.is_inference()


# --- what the guide reads ---------------------------------------------------------------------------------------------


def test_the_text_that_is_read_is_that_of_the_tokens(encoder: TextEncoder, corpus: Corpus) -> None:
    for split in (corpus.train, corpus.valid, corpus.test):
        batch = split.batch(torch.arange(len(split)).numpy(), corpus.max_length)
        assert batch.tokens is not None and batch.mask is not None
        assert encoder.decode(batch.tokens, batch.mask) == list(split)
    tokens = Batch.pad(corpus.tokenizer.encode_batch(ODD))
    scribbled = torch.where(tokens.mask, tokens.tokens, 77)  # type: ignore[arg-type]
    assert encoder.decode(scribbled, tokens.mask) == ODD  # type: ignore[arg-type]
    cut = Batch.pad([ids[:-1] for ids in corpus.tokenizer.encode_batch(TEXTS[:2])])  # as of a text without an end
    assert encoder.decode(cut.tokens, cut.mask) == TEXTS[:2]  # type: ignore[arg-type]


@pytest.mark.parametrize("pool", ["attention", "mean", "first", "last"])
def test_encodings_are_poolings_of_the_states_of_transformers(
    pool: str, encoder: TextEncoder, folder: Path, corpus: Corpus
) -> None:
    _, guide = pair(corpus, encoder, pool)
    texts = TEXTS[:5]
    states, mask = theirs(folder, texts)
    states = F.layer_norm(states, states.shape[-1:])
    for index, encoding in enumerate(guide.read(Batch.pad(corpus.tokenizer.encode_batch(texts)))):
        if pool in ("first", "last"):
            expected = states[torch.arange(len(texts)), 0 if pool == "first" else mask.sum(1) - 1]
        else:
            weight = guide.encoder.pools[index].weight
            scores = torch.zeros(mask.shape) if weight is None else states @ weight
            expected = (scores.exp() * mask / (scores.exp() * mask).sum(-1, keepdim=True))[..., None].mul(states).sum(1)
        torch.testing.assert_close(encoding, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("structure", ["chain", "independent", "single"])
def test_the_bound_is_the_same_with_and_without_the_cache(
    structure: str, folder: Path, corpus: Corpus, encoder: TextEncoder
) -> None:
    model, guide = pair(corpus, encoder, structure=structure)
    bare = copy.deepcopy(guide.encoder.texts)
    bare.cache.limit = 0
    again = DELLAGuide(model, encoder=bare)
    again.load_state_dict(guide.state_dict())
    rows, all_rows = calls(encoder), calls(bare)
    for epoch in range(2):
        for batch in corpus.batches("valid", 2):
            values = []
            for each in (guide, again.eval()):
                torch.manual_seed(epoch)
                values.append(ELBO().terms(model, each, batch).bound)
            assert torch.equal(*values)
    distinct = len(set(corpus.valid) | {""})  # a batch is filled up with empty texts
    assert len(encoder.cache) == sum(rows) == distinct
    assert len(bare.cache) == 0 and sum(all_rows) >= 2 * len(corpus.valid)


def test_equal_texts_of_a_batch_are_read_once(encoder: TextEncoder, corpus: Corpus) -> None:
    _, guide = pair(corpus, encoder)
    encoder.cache.limit = 0
    rows = calls(encoder)
    means = guide.encode(Batch.pad(corpus.tokenizer.encode_batch(["one", "two", "one", "one"]))).mean
    assert sum(rows) == 2
    assert torch.equal(means[0], means[2]) and not torch.allclose(means[0], means[1])


def test_a_full_cache_keeps_what_it_has(encoder: TextEncoder) -> None:
    one = encoder.read(TEXTS[:1])[0].nbytes + OVERHEAD
    encoder.cache.clear()
    encoder.cache.limit = 3 * one + 1
    first = encoder.encode(TEXTS[:3])[0]
    for text in TEXTS[3:9]:
        encoder.encode([text])
    assert len(encoder.cache) == 3 and encoder.cache.bytes <= encoder.cache.limit
    rows = calls(encoder)
    assert torch.equal(encoder.encode(TEXTS[:3])[0], first) and not rows
    encoder.double()
    assert len(encoder.cache) == 0 and encoder.encode(TEXTS[:1])[0].dtype == torch.float64


@pytest.mark.parametrize("labels", [True, False])
def test_conditions_are_read_by_the_decoder_and_texts_by_the_encoder(labels: bool, folder: Path) -> None:
    pairs = [("even" if i % 2 == 0 else "odd", f"Number {i}") for i in range(40)]
    corpus = Corpus.from_texts(pairs, vocabulary=270, labels=labels)
    encoder = TextEncoder.from_pretrained(folder, corpus.tokenizer)
    model, guide = pair(corpus, encoder)
    batch = next(corpus.batches("train", 8))
    assert batch.tokens is not None and batch.mask is not None
    assert set(encoder.decode(batch.tokens, batch.mask)) <= {text for _, text in pairs}
    assert ELBO().terms(model, guide, batch).bound.isfinite().all()
    assert batch.condition_tokens is not None
    other = batch._replace(condition_tokens=batch.condition_tokens.flip(0), condition_mask=batch.condition_mask.flip(0))  # type: ignore[union-attr]
    assert not torch.allclose(guide.encode(batch).mean, guide.encode(other).mean)


# --- frozen -----------------------------------------------------------------------------------------------------------


def test_the_encoder_is_frozen(encoder: TextEncoder, corpus: Corpus) -> None:
    model, guide = pair(corpus, encoder)
    before = {name: value.clone() for name, value in encoder.network.state_dict().items()}
    guide.train()
    assert guide.training and not any(part.training for part in encoder.modules())
    svi = SVI(model, guide, torch.optim.AdamW, lr=1e-2, weight_decay=0.1)
    for batch in corpus.batches("train", 16):
        svi.step(batch)
    assert all(torch.equal(value, before[name]) for name, value in encoder.network.state_dict().items())
    assert all(parameter.grad is None for parameter in encoder.parameters())


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda guide: pickle.loads(pickle.dumps(guide))])
def test_a_copy_reads_the_same_and_has_a_cache_of_its_own(
    copied: Callable[[Any], Any], encoder: TextEncoder, corpus: Corpus
) -> None:
    _, guide = pair(corpus, encoder)
    encoder.cache.limit = 12_345
    batch = Batch.pad(corpus.tokenizer.encode_batch(["a [SEP] b", "one"]))
    mean, again = guide.encode(batch).mean, copied(guide)
    cache = again.encoder.texts.cache
    assert len(cache) == 0 and cache.limit == 12_345
    assert torch.equal(again.encode(batch).mean, mean)


# --- what does not work, in one line ----------------------------------------------------------------------------------


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nothing/here/at/all does not exist: give the folder of an encoder, or its"):
        TextEncoder.from_pretrained("nothing/here/at/all")
    with pytest.raises(
        ValueError, match=r"holds no model \(no config.json\): give a folder that save_pretrained wrote"
    ):
        TextEncoder.from_pretrained(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"file is a file: give the folder that holds config.json"):
        TextEncoder.from_pretrained(tmp_path / "file")


def test_a_name_that_the_hub_does_not_give(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*arguments: object, **options: object) -> None:
        raise OSError("We couldn't connect to 'https://huggingface.co' to load the files.\nCheck your connection.")

    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", offline)
    with pytest.raises(ValueError, match=r"^nofolder is no folder, and the hub did not give it \(We .* files\): give"):
        TextEncoder.from_pretrained("nofolder")


def test_another_kind_of_model(tmp_path: Path) -> None:
    sizes = {"n_embd": 12, "n_layer": 1, "n_head": 2, "vocab_size": 40}
    transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes)).save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match=r"encoder from \S+: model_type is 'gpt2', and a text encoder is one of albert"
    ):
        TextEncoder.from_pretrained(tmp_path)
    small_bert.save_bert(tmp_path / "decoder", is_decoder=True)
    with pytest.raises(ValueError, match=r"it is a decoder \(is_decoder\): give an encoder"):
        TextEncoder.from_pretrained(tmp_path / "decoder")


def test_what_a_folder_lacks(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "partial")
    weights = load_file(tmp_path / "partial" / "model.safetensors")
    weights.pop("encoder.layer.1.output.dense.weight")
    save_file(weights, tmp_path / "partial" / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"1 of its weights are missing, such as encoder\.layer\.1\.output\.dense"):
        TextEncoder.from_pretrained(tmp_path / "partial")
    (tmp_path / "partial" / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(ValueError, match=r"cannot read a text encoder from \S+partial: .+"):
        TextEncoder.from_pretrained(tmp_path / "partial")
    shutil.copytree(folder, tmp_path / "silent")
    for file in (tmp_path / "silent").glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ValueError, match=r"from \S+silent: its tokenizer has \d tokens, but vocab_size is \d+: put"):
        TextEncoder.from_pretrained(tmp_path / "silent")
    shutil.copytree(folder, tmp_path / "small")
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "small" / "config.json").write_text(json.dumps(config | {"quantization_config": {"bits": 4}}))
    with pytest.raises(ValueError, match=r"its weights are quantized: save it with weights in"):
        TextEncoder.from_pretrained(tmp_path / "small")


def test_without_transformers(folder: Path, encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    config = encoder.arguments["config"]
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match=r"needs the package transformers: pip install transformers\."):
        TextEncoder.from_pretrained(folder)
    with pytest.raises(ValueError, match=r"a guide with a pretrained encoder needs the package transformers"):
        TextEncoder(config)


def test_a_configuration_is_no_way_to_other_code(encoder: TextEncoder) -> None:
    config = encoder.arguments["config"]
    with pytest.raises(ValueError, match=r"model_type is 'gpt2', and a text encoder is one of"):
        TextEncoder({**config, "model_type": "gpt2"})
    with pytest.raises(ValueError, match=r"the configuration of a text encoder cannot be used: .+"):
        TextEncoder({**config, "num_attention_heads": 5})
    theirs = {"auto_map": {"AutoModel": "evil--Model"}, "_attn_implementation": "somebody/kernels", "dtype": "float16"}
    built = TextEncoder({**config, **theirs})
    assert type(built.network) is transformers.BertModel and built.network.config._attn_implementation == "sdpa"
    assert next(built.network.parameters()).dtype == torch.float32


def test_tokenizers_that_are_not_there(folder: Path, encoder: TextEncoder, corpus: Corpus) -> None:
    tokens, mask = torch.tensor([[5, EOS]]), torch.ones(1, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"call encoder.set_tokenizer\(corpus.tokenizer\), as fit does"):
        TextEncoder.from_pretrained(folder)(tokens, mask)
    with pytest.raises(ValueError, match=r"has no weights: make it with TextEncoder.from_pretrained, or load a run"):
        TextEncoder(encoder.arguments["config"]).encode(["a"])
    with pytest.raises(ValueError, match=r"the tokenizer is a str: give the TextEncoder that of the corpus"):
        encoder.set_tokenizer("bert")
    encoder.set_tokenizer(pickle.loads(pickle.dumps(corpus.tokenizer)))  # the same one
    other = Corpus.from_texts(TEXTS, vocabulary=280)
    with pytest.raises(
        ValueError, match=r"reads the tokens of another corpus, by another tokenizer: make one for this"
    ):
        encoder.set_tokenizer(other.tokenizer)


def test_a_prior_that_has_the_guide_read_vectors(encoder: TextEncoder, corpus: Corpus) -> None:
    model = DELLA.for_corpus(corpus, **SIZES, latent_prior=VampPrior(16, components=2))
    with pytest.raises(ValueError, match=r"VampPrior has the guide read vectors .* a TextEncoder reads texts only"):
        DELLAGuide(model, encoder=encoder)
    _, guide = pair(corpus, encoder)
    with pytest.raises(ValueError, match=r"a TextEncoder reads texts only"):
        guide.read_vectors(torch.zeros(1, 2, 16))
