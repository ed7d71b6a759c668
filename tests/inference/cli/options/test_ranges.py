"""Numbers as they are written on the command line."""

import pytest

from pyroformer.inference.cli.options.ranges import parse_assignments, parse_ranges


@pytest.mark.parametrize("text", ["", "x", "3-1", "1-", "1,,2", "1-999999"])
def test_layers_are_written_as_numbers_and_ranges(text: str) -> None:
    with pytest.raises(ValueError, match="--layers is .*, no list of layers: write 2, or 1-3, or 1-3,6"):
        parse_ranges(text, "--layers", kind="layers")


@pytest.mark.parametrize("text", ["", "3", "3=", "=2", "a=2", "3=b", "3=1,,4=2"])
def test_factors_are_written_behind_numbers(text: str) -> None:
    with pytest.raises(ValueError, match="--scale is .*: write 3=0.1, with commas between several"):
        parse_assignments(text, "--scale", float, "3=0.1")


def test_a_number_has_one_value() -> None:
    with pytest.raises(ValueError, match="--swap is '3=1,3=2', which names 3 twice: name it once"):
        parse_assignments("3=1,3=2", "--swap", int, "3=5")
