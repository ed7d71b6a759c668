"""Ends of a training that nobody planned, and how it goes on: kills, signals, divergence, other options."""

import gc
import inspect
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import pyroformer as pf
from pyroformer.inference.cli.main import main
from pyroformer.inference.runs.folder import RunFolder
from pyroformer.inference.runs.lock import run_lock
from pyroformer.inference.training.checks import check_arguments
from pyroformer.inference.training.divergence import DivergenceError
from pyroformer.inference.training.status import Status
from pyroformer.models.utils.numbers import declared_number

SMALL = {"width": 16, "layers": 1, "heads": 2, "dropout": 0.0}
TEXTS = [f"The number {n} follows {n - 1} and comes before {n + 1}." for n in range(1, 61)]
TINY = "--model.width 16 --model.layers 1 --model.heads 2 --vocabulary 280 --max_length 32 --batch_size 8"
MODELS = {"lm": "LanguageModel", "vae": "VAE", "nvae": "NVAE", "della": "DELLA"}


@pytest.fixture(scope="module")
def corpus() -> pf.Corpus:
    return pf.Corpus.from_texts(TEXTS, vocabulary=280, max_length=32)


@pytest.fixture(scope="module")
def other() -> pf.Corpus:
    return pf.Corpus.from_texts([text.replace("number", "Zahl") for text in TEXTS], vocabulary=280, max_length=32)


def pair(corpus: pf.Corpus, name: str = "vae", seed: int = 0) -> tuple[Any, Any]:
    torch.manual_seed(seed)
    prior = {"base_measure": "gaussian"} if name in ("vae", "nvae") else {}
    model = getattr(pf, MODELS[name]).for_corpus(corpus, **SMALL, **prior)
    return model, None if name == "lm" else getattr(pf, MODELS[name] + "Guide")(model)


def train(corpus: pf.Corpus, out: Path | None, name: str = "vae", initial: int = 0, **options: Any) -> pf.Run:
    defaults: dict[str, Any] = {} if options.get("resume") else {"batch_size": 16, "steps": 6}
    return pf.fit(*pair(corpus, name, initial), corpus, out=out, **defaults | options)


def last(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    return content


def assert_same(first: Path, second: Path) -> None:
    one, two = last(first)["state_dict"], last(second)["state_dict"]
    assert one.keys() == two.keys() and all(torch.equal(value, two[name]) for name, value in one.items())


class Kill(Exception):
    pass


def kill(_: Status) -> None:
    raise Kill


def killed_after(step: int) -> Callable[[Status], None]:
    def raise_later(status: Status) -> None:
        if status.step > step:
            raise Kill

    return raise_later


def at(step: int, number: signal.Signals) -> Callable[[Status], None]:
    def send(status: Status) -> None:
        if status.step == step:
            os.kill(os.getpid(), number)

    return send


def validations(folder: Path) -> list[float | str]:
    metrics = RunFolder(folder).read_metrics()
    return [step for step, split in zip(metrics["step"], metrics["split"], strict=True) if split == "valid"]


# Before the first checkpoint.


@pytest.mark.parametrize("name", MODELS)
def test_a_run_killed_before_its_first_checkpoint_ends_at_the_same_bits(
    corpus: pf.Corpus, tmp_path: Path, name: str
) -> None:
    options: dict[str, Any] = {"steps": 3, "validations": 1}
    train(corpus, tmp_path / "whole", name, **options)
    with pytest.raises(Kill):
        train(corpus, tmp_path / "cut", name, callback=kill, **options)
    train(corpus, tmp_path / "cut", name, initial=9, resume=True)  # another initialization: the run's own is kept
    assert_same(tmp_path / "whole", tmp_path / "cut")
    assert not (tmp_path / "cut" / "checkpoints" / "start.ckpt").exists()


@pytest.mark.parametrize("name", ["vae", "nvae"])
def test_the_command_resumes_with_the_lengths_of_the_texts(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    fit = f"fit {name} --data {tmp_path}/texts.txt --steps 2 --validations 1 {TINY} --out {tmp_path}"
    assert main(f"{fit}/whole".split()) == 0
    with monkeypatch.context() as patch, pytest.raises(Kill):
        patch.setattr("pyroformer.inference.cli.progress.Progress.__call__", lambda self, status: kill(status))
        main(f"{fit}/cut".split())
    lost = RunFolder(tmp_path / "cut").start.rename(tmp_path / "start.ckpt")
    assert main(f"fit {name} --out {tmp_path}/cut --resume".split()) == 1
    assert "not the weights that it began with: fit anew with another --out." in capsys.readouterr().err
    lost.rename(RunFolder(tmp_path / "cut").start)
    assert main(f"fit {name} --out {tmp_path}/cut --resume".split()) == 0
    assert_same(tmp_path / "whole", tmp_path / "cut")


def test_a_lost_checkpoint_is_not_a_new_start(corpus: pf.Corpus, tmp_path: Path) -> None:
    run = train(corpus, tmp_path)
    run.folder.last.unlink()
    with pytest.raises(ValueError, match=r"last\.ckpt is missing, the state to resume from: restore it"):
        train(corpus, tmp_path, resume=True)


def test_a_run_cut_between_its_first_best_and_last_checkpoint_ends_at_the_same_bits(
    corpus: pf.Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(corpus, tmp_path / "whole", "vae")
    with monkeypatch.context() as patch, pytest.raises(Kill):
        patch.setattr("pyroformer.inference.training.lightning_module.Training._save", kill)
        train(corpus, tmp_path / "cut", "vae")
    assert (tmp_path / "cut" / "checkpoints" / "best.ckpt").exists()
    train(corpus, tmp_path / "cut", "vae", resume=True)
    assert_same(tmp_path / "whole", tmp_path / "cut")
    assert validations(tmp_path / "whole") == validations(tmp_path / "cut")


# Another guide, corpus or option.


def test_a_guide_of_another_model_is_refused(corpus: pf.Corpus) -> None:
    (model, _), (_, guide) = pair(corpus), pair(corpus)
    batch = next(corpus.batches(batch_size=4))
    message = r"made for another VAE than this model: make it again with VAEGuide\(model\)"
    with pytest.raises(ValueError, match=message):
        pf.fit(model, guide, corpus, steps=1)
    with pytest.raises(ValueError, match=message):
        pf.ELBO()(model, guide)(batch)
    with pytest.raises(ValueError, match=message):
        pf.SVI(model, guide, torch.optim.Adam, lr=0.1).step(batch)
    with pytest.raises(ValueError, match=message):
        pf.to_arviz(model, guide, batch, draws=2)


def test_options_that_are_not_repeated_are_those_of_the_run(corpus: pf.Corpus, tmp_path: Path) -> None:
    options: dict[str, Any] = {"objective": "elbo", "beta": 0.1, "learning_rate": 1e-3, "seed": 3}
    train(corpus, tmp_path / "whole", "nvae", **options)
    with pytest.raises(Kill):
        train(corpus, tmp_path / "cut", "nvae", callback=kill, **options)
    model, guide = pair(corpus, "nvae")
    run = pf.fit(model, guide, corpus, out=tmp_path / "cut", resume=True)
    assert run.config == train(corpus, tmp_path / "whole", "nvae", resume=True).config
    assert run.config["objective"]["name"] == "elbo" and run.config["training"]["beta"] == 0.1
    assert_same(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.parametrize(
    ("option", "value"),
    [("objective", "iw"), ("beta", 5.0), ("kl_schedule", "linear"), ("learning_rate", 1e-4), ("seed", 1)],
)
def test_what_a_run_is_may_not_change(corpus: pf.Corpus, tmp_path: Path, option: str, value: Any) -> None:
    with pytest.raises(Kill):
        train(corpus, tmp_path, callback=kill)
    before = (tmp_path / "config.yaml").read_text()
    with pytest.raises(ValueError, match=f"{option} is {value}, but .* was begun with .*: leave it out to go on"):
        train(corpus, tmp_path, resume=True, **{option: value})
    assert (tmp_path / "config.yaml").read_text() == before


def test_what_a_run_has_by_default_may_be_said_at_its_resumption(
    corpus: pf.Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(corpus, tmp_path / "nvib", "nvae", steps=1, kl_schedule="ladder")
    said: dict[str, Any] = {"objective": "nvib", "lambda_d": 1.0, "layer_weights": "linear"}
    said |= {"kl_schedule": "ladder", "ladder": [0.001, 0.01, 0.1, 0.5, 1.0]}
    assert train(corpus, tmp_path / "nvib", "nvae", resume=True, **said).config == run.config
    with pytest.raises(ValueError, match=r"lambda_d is 2\.0, but .* was begun with 1\.0"):
        train(corpus, tmp_path / "nvib", "nvae", resume=True, lambda_d=2.0)
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    sizes = "--model.width 16 --model.layers 1 --model.heads 2 --steps 1"
    assert main(f"fit nvae --data {tmp_path}/texts.txt --out {tmp_path}/elbo {sizes}".split()) == 0
    resume = f"fit nvae --out {tmp_path}/elbo --resume"
    tokens = pf.Corpus.load(tmp_path / "elbo" / "corpus").vocabulary
    assert main(f"{resume} --objective elbo --vocabulary {tokens}".split()) == 0
    for flag, began in [("--objective iw", "begun with elbo"), ("--keep 0.5", "begun without it")]:
        assert main(f"{resume} {flag}".split()) == 1
        error = capsys.readouterr().err
        assert began in error and "None" not in error


def test_an_option_that_a_run_of_before_lacks_has_its_default(
    corpus: pf.Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(corpus, tmp_path, "nvae", steps=1)
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    del config["training"]["layer_weights"], config["training"]["beta"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    for option, value, began in [("layer_weights", "equal", "linear"), ("beta", 2.0, "1.0")]:
        with pytest.raises(ValueError, match=f"{option} is {value}, but .* was begun with {began}: leave it out"):
            train(corpus, tmp_path, "nvae", resume=True, **{option: value})
    assert main(f"fit nvae --out {tmp_path} --resume --layer_weights linear --beta 1".split()) == 0, capsys.readouterr()


@pytest.mark.parametrize("checkpoint", ["last", "start"])
def test_a_refused_batch_size_leaves_the_run_as_it_was(corpus: pf.Corpus, tmp_path: Path, checkpoint: str) -> None:
    """Written down, it would refuse the next resume, which repeats no option."""
    train(corpus, tmp_path / "whole", "lm")
    with pytest.raises(Kill):
        train(corpus, tmp_path / "cut", "lm", callback=kill if checkpoint == "start" else killed_after(3))
    assert (tmp_path / "cut" / "checkpoints" / f"{checkpoint}.ckpt").exists()
    config = (tmp_path / "cut" / "config.yaml").read_bytes()
    for refused in ({"batch_size": 4}, {"accumulate_grad_batches": 2}, {"devices": 2, "strategy": "fsdp"}):
        with pytest.raises(
            ValueError, match=r"give \d+ texts a step, but .* was begun with 16: give numbers whose product"
        ):
            train(corpus, tmp_path / "cut", "lm", resume=True, **refused)
        assert (tmp_path / "cut" / "config.yaml").read_bytes() == config
    train(corpus, tmp_path / "cut", "lm", resume=True)
    assert_same(tmp_path / "whole", tmp_path / "cut")


def test_another_corpus_is_refused(corpus: pf.Corpus, other: pf.Corpus, tmp_path: Path) -> None:
    train(corpus, tmp_path, steps=1)
    with pytest.raises(ValueError, match=r"was begun with another corpus \(60 texts"):
        train(other, tmp_path, resume=True, steps=2)
    again = pf.Corpus.from_texts(TEXTS, vocabulary=280, max_length=32)
    assert train(again, tmp_path, resume=True, steps=2).folder.step() == 2


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("--data {here}/other.txt", "--data is .*other.txt, but .* was begun with .*texts.txt"),
        ("--data /none.txt", "--data is /none.txt, but .* was begun with .*texts.txt"),
        ("--field 3", "--field is 3, but .* was begun with none"),
        ("--condition 0", "--condition is 0, but .* was begun with none"),
        ("--labels true", "--labels is True, but .* was begun with none"),
        ("--init_from /none", "--init_from is /none, but .* was begun with none"),
        ("--steps 1", "steps is 1, but .* is at step 2: give at least that many"),
    ],
)
def test_the_command_drops_nothing_in_silence(
    command_run: Path, capsys: pytest.CaptureFixture[str], extra: str, message: str
) -> None:
    here = command_run.parent
    assert main(f"fit lm --out {command_run} --resume {extra.format(here=here)}".split()) == 1
    captured = capsys.readouterr()
    assert len(captured.err.splitlines()) == 1
    assert re.search(message, captured.err), captured.err


def test_the_same_texts_are_accepted_again(command_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here = command_run.parent
    (here / "copy.txt").write_text((here / "texts.txt").read_text())
    for data in ("texts.txt", "copy.txt"):
        assert main(f"fit lm --data {here}/{data} --out {command_run} --resume".split()) == 0
        assert "ended at" not in capsys.readouterr().out  # it has ended: nothing to go on with


@pytest.fixture(scope="module")
def command_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    here = tmp_path_factory.mktemp("command")
    (here / "texts.txt").write_text("\n".join(TEXTS))
    (here / "other.txt").write_text("\n".join(TEXTS[:50]))
    assert main(f"fit lm --data {here}/texts.txt --out {here}/run --steps 2 {TINY}".split()) == 0
    return here / "run"


# Divergence.


@pytest.mark.parametrize("name", ["vae", "lm"])
def test_a_run_that_diverges_stops_and_keeps_its_finite_weights(corpus: pf.Corpus, tmp_path: Path, name: str) -> None:
    def spoil(status: Status) -> None:
        if status.split == "valid" and status.step == 2:
            with torch.no_grad():
                next(iter(model.parameters())).fill_(float("nan"))

    model, guide = pair(corpus, name)
    options: dict[str, Any] = {"steps": 8, "validations": 8, "batch_size": 16, "callback": spoil}
    with pytest.raises(DivergenceError, match=r"at step [23]: .*, now 0\.002, and fit anew with another out; .* kept"):
        pf.fit(model, guide, corpus, out=tmp_path, **options)
    assert last(tmp_path)["global_step"] <= 2
    run = pf.load(tmp_path)
    assert all(bool(p.isfinite().all()) for p in run.model.parameters())


def test_the_command_fails_where_a_run_diverges(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    fit = f"fit vae --data {tmp_path}/texts.txt --out {tmp_path}/run --steps 60 --learning_rate 1e30"
    assert main(f"{fit} --gradient_clip_val 0 {TINY}".split()) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("error: diverged at step ") and len(captured.err.splitlines()) == 1
    assert "fit anew with another --out; " in captured.err  # a run is in this one
    assert "run saved" not in captured.out


def test_weights_that_are_not_finite_are_not_trained_or_loaded(corpus: pf.Corpus, tmp_path: Path) -> None:
    run = train(corpus, tmp_path, "lm", steps=1)
    model, _ = pair(corpus, "lm")
    with torch.no_grad():
        next(iter(model.parameters()))[0] = float("nan")
    with pytest.raises(ValueError, match="the model has weights that are not finite"):
        pf.fit(model, None, corpus, steps=1)
    content = torch.load(run.folder.best, weights_only=True)
    content["state_dict"] = {name: value * float("nan") for name, value in content["state_dict"].items()}
    torch.save(content, run.folder.best)
    with pytest.raises(ValueError, match=r"best\.ckpt has weights that are not finite"):
        pf.load(tmp_path)


def test_a_new_run_has_its_own_corpus_where_another_start_has_left_one(
    corpus: pf.Corpus, other: pf.Corpus, tmp_path: Path
) -> None:
    (tmp_path / "texts.txt").write_text("\n".join(other.train))
    left = RunFolder(tmp_path / "run")
    tiny = "--steps 1 --model.width 16 --model.layers 1 --model.heads 2 --vocabulary 280"
    assert main(f"fit lm --data {tmp_path}/texts.txt --out {left.path} {tiny}".split()) == 0
    for path in left.path.iterdir():  # as if it had been killed before it began to train
        if path not in (left.corpus, left.source_file):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert left.corpus.exists() and left.source_file.exists() and not left.config_file.exists()
    train(corpus, left.path, "lm", steps=1)
    assert pf.load(left.path).corpus.train[:] == corpus.train[:] and not left.source_file.exists()


# Another length.


def test_a_longer_run_validates_as_often_as_its_length_says(corpus: pf.Corpus, tmp_path: Path) -> None:
    train(corpus, tmp_path, steps=4, validations=4)
    train(corpus, tmp_path, steps=12, resume=True)
    assert validations(tmp_path) == [1, 2, 3, 4, 6, 9, 12]
    seen: list[Status] = []
    run = train(corpus, tmp_path, steps=12, resume=True, callback=seen.append)
    assert [status.progress for status in seen] == [1.0] and run.folder.step() == 12
    with pytest.raises(ValueError, match="steps is 5, but .* is at step 12: give at least that many"):
        train(corpus, tmp_path, steps=5, resume=True)


def test_a_jump_of_the_learning_rate_is_said(
    corpus: pf.Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(corpus, tmp_path, "lm", steps=4, validations=1, learning_rate=1e-3)
    train(corpus, tmp_path, "lm", steps=4, resume=True, progress=True)
    assert "learning rate" not in capsys.readouterr().err, "the same length"
    assert main(f"fit lm --out {tmp_path} --resume --steps 5".split()) == 0
    said = "the learning rate goes from 0.0001 to {}, since its schedule is now {} steps long: the objective may rise"
    assert said.format("0.00019", 5) in capsys.readouterr().out
    train(corpus, tmp_path, "lm", steps=20, resume=True, progress=True)
    assert said.format("0.00091", 20) in capsys.readouterr().err


# Signals.


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_saves_and_ends_with_its_code(corpus: pf.Corpus, tmp_path: Path, number: signal.Signals) -> None:
    if signal.getsignal(number) == signal.SIG_IGN:  # the tests run under nohup
        signal.signal(number, signal.SIG_DFL)
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)]
    options: dict[str, Any] = {"steps": 8, "validations": 2}
    train(corpus, tmp_path / "whole", **options)
    with pytest.raises(SystemExit) as end:
        train(corpus, tmp_path / "cut", callback=at(1, number), **options)
    assert end.value.code == 128 + number
    assert [
        signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
    ] == handlers
    assert 1 <= last(tmp_path / "cut")["global_step"] < 8
    train(corpus, tmp_path / "cut", resume=True)
    assert_same(tmp_path / "whole", tmp_path / "cut")
    assert validations(tmp_path / "cut") == validations(tmp_path / "whole") == [4, 8]


def test_a_folder_is_trained_by_one_at_a_time(corpus: pf.Corpus, tmp_path: Path) -> None:
    train(corpus, tmp_path, steps=1)
    with run_lock(tmp_path), pytest.raises(ValueError, match="is being trained by another process: wait for it to end"):
        train(corpus, tmp_path, steps=2, resume=True)
    assert train(corpus, tmp_path, steps=2, resume=True).folder.step() == 2
    assert not (tmp_path / ".lock").exists()


# Folders.


def test_a_run_without_a_folder_can_be_saved_and_leaves_nothing(corpus: pf.Corpus, tmp_path: Path) -> None:
    run = train(corpus, None, steps=2)
    path = run.folder.path
    saved = run.save(tmp_path / "kept")
    expected = run.bound(TEXTS[:2], num_particles=2)
    assert torch.equal(pf.load(saved.folder.path).bound(TEXTS[:2], num_particles=2), expected)
    with pytest.raises(ValueError, match="exists and is not an empty folder"):
        run.save(tmp_path / "kept")
    del run
    gc.collect()
    assert not path.exists()
    assert train(corpus, tmp_path / "kept", steps=3, resume=True).folder.step() == 3


def test_what_a_kill_leaves_is_no_foreign_file(corpus: pf.Corpus, tmp_path: Path) -> None:
    for name in (".config.yaml.99.tmp", ".corpus.99.tmp", ".writable.99.tmp"):
        (tmp_path / name).write_text("")
    assert train(corpus, tmp_path, "lm", steps=1).step == 1


def test_configurations_of_others_are_refused_in_one_line(corpus: pf.Corpus, tmp_path: Path) -> None:
    train(corpus, tmp_path, "lm", steps=1)
    file = tmp_path / "config.yaml"
    config = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump(config | {"training": config["training"] | {"warmth": 3}}))
    with pytest.raises(ValueError, match="has the training option 'warmth', which this version does not know"):
        train(corpus, tmp_path, "lm", steps=2, resume=True)
    file.write_text(yaml.safe_dump({key: value for key, value in config.items() if key != "objective"}))
    with pytest.raises(ValueError, match="is damaged: it names no objective"):
        pf.load(tmp_path)
    file.write_text(yaml.safe_dump(config | {"model": config["model"] | {"init_args": 3}}))
    with pytest.raises(ValueError, match="arguments of pyroformer.models.LanguageModel are 3"):
        pf.load(tmp_path)


def test_a_run_that_began_with_options_of_no_effect_goes_on(corpus: pf.Corpus, tmp_path: Path) -> None:
    train(corpus, tmp_path, "nvae", steps=1)
    file = tmp_path / "config.yaml"
    config = yaml.safe_load(file.read_text())
    idle = config["training"] | {"layer_weights": "equal", "free_bits_per": "total"}
    file.write_text(yaml.safe_dump(config | {"training": idle}))
    assert train(corpus, tmp_path, "nvae", steps=2, resume=True).step == 2


@pytest.mark.parametrize("written", ["9.9.9", "0.2", "unknown", 3])
def test_a_run_of_a_newer_version_is_opened_with_a_warning(corpus: pf.Corpus, tmp_path: Path, written: Any) -> None:
    train(corpus, tmp_path, "lm", steps=1)
    file = tmp_path / "config.yaml"
    config = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump(config | {"pyroformer": written}))
    own = config["pyroformer"]
    with pytest.warns(
        UserWarning, match=rf"config\.yaml was written by pyroformer {written}, and this is {own}: "
    ) as said:
        assert main(["sample", str(tmp_path), "-n", "1"]) == 0
        assert pf.load(tmp_path).step == 1
    assert len(said) == 1


@pytest.mark.parametrize("written", ["0.0.9", "0.1.0", None])
def test_a_run_of_this_or_an_older_version_is_opened(corpus: pf.Corpus, tmp_path: Path, written: Any) -> None:
    train(corpus, tmp_path, "lm", steps=1)
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | {"pyroformer": written}))
    assert pf.load(tmp_path).step == 1  # warnings are errors


# Arguments.


def test_numbers_of_numpy_are_written_as_numbers(corpus: pf.Corpus, tmp_path: Path) -> None:
    model = pf.LanguageModel.for_corpus(corpus, **SMALL | {"dropout": np.float64(0.1)})
    run = pf.fit(model, None, corpus, out=tmp_path, steps=1, batch_size=8, learning_rate=np.float64(1e-3))
    assert type(run.config["training"]["learning_rate"]) is float
    assert run.config["model"]["init_args"]["config"]["init_args"]["dropout"] == 0.1


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        (np.int64(8), int, 8),
        (torch.tensor(8), int | None, 8),
        (np.float32(0.5), float, 0.5),
        (np.array(2.0), float | None, 2.0),
        (3, float, 3.0),
        (None, int | None, None),
        (np.str_("elbo"), str | None, "elbo"),
    ],
)
def test_numbers_of_numpy_and_torch_are_numbers(value: Any, kind: Any, expected: Any) -> None:
    number = declared_number("steps", value, kind)
    assert number == expected and type(number) is type(expected)


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        ("1e-3", float, "width is '1e-3', a str: give a number"),
        ("8", int, "width is '8', a str: give a number"),
        (8.0, int, r"width is 8\.0: give a whole number, such as 8"),
        (True, int, "width is True, a bool: give a number"),
        (float("inf"), int, "width is inf: give a whole number, such as 1"),
        (None, int, "width is None, a NoneType: give a number"),
    ],
)
def test_what_is_no_number_is_refused(value: Any, kind: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        declared_number("width", value, kind)


def test_options_are_named_in_the_signature_and_others_refused(corpus: pf.Corpus) -> None:
    assert {"steps", "learning_rate", "out"} < set(inspect.signature(pf.fit).parameters)
    with pytest.raises(ValueError, match="fit has no option step: did you mean steps?"):
        pf.fit(*pair(corpus, "lm"), corpus, **{"step": 5})


def test_other_arguments_are_refused(corpus: pf.Corpus) -> None:
    model, guide = pair(corpus)
    attention = pf.MixtureAttention(pf.Mixture.from_attention(torch.zeros(3, 2), torch.zeros(3, 2)))
    for arguments, message in (
        ((model, guide, "reviews.txt"), r"read it first, with pyroformer.Corpus.from_file\('reviews.txt'\)"),
        ((model, guide, ["a", "b"]), "corpus is a list: give a Corpus"),
        ((attention, None, corpus), "model is a MixtureAttention: give a Model, .* with pyroformer.SVI"),
        ((model, pf.VAEGuide, corpus), r"guide is the class VAEGuide: give an instance, VAEGuide\(model\)"),
        ((pf.VAE, guide, corpus), r"model is the class VAE: give an instance, VAE.for_corpus\(corpus\)"),
        ((model, None, corpus), "guide is None, but VAE has the latents vectors"),
    ):
        with pytest.raises(ValueError, match=message):
            check_arguments(*arguments)


def test_a_class_that_cannot_be_imported_again_is_noticed(corpus: pf.Corpus, tmp_path: Path) -> None:
    class Mine(pf.priors.GaussianVectorPrior):
        pass

    torch.manual_seed(0)
    model = pf.VAE.for_corpus(corpus, base_measure=Mine(16), **SMALL)
    message = r"<locals>\.Mine, a class of a function, which no other program can import"
    with pytest.warns(UserWarning, match=message):
        pf.fit(model, pf.VAEGuide(model), corpus, out=tmp_path / "run", steps=1, batch_size=8)
    run = pf.fit(model, pf.VAEGuide(model), corpus, steps=1, batch_size=8)  # without a folder there is nothing to load
    with pytest.warns(UserWarning, match=message):
        run.save(tmp_path / "saved")


def test_one_device_does_not_heed_a_scheduler(
    corpus: pf.Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"SLURM_NTASKS": "4", "SLURM_JOB_NAME": "job", "SLURM_JOB_ID": "7"}.items():
        monkeypatch.setenv(name, value)
    assert train(corpus, tmp_path, "lm", steps=1).step == 1
