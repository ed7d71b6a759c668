"""Fixtures of the tests proper; what doctests share is in the conftest.py above."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real corpora, which is not part of the repository."""
    folder = Path(os.environ.get("PYROFORMER_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"needs the corpora: {folder} is not a folder (set PYROFORMER_DATA)")
    return folder
