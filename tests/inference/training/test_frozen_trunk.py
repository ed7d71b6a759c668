"""Training of a part of a model that starts from another: what moves, what a checkpoint holds, and going on."""

import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from pyroformer.guides.della import DELLAGuide
from pyroformer.inference.cli.main import main
from pyroformer.inference.data.corpus import Corpus
from pyroformer.inference.run import load
from pyroformer.inference.training.fit import fit
from pyroformer.models.della import DELLA
from pyroformer.models.language_model import LanguageModel
from pyroformer.models.transformer.backbone import Backbone
from pyroformer.models.transformer.config import TransformerConfig
from pyroformer.models.transformer.stacks import Decoder

TEXTS = [f"Number {i} is {'even' if i % 2 == 0 else 'odd'}, the next is {i + 1}." for i in range(60)]
SIZES: dict[str, Any] = {
    "width": 16,
    "layers": 2,
    "heads": 4,
    "key_value_heads": 2,
    "positions": "rotary",
    "norm": "rms",
}
FIT: dict[str, Any] = {"batch_size": 8, "validations": 1}


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return Corpus.from_texts(TEXTS, vocabulary=270, max_length=40)


@pytest.fixture
def backbone(corpus: Corpus) -> Backbone:
    config = TransformerConfig(vocabulary=corpus.vocabulary, max_length=40, **SIZES)
    return Backbone("old", config, Decoder(config).state_dict())


def saved(folder: Path, name: str = "last") -> dict[str, Tensor]:
    content: dict[str, Any] = torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)
    return content["state_dict"]


def test_only_what_the_trunk_lacks_is_trained_and_saved(corpus: Corpus, backbone: Backbone, tmp_path: Path) -> None:
    model = DELLA.for_corpus(corpus, backbone=backbone, train="latents", latent_size=4)
    guide = DELLAGuide(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    run = fit(model, guide, corpus, out=tmp_path / "run", steps=3, **FIT)
    trunk = {f"decoder.{name}" for name in backbone.weights}
    for name, value in run.model.state_dict().items():
        assert torch.equal(value, before[name]) == (name in trunk), name
    content = torch.load(run.folder.last, weights_only=True)
    names = {name.removeprefix("objective.model.") for name in content["state_dict"]}
    assert not names & trunk and any("fusion" in name for name in names)
    trained = sum(parameter.numel() for parameter in run.model.parameters() if parameter.requires_grad)
    moments = sum(state["exp_avg"].numel() for state in content["optimizer_states"][0]["state"].values())
    assert trained < moments < trained + sum(parameter.numel() for parameter in guide.parameters())
    assert set(saved(tmp_path / "run", "best")) == set(content["state_dict"])
    assert run.folder.last.stat().st_size < run.folder.frozen.stat().st_size + 3 * 4 * moments + 100_000


def test_the_trunk_is_in_eval_mode(corpus: Corpus, backbone: Backbone) -> None:
    model = LanguageModel.for_corpus(corpus, backbone=backbone, train="lora", dropout=0.5)
    seen = []
    model.decoder.norm.register_forward_hook(lambda module, *_: seen.append(module.training))
    fit(model, None, corpus, steps=1, **FIT)
    assert seen and not any(seen)


def test_adapters_are_trained_from_what_the_trunk_computes(corpus: Corpus, backbone: Backbone) -> None:
    model = LanguageModel.for_corpus(corpus, backbone=backbone, train="lora").eval()
    plain = LanguageModel.for_corpus(corpus, backbone=backbone).eval()
    tokens = torch.as_tensor(corpus.test.ids(0))[None]
    assert torch.equal(model.decoder(tokens), plain.decoder(tokens))
    names = {name.rpartition(".")[2] for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert names == {"adapter_up", "adapter_down"}
    assert model.config.adapter_rank == 8
    assert LanguageModel.for_corpus(corpus, backbone=backbone, train="lora", adapter_rank=2).config.adapter_rank == 2
    run = fit(model, None, corpus, steps=3, **FIT)
    ups = [parameter for name, parameter in run.model.named_parameters() if name.endswith("adapter_up")]
    assert all(parameter.abs().max() > 0 for parameter in ups)


def test_a_run_loads_and_goes_on_to_the_same_weights(corpus: Corpus, backbone: Backbone, tmp_path: Path) -> None:
    def parts() -> tuple[DELLA, DELLAGuide]:
        torch.manual_seed(0)
        model = DELLA.for_corpus(corpus, backbone=backbone, train="latents", latent_size=4)
        return model, DELLAGuide(model)

    whole = fit(*parts(), corpus, out=tmp_path / "whole", steps=4, **FIT)
    fit(*parts(), corpus, out=tmp_path / "cut", steps=2, **FIT)
    model, guide = parts()
    with torch.no_grad():
        for parameter in (p for p in model.parameters() if p.requires_grad):
            parameter.zero_()  # the checkpoint has them
    fit(model, guide, corpus, out=tmp_path / "cut", steps=4, resume=True, **FIT)
    loaded = load(tmp_path / "whole")
    for name, value in whole.model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], value), name
    assert loaded.sample(2, seed=0) == whole.sample(2, seed=0)
    kept = loaded.save(tmp_path / "copy")
    assert load(kept.folder.path).sample(2, seed=0) == whole.sample(2, seed=0)


def test_other_frozen_weights_are_noticed(corpus: Corpus, backbone: Backbone, tmp_path: Path) -> None:
    for name, scale in (("one", 1.0), ("two", 2.0)):
        scaled = Backbone("old", backbone.config, {key: scale * value for key, value in backbone.weights.items()})
        model = LanguageModel.for_corpus(corpus, backbone=scaled, train="lora")
        fit(model, None, corpus, out=tmp_path / name, steps=1, **FIT)
    shutil.copy(tmp_path / "two/checkpoints/frozen.ckpt", tmp_path / "one/checkpoints/frozen.ckpt")
    with pytest.raises(ValueError, match=r"frozen\.ckpt has other weights than best\.ckpt was trained with: restore"):
        load(tmp_path / "one")
    (tmp_path / "one/checkpoints/frozen.ckpt").unlink()
    with pytest.raises(ValueError, match=r"frozen\.ckpt does not exist"):
        load(tmp_path / "one")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"train": "latents"},
            "a LanguageModel has no parameters but those of old: train lora or all of them, or choose",
        ),
        ({"train": "lora", "backbone": None}, "train is lora, and there is no backbone to freeze: give one, or leave"),
        ({"train": "lora", "adapter_rank": 0}, "adapter_rank is 0, which is no adapters, and train is lora, .*: give"),
    ],
)
def test_nothing_to_freeze_or_to_train(
    corpus: Corpus, backbone: Backbone, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        LanguageModel.for_corpus(corpus, **{"backbone": backbone, **options})


def test_labels_need_rows_of_the_embedding(backbone: Backbone) -> None:
    pairs = [(("odd", "even")[i % 2 == 0], text) for i, text in enumerate(TEXTS)]
    corpus = Corpus.from_texts(pairs, vocabulary=270, max_length=40)
    with pytest.raises(
        ValueError, match="train is lora, which freezes the embedding, where 2 labels need rows of their"
    ):
        DELLA.for_corpus(corpus, backbone=backbone, train="lora")


# the command line


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    transformers = pytest.importorskip("transformers", reason="it writes the model that is read here")
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=270, initial_alphabet=alphabet, show_progress=False))
    folder = tmp_path_factory.mktemp("gpt2")
    sizes = {"vocab_size": 270, "n_positions": 64, "n_embd": 16, "n_layer": 2, "n_head": 2}
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, **ends)).save_pretrained(folder)
    core.save(str(folder / "tokenizer.json"))
    return folder


def test_the_command_trains_a_part_and_resumes(gpt2: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    begin = f"fit della --data {tmp_path}/texts.txt --out {tmp_path}/run --init_from {gpt2} --train latents"
    options = "--model.latent_size 4 --batch_size 8 --validations 1"
    assert main(shlex.split(f"{begin} {options} --steps 2")) == 0
    said = capsys.readouterr().out
    assert " are trained)" in said
    config = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert config["training"]["learning_rate"] == 1e-3 and "model.decoder.norm" not in config["trained"]
    assert main(shlex.split(f"fit della --out {tmp_path}/run --resume --steps 4")) == 0
    assert load(tmp_path / "run").folder.step() == 4
    assert main(shlex.split(f"fit della --out {tmp_path}/run --resume --steps 6 --train lora")) == 1
    assert "--train is lora, but" in capsys.readouterr().err


def test_the_command_needs_something_to_freeze(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(shlex.split(f"fit lm --data builtin --out {tmp_path}/run --train lora")) == 1
    error = capsys.readouterr().err
    assert error == "error: --train is lora, and there are no pretrained weights: give them with --init_from.\n"
