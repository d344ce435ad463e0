"""The player page: its frames are the fields, its layers the right ones, and it works in a browser without network."""

from __future__ import annotations

import base64
import html
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from cli.view import command
from nowcast.data.archive import RadarArchive
from nowcast.data.forecast import Forecast
from nowcast.errors import DataError
from nowcast.report.colours import DIFFERENCE, EVENT_COLOURS, PROBABILITY, RAIN, palette
from nowcast.report.frames import Frames, frames_of
from nowcast.report.view import neighbourhood_probability, view_page
from tests.report.browser import Browser
from tests.report.moving_shower import forecast_of, shower

THRESHOLDS = (0.1, 1.0, 10.0)


def payload(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    values: dict[str, Any] = json.loads(found[1])
    return values


def pixels(uri: str) -> np.ndarray:
    png = base64.b64decode(uri.removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


@pytest.fixture
def frames(archive: RadarArchive, forecast: Forecast) -> Frames:
    return frames_of(forecast, archive)


def test_every_frame_of_every_layer_is_the_field_it_stands_for(frames: Frames) -> None:
    data = payload(view_page(frames, thresholds=THRESHOLDS))
    layers = data["layers"]
    still, moving = shower(10)[2], shower(10)[3:9]
    for lead in range(6):
        seen = {key: pixels(layers[key]["frames"][lead]) for key in ("observed", "forecast", "difference")}
        np.testing.assert_array_equal(seen["observed"], RAIN.palette[RAIN.classify(moving[lead])])
        np.testing.assert_array_equal(seen["forecast"], RAIN.palette[RAIN.classify(still)])
        wanted = DIFFERENCE.palette[DIFFERENCE.classify(still - moving[lead])]
        np.testing.assert_array_equal(seen["difference"], wanted)
    for index, threshold in enumerate(THRESHOLDS):
        events = pixels(layers["events"]["frames"][index][5])
        colours = palette(EVENT_COLOURS)
        hits = (still >= threshold) & (moving[5] >= threshold)
        np.testing.assert_array_equal((events == colours[2]).all(axis=2), hits)
        np.testing.assert_array_equal((events == colours[3]).all(axis=2), (still >= threshold) & ~hits)
        np.testing.assert_array_equal((events == colours[4]).all(axis=2), (moving[5] >= threshold) & ~hits)
    assert data["times"][0] == "2024-05-01 12:15 UTC" and data["labels"][5] == "+30 min"


def test_an_ensemble_shows_the_share_of_its_members(archive: RadarArchive) -> None:
    members = np.stack([np.repeat(shower(10)[k : k + 1], 3, axis=0) for k in (2, 4, 6, 8)])
    page = view_page(frames_of(forecast_of(members, "ensemble"), archive), thresholds=THRESHOLDS)
    layer = payload(page)["layers"]["probability"]
    share = 100.0 * (members[:, 0] >= 10).mean(axis=0)
    share[np.isnan(members[0, 0])] = np.nan
    np.testing.assert_array_equal(pixels(layer["frames"][2][0]), PROBABILITY.palette[PROBABILITY.classify(share)])
    assert "share of the 4 members" in page and payload(page)["layers"]["forecast"]["name"] == "Ensemble mean"


def test_a_forecast_with_its_own_probabilities_shows_them_and_another_says_what_it_shows(forecast: Forecast) -> None:
    rng = np.random.default_rng(0)
    levels = (*THRESHOLDS, 99.0)
    chances = rng.random((1, 6, len(levels), *forecast.grid.shape)).astype(np.float32)
    own = replace(forecast, chances=chances, thresholds=levels)
    page = view_page(frames_of(own), thresholds=THRESHOLDS[1:])
    layer = payload(page)["layers"]["probability"]
    for shown, held in ((0, 1), (1, 2)):
        wanted = PROBABILITY.palette[PROBABILITY.classify(100.0 * chances[0, 4, held])]
        np.testing.assert_array_equal(pixels(layer["frames"][shown][4]), wanted)
    assert layer["name"] == "Probability" and "the forecast's own" in html.unescape(page)
    other = html.unescape(view_page(frames_of(own), thresholds=[0.7]))
    assert payload(other)["layers"]["probability"]["name"] == "Share near by"
    held = ", ".join(f"{level:g}" for level in levels)
    assert f"The forecast's own probabilities are of {held} mm/h" in other and "not a probability" in other


def test_neighbourhood_probability_is_the_share_of_valid_pixels_near_by() -> None:
    rng = np.random.default_rng(0)
    rain = rng.gamma(0.5, 2.0, (12, 15)).astype(np.float32)
    rain[rng.random(rain.shape) < 0.2] = np.nan
    found = neighbourhood_probability(rain, 1.0, (1, 2))
    for row, column in np.ndindex(rain.shape):
        window = rain[max(row - 1, 0) : row + 2, max(column - 2, 0) : column + 3]
        if np.isnan(rain[row, column]):
            assert np.isnan(found[row, column])
        else:
            valid = window[~np.isnan(window)]
            # Running sums in the filter round; 1e-12 is far below one pixel in a window.
            assert found[row, column] == pytest.approx((valid >= 1.0).mean(), abs=1e-12)


def test_a_zero_threshold_and_no_neighbourhood_are_taken_at_their_word() -> None:
    rain = np.array([[0.0, np.nan, 3.0]], dtype=np.float32)
    np.testing.assert_array_equal(neighbourhood_probability(rain, 0.0, (0, 0)), [[1.0, np.nan, 1.0]])
    np.testing.assert_array_equal(neighbourhood_probability(rain, 3.0, (0, 0)), [[0.0, np.nan, 1.0]])


def test_without_an_archive_only_the_forecast_is_shown(forecast: Forecast) -> None:
    page = view_page(frames_of(forecast), thresholds=THRESHOLDS)
    assert list(payload(page)["layers"]) == ["forecast", "probability"]
    assert page.count('<figure class="panel"') == 1 and "Synthetic" not in page


def test_a_large_field_says_that_it_is_shown_as_means(forecast: Forecast) -> None:
    page = view_page(frames_of(forecast), thresholds=THRESHOLDS, max_pixels=25)
    assert "shown as means of 2×2 pixels" in page
    assert pixels(payload(page)["layers"]["forecast"]["frames"][0]).shape == (20, 25, 3)


def test_the_same_frames_give_the_same_bytes_and_names_are_escaped(archive: RadarArchive) -> None:
    made = forecast_of(shower(10)[None, 3:9], "<script>alert(1)</script>", synthetic="true")
    page = view_page(frames_of(made, archive), thresholds=THRESHOLDS)
    assert page == view_page(frames_of(made, archive), thresholds=THRESHOLDS)
    assert "<script>alert" not in page and "Synthetic data" in page


def test_the_command_writes_one_page(archive: RadarArchive, forecast: Forecast, tmp_path: Path) -> None:
    saved, page = forecast.save(tmp_path / "f.nc"), tmp_path / "page.html"
    arguments = [str(saved), str(archive.path), "-o", str(page), "--threshold", "0.5,5"]
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0 and "wrote" in result.output
    assert payload(page.read_text(encoding="utf-8"))["thresholds"] == ["0.5", "5"]
    assert not [path for path in tmp_path.iterdir() if "draft" in path.name]


def test_leads_without_an_observation_are_counted_and_no_overlap_is_an_error(
    archive: RadarArchive, forecast: Forecast, tmp_path: Path
) -> None:
    late = forecast_of(np.asarray(forecast.rain_rate[:, 0]), "persistence", issue=7).save(tmp_path / "late.nc")
    result = CliRunner().invoke(command, [str(late), str(archive.path), "-o", str(tmp_path / "late.html")])
    assert result.exit_code == 0 and "no observation at 4 of 6 lead times" in result.output
    never = forecast_of(np.asarray(forecast.rain_rate[:, 0]), "persistence", issue=90).save(tmp_path / "never.nc")
    with pytest.raises(
        DataError, match=r"2024-05-01 19:35 UTC to 2024-05-01 20:00 UTC.*2024-05-01 12:00 UTC to 2024-05-01 12:45 UTC"
    ):
        run = CliRunner().invoke(
            command, [str(never), str(archive.path), "-o", str(tmp_path / "x.html")], catch_exceptions=False
        )
        assert run.exit_code != 0
    assert not (tmp_path / "x.html").exists()


@pytest.mark.slow
def test_the_page_plays_in_a_browser_without_network_or_script_error(frames: Frames, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(view_page(frames, thresholds=THRESHOLDS), encoding="utf-8")
    with Browser() as browser:
        browser.open(page)
        shown = (
            "return [...document.querySelectorAll('.map img')].map(i => [i.complete, i.naturalWidth, i.clientWidth])"
        )
        assert all(complete and natural == 50 and width > 300 for complete, natural, width in browser.run(shown))
        time = "return document.getElementById('time').textContent"
        assert browser.run(time) == "2024-05-01 12:15 UTC (+5 min)"
        browser.press("ArrowRight", "ArrowRight")
        assert browser.run(time) == "2024-05-01 12:25 UTC (+15 min)"
        browser.press("3")
        captions = "return [...document.querySelectorAll('.what')].map(node => node.textContent)"
        assert browser.run(captions) == ["Observed rain rate [mm/h]", "Forecast minus observed [mm/h]"]
        browser.press("m", "4", "t")
        assert browser.run(captions)[0] == "Hits, misses and false alarms of rain ≥ 10 mm/h"
        click = """const map = document.querySelector('.map'), box = map.getBoundingClientRect();
            const at = {clientX: box.left + 0.34 * box.width, clientY: box.top + 0.56 * box.height, bubbles: true};
            for (const kind of ['pointerdown', 'pointerup']) map.dispatchEvent(new PointerEvent(kind, at));
            return new Promise(done => setTimeout(() => done(document.getElementById('readout').textContent), 300))"""
        # Pixel (22, 17): the observed centre is at column 17 after 15 minutes, the still forecast's at 14.
        said = browser.run(click)
        assert "observed 20–50 mm/h" in said and "forecast 20–50 mm/h" in said and "°N" in said
        assert "share near by ≥ 10 mm/h: " in said
        cells = browser.run("return [...document.querySelectorAll('#strip tr')].map(row => row.cells.length)")
        assert cells == [7, 7, 7, 7]
        browser.emulate(width=375, height=800, scheme="dark")
        browser.swipe(".map", from_share=0.8, to_share=0.2)
        assert browser.run(time) == "2024-05-01 12:30 UTC (+20 min)", "a swipe to the left is a step ahead"
        browser.swipe(".map", from_share=0.2, to_share=0.8)
        assert browser.run(time) == "2024-05-01 12:25 UTC (+15 min)"
        assert browser.run("return document.documentElement.scrollWidth") <= 375
        assert browser.complaints() == [] and browser.requests() == []
