"""Pictures: what is drawn is the data, times and names are on it, and the same input gives the same bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from cli.plot import command
from nowcast.data.archive import RadarArchive
from nowcast.data.forecast import Forecast
from nowcast.data.grid import Grid
from nowcast.data.mlcast import export_mlcast
from nowcast.errors import ConfigError, DataError, MismatchError
from nowcast.report import plot
from nowcast.report.colours import NO_DATA, RAIN, palette
from nowcast.report.frames import frames_of, observed_at
from nowcast.report.plot import animate, frame_colours, frame_figure, save_figure, sequence_figure
from tests.report.moving_shower import GRID, START, STEP, forecast_of, shower


def texts(figure) -> str:
    from matplotlib.text import Text

    return "\n".join(text.get_text() for text in figure.findobj(Text))


def test_a_frame_shows_every_class_of_the_field_and_names_time_scale_and_units() -> None:
    rain = shower(1)[0]
    figure = frame_figure(rain, GRID, title="Observed rain rate, 2024-05-01 12:00 UTC")
    (image,) = figure.axes[0].get_images()
    np.testing.assert_array_equal(image.get_array(), RAIN.palette[RAIN.classify(rain)])
    words = texts(figure)
    for wanted in ("2024-05-01 12:00 UTC", "10 km", "rain rate [mm/h]", "no data", "°E", "°N"):
        assert wanted in words
    assert figure.axes[0].get_xlim() == (0, 50) and figure.axes[0].get_ylim() == (0, 40)


def test_the_graticule_stands_where_proj_says() -> None:
    figure = frame_figure(shower(1)[0], GRID, title="x")
    axes = figure.axes[0]
    figure.draw_without_rendering()
    latitude, longitude = GRID.lat_lon()
    for tick, label in zip(axes.get_xticks(), axes.get_xticklabels(), strict=True):
        there = np.interp(tick, np.arange(50) + 0.5, longitude[-1])
        assert there == pytest.approx(float(label.get_text().removesuffix("°E")), abs=0.02)
    for tick, label in zip(axes.get_yticks(), axes.get_yticklabels(), strict=True):
        there = np.interp(tick, np.arange(40) + 0.5, latitude[::-1, 0])
        assert there == pytest.approx(float(label.get_text().removesuffix("°N")), abs=0.02)


def test_a_geographic_grid_has_its_degrees_and_kilometres() -> None:
    grid = Grid(np.linspace(170, 189, 20), np.linspace(10, 1, 10), "EPSG:4326")
    figure = frame_figure(np.zeros((10, 20), np.float32), grid, title="x")
    figure.draw_without_rendering()
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert "175°E" in labels and "175°W" in labels and "500 km" in texts(figure)


def test_a_large_field_is_drawn_as_block_means() -> None:
    rain = np.zeros((4, 400), dtype=np.float32)
    rain[:, ::2] = 4.0
    picture = frame_colours(rain, width=1.0)
    assert picture.shape == (1, 100, 3)
    np.testing.assert_array_equal(picture[0, 0], palette((RAIN.colours[5],))[0])


def test_a_sequence_has_a_row_for_each_name_and_a_column_for_each_lead() -> None:
    rain = shower(6)
    figure = sequence_figure(
        {"observed": rain, "model": rain * np.nan}, GRID, [f"+{5 * n} min" for n in range(6)], title="x"
    )
    images = [axes.get_images()[0].get_array() for axes in figure.axes if axes.get_images()]
    assert len(images) == 12
    np.testing.assert_array_equal(images[5], frame_colours(rain[5], 2.1))
    assert (images[6] == palette((NO_DATA,))[0]).all(), "all NaN must look like no data"
    assert "observed" in texts(figure) and "+25 min" in texts(figure)


def test_the_same_figure_gives_the_same_bytes_and_other_endings_are_refused(tmp_path: Path) -> None:
    paths = [save_figure(frame_figure(shower(1)[0], GRID, title="x"), tmp_path / name) for name in ("a.png", "b.png")]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]
    with pytest.raises(ConfigError, match=r"x\.bmp: pictures are written as \.png"):
        save_figure(frame_figure(shower(1)[0], GRID, title="x"), tmp_path / "x.bmp")
    with pytest.raises(ConfigError, match=r"\.gif or \.mp4"):
        animate({"a": shower(1)}, GRID, ["x"], tmp_path / "x.png", title="x")


def test_a_gif_moves_and_keeps_the_colours_of_the_scale(tmp_path: Path) -> None:
    path = animate({"observed": shower(3, speed=4)}, GRID, ["a", "b", "c"], tmp_path / "x.gif", title="x", width=2.0)
    with Image.open(path) as image:
        assert image.n_frames == 3
        pictures = []
        for index in range(3):
            image.seek(index)
            pictures.append(np.asarray(image.convert("RGB")))
    assert (pictures[0] != pictures[1]).any() and (pictures[1] != pictures[2]).any()
    shown = {tuple(colour) for colour in np.unique(pictures[0].reshape(-1, 3), axis=0)}
    assert {tuple(colour) for colour in np.unique(frame_colours(shower(1)[0], 2.0).reshape(-1, 3), axis=0)} <= shown


def test_an_mp4_is_written(tmp_path: Path) -> None:
    pytest.importorskip("imageio_ffmpeg")
    path = animate({"observed": shower(2)}, GRID, ["a", "b"], tmp_path / "x.mp4", title="x", width=1.5)
    assert path.read_bytes()[4:8] == b"ftyp" and len(list(tmp_path.iterdir())) == 1


def test_observed_frames_are_missing_where_the_archive_has_none(archive: RadarArchive) -> None:
    times = START + np.array([-1, 0, 9, 10]) * STEP
    frames = observed_at(archive, np.append(times, START + np.timedelta64(100, "s")))
    np.testing.assert_array_equal(frames[1:3], shower(10)[[0, 9]])
    assert np.isnan(frames[[0, 3, 4]]).all()


def test_frames_stand_at_their_valid_times(archive: RadarArchive, forecast: Forecast) -> None:
    shown = frames_of(forecast, archive)
    np.testing.assert_array_equal(shown.observed, shower(10)[3:9])
    np.testing.assert_array_equal(shown.forecast[0, 4], shower(10)[2])
    assert shown.lead_labels[:2] == ("+5 min", "+10 min") and not shown.synthetic
    with pytest.raises(DataError, match="was not issued at 2024-05-01 12:00 UTC"):
        frames_of(forecast, archive, issue=START)


def test_another_grid_is_refused_with_both_named(archive: RadarArchive, forecast: Forecast) -> None:
    other = Forecast(
        forecast.rain_rate[..., :20, :20], forecast.issue_times, forecast.lead_times,
        GRID.crop(slice(20), slice(20)), "mine",
    )  # fmt: skip
    with pytest.raises(MismatchError, match="mine is on 20x20 pixels.*rain.zarr on 40x50 pixels"):
        frames_of(other, archive)


def run(*arguments: object) -> str:
    result = CliRunner().invoke(command, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_the_command_draws_archives_and_forecasts(archive: RadarArchive, forecast: Forecast, tmp_path: Path) -> None:
    one = forecast.save(tmp_path / "one.nc")
    two = forecast_of(shower(10)[None, 3:9], "perfect", synthetic="true").save(tmp_path / "two.nc")
    run("frame", archive.path, "--at", "2024-05-01T12:10", "-o", tmp_path / "archive.png")
    run("frame", one, "--lead", "10min", "-o", tmp_path / "frame.png")
    run("sequence", one, two, "--against", archive.path, "--lead", "5,30", "-o", tmp_path / "sequence.png")
    said = run("animate", two, "--against", archive.path, "-o", tmp_path / "loop.gif")
    assert "6 frames" in said
    run("animate", archive.path, "--from", "2024-05-01T12:40", "-o", tmp_path / "archive.gif")
    with Image.open(tmp_path / "archive.gif") as image:
        assert image.n_frames == 2
    for name in ("archive.png", "frame.png", "sequence.png"):
        with Image.open(tmp_path / name) as image:
            assert min(image.size) > 200


def test_an_animation_reads_only_the_frames_that_it_shows(
    archive: RadarArchive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[tuple[int, int]] = []
    whole = RadarArchive.rain_rate

    def watched(self: RadarArchive, start: int, stop: int) -> np.ndarray:
        read.append((start, stop))
        return whole(self, start, stop)

    monkeypatch.setattr(RadarArchive, "rain_rate", watched)
    times = ["--from", "2024-05-01T12:10", "--to", "2024-05-01T12:20"]
    assert "3 frames" in run("animate", archive.path, *times, "-o", tmp_path / "part.gif")
    assert read == [(2, 5)]


def test_an_mlcast_data_set_is_an_archive(archive: RadarArchive, tmp_path: Path) -> None:
    data_set = tmp_path / "rain-mlcast.zarr"
    export_mlcast(archive.path, data_set, attributes={"mlcast_dataset_identifier": "XX-example-precipitation"})
    run("frame", data_set, "--at", "2024-05-01T12:10", "-o", tmp_path / "one.png")
    run("frame", archive.path, "--at", "2024-05-01T12:10", "-o", tmp_path / "other.png")
    images = [np.asarray(Image.open(tmp_path / name)) for name in ("one.png", "other.png")]
    below_the_words = slice(80, None)
    np.testing.assert_array_equal(images[0][below_the_words], images[1][below_the_words])


def test_two_forecasts_of_one_model_are_two_rows(
    forecast: Forecast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[dict[str, np.ndarray]] = []
    make = plot.sequence_figure

    def watched(rows: dict[str, np.ndarray], *more: object, **named: object) -> object:
        drawn.append(rows)
        return make(rows, *more, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(plot, "sequence_figure", watched)
    files = [forecast.save(tmp_path / f"{name}.nc") for name in ("before", "after")]
    run("sequence", *files, "-o", tmp_path / "sequence.png")
    assert list(drawn[0]) == ["persistence (before)", "persistence (after)"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["frame", "{forecast}", "--lead", "7min"], "no lead time of 7 min"),
        (["frame", "{forecast}", "--member", "2"], "the forecast of persistence has 1"),
        (["frame", "{forecast}", "--at", "2024-05-01T12:10"], "--at belongs to an archive"),
        (["frame", "{archive}", "--lead", "5min"], "--issue, --lead and --member belong to a forecast"),
        (["frame", "{archive}", "--member", "1"], "--issue, --lead and --member belong to a forecast"),
        (["animate", "{archive}", "--member", "1"], "--issue, --against and --member belong to a forecast"),
        (["animate", "{archive}", "--from", "2025-01-01"], "has no frame between"),
        (["frame", "{archive}", "--at", "2025-01-01"], "has no frame time"),
    ],
)
def test_what_does_not_fit_is_refused(
    arguments: list[str], message: str, archive: RadarArchive, forecast: Forecast, tmp_path: Path
) -> None:
    names = {"forecast": forecast.save(tmp_path / "f.nc"), "archive": archive.path}
    filled = [argument.format(**names) for argument in arguments]
    with pytest.raises((ConfigError, DataError), match=message):
        CliRunner().invoke(command, [*filled, "-o", str(tmp_path / "x.gif")], catch_exceptions=False)
    assert not (tmp_path / "x.gif").exists()
