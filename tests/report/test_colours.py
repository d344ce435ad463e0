"""The colour scales: classes are exact, order survives colour blindness, images hold the classes."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nowcast.report.colours import (
    DIFFERENCE,
    EVENT_COLOURS,
    NO_DATA,
    PROBABILITY,
    RAIN,
    ColourScale,
    classify_events,
    indexed_png,
    palette,
    shrink,
    shrink_factor,
)
from nowcast.report.skill_charts import styles

# Machado et al. 2009, https://doi.org/10.1109/TVCG.2009.113, severity 1, for linear RGB.
VISION = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def cielab(colours: np.ndarray, vision: str) -> np.ndarray:
    """(n, 3) CIELAB (D65) of (n, 3) sRGB bytes as seen with a kind of vision."""
    srgb = colours / 255.0
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.array(VISION[vision]).T, 0, 1)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = seen @ to_xyz.T / [0.95047, 1.0, 1.08883]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("scale", [RAIN, PROBABILITY, DIFFERENCE])
def test_neighbouring_classes_differ_for_every_kind_of_vision(scale: ColourScale, vision: str) -> None:
    lab = cielab(scale.palette, vision)
    # A colour difference of 2.3 is just noticeable; 7 is clear between touching areas.
    assert np.linalg.norm(np.diff(lab[1:], axis=0), axis=1).min() > 7
    assert np.linalg.norm(lab[1:] - lab[0], axis=1).min() > 10, "a class looks like no data"


@pytest.mark.parametrize("vision", VISION)
def test_heavier_rain_is_darker_for_every_kind_of_vision(vision: str) -> None:
    assert np.diff(cielab(RAIN.palette, vision)[1:, 0]).max() < -2


@pytest.mark.parametrize("vision", VISION)
def test_hits_misses_and_false_alarms_differ_for_every_kind_of_vision(vision: str) -> None:
    lab = cielab(palette(EVENT_COLOURS), vision)
    apart = np.linalg.norm(lab[:, None] - lab[None], axis=2)
    assert apart[~np.eye(5, dtype=bool)].min() > 15


def test_a_value_on_a_bound_belongs_to_the_class_above_in_its_own_dtype() -> None:
    for dtype in (np.float32, np.float64):
        values = np.array([np.nan, -1.0, 0.0, 0.1, 99.9, 100.0, np.inf], dtype=dtype)
        assert RAIN.classify(values).tolist() == [0, 1, 1, 2, 10, 11, 11]
    below = np.nextafter(np.float32(0.1), np.float32(0))
    assert RAIN.classify(np.array([below])).tolist() == [1]
    assert RAIN.labels[:3] == ("< 0.1", "0.1–0.2", "0.2–0.5") and RAIN.labels[-1] == "≥ 100"


def test_events_at_each_pixel() -> None:
    forecast, observed = np.array([5.0, 5, 1, 1, np.nan, 5]), np.array([5.0, 1, 5, 1, 5, np.nan])
    assert classify_events(forecast, observed, 5.0).tolist() == [2, 3, 4, 1, 0, 0]


def test_a_png_gives_back_its_classes_and_no_data_is_grey() -> None:
    rain = np.random.default_rng(0).gamma(0.3, 10.0, (13, 17)).astype(np.float32)
    rain[0] = np.nan
    classes = RAIN.classify(rain)
    png = indexed_png(classes, RAIN.palette)
    image = Image.open(io.BytesIO(png))
    np.testing.assert_array_equal(np.asarray(image.convert("RGB")), RAIN.palette[classes])
    assert image.convert("RGB").getpixel((3, 0)) == tuple(palette((NO_DATA,))[0])
    assert png == indexed_png(classes, RAIN.palette)


def test_shrinking_keeps_the_mean_and_lets_the_missing_win_by_majority() -> None:
    field = np.array([[1, 3, 10], [5, 7, 20], [np.nan, np.nan, 4]], dtype=np.float32)
    np.testing.assert_array_equal(shrink(field, 2), [[4, 15], [np.nan, 4]])
    mostly_missing = np.array([[1, np.nan], [np.nan, np.nan]], dtype=np.float32)
    assert np.isnan(shrink(mostly_missing, 2)).all()
    assert shrink(mostly_missing[:, :1], 2).tolist() == [[1.0]]
    assert shrink(field, 1) is field
    assert [shrink_factor((640, 710), size) for size in (710, 709, 355)] == [1, 2, 2]


def test_a_scale_needs_one_colour_more_than_bounds() -> None:
    with pytest.raises(ValueError, match="2 bounds make 3 classes, not 2"):
        ColourScale("x", (1.0, 2.0), ("#ffffff", "#000000"))


@pytest.mark.parametrize("candidates", [1, 2, 3])
def test_six_models_have_six_line_styles(candidates: int) -> None:
    names = list("abcdef")
    analysis: Any = SimpleNamespace(candidates=names[:candidates], references=names[candidates:])
    assert len(set(styles(analysis).values())) == 6
