"""An objective that a user defines: named by import path, trained, recorded, and evaluated where it is trusted."""

import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import pyroformer as pf
from pyroformer.inference.cli.main import main
from pyroformer.inference.data.corpus import Corpus
from pyroformer.inference.objectives.elbo import ELBO
from pyroformer.inference.objectives.registry import (
    OBJECTIVES,
    describe_objective,
    held_out_objective,
    in_words,
    make_objective,
    objective_class,
    objective_name,
)
from pyroformer.inference.options import Objectives, TrainingOptions
from pyroformer.inference.run import Run, load

CODE = """
import pyroformer as pf

class Tempered(pf.ELBO):
    temperature = 0.5

    def text_losses(self, terms, kl_weights, text_weights):
        cold = terms._replace(log_likelihood=terms.log_likelihood / self.temperature)
        return super().text_losses(cold, kl_weights, text_weights)

class Claimed(pf.ELBO):
    name = "claimed"
    is_bound = True

class Several(pf.ELBO):
    def terms(self, model, guide, *args):
        drawn = super().terms(model, guide, *args)
        return drawn._replace(penalty={name: value * self.num_particles for name, value in drawn.penalty.items()})

class Unrelated:
    pass

class ReadsAll(pf.ELBO):
    def text_losses(self, terms, kl_weights, text_weights):
        mean = (text_weights * terms.log_likelihood).sum()
        return 2 * sum(terms.kl.values()) - terms.bound - mean + terms.counts["twice"]

    def counts(self, sites, posterior):
        return {"twice": 2.0 * sites["length"]["value"]}
"""
SMALL: dict[str, Any] = {"width": 16, "layers": 1, "heads": 2}
QUICK: dict[str, Any] = {"steps": 2, "batch_size": 8, "validations": 1}
PATH = "my_tempered.Tempered"


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return Corpus.from_texts([f"The number {n} is even." for n in range(0, 100, 2)], vocabulary=270, max_length=32)


@pytest.fixture(autouse=True)
def module(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path_factory.mktemp("code")
    (folder / "my_tempered.py").write_text(CODE)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "my_tempered", raising=False)


def train(corpus: Corpus, out: Path, **options: Any) -> Run:
    torch.manual_seed(0)
    model = pf.VAE.for_corpus(corpus, base_measure="gaussian", **SMALL)
    return pf.fit(model, pf.VAEGuide(model), corpus, out=out, **QUICK, **options)


def test_the_names_of_the_options_are_those_of_the_classes() -> None:
    assert {name: cls.name for name, cls in OBJECTIVES.items()} == {name: name for name in OBJECTIVES}
    assert set(OBJECTIVES) == set(Objectives.__args__)  # type: ignore[attr-defined]


def test_the_loss_is_the_users(corpus: Corpus) -> None:
    model = pf.VAE.for_corpus(corpus, base_measure="gaussian", dropout=0.0, **SMALL)
    guide, batch = pf.VAEGuide(model), next(corpus.batches("train", batch_size=4))
    losses = {}
    for name in ("elbo", PATH):
        torch.manual_seed(1)
        losses[name] = make_objective(model, guide, TrainingOptions(objective=name), 10).losses(batch)
    expected = losses["elbo"]["objective"] + losses["elbo"]["reconstruction"]
    torch.testing.assert_close(losses[PATH]["objective"], expected)
    torch.testing.assert_close(losses[PATH]["bound"], losses["elbo"]["bound"])


def test_a_run_records_it_and_evaluates_where_it_is_trusted(corpus: Corpus, tmp_path: Path) -> None:
    run = train(corpus, tmp_path, objective=PATH, beta=0.5)
    described = run.config["objective"]
    assert described["class_path"] == PATH and run.config["training"]["objective"] == PATH
    assert in_words(described) == "Tempered, beta = 0.5, not a bound"
    options: dict[str, Any] = {"limit": 4, "num_particles": 2, "reconstructions": 2, "seed": 0}
    trained = run.evaluate(**options)["objective"]
    assert "Tempered, beta = 0.5" in trained.label and trained.bound_on is None
    sys.modules.pop("my_tempered")
    plain = load(tmp_path)
    assert "my_tempered" not in sys.modules and len(plain.sample(1)) == 1
    with pytest.raises(
        ValueError, match=r"the run uses my_tempered.Tempered, which is code outside pyroformer.*trust="
    ):
        plain.evaluate(**options)
    assert "my_tempered" not in sys.modules
    assert load(tmp_path, trust=["my_tempered"]).evaluate(**options)["objective"] == trained
    assert load(tmp_path, trust=[PATH]).evaluate(**options)["bound"] == run.evaluate(**options)["bound"]


def test_what_is_evaluated_reads_all_terms_as_training_does(corpus: Corpus, tmp_path: Path) -> None:
    run = train(corpus, tmp_path, objective="my_tempered.ReadsAll")
    metrics = run.evaluate(corpus.test, metrics=["objective", "reconstruction", "kl"], num_particles=2)
    nats = {name: metrics[name]["nats/text"] for name in metrics}
    expected = 2 * nats["reconstruction"] + 3 * (nats["kl_vectors"] + nats["kl_length"])
    assert nats["objective"] == pytest.approx(expected + 2 * corpus.test.lengths.mean())


@pytest.mark.parametrize(
    ("name", "trained", "draws"),
    [("my_tempered.Several", 3, 3), ("my_tempered.Several", 1, 1), ("iw", 3, 3), (PATH, 3, 2)],
)
def test_a_loss_that_may_depend_on_the_number_of_draws_keeps_that_of_training(
    corpus: Corpus, name: str, trained: int, draws: int
) -> None:
    options = TrainingOptions(objective=name, num_particles=trained)
    described = describe_objective(pf.VAE.for_corpus(corpus, base_measure="gaussian", **SMALL), options)
    held_out = held_out_objective(described, 2, 10, trust=["my_tempered"])
    assert (held_out.num_particles, held_out.data_size) == (draws, 10)


def test_a_class_is_recorded_by_its_path(corpus: Corpus, tmp_path: Path) -> None:
    assert train(corpus, tmp_path, objective=objective_class(PATH)).config["training"]["objective"] == PATH
    assert objective_name(pf.ELBO) == "elbo"


def test_only_what_says_so_is_a_bound(corpus: Corpus) -> None:
    model = pf.VAE.for_corpus(corpus, base_measure="gaussian", **SMALL)
    for path, is_bound in {PATH: False, "my_tempered.Claimed": True}.items():
        described = describe_objective(model, TrainingOptions(objective=path))
        assert described["is_bound"] is is_bound and bool(in_words(described)) is not is_bound
        assert held_out_objective(described, 1, 10, trust=["my_tempered"]).is_bound is is_bound
    described = describe_objective(model, TrainingOptions(objective="my_tempered.Claimed", free_bits=1.0))
    assert describe_objective(model, TrainingOptions(objective="my_tempered.Claimed", beta=2.0))["is_bound"]
    assert not described["is_bound"]
    assert not held_out_objective(described, 1, 10, trust=["my_tempered"]).is_bound


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("elb", r"objective is 'elb': choose one of elbo, iw, nvib, an import path \(did you mean elbo\?\)"),
        ("my_missing.Tempered", "objective is 'my_missing.Tempered', which cannot be imported .*my_missing"),
        (
            "my_tempered.Missing",
            "which cannot be imported .* choose one of elbo, iw, nvib, or the import path of a class",
        ),
        ("my_tempered.Unrelated", "which is no objective: name a class that derives from pyroformer.ELBO"),
    ],
)
def test_unusable_names(corpus: Corpus, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        describe_objective(pf.VAE.for_corpus(corpus, base_measure="gaussian", **SMALL), TrainingOptions(objective=name))


def test_a_recorded_path_without_a_class_path_imports_nothing() -> None:
    with pytest.raises(KeyError):
        held_out_objective({"name": "my_tempered.Tempered", "kl_weights": {}}, 1, 10)
    assert "my_tempered" not in sys.modules


def test_a_subclass_has_a_name_of_its_own() -> None:
    class Warm(ELBO):
        pass

    assert (Warm.name, Warm.is_bound, ELBO.name, ELBO.is_bound) == ("Warm", False, "elbo", True)


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "texts.txt").write_text("\n".join(f"The number {n} is even." for n in range(0, 100, 2)))
    fit = f"fit vae --data {tmp_path}/texts.txt --out {tmp_path}/run --model.width 16 --model.layers 1 --vocabulary 270"
    assert main(shlex.split(f"{fit} --steps 2 --objective {PATH}")) == 0
    assert "Tempered, not a bound" in capsys.readouterr().out
    resume = f"fit vae --out {tmp_path}/run --resume --steps 3"
    sys.modules.pop("my_tempered")
    assert main(shlex.split(resume)) == 1
    assert f"the run uses {PATH}, which is code outside pyroformer" in capsys.readouterr().err
    assert "my_tempered" not in sys.modules
    assert main(shlex.split(f"{resume} --trust my_tempered")) == 0
    assert main(shlex.split(f"evaluate {tmp_path}/run --limit 2 --num_particles 2 --trust my_tempered")) == 0
    assert "Tempered" in capsys.readouterr().out
    assert main(["fit", "vae", "--help"]) == 0
    assert "elbo|iw|nvib" in capsys.readouterr().out
