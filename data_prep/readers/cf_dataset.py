"""A netCDF file or Zarr store as names, dimensions, attributes and stored values: nothing decoded, nothing computed.

xarray says the same, and takes five times as long over a small netCDF file; it opens the Zarr stores.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import cache, cached_property
from typing import Any

import h5py
import netCDF4
import numpy as np

from data_prep.readers.hdf5 import check_storage, is_unpacked_here, read_deflated
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


# Its library may be in one thread at a time; it lets others run while it reads.
_NETCDF = threading.RLock()


@contextmanager
def open_dataset(source: Source, options: ReadOptions) -> Iterator[CfDataset]:
    """A netCDF file or Zarr store with nothing decoded."""
    if source.is_folder:
        with _open_zarr(source) as dataset:
            yield dataset
        return
    _check_whole(source)
    with _NETCDF:
        if source.is_gzip:
            file = netCDF4.Dataset("in-memory.nc", memory=source.read(8 * options.max_pixels + (1 << 20)))
        else:
            file = netCDF4.Dataset(source.path)
    try:
        with source.open_hdf5(options) if source.head.startswith(HDF5) else nullcontext() as arrays:
            with _NETCDF:
                file.set_auto_maskandscale(False)
                file.set_auto_chartostring(False)
                variables = {
                    name: _of_netcdf(source, variable, arrays, options) for name, variable in file.variables.items()
                }
                attributes = {name: file.getncattr(name) for name in file.ncattrs()}
            yield CfDataset(variables, attributes)
    finally:
        with _NETCDF:
            if file.isopen():
                file.close()


def _of_netcdf(
    source: Source, variable: netCDF4.Variable, arrays: h5py.File | None, options: ReadOptions
) -> CfVariable:
    name, shape, dtype = variable.name, variable.shape, variable.dtype

    @cache
    def field() -> h5py.Dataset | None:
        return None if arrays is None else _field_behind(source, arrays, name, shape, dtype, options)

    def attributes() -> dict[str, Any]:
        with _NETCDF:
            return {key: variable.getncattr(key) for key in variable.ncattrs()}

    def read(index: Index) -> Any:
        array = field() if len(index) >= 2 else None
        if array is None:
            with _NETCDF:
                return variable[index if index else ...]
        window = tuple(part if isinstance(part, slice) else slice(part, part + 1) for part in index)
        found = read_deflated(array, window)
        return found[tuple(slice(None) if isinstance(part, slice) else 0 for part in index)]

    return CfVariable(name, variable.dimensions, shape, dtype, attributes, read)


def _field_behind(
    source: Source, arrays: h5py.File, name: str, shape: tuple[int, ...], dtype: Any, options: ReadOptions
) -> h5py.Dataset | None:
    """The HDF5 array behind a variable, where we unpack it faster than netCDF.

    None for what netCDF makes more of, such as records that were never written, and for chunks of many times, which its
    cache keeps for the next one.

    Raises:
        DataError: Its chunks are larger than any grid may be, or it lies in other files.
    """
    found = arrays.get(name)
    if not isinstance(found, h5py.Dataset):
        return None
    check_storage(source, found, most=8 * options.max_pixels)
    if (found.shape, found.dtype) != (shape, dtype) or not is_unpacked_here(found):
        return None
    return found if max((1, *found.chunks[:-2])) == 1 else None


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
