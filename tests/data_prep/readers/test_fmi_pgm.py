"""FMI PGM: bytes to dBZ to mm/h, the header's time and projection; a header that contradicts itself is refused."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from data_prep.readers.options import ReadOptions
from data_prep.readers.registry import detect_format, read_frames
from nowcast.data.units import ZRelation
from nowcast.errors import DataError
from tests.data_prep.readers.reader_files import write_pgm

# topright of the builder's header fits 6 rows by 4 columns.
VALUES = np.array([[0, 1, 64, 100], [255, 255, 0, 0]] * 3, dtype=np.uint8)


def test_bytes_become_rain_rates(tmp_path: Path) -> None:
    (frame,) = read_frames(write_pgm(tmp_path / "a.pgm.gz", VALUES))

    relation = ZRelation(223.0, 1.53)
    wanted = relation.rain_rate(np.array([-31.5, 0.0, 18.0]))
    np.testing.assert_allclose(frame.rain_rate[0], [0, *wanted], rtol=1e-6)
    assert np.isnan(frame.rain_rate[1, :2]).all() and (frame.rain_rate[1, 2:] == 0).all()
    assert frame.valid_time == np.datetime64("2016-09-28T14:45")
    assert frame.interval_minutes is None
    assert (frame.attributes["zr_a"], frame.attributes["zr_b"]) == (223.0, 1.53)


def test_a_declared_z_relation_is_used(tmp_path: Path) -> None:
    path = write_pgm(tmp_path / "a.pgm.gz", VALUES)
    (frame,) = read_frames(path, options=ReadOptions(z_relation=ZRelation(200, 1.6)))
    assert frame.rain_rate[0, 3] == pytest.approx((10**1.8 / 200) ** (1 / 1.6), rel=1e-6)


def test_the_corner_is_where_the_header_says(tmp_path: Path) -> None:
    (frame,) = read_frames(write_pgm(tmp_path / "a.pgm.gz", VALUES))
    latitude, longitude = frame.grid.lat_lon()
    # Half a pixel in from the south-west corner 57.93 N, 18.60 E; north is the first row.
    assert latitude[-1, 0] == pytest.approx(57.93 + 0.005, abs=0.003)
    assert longitude[-1, 0] == pytest.approx(18.6 + 0.0085, abs=0.003)
    assert latitude[0, 0] > latitude[-1, 0]


def test_gzip_is_known_by_its_bytes(tmp_path: Path) -> None:
    plain = write_pgm(tmp_path / "plain.gz", VALUES, zipped=False)
    zipped = write_pgm(tmp_path / "zipped.pgm", VALUES)
    assert detect_format(plain) == detect_format(zipped) == "fmi_pgm"
    np.testing.assert_array_equal(next(read_frames(plain)).rain_rate, next(read_frames(zipped)).rain_rate)


def test_a_cut_gzip_stream_is_refused(tmp_path: Path) -> None:
    path = write_pgm(tmp_path / "a.pgm.gz", VALUES)
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(DataError, match=r"a\.pgm\.gz: the gzip stream is damaged"):
        list(read_frames(path))


def test_a_wrong_checksum_is_refused(tmp_path: Path) -> None:
    path = write_pgm(tmp_path / "a.pgm.gz", VALUES)
    contents = bytearray(path.read_bytes())
    contents[-8] ^= 1
    path.write_bytes(contents)
    with pytest.raises(DataError, match="gzip stream is damaged.*incorrect data check"):
        list(read_frames(path, format="fmi_pgm"))


def test_missing_pixels_are_refused(tmp_path: Path) -> None:
    path = write_pgm(tmp_path / "a.pgm", VALUES, zipped=False)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(DataError, match="cut short: 19 of 6x4 pixels"):
        list(read_frames(path))


def test_bytes_beyond_the_image_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pgm"
    write_pgm(path, VALUES, zipped=False)
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(DataError, match="holds more than"):
        list(read_frames(path))


def test_an_absurd_size_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    path = write_pgm(tmp_path / "a.pgm", VALUES, zipped=False)
    path.write_bytes(path.read_bytes().replace(b"\n4 6\n", b"\n400000 600000\n"))
    with pytest.raises(DataError, match="claims a grid of 600000x400000 pixels"):
        list(read_frames(path))


def test_a_gzip_bomb_is_read_no_further_than_its_header_allows(tmp_path: Path) -> None:
    path = tmp_path / "a.pgm.gz"
    write_pgm(path, VALUES)
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + bytes(200_000_000), compresslevel=1))
    with pytest.raises(DataError, match="holds more than"):
        list(read_frames(path))


@pytest.mark.parametrize(
    ("comments", "message"),
    [
        ({"obstime": None}, "no '# obstime'.*declare time_pattern"),
        ({"obstime": "201613281445"}, "'201613281445' is not a time"),
        ({"type": "mercator"}, "projection is 'mercator', wanted stereographic"),
        ({"metersperpixel_x": "-3"}, "pixels of -3.0"),
        ({"metersperpixel_x": "fast"}, "'fast', wanted 1 number"),
        ({"topright": None}, "'# topright' of its header is missing"),
        ({"topright": "34.903 69.005"}, "corners lie .* m apart, but 6x4 pixels"),
    ],
)
def test_a_header_that_cannot_be_used_is_refused(tmp_path: Path, comments: dict[str, str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        list(read_frames(write_pgm(tmp_path / "a.pgm", VALUES, **comments)))


def test_sixteen_bit_values_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="values up to 65535, wanted 8-bit"):
        list(read_frames(write_pgm(tmp_path / "a.pgm", VALUES, maximum=65535)))


def test_a_time_in_the_name_is_used_when_declared(tmp_path: Path) -> None:
    path = write_pgm(tmp_path / "201609281450_fmi.pgm", VALUES, obstime=None)
    (frame,) = read_frames(path, options=ReadOptions(time_pattern="%Y%m%d%H%M_fmi"))
    assert frame.valid_time == np.datetime64("2016-09-28T14:50")


def test_radar_sites_fall_on_their_places(radar_data: Path) -> None:
    """The header's corners are degrees; the sites in it must lie inside, Vantaa where it stands."""
    path = sorted((radar_data / "radar/fmi/pgm/20160928").iterdir())[0]
    (frame,) = read_frames(path)
    latitude, longitude = frame.grid.lat_lon()
    distance = np.hypot(latitude - 60.271, (longitude - 24.873) * np.cos(np.deg2rad(60.271)))
    row, column = np.unravel_index(distance.argmin(), distance.shape)
    assert distance.min() < 0.01
    # By hand: rho = R (1 + sin 60) tan(45 - latitude / 2) km from the pole; the top edge is 69.005 N, 34.903 E.
    top, left = (
        distance_from_pole_km(69.005) * np.cos(np.deg2rad(9.903)),
        -distance_from_pole_km(57.93) * np.sin(np.deg2rad(6.4)),
    )
    along, across = (distance_from_pole_km(60.271) * part(np.deg2rad(-0.127)) for part in (np.cos, np.sin))
    assert row == int((along - top) / 0.99962859)
    assert column == int((across - left) / 0.999674053)


def distance_from_pole_km(latitude: float) -> float:
    return 6371.288 * (1 + np.sin(np.deg2rad(60))) * np.tan(np.deg2rad(45 - latitude / 2))
