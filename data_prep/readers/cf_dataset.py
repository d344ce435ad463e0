"""A netCDF file or Zarr store as names, dimensions, attributes and stored values: nothing decoded, nothing computed.

xarray says the same, and takes five times as long over a small netCDF file; it opens the Zarr stores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import Any

import h5py
import netCDF4
import numpy as np

from data_prep.readers.hdf5 import is_unpacked_here, read_part
from data_prep.readers.netcdf_classic import MAGIC, required_bytes
from data_prep.readers.options import ReadOptions
from data_prep.readers.source import HDF5, Source

Index = tuple[slice | int, ...]


class CfVariable:
    """One variable.

    Attributes:
        name, dimensions, shape, dtype: As stored.
    """

    def __init__(
        self,
        name: str,
        dimensions: tuple[str, ...],
        shape: tuple[int, ...],
        dtype: Any,
        attributes: Callable[[], Mapping[str, Any]],
        read: Callable[[Index], Any],
    ) -> None:
        self.name, self.dimensions, self.shape, self.dtype = name, dimensions, shape, dtype
        self._attributes, self._read = attributes, read

    @cached_property
    def attributes(self) -> Mapping[str, Any]:
        return self._attributes()

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    @cached_property
    def values(self) -> np.ndarray:
        """All of it: for axes, not for fields."""
        return self.window({})

    def window(self, wanted: Mapping[str, slice | int]) -> np.ndarray:
        """The part at these positions of the named dimensions, as stored; a dimension with a number is gone."""
        return np.asarray(self._read(tuple(wanted.get(dimension, slice(None)) for dimension in self.dimensions)))


class CfDataset:
    """The variables of a file by name, and its global attributes."""

    def __init__(self, variables: Mapping[str, CfVariable], attributes: Mapping[str, Any]) -> None:
        self.variables, self.attributes = variables, attributes

    def __getitem__(self, name: str) -> CfVariable:
        return self.variables[name]


@contextmanager
def open_dataset(source: Source, options: ReadOptions) -> Iterator[CfDataset]:
    """A netCDF file or Zarr store with nothing decoded."""
    if source.is_folder:
        with _open_zarr(source) as dataset:
            yield dataset
        return
    _check_whole(source)
    if source.is_gzip:
        file = netCDF4.Dataset("in-memory.nc", memory=source.read(8 * options.max_pixels + (1 << 20)))
    else:
        file = netCDF4.Dataset(source.path)
    try:
        file.set_auto_maskandscale(False)
        file.set_auto_chartostring(False)
        with ExitStack() as stack:
            arrays = stack.enter_context(source.open_hdf5(options)) if source.head.startswith(HDF5) else None
            variables = {name: _of_netcdf(variable, arrays) for name, variable in file.variables.items()}
            yield CfDataset(variables, {name: file.getncattr(name) for name in file.ncattrs()})
    finally:
        if file.isopen():
            file.close()


def _of_netcdf(variable: netCDF4.Variable, arrays: h5py.File | None) -> CfVariable:
    def read(index: Index) -> Any:
        field = None if arrays is None or len(index) < 2 else _field_behind(variable, arrays)
        if field is None:
            return variable[index if index else ...]
        window = tuple(part if isinstance(part, slice) else slice(part, part + 1) for part in index)
        found = read_part(field, window)
        return found[tuple(slice(None) if isinstance(part, slice) else 0 for part in index)]

    return CfVariable(
        variable.name,
        variable.dimensions,
        variable.shape,
        variable.dtype,
        lambda: {name: variable.getncattr(name) for name in variable.ncattrs()},
        read,
    )


def _field_behind(variable: netCDF4.Variable, arrays: h5py.File) -> h5py.Dataset | None:
    """The HDF5 array behind a variable, where we unpack it faster than netCDF.

    None for what netCDF makes more of, such as records that were never written, and for chunks of many times, which its
    cache keeps for the next one.
    """
    found = arrays.get(variable.name)
    if not isinstance(found, h5py.Dataset) or (found.shape, found.dtype) != (variable.shape, variable.dtype):
        return None
    return found if is_unpacked_here(found) and max((1, *found.chunks[:-2])) == 1 else None


@contextmanager
def _open_zarr(source: Source) -> Iterator[CfDataset]:
    import xarray as xr

    with xr.open_zarr(
        source.path, chunks=None, consolidated=False, mask_and_scale=False, decode_times=False, decode_coords=False
    ) as dataset:
        variables = {str(name): _of_xarray(str(name), variable) for name, variable in dataset.variables.items()}
        yield CfDataset(variables, {str(name): value for name, value in dataset.attrs.items()})


def _of_xarray(name: str, variable: Any) -> CfVariable:
    dimensions = tuple(str(dimension) for dimension in variable.dims)
    return CfVariable(
        name, dimensions, variable.shape, variable.dtype, lambda: variable.attrs, lambda index: variable[index].values
    )


def _check_whole(source: Source) -> None:
    """Refuse a classic file shorter than its header says; HDF5 checks that itself, and gzip too."""
    if source.is_gzip or not source.head.startswith(MAGIC):
        return
    with source.path.open("rb") as file:
        required = required_bytes(file)
    found = source.path.stat().st_size
    if found < required:
        raise source.error(f"cut short: {found} of the {required} bytes that its header accounts for", "fetch it again")
