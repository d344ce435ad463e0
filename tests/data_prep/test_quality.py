"""Quality steps: what each does to the field it should change, and to none other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data_prep.quality import QualityOptions, apply_quality, find_static_clutter
from nowcast.data.archive import open_archive
from nowcast.data.archive_writer import write_archive
from nowcast.data.grid import Grid
from nowcast.errors import ConfigError, DataError

OFF = {"rate_cap_mm_h": None}


def test_with_every_step_off_nothing_changes() -> None:
    rain = np.array([[0.0, 0.05, 9000.0], [np.nan, 1.0, 2.0]], dtype=np.float32)
    out, changes = apply_quality(rain, None, QualityOptions(rate_cap_mm_h=None))
    np.testing.assert_array_equal(out, rain)
    assert changes == {}


def test_the_cap_is_on_by_default_and_counts() -> None:
    rain = np.array([[300.0, 300.1, 8647.0, np.nan, 0.0]], dtype=np.float32)
    out, changes = apply_quality(rain, None, QualityOptions())
    assert out.tolist()[0][:3] == [300.0, 300.0, 300.0] and np.isnan(out[0, 3])
    assert changes == {"capped": 2}
    assert rain[0, 2] == 8647.0


def test_the_threshold_makes_smaller_rates_dry_and_keeps_itself() -> None:
    rain = np.array([[0.1, 0.0999, 0.0, np.nan]], dtype=np.float32)
    out, changes = apply_quality(rain, None, QualityOptions(rain_threshold_mm_h=0.1, **OFF))
    np.testing.assert_array_equal(out, np.array([[0.1, 0, 0, np.nan]], dtype=np.float32))
    assert changes == {"below_threshold": 1}


def test_low_quality_becomes_missing_and_unknown_quality_stays() -> None:
    rain = np.array([[1.0, 2.0, 3.0, np.nan]], dtype=np.float32)
    quality = np.array([[0.2, 0.5, np.nan, 0.0]])
    out, changes = apply_quality(rain, quality, QualityOptions(minimum_quality=0.5, **OFF))
    np.testing.assert_array_equal(out, np.array([[np.nan, 2, 3, np.nan]], dtype=np.float32))
    assert changes == {"low_quality": 1}
    with pytest.raises(DataError, match="the file has none"):
        apply_quality(rain, None, QualityOptions(minimum_quality=0.5))


def test_speckle_is_a_wet_pixel_with_too_few_wet_neighbours() -> None:
    rain = np.zeros((5, 6), dtype=np.float32)
    rain[0, 0] = 4.0  # alone in the corner
    rain[2:4, 3:5] = 2.0  # a block: three neighbours each
    rain[4, 0], rain[4, 1] = 1.0, 1.0  # a pair: one neighbour each
    rain[0, 5] = np.nan
    out, changes = apply_quality(rain, None, QualityOptions(speckle_neighbours=1, **OFF))
    assert changes == {"speckle": 1} and out[0, 0] == 0 and out[4, 0] == 1
    out, changes = apply_quality(rain, None, QualityOptions(speckle_neighbours=2, **OFF))
    assert changes == {"speckle": 3} and out[4, 0] == 0 and (out[2:4, 3:5] == 2).all()
    assert np.isnan(out[0, 5])


def test_clutter_becomes_missing_from_npy_and_png(tmp_path: Path) -> None:
    from PIL import Image

    mask = np.array([[True, False], [False, True]])
    np.save(tmp_path / "mask.npy", mask)
    Image.fromarray((mask * 255).astype(np.uint8)).save(tmp_path / "mask.png")
    rain = np.array([[1.0, 2.0], [3.0, np.nan]], dtype=np.float32)
    for name in ("mask.npy", "mask.png"):
        options = QualityOptions(clutter_mask=str(tmp_path / name), **OFF)
        out, changes = apply_quality(rain, None, options)
        np.testing.assert_array_equal(out, np.array([[np.nan, 2], [3, np.nan]], dtype=np.float32))
        assert changes == {"clutter": 1}
        assert len(options.to_attributes()["clutter_mask_sha256"]) == 64
    with pytest.raises(DataError, match="has 2x2 pixels, the frames have 3x3"):
        apply_quality(np.zeros((3, 3), np.float32), None, options)


def test_static_clutter_is_found_where_it_always_rains(tmp_path: Path) -> None:
    rain = np.zeros((240, 4, 5), dtype=np.float32)
    rain[:, 1, 1] = 3.0
    rain[:120, 2, 2] = 3.0
    rain[:, 3, 3] = np.nan
    grid = Grid.from_corner(0.0, 0.0, 1000.0, 1000.0, (4, 5), "EPSG:3035")
    start, step = np.datetime64("2024-01-01", "s"), np.timedelta64(3600, "s")
    archive = open_archive(write_archive(tmp_path / "a.zarr", rain, first_time=start, step=step, grid=grid))
    assert np.argwhere(find_static_clutter(archive)).tolist() == [[1, 1]]


def test_a_short_archive_does_not_tell_clutter_from_rain(tmp_path: Path) -> None:
    grid = Grid.from_corner(0.0, 0.0, 1000.0, 1000.0, (4, 5), "EPSG:3035")
    start, step, rain = np.datetime64("2024-01-01", "s"), np.timedelta64(300, "s"), np.full((15, 4, 5), 3.0)
    archive = open_archive(write_archive(tmp_path / "a.zarr", rain, first_time=start, step=step, grid=grid))
    with pytest.raises(DataError, match="15 frames on 1 day, too few.*wanted 200 frames on 7 days or more"):
        find_static_clutter(archive)


def test_options_survive_an_archives_attributes_and_a_changed_mask_is_noticed(tmp_path: Path) -> None:
    np.save(tmp_path / "mask.npy", np.eye(3, dtype=bool))
    options = QualityOptions(0.2, None, 0.3, str(tmp_path / "mask.npy"), 2)
    attributes = options.to_attributes()
    assert attributes["rate_cap_mmh"] == "off"
    assert QualityOptions.from_attributes(attributes) == options
    np.save(tmp_path / "mask.npy", np.zeros((3, 3), dtype=bool))
    with pytest.raises(ConfigError, match="is another one"):
        QualityOptions.from_attributes(attributes)
    np.save(tmp_path / "moved.npy", np.eye(3, dtype=bool))
    (tmp_path / "mask.npy").unlink()
    moved = QualityOptions.from_attributes(attributes, clutter_mask=str(tmp_path / "moved.npy"))
    assert moved.clutter_mask == str(tmp_path / "moved.npy")
    with pytest.raises(ConfigError, match="mask.npy is not there"):
        QualityOptions.from_attributes(attributes)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rain_threshold_mm_h": -0.1}, "0 mm/h or more"),
        ({"rate_cap_mm_h": 0.0}, "above the rain threshold"),
        ({"rain_threshold_mm_h": 5.0, "rate_cap_mm_h": 4.0}, "above the rain threshold"),
        ({"minimum_quality": 1.5}, "between 0 and 1"),
        ({"speckle_neighbours": 9}, "8 neighbours"),
    ],
)
def test_options_that_make_no_sense_are_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        QualityOptions(**values)  # type: ignore[arg-type]
