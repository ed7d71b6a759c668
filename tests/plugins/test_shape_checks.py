"""Tests of the checks of shapes: they are on when a test starts, and end after its first calls."""

import shape_checks
import torch
from jaxtyping import TypeCheckError, config
from pytest import raises

from pyroformer.models.attention.log_space import normalized

WRONG = torch.zeros(3), torch.ones(2, dtype=torch.bool)


def test_a_wrong_shape_is_found_until_the_calls_are_used_up() -> None:
    with raises(TypeCheckError):
        normalized(*WRONG)
    for _ in range(shape_checks.CALLS):
        normalized(torch.zeros(3))
    with raises(RuntimeError, match="must match the size"):
        normalized(*WRONG)


def test_the_next_test_is_checked_again() -> None:
    assert not config.jaxtyping_disable
    with raises(TypeCheckError):
        normalized(*WRONG)
