"""Commands say what their numbers mean: what latents cost, which texts were evaluated, where k-hat is too large."""

import json
import shlex
from pathlib import Path

import pytest

from pyroformer.inference.cli.main import main
from pyroformer.inference.run import load

TINY = "--model.width 8 --model.layers 1 --model.heads 2 --vocabulary 270 --max_length 32 --batch_size 8"


@pytest.fixture(scope="module")
def collapsed(tmp_path_factory: pytest.TempPathFactory, sentences: list[str]) -> Path:
    """A run whose heavy KL has left nothing in its latents."""
    here = tmp_path_factory.mktemp("here")
    (here / "texts.txt").write_text("\n".join(sentences))
    options = "--prior gaussian --steps 80 --validations 1 --beta 1000 --learning_rate 0.02"
    assert main(shlex.split(f"fit vae --data {here}/texts.txt --out {here}/vae {options} {TINY}")) == 0
    return here / "vae"


def test_evaluate_says_what_was_evaluated_and_that_the_latents_cost_nothing(
    collapsed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(shlex.split(f"evaluate {collapsed} --num_particles 2 --json {tmp_path / 'a.json'}")) == 0
    lines = capsys.readouterr().out.splitlines()
    test = load(collapsed).corpus.test
    assert lines[0].startswith(f"test split: {len(test)} texts, {int(test.lengths.sum())} tokens, ")
    assert "±" in lines[2]
    assert lines[-1].endswith("which is nothing: train anew with --free_bits, --target_kl or another --kl_schedule")
    written = json.loads((tmp_path / "a.json").read_text())
    assert written["metrics"]["rate"]["units"]["nats/text"]["value"] < 0.1


def test_sample_prints_the_rate_beside_its_texts(collapsed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(shlex.split(f"sample {collapsed} -n 2")) == 0
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 2 and all(json.loads(line) for line in captured.out.splitlines())
    assert captured.err.startswith("samples from the prior; rate, KL of all latents on validation texts: 0.0")


def test_posterior_says_how_large_k_hat_may_be(
    collapsed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(shlex.split(f"posterior {collapsed} --out {tmp_path / 'p.nc'} --draws 30 -n 3")) == 0
    said = capsys.readouterr().out
    assert "above 0.7, where importance weighting cannot correct the guide, for " in said and " of 3 texts" in said


def test_fit_ends_with_what_the_latents_cost(
    collapsed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = collapsed.parent / "texts.txt"
    for name, last in (("vae", "the latents cost "), ("lm", "best at step 2; run saved in ")):
        assert main(shlex.split(f"fit {name} --data {data} --out {tmp_path / name} --steps 2 {TINY}")) == 0
        assert capsys.readouterr().out.splitlines()[-1].startswith(last)
