"""A GPT-2 that transformers saved is the oracle of the one that is read; then training starts from it."""

import json
import re
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
import torch.nn.functional as F
import yaml
from tokenizers import models, pre_tokenizers, trainers
from torch import Tensor

from pyroformer.inference.cli.main import main
from pyroformer.inference.data.corpus import Corpus
from pyroformer.inference.pretrained.pretrained import Pretrained
from pyroformer.inference.run import load
from pyroformer.models.batch import BOS, EOS, PAD, Batch
from pyroformer.models.della import DELLA
from pyroformer.models.language_model import LanguageModel
from pyroformer.models.nvae import NVAE
from pyroformer.models.transformer.memory import Context

transformers = pytest.importorskip("transformers", reason="it writes the models that are read here")

TEXTS = [f"Number {i} is {'even' if i % 2 == 0 else 'odd'}, the next is {i + 1}." for i in range(80)]
END = "<|endoftext|>"
Change = Callable[[Path], object]
FIT = "--steps 2 --batch_size 8 --validations 1"


def tokenizer(first: bool = False) -> tokenizers.Tokenizer:
    """270 sub-words and the end of a text, which is the last token, as in GPT-2, or the first."""
    core = tokenizers.Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    options = {"initial_alphabet": pre_tokenizers.ByteLevel.alphabet(), "show_progress": False}
    core.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=270, special_tokens=[END] if first else [], **options)
    )
    core.add_special_tokens([END])
    return core


def save(folder: Path, first: bool = False, shards: str = "1GB", **options: Any) -> Any:
    """A small GPT-2 of random weights, as save_pretrained leaves it, with its tokenizer."""
    core = tokenizer(first)
    end = core.token_to_id(END)
    sizes = {"vocab_size": core.get_vocab_size(), "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 2}
    ends = {"bos_token_id": end, "eos_token_id": end}
    config = transformers.GPT2Config(**sizes | ends | {"initializer_range": 0.3} | options)
    torch.manual_seed(1)
    model = transformers.GPT2LMHeadModel(config).eval()
    model.save_pretrained(folder, max_shard_size=shards)
    core.save(str(folder / "tokenizer.json"))
    return model


def as_bin(folder: Path, model: Any) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")


def as_bins(folder: Path, model: Any) -> None:
    weights = list(model.state_dict().items())
    (folder / "model.safetensors").unlink()
    torch.save(dict(weights[::2]), folder / "pytorch_model-00001-of-00002.bin")
    torch.save(dict(weights[1::2]), folder / "pytorch_model-00002-of-00002.bin")
    places = {name: f"pytorch_model-0000{i % 2 + 1}-of-00002.bin" for i, (name, _) in enumerate(weights)}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))


def as_published(folder: Path, model: Any) -> None:
    """The files of 2019: no prefix, causal masks among the weights, vocabulary and merges apart."""
    from safetensors.torch import save_file

    weights = {name: value.clone() for name, value in model.transformer.state_dict().items()}
    masks = {f"h.{i}.attn.bias": torch.ones(1, 1, 64, 64).tril() for i in range(2)}
    save_file(weights | masks, folder / "model.safetensors")
    content = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "tokenizer.json").unlink()
    vocabulary = content["vocab"] | {END: len(content["vocab"])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in content["merges"]))


FORMS: dict[str, tuple[dict[str, Any], Callable[[Path, Any], None] | None]] = {
    "one file": ({}, None),
    "several files": ({"shards": "20KB"}, None),
    "pytorch_model.bin": ({}, as_bin),
    "several pytorch_model.bin": ({}, as_bins),
    "as published": ({}, as_published),
    "a readout of its own": ({"tie_word_embeddings": False}, None),
    "the end first": ({"first": True}, None),
    "rows that no token has": ({"vocab_size": 288}, None),
    "other options": ({"n_inner": 40, "activation_function": "relu", "layer_norm_epsilon": 1e-3}, None),
    "the exact gelu": ({"activation_function": "gelu"}, None),
    "upcast": ({"reorder_and_upcast_attn": True, "attn_implementation": "eager"}, None),
}


def logits(model: LanguageModel | NVAE, tokens: Tensor) -> Tensor:
    return F.linear(model.decoder(tokens), *model.decoder.readout)


def their_ids(backbone: Pretrained, core: tokenizers.Tokenizer) -> Tensor:
    """The id that each of our tokens has in GPT-2, by its letters; padding has none."""
    names = [
        END,
        END,
        END,
        *(backbone.tokenizer.core.id_to_token(token) for token in range(3, len(backbone.tokenizer))),
    ]
    return torch.tensor([core.token_to_id(name) for name in names])


@pytest.mark.parametrize("form", FORMS)
def test_every_token_gets_the_logit_that_gpt2_gives_it(form: str, tmp_path: Path) -> None:
    options, change = FORMS[form]
    theirs = save(tmp_path, **options)
    if change is not None:
        change(tmp_path, theirs)
    backbone = Pretrained.from_pretrained(tmp_path)
    corpus = Corpus.from_texts(TEXTS, tokenizer=backbone.tokenizer)
    model = LanguageModel.for_corpus(corpus, backbone=backbone).eval()
    batch = next(corpus.batches("valid", 4))
    assert batch.tokens is not None and batch.mask is not None
    ids = their_ids(backbone, tokenizer(options.get("first", False)))
    expected = theirs(ids[F.pad(batch.tokens[:, :-1], (1, 0), value=BOS)]).logits[..., ids]
    ours = logits(model, batch.tokens)
    assert expected.std() > 1
    torch.testing.assert_close(ours[batch.mask][:, 1:], expected[batch.mask][:, 1:], atol=1e-4, rtol=0)


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpt2")
    save(folder)
    return folder


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "texts.txt"
    path.write_text("\n".join(TEXTS))
    return path


@pytest.fixture
def backbone(gpt2: Path) -> Pretrained:
    return Pretrained.from_pretrained(gpt2)


@pytest.fixture
def corpus(backbone: Pretrained) -> Corpus:
    return Corpus.from_texts(TEXTS, tokenizer=backbone.tokenizer)


def test_transformers_cuts_texts_into_the_same_tokens(gpt2: Path, backbone: Pretrained) -> None:
    theirs = transformers.GPT2TokenizerFast.from_pretrained(gpt2)
    ids = their_ids(backbone, tokenizer())
    for text in [*TEXTS[:5], "Größe\n\tand 12,345 tokens", " blanks  "]:
        assert ids[backbone.tokenizer.encode(text)[:-1]].tolist() == theirs(text)["input_ids"]


def test_tokens_of_the_published_gpt2_are_those_of_transformers(data: Path) -> None:
    from pyroformer.inference.pretrained.gpt2_tokenizer import read_gpt2_tokenizer

    theirs = transformers.GPT2TokenizerFast.from_pretrained(data / "tokenizers" / "gpt2")
    ours, _ = read_gpt2_tokenizer(data / "tokenizers" / "gpt2")
    for text in [*TEXTS[:5], "It's 1,024 tokens; that isn't many, is it?", "  naïve 東京\r\n"]:
        assert [token - 3 for token in ours.encode(text)[:-1]] == theirs(text)["input_ids"]


def test_probabilities_are_those_of_gpt2_up_to_the_two_ends(gpt2: Path, backbone: Pretrained) -> None:
    theirs = transformers.GPT2LMHeadModel.from_pretrained(gpt2).eval()
    batch = Batch.pad(backbone.tokenizer.encode_batch(TEXTS[:8]))
    assert batch.tokens is not None and batch.mask is not None
    model = LanguageModel.for_corpus(Corpus.from_texts(TEXTS, tokenizer=backbone.tokenizer), backbone=backbone).eval()
    ids = their_ids(backbone, tokenizer())
    expected = theirs(ids[F.pad(batch.tokens[:, :-1], (1, 0), value=BOS)]).logits.log_softmax(-1)[..., ids]
    less = (expected - logits(model, batch.tokens).log_softmax(-1))[batch.mask][:, EOS:]
    end = expected[batch.mask][:, EOS:3].exp()
    vocabulary = len(backbone.tokenizer) - 2  # GPT-2's
    assert (less >= end.log1p() - 1e-5).all()
    assert (less <= (end + 1 / vocabulary).log1p() + 1e-5).all()


def test_rows_of_our_special_tokens(tmp_path: Path) -> None:
    theirs = save(tmp_path, bos_token_id=5, eos_token_id=9)
    table = theirs.transformer.wte.weight
    backbone = Pretrained.from_pretrained(tmp_path)
    rows = backbone.weights["embedding.tokens.weight"]
    assert torch.equal(rows[BOS], table[5]) and torch.equal(rows[EOS], table[9])
    torch.testing.assert_close(rows[PAD], table[:270].mean(0))


def test_positions_are_cut_to_max_length(backbone: Pretrained) -> None:
    corpus = Corpus.from_texts(TEXTS, tokenizer=backbone.tokenizer, max_length=24)
    model = LanguageModel.for_corpus(corpus, backbone=backbone)
    assert model.config.max_length == 24
    assert torch.equal(model.decoder.embedding.positions, backbone.weights["embedding.positions"][:24])


def test_an_nvae_starts_from_it_with_cross_attention_of_its_own(backbone: Pretrained, corpus: Corpus) -> None:
    model = NVAE.for_corpus(corpus, base_measure="gaussian", backbone=backbone)
    assert (model.config.positions, model.config.width) == ("learned", 32)
    own = dict(model.decoder.named_parameters())
    assert all(torch.equal(own[name], value) for name, value in backbone.weights.items())
    assert {name.split(".")[2] for name in own.keys() - backbone.weights.keys()} == {"cross", "cross_norm"}


@pytest.mark.parametrize("fusion", ["product", "collapsed", "add", "film", "embedding", "softmax"])
def test_della_starts_as_gpt2_whatever_its_latents_are(backbone: Pretrained, corpus: Corpus, fusion: Any) -> None:
    plain = LanguageModel.for_corpus(corpus, backbone=backbone).eval()
    model = DELLA.for_corpus(corpus, backbone=backbone, fusion=fusion, latent_size=4).eval()
    tokens = torch.as_tensor(corpus.test.ids(0))[None]
    latents = Context(torch.randn(1, len(model.latents), 4))
    assert torch.allclose(model.likelihood(latents).likelihood(tokens).logits(), logits(plain, tokens), atol=1e-5)


def test_options_win_where_gpt2_does_not_decide(backbone: Pretrained, corpus: Corpus) -> None:
    model = LanguageModel.for_corpus(corpus, backbone=backbone, dropout=0.0, attention="probabilistic").eval()
    softmax = LanguageModel.for_corpus(corpus, backbone=backbone).eval()
    assert (model.config.dropout, softmax.config.dropout) == (0.0, 0.1)
    tokens = Batch.pad(backbone.tokenizer.encode_batch(TEXTS[:3])).tokens
    torch.testing.assert_close(logits(model, tokens), logits(softmax, tokens), atol=1e-4, rtol=0)


# training


def run(arguments: str) -> None:
    assert main(shlex.split(arguments)) == 0


def weights(out: Path) -> dict[str, Tensor]:
    return load(out).model.state_dict()


def test_fit_starts_from_it_and_then_needs_it_no_more(
    gpt2: Path, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(gpt2, tmp_path / "gpt2")
    out = tmp_path / "run"
    run(f"fit lm --data {texts} --out {out} --init_from {tmp_path}/gpt2 {FIT}")
    said = capsys.readouterr().out
    assert f"starting from {tmp_path}/gpt2: width 32, 2 layers, 2 heads, 273 tokens, max_length up to 64" in said
    assert "LanguageModel, " in said
    shutil.rmtree(tmp_path / "gpt2")
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert config["training"]["learning_rate"] == 1e-4
    assert config["model"]["init_args"]["config"]["init_args"]["width"] == 32
    trained, start = load(out), Pretrained.from_pretrained(gpt2)
    assert trained.tokenizer.core.get_vocab() == start.tokenizer.core.get_vocab()
    moved = [
        (value - start.weights[name]).abs().max().item() for name, value in trained.model.decoder.named_parameters()
    ]
    assert 0 < max(moved) < 1e-3  # two small steps
    assert len(trained.sample(2)) == 2
    run(f"fit lm --out {out} --resume --steps 4")
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]


def test_a_run_killed_before_its_first_checkpoint_still_starts_from_it(
    gpt2: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    shutil.copytree(gpt2, tmp_path / "gpt2")
    arguments = f"--data {texts} --init_from {tmp_path}/gpt2 {FIT}"
    run(f"fit nvae {arguments} --out {tmp_path}/whole")
    with monkeypatch.context() as patch:
        patch.setattr("lightning.Trainer.fit", kill)
        assert main(shlex.split(f"fit nvae {arguments} --out {tmp_path}/killed")) == 130
    shutil.rmtree(tmp_path / "gpt2")
    run(f"fit nvae --out {tmp_path}/killed --resume")
    whole, killed = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert all(torch.equal(value, killed[name]) for name, value in whole.items())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--size base", "--size is base, but {gpt2} has one of its own: leave it out"),
        ("--vocabulary 300", "--vocabulary is 300, but {gpt2} has one of its own: leave it out"),
        ("--model.width 64", "--model.width is 64, but {gpt2} has 32: leave it out"),
        ("--model.tied false", "--model.tied is False, but {gpt2} has True: leave it out"),
        ("--max_length 65", "a --max_length of 65 exceeds the 64 positions of {gpt2}: give at most 64"),
    ],
)
def test_what_contradicts_it(
    flags: str, message: str, gpt2: Path, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(shlex.split(f"fit lm --data {texts} --out {tmp_path}/run --init_from {gpt2} {flags}")) == 1
    assert capsys.readouterr().err == f"error: {message.format(gpt2=gpt2)}.\n"
    assert not (tmp_path / "run" / "corpus").exists()  # nothing was read for it


def test_a_corpus_of_other_tokens(backbone: Pretrained) -> None:
    with pytest.raises(ValueError, match="the texts have other tokens than .*: read them with its tokenizer"):
        LanguageModel.for_corpus(Corpus.from_texts(TEXTS, vocabulary=280), backbone=backbone)


# folders whose trunk is whole


def rewritten(**changes: Any) -> Change:
    def change(folder: Path) -> None:
        content = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(content | changes))

    return change


def renamed(rename: Callable[[str], str], **more: Tensor) -> Change:
    from safetensors.torch import load_file, save_file

    def change(folder: Path) -> None:
        weights = {rename(name): value for name, value in load_file(folder / "model.safetensors").items()}
        save_file(
            weights | {name.replace("__", "."): value for name, value in more.items()}, folder / "model.safetensors"
        )

    return change


WHOLE: dict[str, Change] = {
    "classifier of texts": renamed(str, score__weight=torch.ones(2, 32)),
    "classifier of tokens": renamed(str, classifier__weight=torch.ones(2, 32), classifier__bias=torch.ones(2)),
    "two heads": renamed(str, multiple_choice_head__summary__weight=torch.ones(1, 32)),
    "compiled": renamed(lambda name: f"_orig_mod.{name}"),
    "compiled blocks": renamed(lambda name: re.sub(r"\.h\.(\d+)\.", r".h.\1._orig_mod.", name)),
    "trained in parallel": renamed(lambda name: f"module.{name}"),
    "two ends": rewritten(eos_token_id=[270, 1]),
}


@pytest.mark.parametrize("case", WHOLE)
def test_a_folder_whose_trunk_is_whole(case: str, gpt2: Path, backbone: Pretrained, tmp_path: Path) -> None:
    folder = shutil.copytree(gpt2, tmp_path / "gpt2")
    WHOLE[case](folder)
    read = Pretrained.from_pretrained(folder)
    assert read.config == backbone.config and set(read.weights) == set(backbone.weights)
    for name, weight in backbone.weights.items():
        assert torch.equal(read.weights[name], weight), name


def test_unequal_dropout_rates_are_that_of_the_residual_stream(gpt2: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(gpt2, tmp_path / "gpt2")
    rewritten(resid_pdrop=0.2, embd_pdrop=0.1, attn_pdrop=0.0)(folder)
    with pytest.warns(
        UserWarning, match=r"are 0\.2, 0\.1, 0\.0, and our decoder has one rate for all: it is 0\.2; give"
    ):
        assert Pretrained.from_pretrained(folder).config.dropout == 0.2


# folders that hold no such thing


def cut(name: str) -> Change:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-100])


def removed(*names: str) -> Change:
    return lambda folder: [(folder / name).unlink() for name in names]


def written(name: str, content: str) -> Change:
    return lambda folder: (folder / name).write_text(content)


def other_weights(**changes: Tensor | None) -> Change:
    from safetensors.torch import load_file, save_file

    def change(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        for name, value in changes.items():
            name = f"transformer.{name.replace('__', '.')}"
            weights.pop(name, None)
            weights |= {} if value is None else {name: value}
        save_file(weights, folder / "model.safetensors")

    return change


def pickled(content: object) -> Change:
    def change(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        torch.save(content, folder / "pytorch_model.bin")

    return change


def one_of_two(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    places = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


BAD: dict[str, tuple[Change, str]] = {
    "no folder": (shutil.rmtree, r"gpt2 does not exist: give the folder of a model, or its name on the .* hub"),
    "no configuration": (removed("config.json"), r"holds no model \(no config\.json\): give a folder that save_pre"),
    "a cut configuration": (cut("config.json"), r"config\.json cannot be read \(.*\): it is cut short or damaged"),
    "no object": (written("config.json", "[]"), r"config\.json is damaged: it holds no object"),
    "another model": (rewritten(model_type="bert"), "cannot start from .*gpt2: model_type is 'bert', and only 'gpt2'"),
    "another end": (rewritten(eos_token_id=[999]), r"eos_token_id is 999, which is no token: give config\.json"),
    "no end": (rewritten(eos_token_id=[]), r"eos_token_id is \[\], which is no token: give config\.json"),
    "no weights": (removed("model.safetensors"), r"holds no weights: put model\.safetensors or pytorch_model\.bin"),
    "a cut file": (cut("model.safetensors"), r"model\.safetensors cannot be read \(.*\): it is cut short or damaged"),
    "half the files": (one_of_two, r"gpt2 lacks model-00002-of-00002\.safetensors, which .*index\.json names: put it"),
    "no tokenizer": (removed("tokenizer.json"), r"holds no tokenizer: put tokenizer\.json there, or vocab\.json and"),
    "other positions": (rewritten(n_positions=65), r"positions has shape \(64, 32\), but the decoder needs \(65, 32\)"),
    "another width": (rewritten(n_embd=64), r"has shape \(\d+, 32\), but the decoder needs \(\d+, 64\)"),
    "more layers": (
        rewritten(n_layer=3),
        r"12 of the decoder's weights are missing, such as blocks\.2\.",
    ),
    "untied": (rewritten(tie_word_embeddings=False), r"2 of .* weights are missing, such as head\.weight"),
    "fewer layers": (rewritten(n_layer=1), r"the decoder has no place for the weight blocks\.1\."),
    "one weight less": (other_weights(ln_f__bias=None), r"1 of the decoder's weights are missing, such as norm\.bias"),
    "one weight more": (other_weights(score=torch.ones(1)), "the decoder has no place for the weight score"),
    "a list": (pickled([torch.ones(1)]), r"pytorch_model\.bin is not the state_dict of a model"),
    "code": (
        pickled({"a": Path("/")}),
        r"pytorch_model\.bin holds more than tensors, or is damaged: it was",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_folder_that_cannot_be_read(case: str, gpt2: Path, tmp_path: Path) -> None:
    change, message = BAD[case]
    folder = shutil.copytree(gpt2, tmp_path / "gpt2")
    change(folder)
    with pytest.raises(ValueError, match=message) as caught:
        Pretrained.from_pretrained(folder)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_with_more_tokens_than_the_embedding(gpt2: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(gpt2, tmp_path / "gpt2")
    rewritten(vocab_size=260, eos_token_id=0, bos_token_id=0)(folder)
    other_weights(wte__weight=torch.zeros(260, 32))(folder)
    with pytest.raises(ValueError, match="its tokenizer has a token 269, but vocab_size is 260"):
        Pretrained.from_pretrained(folder)


def test_a_file_in_place_of_a_folder(gpt2: Path) -> None:
    with pytest.raises(ValueError, match=r"config\.json is a file: give the folder that holds config\.json"):
        Pretrained.from_pretrained(gpt2 / "config.json")


def test_the_command_says_it_in_one_line(texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(shlex.split(f"fit lm --data {texts} --out {tmp_path}/run --init_from {tmp_path}/gone")) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {tmp_path}/gone does not exist: ") and error.count("\n") == 1


# the hub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[tuple[str, list[str]]]]:
    """A hub that serves a folder or an error; returns the list of requested downloads."""

    def serve(answer: Path | Exception) -> list[tuple[str, list[str]]]:
        downloads = []

        def snapshot_download(name: str, *, allow_patterns: list[str]) -> str:
            downloads.append((name, allow_patterns))
            if isinstance(answer, Exception):
                raise answer
            return str(answer)

        monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
        return downloads

    return serve


def test_a_name_is_one_on_the_hub(gpt2: Path, hub: Callable[..., Any]) -> None:
    downloads = hub(gpt2)
    assert Pretrained.from_pretrained("openai-community/gpt2").name == "openai-community/gpt2"
    [(name, patterns)] = downloads
    assert name == "openai-community/gpt2"
    assert {"config.json", "tokenizer.json", "model.safetensors", "model-*.safetensors"} < set(patterns)
    assert not any("bin" in pattern for pattern in patterns)


def test_pickles_are_downloaded_only_where_there_is_nothing_else(
    gpt2: Path, tmp_path: Path, hub: Callable[..., Any]
) -> None:
    folder = shutil.copytree(gpt2, tmp_path / "gpt2")
    (folder / "model.safetensors").unlink()
    downloads = hub(folder)
    with pytest.raises(ValueError, match="holds no weights"):
        Pretrained.from_pretrained("gpt2")
    assert ["pytorch_model.bin" in patterns for _, patterns in downloads] == [False, True]


def test_a_folder_that_exists_is_never_downloaded(
    gpt2: Path, monkeypatch: pytest.MonkeyPatch, hub: Callable[..., Any]
) -> None:
    downloads = hub(AssertionError("downloaded"))
    monkeypatch.chdir(gpt2.parent)
    assert Pretrained.from_pretrained(gpt2.name).config.width == 32
    assert downloads == []


def test_offline(hub: Callable[..., Any]) -> None:
    hub(OSError("no address for huggingface.co\nand more"))
    with pytest.raises(ValueError) as caught:
        Pretrained.from_pretrained("gpt2")
    assert str(caught.value) == (
        "gpt2 is no folder, and the hub did not give it (no address for huggingface.co): give the folder of a model, "
        "or its name on the hub while online."
    )


@pytest.mark.parametrize(
    ("package", "source", "message"),
    [
        ("huggingface_hub", "gpt2", r"the hub needs the package huggingface-hub: pip install huggingface-hub\."),
        ("safetensors", None, r"reading .* needs the package safetensors: pip install safetensors\."),
    ],
)
def test_packages_of_the_extra(
    package: str, source: str | None, message: str, gpt2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=message):
        Pretrained.from_pretrained(source or gpt2)
