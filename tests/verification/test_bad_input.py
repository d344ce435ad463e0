"""What does not belong together is refused by a sentence that names both sides and the remedy, as a user reads it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest

from cli.main import main
from nowcast.data.archive_writer import write_archive
from nowcast.data.forecast import Forecast
from nowcast.data.grid import Grid
from nowcast.verification.counts import ContingencyCounts

START = np.datetime64("2016-07-11T21:00:00", "s")
STEP = np.timedelta64(300, "s")
SHAPE = (20, 26)
GRID = Grid.from_corner(4_000_000.0, 3_000_000.0, 1000.0, 1000.0, SHAPE, "EPSG:3035")
Command = Callable[..., tuple[int, str]]


@pytest.fixture
def nowcast(capsys: pytest.CaptureFixture[str]) -> Command:
    """Exit code and standard error of a command line."""

    def run(*arguments: object) -> tuple[int, str]:
        with pytest.raises(SystemExit) as leave:
            main([str(argument) for argument in arguments])
        return int(leave.value.code or 0), capsys.readouterr().err

    return run


def rain(number: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    field = np.where(rng.random((number, *SHAPE)) < 0.4, rng.gamma(0.6, 4.0, (number, *SHAPE)), 0.0)
    return field.astype(np.float32)


def archive(path: Path, field: np.ndarray | None = None, **changes: Any) -> Path:
    values = {"first_time": START, "step": STEP, "grid": GRID, "interval_minutes": 5.0, **changes}
    return write_archive(path, rain(12) if field is None else field, **values)


def net(path: Path, issues: tuple[int, ...] = (2,), *, value: float | None = None, **changes: Any) -> Path:
    """A folder of forecasts of the model `net`."""
    for issue in issues:
        field = rain(3, seed=1 + issue) if value is None else np.full((3, *SHAPE), value, dtype=np.float32)
        made = Forecast(
            field[None, None], START + np.array([issue]) * STEP, np.arange(1, 4) * STEP, GRID, "net",
            interval_minutes=5.0,
        )  # fmt: skip
        replace(made, **changes).save(path / f"{issue}.nc")
    return path


def scored(nowcast: Command, folder: Path, *more: object, forecasts: Path | None = None) -> tuple[int, str]:
    return nowcast(
        "evaluate", forecasts or folder / "net", "--against", folder / "mch.zarr", "-o", folder / "skill",
        "--baseline", "none", "--scale", "none", "--threshold", "0.1,1", *more,
    )  # fmt: skip


def test_other_grids(nowcast: Command, tmp_path: Path) -> None:
    archive(tmp_path / "mch.zarr", grid=Grid.from_corner(4_000_500.0, 3_000_000.0, 1000.0, 1000.0, SHAPE, "EPSG:3035"))
    net(tmp_path / "net")
    code, err = scored(nowcast, tmp_path)
    assert code == 3 and re.search(r"net \(\S+2\.nc\) lies on another grid than \S+mch\.zarr: 20x26 pixels", err)
    assert "corner at (4000000, 3000000)" in err and "corner at (4000500, 3000000)" in err
    assert "Hint: evaluate against an archive of the forecast's grid" in err


def test_other_steps(nowcast: Command, tmp_path: Path) -> None:
    archive(tmp_path / "mch.zarr", step=np.timedelta64(1200, "s"))
    net(tmp_path / "net")
    code, err = scored(nowcast, tmp_path)
    assert code == 3 and "lead times of net (5 to 15 min) are no steps of" in err
    assert "mch.zarr, which has a frame every 20 min" in err
    assert "Hint: evaluate against an archive of the forecast's step" in err


def test_means_over_other_intervals(nowcast: Command, tmp_path: Path) -> None:
    archive(tmp_path / "mch.zarr", interval_minutes=10.0)
    net(tmp_path / "net")
    code, err = scored(nowcast, tmp_path)
    assert code == 3 and "2.nc) holds means over 5 min" in err and "mch.zarr means over 10 min" in err
    assert "bring both to one interval" in err


def test_other_units(nowcast: Command, tmp_path: Path) -> None:
    archive(tmp_path / "mch.zarr")
    net(tmp_path / "net")
    with netCDF4.Dataset(tmp_path / "net" / "2.nc", "a") as file:
        file["rainfall_rate"].units = "dBZ"
    code, err = scored(nowcast, tmp_path)
    assert code == 3 and "2.nc: rain rate has units 'dBZ', expected 'mm h-1'" in err
    assert "Hint: known are mm h-1, " in err


def test_no_overlap_in_time(nowcast: Command, tmp_path: Path) -> None:
    archive(tmp_path / "mch.zarr", first_time=START + np.timedelta64(1, "D"))
    net(tmp_path / "net")
    code, err = scored(nowcast, tmp_path)
    assert code == 3 and "issued from 2016-07-11T21:10:00 to 2016-07-11T21:10:00 for 5 to 15 min ahead" in err
    assert "mch.zarr reaches from 2016-07-12T21:00:00 to 2016-07-12T21:55:00 every 5 min" in err
    assert "Hint: evaluate against an archive of the forecasts' times" in err and not (tmp_path / "skill").exists()


def test_partial_overlap_is_scored_and_what_was_left_out_is_told(nowcast: Command, tmp_path: Path) -> None:
    archive(tmp_path / "mch.zarr")
    net(tmp_path / "net", (2, 4, 9, 40))
    code, err = scored(nowcast, tmp_path)
    assert code == 5
    assert "Left out, issue times without any observed frame after them: 1 (mch 2016-07-12T00:20Z)" in err
    assert "Left out, fields without an observed frame: 1 (mch 2016-07-11T21:45Z + 15 min)" in err
    assert "Scored 3 of 4 issue times." in err
    counts = ContingencyCounts.load(tmp_path / "skill" / "counts.nc")
    assert len(counts.cases) == 3 and (counts.valid == 0).sum() == 1


@pytest.mark.parametrize("blind", ["forecast", "observation"])
def test_all_masked(blind: str, nowcast: Command, tmp_path: Path) -> None:
    nothing = np.full((12, *SHAPE), np.nan, dtype=np.float32)
    archive(tmp_path / "mch.zarr", nothing if blind == "observation" else None)
    net(tmp_path / "net", value=np.nan if blind == "forecast" else None)
    code, err = scored(nowcast, tmp_path)
    shares = ("100.0%", "0.0%") if blind == "forecast" else ("0.0%", "100.0%")
    assert code == 3 and "mch.zarr is valid in the observation and in all forecasts" in err
    assert f"valid by themselves: the archive {shares[0]}, net {shares[1]}" in err
    assert "Hint: leave out the forecast that has no values" in err
    assert not [entry for entry in tmp_path.iterdir() if "skill" in entry.name]


def test_thresholds_outside_the_data(nowcast: Command, tmp_path: Path) -> None:
    archive(tmp_path / "mch.zarr")
    net(tmp_path / "net")
    code, err = scored(nowcast, tmp_path, "--threshold", "0,0.1,900,1000")
    assert code == 0
    for level in (900, 1000):
        assert f"Threshold outside the data: rain >= {level} mm/h is nowhere, neither observed nor forecast" in err
    assert "rain >= 0 mm/h is everywhere, observed and forecast: its scores tell nothing" in err
    assert ">= 0.1 mm/h" not in err
    counts = ContingencyCounts.load(tmp_path / "skill" / "counts.nc")
    assert counts.thresholds.tolist() == [0, 0.1, 900, 1000] and counts.forecast[..., 2:].sum() == 0


def test_a_threshold_that_only_the_forecast_reaches_is_inside_the_data(nowcast: Command, tmp_path: Path) -> None:
    archive(tmp_path / "mch.zarr")
    net(tmp_path / "net", value=950.0)
    code, err = scored(nowcast, tmp_path, "--threshold", "0.1,900")
    assert code == 0 and "outside the data" not in err


def test_too_few_cases(nowcast: Command, tmp_path: Path) -> None:
    archive(tmp_path / "mch.zarr")
    net(tmp_path / "net", (2, 4))
    code, err = scored(nowcast, tmp_path)
    assert code == 0 and "2 cases on 1 day: too few to rank models" in err
    assert "from 20 independent days or rain episodes on: add forecasts of other days" in err


def test_an_unknown_lead_time_is_refused_with_those_of_both(nowcast: Command, tmp_path: Path) -> None:
    archive(tmp_path / "mch.zarr")
    net(tmp_path / "net")
    net(tmp_path / "far", lead_times=np.arange(7, 10) * STEP, model="far")
    code, err = scored(nowcast, tmp_path, forecasts=tmp_path / "far")
    assert code == 0
    code, err = nowcast(
        "evaluate", tmp_path / "net", tmp_path / "far", "--against", tmp_path / "mch.zarr", "-o", tmp_path / "both"
    )
    assert code == 3 and "no lead time in common: net has 5 to 15 min, far has 35 to 45 min" in err
    assert "Hint: evaluate them apart" in err


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        (("--threshold", "0.1,2"), "{a} has the thresholds 0.1, 1, {b} has 0.1, 2", "with the same --threshold"),
        (("--compat", "pysteps"), "{a} counts events by '>=', {b} by '>'", "evaluate both by one rule"),
        ((), "{a} and {b} score the case mch 2016-07-11T21:10Z at 5 min on different pixels", "share one mask"),
    ],
)  # fmt: skip
def test_counts_files_that_do_not_belong_together(
    options: tuple[str, ...], message: str, hint: str, nowcast: Command, tmp_path: Path
) -> None:
    archive(tmp_path / "mch.zarr")
    net(tmp_path / "net")
    holes = rain(3, seed=9)
    holes[:, :3] = np.nan
    Forecast(
        holes[None, None], START + np.array([2]) * STEP, np.arange(1, 4) * STEP, GRID, "unet", interval_minutes=5.0
    ).save(tmp_path / "unet" / "2.nc")
    a, b = tmp_path / "a", tmp_path / "b"
    for forecasts, output, more in ((tmp_path / "net", a, ()), (tmp_path / "unet", b, options)):
        assert scored(nowcast, tmp_path, *more, "-o", output, forecasts=forecasts)[0] == 0
    code, err = nowcast("report", a, b, "-o", tmp_path / "page.html")
    assert code == 3 and message.format(a=a, b=b) in err
    assert hint in err and not (tmp_path / "page.html").exists()
