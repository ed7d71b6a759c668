"""Trainings of a guide with a pretrained encoder: what is saved, going on, loading without the encoder's folder."""

import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import small_bert
import torch
import yaml
from cut_short import crashed_at

from pyroformer.guides.della import DELLAGuide
from pyroformer.guides.encoders.text_encoder import TextEncoder
from pyroformer.inference.cli.main import main
from pyroformer.inference.data.corpus import Corpus
from pyroformer.inference.objectives.elbo import ELBO
from pyroformer.inference.run import Run, load
from pyroformer.inference.training.compiled import captured_losses
from pyroformer.inference.training.fit import fit
from pyroformer.inference.training.fit_prior import fit_prior
from pyroformer.inference.training.status import Status
from pyroformer.models.della import DELLA
from pyroformer.models.transformer.backbone import Backbone
from pyroformer.models.transformer.config import TransformerConfig
from pyroformer.models.transformer.stacks import Decoder

TEXTS = [f"Number {i} is {'even' if i % 2 == 0 else 'odd'}, the next is {i + 1}." for i in range(60)]
SIZES: dict[str, Any] = {"width": 16, "layers": 2, "heads": 2, "latent_size": 4}
FIT: dict[str, Any] = {"batch_size": 8, "validations": 1}


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return Corpus.from_texts(TEXTS, vocabulary=270, max_length=40)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_bert.save_bert(tmp_path_factory.mktemp("bert"))


def parts(corpus: Corpus, folder: Path, **options: Any) -> tuple[DELLA, DELLAGuide]:
    torch.manual_seed(0)
    model = DELLA.for_corpus(corpus, **{**SIZES, **options})
    return model, DELLAGuide(model, encoder=TextEncoder.from_pretrained(folder))


def saved(run: Run, name: str = "last") -> dict[str, Any]:
    content: dict[str, Any] = torch.load(run.folder / f"checkpoints/{name}.ckpt", weights_only=True)
    return content


def check_same_posteriors(first: Run, second: Run) -> None:
    texts = [*TEXTS[:4], "an unknown text"]
    for name in ("mean", "variance"):
        one, two = (getattr(run.encode(texts), name) for run in (first, second))
        assert torch.equal(one, two)
    assert torch.equal(first.bound(texts, 4), second.bound(texts, 4))


def test_the_encoder_is_saved_once_and_has_no_moments(corpus: Corpus, bert: Path, tmp_path: Path) -> None:
    model, guide = parts(corpus, bert)
    before = {name: value.clone() for name, value in guide.encoder.texts.network.state_dict().items()}
    run = fit(model, guide, corpus, out=tmp_path / "run", steps=3, **FIT)
    assert all(torch.equal(value, before[name]) for name, value in guide.encoder.texts.network.state_dict().items())
    frozen = set(saved(run, "frozen")["state_dict"])
    assert frozen == {f"objective.guide.encoder.texts.network.{name}" for name in before} | {
        "objective.guide.encoder.texts._extra_state"
    }
    for name in ("last", "best"):
        content = saved(run, name)
        assert not frozen & set(content["state_dict"]) and content["frozen"] == run.config["frozen"]
    trained = [p for part in (model, guide) for p in part.parameters() if p.requires_grad]
    moments = saved(run)["optimizer_states"][0]["state"].values()
    assert len({id(p) for p in trained}) == len(moments)


def test_a_training_reads_every_text_once(corpus: Corpus, bert: Path) -> None:
    model, guide = parts(corpus, bert)
    rows: list[int] = []
    guide.encoder.texts.network.register_forward_hook(
        lambda module, args, options, output: rows.append(len(options["input_ids"])), with_kwargs=True
    )
    fit(model, guide, corpus, steps=21, batch_size=8, validations=3)  # three epochs
    assert sum(rows) == len(set(corpus.train) | set(corpus.valid) | {""})  # a batch is filled up with empty texts


def test_a_run_loads_without_the_folder_and_wherever_it_is(corpus: Corpus, bert: Path, tmp_path: Path) -> None:
    shutil.copytree(bert, tmp_path / "bert")
    run = fit(*parts(corpus, tmp_path / "bert"), corpus, out=tmp_path / "run", steps=2, **FIT)
    shutil.rmtree(tmp_path / "bert")
    check_same_posteriors(run, load(tmp_path / "run"))
    kept = load(tmp_path / "run").save(tmp_path / "copy")
    shutil.move(tmp_path / "run", tmp_path / "moved")
    check_same_posteriors(run, load(tmp_path / "moved"))
    check_same_posteriors(run, load(kept.folder.path))
    assert load(tmp_path / "moved").reconstruct(TEXTS[:2]) == run.reconstruct(TEXTS[:2])


def test_a_run_goes_on_to_the_same_weights(corpus: Corpus, bert: Path, tmp_path: Path) -> None:
    whole = fit(*parts(corpus, bert), corpus, out=tmp_path / "whole", steps=12, **FIT | {"validations": 2})
    cut = {"out": tmp_path / "cut", **FIT, "validations": 2}
    crashed_at(0, fit, *parts(corpus, bert), corpus, steps=12, **cut)  # before its first checkpoint
    assert not (tmp_path / "cut/checkpoints/last.ckpt").exists()
    crashed_at(6, fit, *parts(corpus, bert), corpus, split="valid", resume=True, out=tmp_path / "cut")
    again = fit(*parts(corpus, bert), corpus, resume=True, out=tmp_path / "cut")
    one, two = saved(whole)["state_dict"], saved(again)["state_dict"]
    assert one.keys() == two.keys() and all(torch.equal(value, two[name]) for name, value in one.items())
    check_same_posteriors(whole, again)


def test_another_encoder_is_noticed(corpus: Corpus, bert: Path, tmp_path: Path) -> None:
    fit(*parts(corpus, bert), corpus, out=tmp_path / "run", steps=1, **FIT)
    other = small_bert.save_bert(tmp_path / "other", seed=2)
    with pytest.raises(ValueError, match=r"has other frozen weights than these: resume it from the run that it began"):
        fit(*parts(corpus, other), corpus, out=tmp_path / "run", resume=True, steps=2)
    wider = small_bert.save_bert(tmp_path / "wider", hidden_size=36)
    with pytest.raises(ValueError, match=r"holds a run of another guide: continue it with the same one"):
        fit(*parts(corpus, wider), corpus, out=tmp_path / "run", resume=True, steps=2)


def test_a_frozen_decoder_and_a_frozen_encoder(corpus: Corpus, bert: Path, tmp_path: Path) -> None:
    sizes = {name: SIZES[name] for name in ("width", "layers", "heads")}
    config = TransformerConfig(vocabulary=corpus.vocabulary, max_length=40, **sizes)
    backbone = Backbone("old", config, Decoder(config).state_dict())
    model, guide = parts(corpus, bert, backbone=backbone, train="latents", positions=config.positions)
    run = fit(model, guide, corpus, out=tmp_path / "run", steps=2, **FIT)
    assert "objective.model.decoder.norm.weight" in saved(run, "frozen")["state_dict"]
    check_same_posteriors(run, load(tmp_path / "run"))


def test_texts_that_are_too_long_are_refused_before_anything_is_written(corpus: Corpus, tmp_path: Path) -> None:
    short = small_bert.save_bert(tmp_path / "short", max_position_embeddings=10)
    with pytest.raises(ValueError, match=r"'Number .* tokens of the text encoder, which reads 10: lower max_length"):
        fit(*parts(corpus, short), corpus, out=tmp_path / "run", steps=1)
    assert not (tmp_path / "run").exists()


def test_a_guide_that_reads_another_corpus(corpus: Corpus, bert: Path) -> None:
    other = Corpus.from_texts([text.replace("Number", "Zahl") for text in TEXTS], vocabulary=270, max_length=40)
    model, guide = parts(corpus, bert)
    guide.encoder.texts.set_tokenizer(other.tokenizer)
    with pytest.raises(
        ValueError, match=r"reads the tokens of another corpus, by another tokenizer: make one for this"
    ):
        fit(model, guide, corpus, steps=1)


@pytest.mark.compile
def test_a_whole_objective_cannot_be_captured_and_falls_back(corpus: Corpus, bert: Path) -> None:
    model, guide = parts(corpus, bert, dropout=0.0)
    guide.encoder.texts.set_tokenizer(corpus.tokenizer)
    objective, batch = ELBO()(model, guide), next(corpus.batches("train", 4))
    torch.manual_seed(3)
    expected = objective.losses(batch)["objective"]
    with pytest.warns(
        UserWarning, match=r"compile is full, but this objective cannot be captured .* blocks are compiled"
    ):
        torch.manual_seed(3)
        actual = captured_losses(objective, backend="eager")(batch)["objective"]
    torch.testing.assert_close(actual, expected)


# the command line


@pytest.fixture
def command(bert: Path, tmp_path: Path) -> Callable[[str], int]:
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    network = "--model.width 16 --model.layers 2 --model.heads 2 --model.latent_size 4 --vocabulary 270"

    def call(line: str) -> int:
        line = line.replace("BEGIN", f"fit della --data DIR/texts.txt --out DIR/run {network} --batch_size 8")
        return main(shlex.split(line.replace("DIR", str(tmp_path)).replace("BERT", str(bert))))

    return call


def test_the_command_trains_and_resumes(
    command: Callable[[str], int], bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("BEGIN --guide.encoder BERT --steps 2 --validations 1") == 0
    printed = capsys.readouterr().out
    assert f"the guide reads texts with {bert}, which is frozen" in printed and " are trained)" in printed
    config = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert config["guide"]["init_args"]["encoder"]["class_path"] == "pyroformer.guides.TextEncoder"
    assert command("fit della --out DIR/run --resume --steps 3 --guide.encoder BERT") == 0
    assert command("fit della --out DIR/run --resume --steps 4") == 0
    assert load(tmp_path / "run").folder.step() == 4
    capsys.readouterr()
    for encoder, began in (("DIR/texts.txt", str(bert)), ("separate", "pyroformer.guides.TextEncoder")):
        assert command(f"fit della --out DIR/run --resume --steps 5 --guide.encoder {encoder}") == 1
        error = capsys.readouterr().err
        assert error.startswith("error: --guide.encoder is") and f"was begun with {began}: leave it out" in error


def test_the_command_resumes_a_run_that_was_killed_before_its_first_checkpoint(
    corpus: Corpus, command: Callable[[str], int], bert: Path, tmp_path: Path
) -> None:
    def kill(status: Status) -> None:
        raise KeyError

    whole = fit(*parts(corpus, bert), corpus, out=tmp_path / "whole", steps=2, **FIT)
    shutil.copytree(bert, tmp_path / "bert")
    with pytest.raises(KeyError):
        fit(*parts(corpus, tmp_path / "bert"), corpus, out=tmp_path / "run", steps=2, callback=kill, **FIT)
    shutil.rmtree(tmp_path / "bert")
    assert not (tmp_path / "run/checkpoints/last.ckpt").exists()
    assert command("fit della --out DIR/run --resume") == 0
    check_same_posteriors(whole, load(tmp_path / "run"))


@pytest.mark.parametrize("name", ["vae", "nvae"])
def test_a_mixture_of_the_decoders_tokens(
    name: str, command: Callable[[str], int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begin = f"fit {name} --data DIR/texts.txt --out DIR/run --prior gaussian --model.width 16 --model.layers 1"
    assert command(f"{begin} --model.heads 2 --vocabulary 270 --batch_size 8 --guide.encoder BERT --steps 2") == 0
    assert command(f"fit {name} --out DIR/run --resume --steps 3 --guide.encoder BERT") == 0
    run = load(tmp_path / "run")
    assert run.folder.step() == 3 and not any(p.requires_grad for p in run.guide.encoder.texts.parameters())  # type: ignore[union-attr]
    check_same_posteriors(run, load(tmp_path / "run"))
    assert len(run.reconstruct(TEXTS[:2])) == 2
    capsys.readouterr()
    fitted = fit_prior(run, "mixture", steps=2, batch_size=8)
    assert all(part.startswith("model.base_measure") for part in fitted.config["trained"])
    one, two = (each.encode(TEXTS[:3]).mean[:, -1] for each in (run, fitted))  # type: ignore[attr-defined]
    assert torch.equal(one, two)


def test_the_command_refuses_in_one_line(command: Callable[[str], int], capsys: pytest.CaptureFixture[str]) -> None:
    for encoder, message in {
        "shard": "--guide.encoder is 'shard': did you mean shared? Give one of shared, causal, separate, or the folder",
        "DIR/nothing/at/all": "nothing/at/all does not exist: give the folder of an encoder, or its name on the",
        "DIR": "holds no model (no config.json): give a folder that save_pretrained wrote.",
    }.items():
        assert command(f"BEGIN --steps 1 --guide.encoder {encoder}") == 1
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1 and message in error


def test_the_help_says_what_an_encoder_may_be(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "della", "--help"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "--guide.encoder TEXT|shared|causal|separate" in printed and "the folder of a BERT" in printed
