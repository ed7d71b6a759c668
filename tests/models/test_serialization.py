"""What a run writes down of a model is enough to build it, and no more than that is ever built."""

from pathlib import Path

import pytest

from pyroformer.inference.objectives.registry import objective_class
from pyroformer.models.serialization import Configurable, from_config, to_config
from pyroformer.models.transformer.config import TransformerConfig

CONFIG = TransformerConfig(vocabulary=300, max_length=8)


class Outsider(Configurable):
    def __init__(self, config: TransformerConfig, scale: float = 1.0, names: tuple[str, ...] = ()) -> None:
        self.config, self.scale, self.names = config, scale, names


def test_a_recipe_builds_the_same_again() -> None:
    recipe = to_config(Outsider(CONFIG, scale=2.5, names=("a", "b")))
    again = from_config(recipe, trust=[Outsider.__module__])
    assert again.config == CONFIG
    assert again.scale == 2.5
    assert again.names == ["a", "b"]


def test_arguments_given_later_win_and_left_out_ones_are_absent() -> None:
    recipe = to_config(Outsider(CONFIG, scale=2.5), leave_out=["config"])
    assert list(recipe["init_args"]) == ["scale"]
    other = TransformerConfig(vocabulary=400, max_length=8)
    assert from_config(recipe, trust=[recipe["class_path"]], config=other).config == other


def test_foreign_code_is_not_imported_unless_named() -> None:
    recipe = {"class_path": "antigravity.Surprise", "init_args": {}}
    with pytest.raises(ValueError, match=r"antigravity.Surprise, which is code outside pyroformer"):
        from_config(recipe)


@pytest.mark.parametrize("path", ["pyroformer.models.nowhere.Thing", "pyroformer.models.batch.Thing"])
def test_what_does_not_exist_is_named(path: str) -> None:
    with pytest.raises(ValueError, match=f"the run uses {path}, which cannot be imported"):
        from_config({"class_path": path})


@pytest.mark.parametrize(
    "code", ["raise RuntimeError('no\\nlicense')", "def broken(:", "import nowhere_at_all", "1 / 0"]
)
def test_a_module_that_fails_is_named_with_its_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    (tmp_path / "failing_priors.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    kinds = "RuntimeError: no license|SyntaxError|ModuleNotFoundError|ZeroDivisionError"
    with pytest.raises(ValueError, match=rf"cannot be imported \(({kinds}).*config\.yaml\.$") as error:
        from_config({"class_path": "failing_priors.Mine"}, trust=["failing_priors"])
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=rf"cannot be imported \(({kinds}).*: choose one of elbo") as error:
        objective_class("failing_priors.Mine")
    assert "\n" not in str(error.value)


def test_only_recorded_classes_are_built() -> None:
    with pytest.raises(ValueError, match="not something that a run can build"):
        from_config({"class_path": "pyroformer.models.serialization.from_config", "init_args": {"recipe": 1}})


def test_what_cannot_be_written_down_is_named() -> None:
    with pytest.raises(ValueError, match="a set cannot be written"):
        to_config({"a": {1, 2}})
