"""RADOLAN: header, flags, orientation and grids; wradlib is right on values and wrong on some places."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.readers.options import ReadOptions
from data_prep.readers.radolan import grid
from data_prep.readers.registry import detect_format, read_frames
from data_prep.readers.source import Source
from nowcast.data.units import ZRelation
from nowcast.errors import DataError
from tests.data_prep.readers.reader_files import radolan_bytes

NO_DATA = 0x29C4


def composite(shape: tuple[int, int] = (900, 900)) -> np.ndarray:
    return np.full(shape, NO_DATA, dtype="<u2")


def write(path: Path, contents: bytes, *, zipped: bool = False) -> Path:
    path.write_bytes(gzip.compress(contents, compresslevel=1) if zipped else contents)
    return path


def read_one(path: Path, **options: Any) -> Any:
    (frame,) = read_frames(path, options=ReadOptions(**options))
    return frame


def test_depths_flags_and_orientation(tmp_path: Path) -> None:
    values = composite()
    values[0, :6] = [0, 5, 5 | 0x1000, 5 | 0x4000, 5 | 0x8000, NO_DATA]
    path = write(tmp_path / "a.bin", radolan_bytes(values))
    assert detect_format(path) == "radolan"
    frame = read_one(path)
    # The file begins in the south. A value of a secondary source is a value; the other flagged ones were not measured.
    np.testing.assert_array_equal(frame.rain_rate[-1, :6], np.float32([0, 0.5, 0.5, np.nan, np.nan, np.nan]))
    assert np.isnan(frame.rain_rate[0]).all()
    assert (frame.valid_time, frame.interval_minutes) == (np.datetime64("2018-11-22T00:50"), 60.0)


def test_a_file_whose_no_data_words_differ_is_damaged(tmp_path: Path) -> None:
    values = composite()
    values[100, 100] ^= 1
    values[0, 0] = 5 | 0x2000
    with pytest.raises(DataError, match="2 of 810000 pixels flagged as no data hold other values than the rest"):
        read_one(write(tmp_path / "a", radolan_bytes(values)))
    # One word of its own for all of them is a convention.
    values[:] = 0x2000
    assert np.isnan(read_one(write(tmp_path / "b", radolan_bytes(values))).rain_rate).all()


def test_marks_of_damage_are_measured_in_depths_and_reflectivity(tmp_path: Path) -> None:
    values = composite()
    values[50, 100:150] = 0
    values[400:500, 400:500] = 5
    values[450, 450] = 100
    marks = read_one(write(tmp_path / "a", radolan_bytes(values))).marks
    assert marks == {"cut_pixels": 50, "lone_rate": pytest.approx(9.0)}
    rx = np.full((900, 900), 250, dtype=np.uint8)
    rx[50, 100:150] = 0
    path = write(tmp_path / "b", radolan_bytes(rx, product="RX", precision="E+00", interval="INT   5"))
    assert read_one(path).marks["cut_pixels"] == 50


@pytest.mark.parametrize("product", ["RY", "YW"])
def test_five_minute_depths_become_rates(tmp_path: Path, product: str) -> None:
    """0.01 mm in 5 min is 0.12 mm/h, exactly: 5 steps are 0.6 and no step beside it."""
    values = composite((1100, 900) if product == "YW" else (900, 900))
    values[0, :3] = [1, 5, 4095]
    path = write(
        tmp_path / "a.gz", radolan_bytes(values, product=product, precision="E-02", interval="INT   5"), zipped=True
    )
    frame = read_one(path)
    np.testing.assert_array_equal(frame.rain_rate[-1, :3], np.float32([0.12, 0.6, 491.4]))
    assert frame.interval_minutes == 5.0


def test_an_interval_in_days(tmp_path: Path) -> None:
    values = composite()
    values[0, 0] = 240
    frame = read_one(write(tmp_path / "a", radolan_bytes(values, product="SF", interval="INT   1U1")))
    assert (frame.interval_minutes, frame.rain_rate[-1, 0]) == (1440.0, 1.0)


def test_reflectivity_of_bytes(tmp_path: Path) -> None:
    values = np.full((900, 900), 250, dtype=np.uint8)
    values[0, :4] = [0, 125, 249, 250]
    path = write(tmp_path / "a", radolan_bytes(values, product="RX", precision="E+00", interval="INT   5"))
    frame = read_one(path, z_relation=ZRelation(200, 1.6))
    wanted = [0, (10**3.0 / 200) ** (1 / 1.6), np.nan, np.nan]
    np.testing.assert_allclose(frame.rain_rate[-1, :4], wanted, rtol=1e-6)
    assert frame.interval_minutes is None
    assert read_one(path).attributes["zr_a"] == 256.0


@pytest.mark.parametrize(
    ("shape", "corner"),
    [
        # Corners (latitude, longitude) as the format description prints them: south-west of the south-western pixel.
        ((900, 900), (46.9526, 3.5889)),
        ((1100, 900), (46.1929, 4.6759)),
        ((1500, 1400), (43.9336, 2.3419)),
    ],
)
def test_corners_lie_where_the_format_description_puts_them(
    shape: tuple[int, int], corner: tuple[float, float]
) -> None:
    import pyproj

    place = grid(Source("a"), shape, 3)
    to_degrees = pyproj.Transformer.from_crs(place.crs, place.crs.geodetic_crs, always_xy=True)
    longitude, latitude = to_degrees.transform(place.x[0] - 500, place.y[-1] - 500)
    assert (latitude, longitude) == (pytest.approx(corner[0], abs=2e-4), pytest.approx(corner[1], abs=2e-4))


def test_the_extended_grid_lies_80_km_east_and_100_km_south() -> None:
    """1100x900 shares no corner with 900x900: taking one for the other shifts rain by 80 km."""
    small, large = (grid(Source("a"), shape, 3) for shape in ((900, 900), (1100, 900)))
    assert (small.x[0] - 500, small.y[-1] - 500) == (pytest.approx(-523_462.2, abs=1), pytest.approx(-4_658_645, abs=1))
    assert (large.x[0] - 500, large.y[-1] - 500) == (pytest.approx(-443_462.2, abs=1), pytest.approx(-4_758_645, abs=1))


def test_the_ellipsoid_of_format_version_5() -> None:
    """DE1200 on WGS 84: south-west corner 45.69642538 N, 3.566994635 E, as DWD's HDF5 of the same grid says."""
    import pyproj

    place = grid(Source("a"), (1200, 1100), 5)
    to_degrees = pyproj.Transformer.from_crs(place.crs, place.crs.geodetic_crs, always_xy=True)
    longitude, latitude = to_degrees.transform(place.x[0] - 500, place.y[-1] - 500)
    assert (latitude, longitude) == (pytest.approx(45.69642538, abs=1e-6), pytest.approx(3.566994635, abs=1e-6))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"product": "HG"}, "the product HG"),
        ({"stamp": "320050100001118"}, "is not a time"),
        ({"precision": "E-09"}, "declares the precision '-09'"),
        ({"interval": ""}, "no interval INT.*accumulation_minutes"),
        ({"interval": "INT  60U7"}, "an interval of 60 in the unit 7"),
        ({"extra": "VV 060"}, "a forecast for 60 min ahead"),
        ({"total": 99}, "declares 99 bytes, but 900x900 pixels"),
    ],
)
def test_headers_that_cannot_be_used_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_one(write(tmp_path / "a", radolan_bytes(composite(), **change)))


def test_an_unknown_grid_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a composite of 100x100 pixels, whose place is not known"):
        read_one(write(tmp_path / "a", radolan_bytes(composite((100, 100)))))


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    contents = radolan_bytes(composite())
    with pytest.raises(DataError, match="cut short: 1620000 of 16200.. bytes"):
        read_one(write(tmp_path / "a", contents[:1_620_000]))
    with pytest.raises(DataError, match="does not end"):
        read_one(write(tmp_path / "b", contents[:60]))
    zipped = gzip.compress(contents, compresslevel=1)
    with pytest.raises(DataError, match="gzip stream is damaged"):
        read_one(write(tmp_path / "c.gz", zipped[: len(zipped) // 2]))


@pytest.mark.oracle
def test_values_and_places_against_wradlib(radar_data: Path) -> None:
    """Right there: depths, and the grids as its georeferencing gives them. Not used: its own handling of flags."""
    radolan = pytest.importorskip("wradlib.io.radolan")
    rect = pytest.importorskip("wradlib.georef.rect")
    for path in (
        sorted((radar_data / "radolan/yw").iterdir())[3],
        sorted((radar_data / "radolan/rw").iterdir())[6],
    ):
        frame = read_one(path)
        # Its reader fails on gzip'ed paths of some names, so it is given the opened file.
        with gzip.open(path) as file:
            depth, attributes = radolan.read_radolan_composite(file, missing=-1.0)
        depth = depth[::-1].copy()
        clutter = np.zeros(depth.size, dtype=bool)
        clutter[attributes.get("cluttermask", [])] = True
        clutter = clutter.reshape(depth.shape)[::-1]
        measured = (depth >= 0) & ~clutter
        factor = 60 / frame.interval_minutes
        np.testing.assert_array_equal(~np.isnan(frame.rain_rate), measured)
        np.testing.assert_allclose(frame.rain_rate[measured], depth[measured] * factor, rtol=1e-5, atol=1e-5)
        x, y = rect.get_radolan_coordinates(*depth.shape, crs=frame.grid.crs, mode="center")
        np.testing.assert_allclose(frame.grid.x, x, atol=0.5)
        np.testing.assert_allclose(frame.grid.y[::-1], y, atol=0.5)
