"""Runs of earlier versions load, give the same bounds, and resume."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import pyroformer as pf
from pyroformer.inference.objectives.bounds import importance_weighted
from pyroformer.inference.runs.folder import RunFolder
from pyroformer.inference.runs.old_runs import CLASSES
from pyroformer.inference.utils.registry import imported
from pyroformer.inference.utils.seeded_eval import seeded_eval

OLD = Path(__file__).parents[2] / "data" / "old_runs"
BOUNDS = json.loads((OLD / "bounds.json").read_text())  # of the code that wrote the runs
TEXTS = {name: ["The number 7 is odd.", "The number 8 is even."] for name in BOUNDS} | {
    "pairs": ["The number is 7.", "The number is 8."]
}
CONDITIONS = {"pairs": ["odd", "even"]}
NAMES = sorted(BOUNDS)


@pytest.mark.parametrize("name", NAMES)
def test_an_old_run_gives_the_bounds_that_it_gave(name: str) -> None:
    run = pf.load(OLD / name)
    options: dict[str, Any] = {"conditions": CONDITIONS[name]} if name in CONDITIONS else {}
    with seeded_eval(run.model, run.guide, seed=0):  # as run.bound did then: of both texts in one batch
        batch = run.batch(TEXTS[name], **options)
        bounds = importance_weighted(run.model, run.guide, batch, 4, len(run.corpus.train))
    torch.testing.assert_close(bounds, torch.tensor(BOUNDS[name], dtype=torch.float64), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_an_old_run_goes_on_and_is_then_written_in_todays_names(name: str, tmp_path: Path) -> None:
    shutil.copytree(OLD / name, tmp_path / name)
    old = pf.load(tmp_path / name)
    training = RunFolder(tmp_path / name).read_config()["training"] | {"steps": 4}
    run = pf.fit(old.model, old.guide, old.corpus, out=tmp_path / name, resume=True, **training)
    assert RunFolder(tmp_path / name).step() == 4
    config = yaml.safe_load((tmp_path / name / "config.yaml").read_text())
    assert config["model"]["class_path"] == f"pyroformer.models.{type(run.model).__name__}"
    network = config["model"]["init_args"]["config"]["init_args"]
    assert "max_length" in network
    assert network.get("key_precision", "key") == "key"


@pytest.mark.parametrize("path", sorted({*CLASSES.values()}))
def test_todays_paths_exist(path: str) -> None:
    cls = imported(path)
    assert path.endswith(f".{cls.__name__}")
