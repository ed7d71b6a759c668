"""The check of an option that takes one of a few names."""

import pytest

from pyroformer.models.utils.choices import check_choice


@pytest.mark.parametrize("value", ["full", "diagonal", None])
def test_choices_pass(value: str | None) -> None:
    check_choice("covariance", value, ("full", "diagonal", None))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("round", r"^covariance is 'round': choose one of full, diagonal$"),
        ("diagnal", r"^covariance is 'diagnal': choose one of full, diagonal \(did you mean diagonal\?\)$"),
        ("FULL", r"^covariance is 'FULL': choose one of full, diagonal \(did you mean full\?\)$"),
        (3, r"^covariance is 3: choose one of full, diagonal$"),
    ],
)
def test_anything_else_is_refused(value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_choice("covariance", value, ("full", "diagonal"))
