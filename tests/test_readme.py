"""Tests of the README: its code runs as printed, apart from the length of training."""

import re
from pathlib import Path

import matplotlib
import pytest

from pyroformer.inference.data import corpus

README = Path(__file__).parent.parent / "README.md"
TEXTS = [f"The {'food' if n % 3 else 'room'} was {'good' if n % 2 else 'bad'}, {n} of 400." for n in range(400)]
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


def test_the_first_screen_has_the_commands_and_the_first_fit() -> None:
    first = README.read_text().splitlines()[:40]
    assert any("make demo" in line for line in first)
    assert any("make test" in line for line in first)
    assert any("pf.fit(" in line for line in first)


@pytest.mark.slow
def test_the_code_runs_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    matplotlib.use("Agg")
    monkeypatch.setattr(corpus, "sentences", lambda: TEXTS)  # reading them takes long: tests of the corpora do that
    monkeypatch.chdir(tmp_path)
    seen: dict[str, object] = {}
    for block in BLOCKS:
        shortened = re.sub(r"minutes=[\d.]+", "steps=2, validation_texts=64", block).replace("draws=100", "draws=25")
        shortened = shortened.replace("limit=200, num_particles=8", "limit=4, num_particles=2")
        if "pf.fit(" in block:
            assert shortened != block
        exec(compile(shortened, "README.md", "exec"), seen)
