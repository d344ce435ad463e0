"""Parts of HDF5 arrays, unpacked chunk by chunk: the same as HDF5 makes of them."""

from __future__ import annotations

import ctypes
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import netCDF4
import numpy as np
import pytest

from data_prep.readers import cf_dataset
from data_prep.readers.cf_dataset import open_dataset
from data_prep.readers.hdf5 import convert_window, is_unpacked_here, read_part, read_window
from data_prep.readers.inflate import InflateError
from data_prep.readers.options import ReadOptions
from data_prep.readers.scaling import convert
from data_prep.readers.source import Source
from nowcast.errors import DataError

SHAPE, CHUNKS = (37, 53), (16, 20)
WINDOWS = [
    (slice(0, 37), slice(0, 53)),
    (slice(3, 4), slice(19, 41)),
    (slice(16, 32), slice(20, 40)),
    (slice(36, 37), slice(36, 37)),
]


def written(path: Path, values: np.ndarray, **storage: Any) -> h5py.Dataset:
    with h5py.File(path, "w") as file:
        file.create_dataset("field", data=values, **storage)
    return h5py.File(path)["field"]


def values_of(dtype: str) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 120, SHAPE).astype(dtype)


@pytest.mark.parametrize("dtype", ["u1", "<i2", ">i2", "<u4", "<f4", ">f8"])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("window", WINDOWS)
def test_deflated_chunks_are_as_hdf5_reads_them(
    tmp_path: Path, dtype: str, shuffle: bool, window: tuple[slice, slice]
) -> None:
    array = written(tmp_path / "a.h5", values_of(dtype), chunks=CHUNKS, compression="gzip", shuffle=shuffle)
    assert is_unpacked_here(array)
    found = read_part(array, window)
    np.testing.assert_array_equal(found, array[window])
    assert found.dtype == array.dtype


@pytest.mark.parametrize(
    "storage",
    [{}, {"chunks": CHUNKS}, {"chunks": CHUNKS, "compression": "gzip", "fletcher32": True}, {"compression": "lzf"}],
)
def test_what_is_packed_otherwise_is_left_to_hdf5(tmp_path: Path, storage: dict[str, Any]) -> None:
    values = values_of("f4")
    array = written(tmp_path / "a.h5", values, **storage)
    assert not is_unpacked_here(array)
    np.testing.assert_array_equal(read_part(array, (slice(2, 30), slice(1, 50))), values[2:30, 1:50])


def test_a_chunk_that_passed_its_filter_is_read_as_it_is(tmp_path: Path) -> None:
    values = values_of("f4")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        array = file.create_dataset("field", SHAPE, "f4", chunks=CHUNKS, compression="gzip")
        array[:] = values
        raw = np.ascontiguousarray(values[:16, :20])
        array.id.write_direct_chunk((0, 0), raw.tobytes(), filter_mask=1)
    with h5py.File(tmp_path / "a.h5") as file:
        np.testing.assert_array_equal(read_part(file["field"], WINDOWS[0]), values)


@pytest.mark.parametrize("change", ["precision", "offset", "24 bits"])
def test_numbers_that_numpy_does_not_know_are_converted_by_hdf5(tmp_path: Path, change: str) -> None:
    kind = h5py.h5t.NATIVE_INT16.copy() if change != "24 bits" else h5py.h5t.IEEE_F32LE.copy()
    if change == "precision":
        kind.set_precision(12)
    elif change == "offset":
        kind.set_precision(12)
        kind.set_offset(4)
    else:
        kind.set_fields(23, 15, 8, 0, 15)
        kind.set_precision(24)
        kind.set_size(3)
    values = np.arange(-600, 1361).reshape(SHAPE).astype("i2" if change != "24 bits" else "f4")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        layout.set_chunk(CHUNKS)
        layout.set_deflate(4)
        identity = h5py.h5d.create(file.id, b"field", kind, h5py.h5s.create_simple(SHAPE), layout)
        identity.write(h5py.h5s.ALL, h5py.h5s.ALL, values)
    with h5py.File(tmp_path / "a.h5") as file:
        assert not is_unpacked_here(file["field"])
        np.testing.assert_array_equal(read_part(file["field"], WINDOWS[0]), values)


def test_chunks_at_the_edges_may_be_left_as_they_are(tmp_path: Path) -> None:
    """By H5Pset_chunk_opts, which h5py lacks: they are not deflated, and not marked so."""
    libraries = list((Path(h5py.__file__).parents[1] / "h5py.libs").glob("libhdf5-*.so*"))
    if not libraries:
        pytest.skip("h5py brings no HDF5 library of its own here")
    dont_filter_partial_chunks = 2
    values = values_of("f4")
    with h5py.File(tmp_path / "a.h5", "w", libver="latest") as file:
        layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        layout.set_chunk(CHUNKS)
        layout.set_deflate(4)
        assert (
            ctypes.CDLL(str(libraries[0])).H5Pset_chunk_opts(ctypes.c_int64(layout.id), dont_filter_partial_chunks) == 0
        )
        identity = h5py.h5d.create(file.id, b"field", h5py.h5t.NATIVE_FLOAT, h5py.h5s.create_simple(SHAPE), layout)
        identity.write(h5py.h5s.ALL, h5py.h5s.ALL, values)
        assert (
            identity.read_direct_chunk((0, 40))[0] == 0 and len(identity.read_direct_chunk((0, 40))[1]) == 16 * 20 * 4
        )
    with h5py.File(tmp_path / "a.h5") as file:
        assert is_unpacked_here(file["field"])
        np.testing.assert_array_equal(read_part(file["field"], WINDOWS[0]), values)


@pytest.mark.parametrize("damage", [lambda packed: packed[:-9], lambda packed: packed[:40] + b"?" + packed[41:]])
def test_a_damaged_chunk_is_refused(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        array = file.create_dataset("field", data=values_of("f4"), chunks=CHUNKS, compression="gzip")
        array.id.write_direct_chunk((16, 20), damage(array.id.read_direct_chunk((16, 20))[1]))
    with h5py.File(tmp_path / "a.h5") as file:
        np.testing.assert_array_equal(read_part(file["field"], (slice(0, 16), slice(0, 53))), values_of("f4")[:16])
        with pytest.raises(InflateError):
            read_part(file["field"], WINDOWS[0])


def test_a_chunk_of_another_size_than_it_claims_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        array = file.create_dataset("field", data=values_of("f4"), chunks=CHUNKS, compression="gzip")
        array.id.write_direct_chunk((0, 0), zlib.compress(bytes(10 * 16 * 20 * 4)))
    with h5py.File(tmp_path / "a.h5") as file, pytest.raises(InflateError, match="more than 1280 bytes"):
        read_part(file["field"], WINDOWS[0])


def test_absent_chunks_are_refused_and_not_read_as_dry(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("field", SHAPE, "f4", chunks=CHUNKS, compression="gzip")[:16, :20] = 1.0
    with Source(path) as source, source.open_hdf5(ReadOptions()) as file:
        assert not is_unpacked_here(file["field"])
        with pytest.raises(DataError, match="1 of its 9 chunks"):
            read_window(source, file["field"], *WINDOWS[0], ReadOptions())


@pytest.mark.parametrize("dtype", ["u1", "f4", "f8"])
def test_converting_chunk_by_chunk_is_converting_the_window(tmp_path: Path, dtype: str) -> None:
    def rates(stored: np.ndarray) -> np.ndarray:
        return np.where(stored == 0, np.nan, stored * 0.25)

    path = tmp_path / "a.h5"
    written(path, values_of(dtype), chunks=CHUNKS, compression="gzip")
    with Source(path) as source, source.open_hdf5(ReadOptions()) as file:
        for window in WINDOWS:
            found = convert_window(source, file["field"], *window, ReadOptions(), rates)
            np.testing.assert_array_equal(found, convert(values_of(dtype)[window], rates))


@pytest.mark.parametrize("chunks", [(1, 16, 20), (4, 37, 53), None])
@pytest.mark.parametrize("records", [None, 6])
def test_netcdf_fields_are_the_same_by_either_library(
    tmp_path: Path, chunks: tuple[int, ...] | None, records: int | None
) -> None:
    path = tmp_path / "a.nc"
    values = np.random.default_rng(1).integers(0, 900, (6, *SHAPE)).astype("i2")
    with netCDF4.Dataset(path, "w") as file:
        for name, length in (("time", records), ("y", SHAPE[0]), ("x", SHAPE[1])):
            file.createDimension(name, length)
        file.createVariable("late", "i2", ("time", "y", "x"), zlib=True, chunksizes=(1, *SHAPE), fill_value=-5)[:2] = 7
        options = {"zlib": True, "chunksizes": chunks} if chunks else {}
        file.createVariable("rain", "i2", ("time", "y", "x"), **options)[:] = values
    with Source(path) as source, open_dataset(source, ReadOptions()) as dataset:
        for index in range(6):
            wanted = {"time": index, "y": slice(5, 30), "x": slice(11, 53)}
            np.testing.assert_array_equal(dataset["rain"].window(wanted), values[index, 5:30, 11:53])
            # Records that were never written are missing.
            assert np.all(dataset["late"].window(wanted) == (7 if index < 2 else -5))
        np.testing.assert_array_equal(dataset["rain"].values, values)


def test_netcdf_chunks_beyond_any_grid_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.nc"
    with netCDF4.Dataset(path, "w") as file:
        file.createDimension("y", None)
        file.createDimension("x", None)
        file.createVariable("rain", "f4", ("y", "x"), zlib=True, chunksizes=(3000, 2000))[:4, :5] = 1.0
    few = ReadOptions(max_pixels=1_000_000)
    with (
        Source(path) as source,
        open_dataset(source, few) as dataset,
        pytest.raises(DataError, match="chunks of 24000000 bytes for 80 bytes"),
    ):
        dataset["rain"].window({"y": slice(0, 4), "x": slice(0, 5)})


def test_a_long_netcdf_file_is_asked_about_its_chunks_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """HDF5 walks all of them to count them."""
    path, asked = tmp_path / "a.nc", []
    with netCDF4.Dataset(path, "w") as file:
        for name, length in (("time", 5), ("y", 40), ("x", 50)):
            file.createDimension(name, length)
        file.createVariable("rain", "f4", ("time", "y", "x"), zlib=True, chunksizes=(1, 40, 50))[:] = 2.0
    monkeypatch.setattr(
        cf_dataset, "is_unpacked_here", lambda array: asked.append(array.name) or is_unpacked_here(array)
    )
    with Source(path) as source, open_dataset(source, ReadOptions()) as dataset:
        fields = [dataset["rain"].window({"time": index}) for index in range(5)]
    assert np.stack(fields).sum() == 2.0 * 5 * 2000 and asked == ["/rain"]


def test_netcdf_is_read_by_one_thread_at_a_time(tmp_path: Path) -> None:
    """Its library crashes otherwise, and a Dask worker has several."""
    path = tmp_path / "a.nc"
    with netCDF4.Dataset(path, "w") as file:
        file.createDimension("y", 40)
        file.createDimension("x", 50)
        file.createVariable("rain", "f4", ("y", "x"), zlib=True)[:] = np.arange(2000).reshape(40, 50)

    def total(_: int) -> float:
        with Source(path) as source, open_dataset(source, ReadOptions()) as dataset:
            return float(dataset["rain"].values.sum()) + len(dataset["rain"].attributes)

    with ThreadPoolExecutor(6) as threads:
        assert set(threads.map(total, range(300))) == {1_999_000.0}
