"""NetCDF in memory: HDF5 ends the process by a signal where the disk it writes to is full."""

import tempfile
from pathlib import Path

import numpy as np

from .arviz_compat import ArviZData, dataset, group_names

__all__ = ["netcdf_bytes"]


def netcdf_bytes(data: ArviZData) -> bytes:
    """The content of a NetCDF file with ArviZ data, which ``arviz.from_netcdf`` reads."""
    import xarray

    groups = {name: dataset(data, name) for name in group_names(data)}
    tree = xarray.DataTree.from_dict({f"/{name}": group for name, group in groups.items()})
    tree.attrs.update(data.attrs)
    compressed = {
        f"/{name}": {
            variable: {"zlib": True} for variable, values in group.variables.items() if _is_number(values.dtype)
        }
        for name, group in groups.items()
    }
    try:
        return bytes(tree.to_netcdf(None, engine="h5netcdf", encoding=compressed))
    except (TypeError, NotImplementedError):  # xarray before 2025.9 writes to files only
        with tempfile.TemporaryDirectory() as folder:
            tree.to_netcdf(file := Path(folder) / "data.nc", engine="h5netcdf", encoding=compressed)
            return file.read_bytes()


def _is_number(dtype: np.dtype) -> bool:
    return dtype.kind in "iufb"
