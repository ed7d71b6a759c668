"""Texts that several tests of the command line train on."""

import pytest


@pytest.fixture(scope="session")
def sentences() -> list[str]:
    """Eighty sentences, one a line."""
    return [f"Number {i} is {'even' if i % 2 == 0 else 'odd'}, the next is {i + 1}." for i in range(80)]
