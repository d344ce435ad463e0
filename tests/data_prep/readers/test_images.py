"""HKO-7's PNGs and FMI's GeoTIFFs: scale, declared time and place, damage."""

from __future__ import annotations

import builtins
import io
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageFile
import pytest

from data_prep.readers.hko_png import hko7_grid, local_grid
from data_prep.readers.options import ReadOptions
from data_prep.readers.registry import detect_format, read_frames
from nowcast.data.units import ZRelation
from nowcast.errors import ConfigError, DataError, MissingPackageError

VALUES = np.array([[0, 1, 128], [200, 254, 255]], dtype=np.uint8)
GRID = local_grid(22.3, 114.2, VALUES.shape, pixel_km=1.0)
PATTERN = "RAD%y%m%d%H%M%S"


def png(values: np.ndarray, mode: str | None = None) -> bytes:
    stream = io.BytesIO()
    PIL.Image.fromarray(values).convert(mode or "L").save(stream, "PNG")
    return stream.getvalue()


def write(folder: Path, contents: bytes, name: str = "RAD090101000600.png") -> Path:
    path = folder / name
    path.write_bytes(contents)
    return path


def read_one(path: Path, **options: Any) -> Any:
    (frame,) = read_frames(path, options=ReadOptions(**{"time_pattern": PATTERN, "grid": GRID, **options}))
    return frame


def test_pixels_become_rain_rates(tmp_path: Path) -> None:
    path = write(tmp_path, png(VALUES))
    assert detect_format(path) == "hko_png"
    frame = read_one(path)
    wanted = ZRelation(58.53, 1.56).rain_rate(VALUES / 255 * 70 - 10)
    wanted[0, 0] = 0
    np.testing.assert_allclose(frame.rain_rate, wanted, rtol=1e-6)
    assert frame.valid_time == np.datetime64("2009-01-01T00:06:00")


def test_a_pixel_value_may_be_declared_missing(tmp_path: Path) -> None:
    assert np.isnan(read_one(write(tmp_path, png(VALUES)), missing_values=(255,)).rain_rate[1, 2])


def test_time_and_place_are_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path, png(VALUES))
    with pytest.raises(DataError, match="a PNG holds no time.*declare time_pattern"):
        read_one(path, time_pattern=None)
    with pytest.raises(DataError, match="its name RAD999999999999.png holds no time by the pattern"):
        read_one(write(tmp_path, png(VALUES), "RAD999999999999.png"))
    with pytest.raises(DataError, match="does not say where its pixels are.*declare grid"):
        read_one(path, grid=None)
    with pytest.raises(DataError, match=r"an image of \(2, 3\) pixels for a grid of \(480, 480\)"):
        read_one(path, grid="hko7")


def test_hko7s_grid_is_512_km_wide_around_hong_kong() -> None:
    grid = hko7_grid()
    assert grid.shape == (480, 480)
    assert grid.x[-1] - grid.x[0] + grid.spacing[1] == pytest.approx(512_000)
    latitude, longitude = grid.lat_lon()
    assert latitude[239:241, 239:241].mean() == pytest.approx(22.302, abs=1e-4)
    assert longitude[239:241, 239:241].mean() == pytest.approx(114.174, abs=1e-4)


def test_a_pattern_of_words_is_refused() -> None:
    with pytest.raises(ConfigError, match="time pattern '%B%Y' holds %B"):
        ReadOptions(time_pattern="%B%Y")
    with pytest.raises(ConfigError, match="gives no date"):
        ReadOptions(time_pattern="%H%M")


def test_damaged_pngs_are_refused(tmp_path: Path) -> None:
    contents = png(np.random.default_rng(0).integers(0, 256, (40, 50)).astype(np.uint8))
    grid = local_grid(22.3, 114.2, (40, 50), pixel_km=1.0)
    for share in (0.3, 0.7, 0.99):
        with pytest.raises(DataError, match="cut short: its closing chunk is missing"):
            read_one(write(tmp_path, contents[: int(share * len(contents))]), grid=grid)
    flipped = bytearray(contents)
    flipped[len(contents) // 2] ^= 1
    with pytest.raises(DataError, match="the checksum of its chunk b'IDAT' is wrong"):
        read_one(write(tmp_path, bytes(flipped)), grid=grid)


def test_an_image_of_other_colours_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="8 bits and colour type 2, wanted 8 bits of grey"):
        list(
            read_frames(
                write(tmp_path, png(VALUES, "RGB")),
                format="hko_png",
                options=ReadOptions(time_pattern=PATTERN, grid=GRID),
            )
        )


def test_an_image_that_ends_early_under_right_checksums_is_refused(tmp_path: Path) -> None:
    """A writer that was stopped: half of the compressed rows, closed as if whole."""
    path = write(tmp_path, rebuilt(png(VALUES), zlib.compress(b"\x00" + bytes(3))))
    with pytest.raises(DataError, match="cut short, or larger than it says"):
        read_one(path)


def test_a_bomb_is_unpacked_no_further_than_the_image(tmp_path: Path) -> None:
    path = write(tmp_path, rebuilt(png(VALUES), zlib.compress(bytes(50_000_000))))
    with pytest.raises(DataError, match="cut short, or larger than it says"):
        read_one(path)


def test_pillow_set_to_accept_truncated_images_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PIL.ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(DataError, match="LOAD_TRUNCATED_IMAGES"):
        read_one(write(tmp_path, png(VALUES)))


def rebuilt(contents: bytes, data: bytes) -> bytes:
    """A PNG with another compressed image under right checksums."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")

    return contents[:33] + chunk(b"IDAT", data) + chunk(b"IEND", b"")


METADATA = (
    '<GDALMetadata><Item name="Observation time" format="YYYYMMDDhhmm">{time}</Item>'
    '<Item name="Quantity" unit="{unit}">Corrected reflectivity</Item><Item name="Gain">{gain}</Item>'
    '<Item name="Offset">-32.000000</Item><Item name="Nodata">255</Item><Item name="Undetect">0</Item></GDALMetadata>'
)


def write_tiff(path: Path, *, metadata: str | None = None, count: int = 1, **changes: Any) -> Path:
    rasterio = pytest.importorskip("rasterio")
    values = np.array([[0, 64, 100], [255, 128, 0]], dtype=np.uint8)
    profile = {
        "driver": "GTiff", "height": 2, "width": 3, "count": count, "dtype": "uint8", "crs": "EPSG:3067",
        "transform": rasterio.Affine(250, 0, 300_000, 0, -250, 7_000_000), **changes,
    }  # fmt: skip
    with rasterio.open(path, "w", **profile) as file:
        for band in range(1, count + 1):
            file.write(values, band)
        text = METADATA.format(time="201609281445", unit="dBZ", gain="0.5") if metadata is None else metadata
        if text:
            file.update_tags(GDAL_METADATA=text)
    return path


def test_a_geotiff_is_scaled_by_its_metadata_tag(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif")
    assert detect_format(path) == "fmi_geotiff"
    frame = read_one(path)
    relation = ZRelation(223.0, 1.53)
    wanted = [
        [0, relation.rain_rate(np.array(0.0)), relation.rain_rate(np.array(18.0))],
        [np.nan, relation.rain_rate(np.array(32.0)), 0],
    ]
    np.testing.assert_allclose(frame.rain_rate, wanted, rtol=1e-6)
    assert frame.valid_time == np.datetime64("2016-09-28T14:45")
    np.testing.assert_array_equal(frame.grid.x, [300_125, 300_375, 300_625])
    np.testing.assert_array_equal(frame.grid.y, [6_999_875, 6_999_625])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metadata": ""}, "GDAL_METADATA is missing"),
        ({"metadata": "<GDALMetadata"}, "GDAL_METADATA is damaged"),
        ({"metadata": '<!DOCTYPE a [<!ENTITY b "c">]><GDALMetadata/>'}, "missing or unusable"),
        ({"metadata": METADATA.format(time="201699281445", unit="dBZ", gain="0.5")}, "is not a time"),
        ({"metadata": METADATA.format(time="201609281445", unit="mm", gain="0.5")}, "has the unit 'mm', wanted dBZ"),
        ({"metadata": METADATA.format(time="201609281445", unit="dBZ", gain="none")}, "gain as 'none'"),
        ({"count": 3}, "3 band"),
        ({"crs": None}, "no projection"),
    ],
)
def test_a_geotiff_that_cannot_be_used_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_one(write_tiff(tmp_path / "a.tif", **change))


def test_a_truncated_geotiff_is_refused(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif")
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(DataError, match=r"a\.tif"):
        read_one(path)


def test_blocks_that_are_not_there_are_not_dry(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    path = tmp_path / "a.tif"
    profile = {
        "driver": "GTiff", "height": 64, "width": 64, "count": 1, "dtype": "uint8", "crs": "EPSG:3067", "tiled": True,
        "blockxsize": 32, "blockysize": 32, "compress": "deflate", "sparse_ok": True,
        "transform": rasterio.Affine(250, 0, 300_000, 0, -250, 7_000_000),
    }  # fmt: skip
    with rasterio.open(path, "w", **profile) as file:
        file.write(np.full((32, 64), 64, dtype=np.uint8), 1, window=((0, 32), (0, 64)))
        file.update_tags(GDAL_METADATA=METADATA.format(time="201609281445", unit="dBZ", gain="0.5"))
    with pytest.raises(DataError, match="its block 1, 0 is not there"):
        read_one(path)


def test_a_damaged_block_is_refused_though_gdal_reads_it(tmp_path: Path) -> None:
    """GDAL does not compare the checksum of a deflated block."""
    path = write_tiff(tmp_path / "a.tif", compress="deflate")
    contents = bytearray(path.read_bytes())
    start = contents.index(b"\x78")
    while zlib_end(contents, start) is None:
        start = contents.index(b"\x78", start + 1)
    end = zlib_end(contents, start)
    assert end is not None
    contents[end - 1] ^= 1
    path.write_bytes(contents)
    with pytest.raises(DataError, match="its block 0, 0 is damaged"):
        read_one(path)


def zlib_end(contents: bytearray, start: int) -> int | None:
    """Where a deflated stream that begins at a byte ends, if one does."""
    stream = zlib.decompressobj()
    try:
        stream.decompress(bytes(contents[start:]))
    except zlib.error:
        return None
    return len(contents) - len(stream.unused_data) if stream.eof else None


@pytest.mark.parametrize(
    ("package", "contents", "extra"), [("rasterio", b"II*\x00", "geotiff"), ("eccodes", b"GRIB", "grib")]
)
def test_a_missing_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, contents: bytes, extra: str
) -> None:
    import_ = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == package:
            raise ImportError(name)
        return import_(name, *args, **kwargs)

    path = write(tmp_path, contents + bytes(100), "a.bin")
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingPackageError, match=rf"needs the package '{package}'.*nowcast-pipeline\[{extra}\]"):
        list(read_frames(path))
