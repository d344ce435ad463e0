"""Every real file, against figures taken from the files without these readers; and against other packages' readers.

Where another package is wrong, the test says so and asserts in what way.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import pytest

from data_prep.readers.frame import RadarFrame
from data_prep.readers.options import BoundingBox, ReadOptions
from data_prep.readers.registry import detect_format, read_frames


@dataclass(frozen=True)
class Folder:
    """What the table of the test data says of a folder: shares are means over frames of the valid pixels."""

    files: str
    format: str
    frames: int
    shape: tuple[int, int]
    first: str
    last: str
    no_data: tuple[float, float]
    maximum: float
    shares: tuple[float, float, float]
    interval: float | None


# files, format, frames, grid, first and last time, share without data (least-most), maximum [mm/h],
# shares of valid pixels > 0.1, > 1 and > 5 mm/h, interval [minutes] of accumulations.
# RADKLIM (radolan/yw) has 0.4 % more without data here: pixels flagged as clutter, whose value is not rain.
TABLE = """
radar/fmi/pgm/20160928/* fmi_pgm
    40 1226x760 2016-09-28T14:45 2016-09-28T18:00 0.2435-0.2435 167 0.303 0.078 0.0025 -
radar/bom/prcp-cscn/2/2018/06/16/* bom_netcdf
    61 512x512 2018-06-16T10:00 2018-06-16T16:00 0-0 53 0.311 0.192 0.0349 6
radar/KNMI/2010/08/* knmi_h5
    63 765x700 2010-08-26T00:00 2010-08-26T05:10 0.7437-0.7437 20.5 0.516 0.104 0.0034 5
radar/mch/20150515/* mch_gif
    40 640x710 2015-05-15T15:45 2015-05-15T19:00 0.308-0.336 115.5 0.171 0.084 0.0129 5
radar/mch/20160711/* mch_gif
    40 640x710 2016-07-11T20:45 2016-07-12T00:00 0.296-0.296 115.5 0.133 0.083 0.0199 5
saf/20180601/CRR/* saf_crr
    4 1019x2200 2018-06-01T07:00 2018-06-01T07:45 0.169-0.169 34 0.021 0.011 0.0029 -
radolan/yw/* radolan
    12 1100x900 2017-08-16T00:55 2017-08-16T01:50 0.388-0.389 143 0.146 0.079 0.0240 5
radolan/rw/* radolan
    24 900x900 2018-11-22T00:50 2018-11-22T23:50 0.180-0.198 3.0 0.0015 0 0 60
meteonet/rainfall_NW_2016_08.3.npz meteonet_npz
    45 565x784 2016-08-21T00:10 2016-08-31T00:30 0.125-0.1255 30.5 0.007 0.0011 0.0001 5
"""
HEAVY_TABLE = """
radar/fmi/geotiff/20160928/* fmi_geotiff
    2 7316x4963 2016-09-28T14:45 2016-09-28T14:50 0.6795-0.6795 85 0.286 0.078 0.0033 -
radar/OPERA/20180824/* odim_h5
    6 2200x1900 2018-08-24T18:00 2018-08-24T19:15 0.499-0.499 1205 0.126 0.031 0.0042 -
radar/OPERA/20241126/NIMBUS/T_PAAH22* odim_h5
    2 2200x1900 2024-11-26T01:00 2024-11-26T01:15 0.485-0.486 205 0.092 0.020 0.0018 -
radar/OPERA/20241126/NIMBUS/T_PASH22* odim_h5
    1 2200x1900 2024-11-26T01:00 2024-11-26T01:00 0.486-0.4865 51.3 0.109 0.020 0.0015 60
radar/OPERA/20241126/CIRRUS/* odim_h5
    1 4400x3800 2024-11-26T01:00 2024-11-26T01:00 0.491-0.491 2734 0.163 0.046 0.0074 -
mrms/2019/06/10/* mrms_grib2
    6 3500x7000 2019-06-10T00:00 2019-06-10T00:10 0.358-0.358 151 0.062 0.029 0.0041 -
"""


def folders_of(table: str) -> list[Folder]:
    words = iter(table.split())
    folders = []
    for files in words:
        format, frames, grid, first, last, no_data, maximum, *rest = (next(words) for _ in range(11))
        rows, columns = map(int, grid.split("x"))
        least, most = map(float, no_data.split("-"))
        wet, over_1, over_5, interval = rest
        folders.append(
            Folder(
                files,
                format,
                int(frames),
                (rows, columns),
                first,
                last,
                (least, most),
                float(maximum),
                (float(wet), float(over_1), float(over_5)),
                None if interval == "-" else float(interval),
            )
        )
    return folders


FAST, SLOW = folders_of(TABLE), folders_of(HEAVY_TABLE)
OPTIONS = ReadOptions(pickled_dates=True)


def name_of(folder: Folder) -> str:
    return folder.files.strip("/*").replace("/", "-")


@pytest.mark.slow
@pytest.mark.parametrize("folder", FAST + SLOW, ids=name_of)
def test_every_frame_of_a_folder_agrees_with_the_table(radar_data: Path, folder: Folder) -> None:
    if folder.format in ("fmi_geotiff", "mrms_grib2"):
        pytest.importorskip("rasterio" if folder.format == "fmi_geotiff" else "eccodes")
    times, figures, first = [], [], None
    for path in sorted(radar_data.glob(folder.files)):
        assert detect_format(path) == folder.format
        for frame in read_frames(path, options=OPTIONS):
            first = first or frame
            assert frame.grid.matches(first.grid)
            assert frame.interval_minutes == folder.interval
            times.append(frame.valid_time)
            figures.append(_figures(frame))
    assert first is not None and first.grid.shape == folder.shape
    assert len(times) == len(set(times)) == folder.frames
    assert (min(times), max(times)) == (np.datetime64(folder.first), np.datetime64(folder.last))
    no_data, maximum, *shares = np.array(figures).T
    # The table prints three or four digits.
    assert no_data.min() == pytest.approx(folder.no_data[0], abs=6e-4)
    assert no_data.max() == pytest.approx(folder.no_data[1], abs=6e-4)
    assert maximum.max() == pytest.approx(folder.maximum, rel=0.01)
    for share, wanted, tolerance in zip(shares, folder.shares, (6e-4, 6e-4, 6e-5), strict=True):
        assert share.mean() == pytest.approx(wanted, abs=tolerance)


@pytest.mark.parametrize("folder", FAST, ids=name_of)
def test_one_file_of_a_folder(radar_data: Path, folder: Folder) -> None:
    path = sorted(radar_data.glob(folder.files))[0]
    assert detect_format(path) == folder.format
    frame = next(read_frames(path, options=OPTIONS))
    assert frame.grid.shape == folder.shape
    assert frame.valid_time == np.datetime64(folder.first)
    assert frame.interval_minutes == folder.interval
    assert frame.attributes["source_format"] == folder.format
    assert _figures(frame)[0] == pytest.approx(folder.no_data[0], abs=0.03)


def _figures(frame: RadarFrame) -> list[float]:
    """Share without data, maximum, and shares of valid pixels strictly above 0.1, 1 and 5 mm/h."""
    valid = frame.rain_rate[~np.isnan(frame.rain_rate)]
    return [
        1 - valid.size / frame.rain_rate.size,
        float(valid.max()),
        *(float(np.mean(valid > np.float32(threshold))) for threshold in (0.1, 1, 5)),
    ]


def only(path: Path, **options: Any) -> RadarFrame:
    (frame,) = read_frames(path, options=ReadOptions(**options))
    return frame


@pytest.mark.slow
def test_operas_corners_are_those_in_the_file(radar_data: Path) -> None:
    """UL, UR, LL, LR of `where` against the outer edges of the grid, in longitude and latitude."""
    import h5py

    for pattern in ("radar/OPERA/20180824/*", "radar/OPERA/20241126/NIMBUS/T_PAAH*"):
        path = sorted(radar_data.glob(pattern))[0]
        grid = only(path).grid
        dy, dx = grid.spacing
        to_degrees = pyproj.Transformer.from_crs(grid.crs, grid.crs.geodetic_crs, always_xy=True)
        edges = {
            "UL": (grid.x[0] - dx / 2, grid.y[0] + dy / 2),
            "UR": (grid.x[-1] + dx / 2, grid.y[0] + dy / 2),
            "LL": (grid.x[0] - dx / 2, grid.y[-1] - dy / 2),
            "LR": (grid.x[-1] + dx / 2, grid.y[-1] - dy / 2),
        }
        with h5py.File(path) as file:
            where = dict(file["where"].attrs)
        for name, (x, y) in edges.items():
            longitude, latitude = to_degrees.transform(x, y)
            # 1e-4 degrees are some 10 m; the corners of one product differ by metres between files.
            assert longitude == pytest.approx(where[f"{name}_lon"], abs=1e-4)
            assert latitude == pytest.approx(where[f"{name}_lat"], abs=1e-4)


@pytest.mark.slow
def test_operas_grids_match_across_years_and_their_quality_comes_along(radar_data: Path) -> None:
    old = only(sorted(radar_data.glob("radar/OPERA/20180824/*"))[0])
    new = only(sorted(radar_data.glob("radar/OPERA/20241126/NIMBUS/T_PAAH*"))[0])
    assert old.grid.matches(new.grid)
    for frame in (old, new):
        assert frame.quality is not None and frame.quality.shape == frame.rain_rate.shape
        assert np.nanmin(frame.quality) >= 0 and np.nanmax(frame.quality) <= 1
    # The outlier of 2018 stands where the quality index is nought.
    assert old.quality is not None
    frames = [only(path) for path in sorted(radar_data.glob("radar/OPERA/20180824/*"))]
    worst = max(frames, key=lambda frame: float(np.nanmax(frame.rain_rate)))
    assert worst.quality is not None
    assert worst.quality[np.unravel_index(np.nanargmax(worst.rain_rate), worst.rain_rate.shape)] <= 0.2


def test_bom_is_quantised_in_half_millimetres_exactly(radar_data: Path) -> None:
    frame = only(sorted(radar_data.glob("radar/bom/prcp-cscn/2/2018/06/16/*"))[5])
    np.testing.assert_array_equal(np.mod(frame.rain_rate, np.float32(0.5)), 0)
    assert (frame.rain_rate >= np.float32(0.5)).mean() == (frame.rain_rate > np.float32(0.1)).mean()


def test_knmis_steps_are_those_of_a_hundredth(radar_data: Path) -> None:
    frame = only(sorted(radar_data.glob("radar/KNMI/2010/08/*"))[30])
    values = np.unique(frame.rain_rate[~np.isnan(frame.rain_rate)])
    np.testing.assert_array_equal(values, np.array([np.float32(f"{round(v / 0.12) * 0.12:.2f}") for v in values]))


@pytest.mark.slow
def test_crop_and_coarsen_of_mrms_agree_with_the_whole(radar_data: Path) -> None:
    pytest.importorskip("eccodes")
    path = sorted(radar_data.glob("mrms/2019/06/10/*"))[0]
    whole = only(path)
    box = BoundingBox(35, -100, 40, -90)
    part = only(path, crop=box)
    row, column = (
        int(np.argmin(np.abs(whole.grid.y - part.grid.y[0]))),
        int(np.argmin(np.abs(whole.grid.x - part.grid.x[0]))),
    )
    height, width = part.grid.shape
    np.testing.assert_array_equal(part.rain_rate, whole.rain_rate[row : row + height, column : column + width])
    coarse = only(path, crop=box, coarsen=4)
    blocks = part.rain_rate[: height // 4 * 4, : width // 4 * 4].reshape(height // 4, 4, width // 4, 4)
    wanted = np.nanmean(np.where(np.isnan(blocks), 0, blocks), axis=(1, 3), dtype=np.float64)
    complete = ~np.isnan(blocks).any(axis=(1, 3))
    np.testing.assert_allclose(coarse.rain_rate[complete], wanted[complete], rtol=1e-6)


# --- other packages ---


@pytest.fixture
def pysteps_importers() -> Any:
    return pytest.importorskip("pysteps.io.importers")


oracle = pytest.mark.oracle
# The other packages warn of their own affairs.
quiet = pytest.mark.filterwarnings("ignore")


@oracle
@quiet
def test_pysteps_agrees_on_meteoswiss(radar_data: Path, pysteps_importers: Any) -> None:
    """Right there: the depth of each class. Not there: the time, and its corners are those of ours."""
    path = sorted(radar_data.glob("radar/mch/20150515/*"))[7]
    depth, _, metadata = pysteps_importers.import_mch_gif(str(path), "AQC", "mm", 5)
    frame = only(path)
    np.testing.assert_array_equal(np.isnan(depth), np.isnan(frame.rain_rate))
    np.testing.assert_allclose(frame.rain_rate, depth * 12, rtol=1e-5, atol=1e-6)
    assert (metadata["x1"], metadata["y2"]) == (frame.grid.x[0] - 500, frame.grid.y[0] + 500)


@oracle
@quiet
def test_pysteps_agrees_on_fmi(radar_data: Path, pysteps_importers: Any) -> None:
    path = sorted(radar_data.glob("radar/fmi/pgm/20160928/*"))[7]
    reflectivity, _, metadata = pysteps_importers.import_fmi_pgm(str(path), gzipped=True)
    frame = only(path)
    np.testing.assert_array_equal(np.isnan(reflectivity), np.isnan(frame.rain_rate))
    wet = frame.rain_rate > 0
    rates = (10 ** (reflectivity[wet] / 10) / 223) ** (1 / 1.53)
    np.testing.assert_allclose(frame.rain_rate[wet], rates, rtol=1e-5)
    # The same place in another frame of axes: there the south-west corner is the origin.
    to_degrees = pyproj.Transformer.from_crs(metadata["projection"], frame.grid.crs.geodetic_crs, always_xy=True)
    to_grid = pyproj.Transformer.from_crs(frame.grid.crs.geodetic_crs, frame.grid.crs, always_xy=True)
    x, y = to_grid.transform(*to_degrees.transform(metadata["x1"], metadata["y2"]))
    assert x == pytest.approx(frame.grid.x[0] - frame.grid.spacing[1] / 2, abs=5)
    assert y == pytest.approx(frame.grid.y[0] + frame.grid.spacing[0] / 2, abs=5)


@oracle
@quiet
def test_pysteps_agrees_on_bom_but_for_its_pixels(radar_data: Path, pysteps_importers: Any) -> None:
    """Wrong there: corners taken from centres, so that 512 pixels of 500 m come out as 499.02 m."""
    path = sorted(radar_data.glob("radar/bom/prcp-cscn/2/2018/06/16/*"))[7]
    depth, _, metadata = pysteps_importers.import_bom_rf3(str(path))
    frame = only(path)
    np.testing.assert_allclose(frame.rain_rate, depth * 10, atol=1e-4)
    assert (metadata["x2"] - metadata["x1"]) / 512 == pytest.approx(499.02, abs=0.01)
    assert frame.grid.spacing == (500.0, 500.0)


@oracle
@quiet
def test_pysteps_agrees_on_knmi(radar_data: Path, pysteps_importers: Any) -> None:
    path = sorted(radar_data.glob("radar/KNMI/2010/08/*"))[7]
    depth, _, _ = pysteps_importers.import_knmi_hdf5(str(path), qty="ACRR", accutime=5.0)
    frame = only(path)
    np.testing.assert_array_equal(np.isnan(depth), np.isnan(frame.rain_rate))
    np.testing.assert_allclose(frame.rain_rate, depth * 12, rtol=1e-5)


@oracle
@quiet
@pytest.mark.slow
def test_pysteps_on_opera(radar_data: Path, pysteps_importers: Any) -> None:
    """Right there: the rates. Wrong there: 15 min for an accumulation of 60, so that its rate is four times ours."""
    path = sorted(radar_data.glob("radar/OPERA/20180824/*"))[2]
    rate, _, _ = pysteps_importers.import_odim_hdf5(str(path), qty="RATE")
    frame = only(path)
    np.testing.assert_array_equal(np.isnan(rate), np.isnan(frame.rain_rate))
    np.testing.assert_allclose(frame.rain_rate, rate, rtol=1e-6)
    path = next(radar_data.glob("radar/OPERA/20241126/NIMBUS/T_PASH22*"))
    depth, _, metadata = pysteps_importers.import_odim_hdf5(str(path), qty="ACRR")
    frame = only(path)
    assert (metadata["accutime"], frame.interval_minutes) == (15.0, 60.0)
    np.testing.assert_allclose(depth * (60 / metadata["accutime"]), 4 * frame.rain_rate, rtol=1e-6)


@oracle
@quiet
def test_pysteps_agrees_on_the_saf(radar_data: Path, pysteps_importers: Any) -> None:
    path = sorted(radar_data.glob("saf/20180601/CRR/*"))[1]
    rate, _, metadata = pysteps_importers.import_saf_crri(str(path))
    frame = only(path)
    np.testing.assert_array_equal(np.isnan(rate), np.isnan(frame.rain_rate))
    np.testing.assert_allclose(frame.rain_rate, rate, atol=1e-4)
    assert metadata["x1"] == pytest.approx(frame.grid.x[0] - 1500, abs=1)


@oracle
@quiet
@pytest.mark.slow
def test_rasterio_agrees_on_the_geotiff(radar_data: Path) -> None:
    """The bytes by the formula of the metadata tag, and the place of a pixel by rasterio's own arithmetic."""
    rasterio = pytest.importorskip("rasterio")
    path = sorted(radar_data.glob("radar/fmi/geotiff/20160928/*"))[0]
    frame = only(path)
    with rasterio.open(path) as file:
        values = file.read(1)
        x, y = file.xy(100, 200)
    np.testing.assert_array_equal(np.isnan(frame.rain_rate), values == 255)
    wet = (values > 0) & (values < 255)
    rates = (10 ** ((0.5 * values[wet] - 32) / 10) / 223) ** (1 / 1.53)
    np.testing.assert_allclose(frame.rain_rate[wet], rates, rtol=1e-5)
    assert (frame.grid.x[200], frame.grid.y[100]) == (pytest.approx(x, abs=1e-3), pytest.approx(y, abs=1e-3))


@pytest.mark.slow
def test_mrms_agrees_with_the_image_inside_it(radar_data: Path) -> None:
    """Without eccodes' unpacking: section 7 is a 16-bit PNG, and a value is (X - 30) / 10."""
    import io

    import PIL.Image

    pytest.importorskip("eccodes")
    path = sorted(radar_data.glob("mrms/2019/06/10/*"))[0]
    contents = path.read_bytes()
    with PIL.Image.open(io.BytesIO(contents[contents.index(b"\x89PNG") :])) as image:
        tenths = np.asarray(image).astype(np.int32) - 30
    frame = only(path)
    np.testing.assert_array_equal(np.isnan(frame.rain_rate), tenths < 0)
    measured = tenths >= 0
    np.testing.assert_array_equal(frame.rain_rate[measured], (tenths[measured] / 10).astype(np.float32))


@oracle
@quiet
def test_wradlib_agrees_on_the_projection_of_radolan(radar_data: Path) -> None:
    georef = pytest.importorskip("wradlib.georef")
    frame = only(sorted(radar_data.glob("radolan/rw/*"))[0])
    degrees = georef.get_radolan_grid(900, 900, wgs84=True, mode="center", crs="trig")
    latitude, longitude = frame.grid.lat_lon()
    np.testing.assert_allclose(longitude[::-1], degrees[..., 0], atol=1e-4)
    np.testing.assert_allclose(latitude[::-1], degrees[..., 1], atol=1e-4)
