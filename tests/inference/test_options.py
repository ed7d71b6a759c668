"""Every training option has a rule, and breaking it names the option, the value and the way out."""

from typing import Any

import jaxtyping
import pytest

import pyroformer as pf
from pyroformer.inference.options import TrainingOptions


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps is 0: give a positive whole number"),
        ({"steps": -5}, "steps is -5"),
        ({"minutes": 0.0}, "minutes is 0.0: give a positive number"),
        ({"minutes": float("nan")}, "minutes is nan"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0"),
        ({"learning_rate": float("inf")}, "learning_rate is inf"),
        ({"gradient_clip_val": -1.0}, "gradient_clip_val is -1.0: give zero or a positive number"),
        ({"beta": -0.5}, "beta is -0.5"),
        ({"free_bits": -1.0}, "free_bits is -1.0: give zero or a positive number"),
        ({"target_kl": 0.0}, "target_kl is 0.0: give a positive number"),
        (
            {"target_kl": 4.0, "kl_schedule": "linear"},
            "kl_schedule is linear, but target_kl alone decides the weight of the KL terms",
        ),
        (
            {"target_kl": 4.0, "free_bits": 2.0},
            "free_bits is 2.0, but .*: leave free_bits at 0.0, or leave target_kl out",
        ),
        ({"target_kl": 4.0, "beta": 0.5}, "beta is 0.5, but .*: leave beta at 1.0, or leave target_kl out"),
        ({"target_kl": 4.0, "kl_reduction": "mean"}, "kl_reduction is mean, but .*: leave kl_reduction at sum"),
        ({"free_bits_per": "total"}, "free_bits_per is total, and there are no free_bits: give some, or leave"),
        ({"lambda_d": -1.0}, "lambda_d is -1.0: give zero or a positive number"),
        ({"lambda_g": float("inf")}, "lambda_g is inf: give zero or a positive number"),
        ({"keep": 0.0}, "keep is 0.0: give a share of the vectors, above 0 and at most 1"),
        ({"keep": 1.5}, "keep is 1.5: give a share"),
        ({"keep": float("nan")}, "keep is nan: give a share"),
        ({"num_particles": 0}, "particles is 0: give a positive whole number"),
        ({"devices": 0}, "devices is 0"),
        ({"validations": 0}, "validations is 0"),
        ({"patience": -1}, "patience is -1"),
    ],
)
def test_rules(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingOptions(**options)


def test_an_object_is_no_objective(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users have it
    given: Any = pf.ELBO()
    with pytest.raises(ValueError, match="objective is an instance of ELBO: give fit the class, or its import path"):
        TrainingOptions(objective=given)


def test_without_a_budget_it_is_three_minutes() -> None:
    assert TrainingOptions().minutes == 3.0
    assert TrainingOptions(steps=10).minutes is None
