"""MeteoSwiss AQC: classes, time, interval and grid; a damaged image is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data_prep.readers.gif import GifError, parse_gif
from data_prep.readers.mch_gif import class_depths_mm
from data_prep.readers.registry import detect_format, read_frames
from nowcast.errors import DataError
from tests.data_prep.readers.reader_files import gif_bytes, gif_of_codes


@pytest.fixture(scope="module")
def classes() -> np.ndarray:
    classes = np.full((640, 710), 255, dtype=np.uint8)
    classes[0, :6] = (0, 1, 2, 151, 252, 255)
    return classes


@pytest.fixture(scope="module")
def contents(classes: np.ndarray) -> bytes:
    return gif_bytes(classes)


def write(path: Path, contents: bytes) -> Path:
    path.write_bytes(contents)
    return path


def test_classes_become_rain_rates(tmp_path: Path, contents: bytes) -> None:
    (frame,) = read_frames(write(tmp_path / "any.name", contents))

    lowest = 12 * ((10 ** ((2 - 71.5) / 20)) / 316) ** (1 / 1.5)
    np.testing.assert_allclose(frame.rain_rate[0, :5], [0, 0, lowest, 115.5376, 0], rtol=1e-6)
    assert np.isnan(frame.rain_rate[0, 5]) and np.isnan(frame.rain_rate[1:]).all()
    assert frame.valid_time == np.datetime64("2015-05-15T15:45")
    assert frame.interval_minutes == 5


def test_the_format_is_known_by_contents(tmp_path: Path, contents: bytes) -> None:
    assert detect_format(write(tmp_path / "rain.pgm.gz", contents)) == "mch_gif"


def test_classes_are_half_decibels() -> None:
    rates = 12 * class_depths_mm()[2:251]
    decibels = 10 * np.log10(316 * (rates / 12) ** 1.5)
    np.testing.assert_allclose(np.diff(decibels), 0.5, atol=1e-9)


def test_the_grid_lies_on_switzerland(tmp_path: Path, contents: bytes) -> None:
    (frame,) = read_frames(write(tmp_path / "a.gif", contents))

    latitude, longitude = frame.grid.lat_lon()
    # The old observatory of Bern is the origin of the national grid, y = 600 km, x = 200 km.
    row, column = 280, 345
    assert (frame.grid.x[column], frame.grid.y[row]) == (600_500.0, 199_500.0)
    assert latitude[row, column] == pytest.approx(46.947, abs=0.002)
    assert longitude[row, column] == pytest.approx(7.445, abs=0.002)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(tmp_path: Path, contents: bytes, share: float) -> None:
    path = write(tmp_path / "a.gif", contents[: int(share * len(contents))])
    with pytest.raises(DataError, match=r"a\.gif: a damaged GIF: .*cut short"):
        list(read_frames(path))


def test_an_image_without_an_end_is_refused(tmp_path: Path, classes: np.ndarray) -> None:
    with pytest.raises(DataError, match="breaks off after 454400 of 454400"):
        list(read_frames(write(tmp_path / "a.gif", gif_bytes(classes, end=False))))


def test_an_image_short_of_pixels_is_refused(tmp_path: Path, classes: np.ndarray) -> None:
    short = gif_bytes(classes[:-1])
    with pytest.raises(DataError, match="ends after 453690 of 454400"):
        list(
            read_frames(
                write(tmp_path / "a.gif", short.replace((639).to_bytes(2, "little"), (640).to_bytes(2, "little")))
            )
        )


def test_other_products_are_refused(tmp_path: Path, classes: np.ndarray, contents: bytes) -> None:
    other = gif_bytes(classes, comment="PRDT=RZC151351545 SCALE=mmh2LASSEN8bit ACCUm=000005")
    with pytest.raises(DataError, match="declares the scale mmh2LASSEN8bit, wanted mmh2LASSEN8bitmm_mn"):
        list(read_frames(write(tmp_path / "a.gif", other)))
    with pytest.raises(DataError, match="an image of 64x71 pixels"):
        list(read_frames(write(tmp_path / "b.gif", gif_bytes(classes[:64, :71]))))


def test_a_time_that_is_none_is_refused(tmp_path: Path, classes: np.ndarray) -> None:
    comment = "PRDT=AQC153991545 SCALE=mmh2LASSEN8bitmm_mn ACCUm=000005"
    with pytest.raises(DataError, match="product time '153991545' is not a time"):
        list(read_frames(write(tmp_path / "a.gif", gif_bytes(classes, comment=comment))))


def test_a_name_that_contradicts_the_contents_is_refused(tmp_path: Path, contents: bytes) -> None:
    assert len(list(read_frames(write(tmp_path / "AQC151351545F_00005.801.gif", contents)))) == 1
    with pytest.raises(DataError, match="name says 151351550 and its contents 151351545"):
        list(read_frames(write(tmp_path / "AQC151351550F_00005.801.gif", contents)))


def test_no_declared_interval_asks_for_one(tmp_path: Path, classes: np.ndarray) -> None:
    comment = "PRDT=AQC151351545 SCALE=mmh2LASSEN8bitmm_mn"
    with pytest.raises(DataError, match="no interval ACCUm.*accumulation_minutes"):
        list(read_frames(write(tmp_path / "a.gif", gif_bytes(classes, comment=comment))))


def test_a_code_that_is_in_no_table_is_refused() -> None:
    image = np.arange(600, dtype=np.uint8).reshape(20, 30)
    contents = gif_bytes(image)
    np.testing.assert_array_equal(parse_gif(contents).indices(), image)
    # Nine bits of ones straight after the clear code: entry 511 of a table of 258.
    start = contents.index(b"\x00\x08\xff") + 3
    broken = contents[:start] + b"\x00\xff\xff" + contents[start + 3 :]
    with pytest.raises(GifError, match="code 511 is not in the table"):
        parse_gif(broken).indices()


def longest_runs(image: np.ndarray) -> list[int]:
    """The codes that an encoder writes: always the longest run that its table holds."""
    table = {(value,): value for value in range(256)}
    codes, run = [256], ()
    for value in image.ravel().tolist():
        if (*run, value) in table:
            run = (*run, value)
            continue
        codes.append(table[run])
        table[(*run, value)] = len(table) + 2
        run = (value,)
    return [*codes, table[run], 257]


def test_a_code_that_no_encoder_would_choose_is_refused() -> None:
    """One run in place of another of its length: every pixel is there, and only the table contradicts."""
    image = np.random.default_rng(0).integers(0, 4, (30, 40)).astype(np.uint8)
    codes = longest_runs(image)
    np.testing.assert_array_equal(parse_gif(gif_of_codes(codes, image.shape)).indices(), image)
    found = 0
    literals = [at for at in range(1, 60) if codes[at] < 4]
    for at in literals:
        other = [*codes[:at], (codes[at] + 1) % 4, *codes[at + 1 :]]
        try:
            assert not np.array_equal(parse_gif(gif_of_codes(other, image.shape)).indices(), image)
        except GifError as error:
            found += "the table held a longer run" in str(error)
    assert found > len(literals) / 2


@pytest.mark.slow
def test_most_flipped_bits_of_a_real_image_are_found(radar_data: Path) -> None:
    contents = sorted((radar_data / "radar/mch").rglob("*.gif"))[60].read_bytes()
    whole = parse_gif(contents).indices()
    generator = np.random.default_rng(5)
    unseen = 0
    for _ in range(400):
        damaged = bytearray(contents)
        damaged[int(generator.integers(1200, len(contents) - 2))] ^= 1 << int(generator.integers(0, 8))
        try:
            unseen += not np.array_equal(parse_gif(bytes(damaged)).indices(), whole)
        except GifError:
            continue
    # 905 of 3,000 went unseen; 400 leave a margin of three standard deviations.
    assert unseen < 0.37 * 400


@pytest.mark.oracle
def test_the_decoder_agrees_with_pillow(radar_data: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    for path in sorted((radar_data / "radar/mch").rglob("*.gif"))[::20]:
        with image.open(path) as opened:
            np.testing.assert_array_equal(parse_gif(path.read_bytes()).indices(), np.asarray(opened))


def test_a_gif_cut_short_before_its_comment_says_so(tmp_path: Path, contents: bytes) -> None:
    path = tmp_path / "a.gif"
    path.write_bytes(contents[:300])
    with pytest.raises(DataError, match="a GIF that is cut short"):
        list(read_frames(path))
