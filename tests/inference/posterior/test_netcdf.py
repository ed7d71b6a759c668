"""NetCDF is made in memory and written whole: a full disk costs neither the process nor the earlier file."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import arviz
import numpy as np
import pytest
import xarray

from pyroformer.inference.posterior.arviz_compat import ArviZData, from_groups, group_names
from pyroformer.inference.posterior.netcdf import netcdf_bytes
from pyroformer.inference.utils.outputs import write_output


@pytest.fixture
def draws() -> ArviZData:
    weights = np.random.default_rng(0).normal(size=(1, 300, 40))
    posterior = xarray.Dataset(
        {"weights": (("chain", "draw", "text"), weights)}, coords={"text": [f"é {i}" for i in range(40)]}
    )
    stats = xarray.Dataset({"log_p": (("chain", "draw"), weights[..., 0])}, attrs={"seed": 3})
    return from_groups({"posterior": posterior, "sample_stats": stats}, {"model": "NVAE"})


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 kB."""
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)]
    try:
        mounted = subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("needs the right to mount a file system")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


def test_it_is_what_arviz_reads(draws: ArviZData, tmp_path: Path) -> None:
    (tmp_path / "draws.nc").write_bytes(netcdf_bytes(draws))
    read = arviz.from_netcdf(tmp_path / "draws.nc")
    assert sorted(group_names(read)) == ["posterior", "sample_stats"]
    np.testing.assert_array_equal(read["posterior"]["weights"], draws["posterior"]["weights"])
    assert read["posterior"]["text"].values[1] == "é 1"
    assert read["sample_stats"].attrs["seed"] == 3 and read.attrs["model"] == "NVAE"


def test_a_full_disk_keeps_the_earlier_file(draws: ArviZData, small_disk: Path) -> None:
    (small_disk / "draws.nc").write_bytes(b"earlier")
    with pytest.raises(OSError, match="No space left on device|is the disk full"):
        write_output(str(small_disk / "draws.nc"), netcdf_bytes(draws))
    assert [(file.name, file.read_bytes()) for file in small_disk.iterdir()] == [("draws.nc", b"earlier")]
