"""evaluate: any CF forecast, one common mask, shards that merge to the bytes of one run, and clear refusals."""

from __future__ import annotations

import itertools
import json
import tracemalloc
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest
import xarray as xr

from nowcast.data.archive import RadarArchive, open_archive
from nowcast.data.archive_writer import ArchiveWriter, write_archive
from nowcast.data.forecast import Forecast, load_forecast
from nowcast.data.forecast_file import open_forecast_file
from nowcast.data.grid import Grid
from nowcast.errors import ConfigError, DataError
from nowcast.verification.compat import compat_rows
from nowcast.verification.counting import count_events_numpy
from nowcast.verification.counts import Case
from nowcast.verification.ensembles import crps
from nowcast.verification.evaluate import evaluate
from nowcast.verification.evaluation import Evaluation, best_and_worst, merge_evaluations
from nowcast.verification.forecast_files import group_by_model
from nowcast.verification.score_table import score_rows
from nowcast.verification.scores import csi, pool

START = np.datetime64("2016-07-11T21:00:00", "s")
STEP = np.timedelta64(300, "s")
GRID = Grid.from_corner(4_000_000.0, 3_000_000.0, 1000.0, 1000.0, (20, 26), "EPSG:3035")
LEVELS = (0.1, 1.0, 5.0)
LEADS = 3


class Persistence:
    """The last frame again and again; picklable, as workers need it."""

    name = "persistence"
    input_frames = 1

    def forecast_frames(self, frames: np.ndarray, num_leads: int) -> np.ndarray:
        return np.repeat(frames[-1:], num_leads, axis=0)


class Trend(Persistence):
    """Needs two frames."""

    name = "trend"
    input_frames = 2


class Rising(Persistence):
    """Another field at every lead time."""

    name = "rising"

    def forecast_frames(self, frames: np.ndarray, num_leads: int) -> np.ndarray:
        return np.stack([frames[-1] * lead for lead in range(1, num_leads + 1)])


def rain(number: int, shape: tuple[int, int] = GRID.shape, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    field = np.where(rng.random((number, *shape)) < 0.4, rng.gamma(0.6, 4.0, (number, *shape)), 0.0)
    field[:, :2, :3] = np.nan
    return field.astype(np.float32)


def forecast(
    issue: int, model: str = "net", *, leads: int = LEADS, members: int = 1, grid: Grid = GRID, **more: Any
) -> Forecast:
    """A forecast that is a function of model and issue time alone."""
    field = np.stack([rain(leads, grid.shape, seed=100 * issue + 7 * len(model) + k) for k in range(members)])
    field[:, :, -1, -2:] = np.nan
    values = {"lead_times": np.arange(1, leads + 1) * STEP, "interval_minutes": 5.0, **more}
    return Forecast(field[:, None], np.array([START + issue * STEP]), grid=grid, model=model, **values)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluate")
    write_archive(
        folder / "mch.zarr",
        rain(16),
        first_time=START,
        step=STEP,
        grid=GRID,
        interval_minutes=5.0,
        attributes={"zr_a": 316.0, "zr_b": 1.5, "synthetic": True},
    )
    for issue in (2, 4, 6, 8):
        forecast(issue).save(folder / "net" / f"net_{issue}.nc")
        forecast(issue, "unet").save(folder / "unet" / f"unet_{issue}.nc")
    return folder


@pytest.fixture(scope="module")
def archive(place: Path) -> RadarArchive:
    return open_archive(place / "mch.zarr")


@pytest.fixture(scope="module")
def whole(place: Path, archive: RadarArchive) -> Evaluation:
    return evaluate([place / "net", place / "unet"], archive, thresholds=LEVELS, baselines=[Persistence()])


def contents(folder: Path) -> dict[str, bytes]:
    return {entry.name: entry.read_bytes() for entry in sorted(folder.iterdir())}


def test_counts_are_those_of_the_fields_under_the_common_mask(whole: Evaluation, archive: RadarArchive) -> None:
    assert whole.models == ("net", "unet", "persistence")
    assert whole.counts.issue_times.tolist() == [(START + k * STEP).item() for k in (2, 4, 6, 8)]
    for c, issue in enumerate((2, 4, 6, 8)):
        observed = archive.rain_rate(issue + 1, issue + 1 + LEADS)
        fields = [
            forecast(issue).rain_rate[0, 0],
            forecast(issue, "unet").rain_rate[0, 0],
            np.repeat(archive.rain_rate(issue, issue + 1), LEADS, axis=0),
        ]
        missing = np.isnan(np.stack([observed, *fields])).any(axis=0)
        assert missing[0].sum() == 8
        for m, field in enumerate(fields):
            wanted = count_events_numpy(np.where(missing, np.nan, field), observed, LEVELS).table()
            found = np.stack([getattr(whole.counts, name)[m, c] for name in ("hits", "false_alarms", "misses")], -1)
            np.testing.assert_array_equal(found, wanted[..., :3])
    np.testing.assert_allclose(whole.counts.masked_share(), 8 / (20 * 26))


def test_sums_have_the_axes_and_the_pixels_of_the_counts(whole: Evaluation) -> None:
    for kind in ("continuous", "fss", "pooled", "spectrum"):
        assert list(whole.sums[kind]) == list(whole.models)
        assert all(sums.shape == whole.counts.shape[1:3] for sums in whole.sums[kind].values())
    for model, name in enumerate(whole.models):
        continuous: Any = whole.sums["continuous"][name]
        np.testing.assert_array_equal(continuous.n, whole.counts.valid)
        fss: Any = whole.sums["fss"][name]
        np.testing.assert_array_equal(fss.observed_events[..., 0], whole.counts.observed[model])
        # A fraction of one pixel is an event or none: its squared difference counts misses and false alarms.
        errors = whole.counts.misses[model] + whole.counts.false_alarms[model]
        np.testing.assert_array_equal(fss.squared_difference[..., 0], errors)
    assert whole.sums["fss"]["net"].windows.tolist() == [1, 5, 11]  # type: ignore[attr-defined]


def test_a_model_with_fewer_valid_pixels_takes_them_from_all(
    place: Path, tmp_path: Path, archive: RadarArchive
) -> None:
    made = forecast(2, "half")
    field = made.rain_rate.copy()
    field[..., :13] = np.nan
    path = replace(made, rain_rate=field).save(tmp_path / "half.nc")
    alone = evaluate([place / "net" / "net_2.nc"], archive, thresholds=LEVELS)
    both = evaluate([place / "net" / "net_2.nc", path], archive, thresholds=LEVELS)
    assert both.counts.valid.sum() < 0.6 * alone.counts.valid.sum()
    assert np.all(both.counts.total[0] == both.counts.total[1])
    assert np.all(both.counts.mask_digest != alone.counts.mask_digest)
    with pytest.raises(DataError, match="different pixels"):
        merge_evaluations([alone, evaluate([path], archive, thresholds=LEVELS)], ["a", "b"])


@pytest.mark.parametrize("cut", [3, 5, 7])
def test_shards_by_time_merge_to_the_bytes_of_one_run(
    cut: int, place: Path, tmp_path: Path, archive: RadarArchive, whole: Evaluation
) -> None:
    bounds = ((None, START + cut * STEP), (START + cut * STEP, None))
    paths = [place / "net", place / "unet"]
    for number, (first, last) in enumerate(bounds):
        part = evaluate(paths, archive, thresholds=LEVELS, baselines=[Persistence()], first=first, last=last)
        part.save(tmp_path / f"part{number}")
    parts = [Evaluation.load(tmp_path / f"part{number}") for number in (1, 0)]
    merge_evaluations(parts).save(tmp_path / "merged")
    whole.save(tmp_path / "whole")
    assert contents(tmp_path / "merged") == contents(tmp_path / "whole")
    assert set(contents(tmp_path / "whole")) == {
        "counts.nc", "sums.nc", "examples.nc", "scores.csv", "evaluation.json"
    }  # fmt: skip


def test_merging_is_associative_and_leaves_its_arguments_alone(
    place: Path, tmp_path: Path, archive: RadarArchive, whole: Evaluation
) -> None:
    parts = [
        evaluate(
            [place / "net", place / "unet"], archive, thresholds=LEVELS, baselines=[Persistence()], first=t, last=t
        )
        for t in START + np.array([2, 4, 6, 8]) * STEP
    ]
    a, b, c, d = parts
    before = [part.save(tmp_path / f"p{k}") for k, part in enumerate(parts)]
    left = merge_evaluations([merge_evaluations([merge_evaluations([a, b]), c]), d])
    right = merge_evaluations([d, merge_evaluations([c, merge_evaluations([b, a])])])
    folders = [e.save(tmp_path / name) for e, name in ((left, "left"), (right, "right"), (whole, "whole"))]
    assert contents(folders[0]) == contents(folders[1]) == contents(folders[2])
    for part, folder in zip(parts, before, strict=True):
        assert contents(part.save(tmp_path / "again", overwrite=True)) == contents(folder)


def test_models_evaluated_apart_merge_when_they_share_the_mask(
    place: Path, archive: RadarArchive, whole: Evaluation
) -> None:
    parts = [
        evaluate([place / name], archive, thresholds=LEVELS, baselines=[Persistence()]) for name in ("net", "unet")
    ]
    merged = merge_evaluations(parts)
    assert merged.models == ("net", "persistence", "unet")
    assert merged.counts.select(models=whole.models).equals(whole.counts)
    assert set(merged.sums["fss"]) == set(whole.models)


def test_a_zarr_store_of_many_issue_times_equals_single_files(
    place: Path, tmp_path: Path, archive: RadarArchive
) -> None:
    single = [forecast(issue) for issue in (2, 4, 6, 8)]
    joined = replace(
        single[0],
        rain_rate=np.concatenate([one.rain_rate for one in single], axis=1),
        issue_times=np.concatenate([one.issue_times for one in single]),
    )
    path = joined.save(tmp_path / "net.zarr")
    ours = evaluate([path], archive, thresholds=LEVELS)
    assert ours.counts.equals(evaluate([place / "net"], archive, thresholds=LEVELS).counts)
    assert open_forecast_file(path).issue_times.size == 4


def foreign(issue: int, *, units: str = "kg m-2 s-1") -> xr.Dataset:
    """Another program's file: south first, other names, hours, flux in kg m-2 s-1, a grid mapping without WKT."""
    ours = forecast(issue)
    mapping = {key: value for key, value in GRID.crs.to_cf().items() if key != "crs_wkt"}
    return xr.Dataset(
        {
            "rprate": (
                ("northing", "easting", "step"),
                np.moveaxis(ours.rain_rate[0, 0, :, ::-1].astype(np.float64) / 3600.0, 0, -1),
                {"standard_name": "rainfall_flux", "units": units, "grid_mapping": "proj"},
            ),
            "proj": ((), 0, mapping),
        },
        coords={
            "northing": ("northing", GRID.y[::-1] / 1000, {"standard_name": "projection_y_coordinate", "units": "km"}),
            "easting": ("easting", GRID.x / 1000, {"standard_name": "projection_x_coordinate", "units": "km"}),
            "step": ("step", np.arange(1, 4) * 5 / 60, {"standard_name": "forecast_period", "units": "hours"}),
            "init": ((), ours.issue_times[0].astype("datetime64[ns]"), {"standard_name": "forecast_reference_time"}),
        },
    )


def test_a_foreign_cf_file_scores_as_ours(place: Path, tmp_path: Path, archive: RadarArchive) -> None:
    (tmp_path / "theirs").mkdir()
    for issue in (2, 4, 6, 8):
        foreign(issue).to_netcdf(tmp_path / "theirs" / f"{issue}.nc")
    theirs = evaluate([tmp_path / "theirs"], archive, thresholds=(0.15, 1.05))
    assert theirs.models == ("theirs",)
    ours = evaluate([place / "net"], archive, thresholds=(0.15, 1.05))
    np.testing.assert_array_equal(theirs.counts.hits, ours.counts.hits)
    np.testing.assert_array_equal(theirs.counts.mask_digest, ours.counts.mask_digest)
    assert ours.counts.hits.min() > 0


def test_a_geographic_file_without_a_grid_mapping_is_read_by_its_degrees(tmp_path: Path) -> None:
    dataset = xr.Dataset(
        {"precip": (("time", "lat", "lon"), np.ones((2, 3, 4)), {"standard_name": "rainfall_rate", "units": "mm/h"})},
        coords={
            "time": ("time", (START + np.array([1, 2]) * STEP).astype("datetime64[ns]"), {"standard_name": "time"}),
            "lat": ("lat", [46.0, 46.1, 46.2], {"standard_name": "latitude", "units": "degrees_north"}),
            "lon": ("lon", [7.0, 7.1, 7.2, 7.3], {"standard_name": "longitude", "units": "degrees_east"}),
            "issued": ((), START.astype("datetime64[ns]"), {"standard_name": "forecast_reference_time"}),
        },
    )
    dataset.to_netcdf(tmp_path / "f.nc")
    file = open_forecast_file(tmp_path / "f.nc")
    assert file.grid.is_geographic and file.grid.y.tolist() == [46.2, 46.1, 46.0]
    assert file.lead_times.tolist() == [STEP.item(), 2 * STEP.item()] and file.model is None
    assert file.read(START, file.lead_times[1:]).shape == (1, 1, 3, 4)


def theirs(field: np.ndarray, path: Path, *, units: str = "mm h-1", mark: int = 1, **variable: Any) -> Path:
    """A plain CF file as another program writes it, `field` (lead, y, x) stored as it is; `mark` 0 puts the time at
    the start of its interval, 1 at its end."""
    ends = START + np.arange(3, 3 + field.shape[0]) * STEP
    with netCDF4.Dataset(path, "w") as file:
        for axis, size in zip(("time", "y", "x", "bnds"), (*field.shape, 2), strict=True):
            file.createDimension(axis, size)
        rate = file.createVariable("rr", field.dtype, ("time", "y", "x"), fill_value=variable.pop("_FillValue", None))
        rate.set_auto_maskandscale(False)
        rate.setncatts({"standard_name": "rainfall_rate", "units": units, "grid_mapping": "crs", **variable})
        rate[:] = field
        file.createVariable("crs", "i4", ()).setncatts(GRID.cf_grid_mapping())
        seconds = {"units": "seconds since 1970-01-01"}
        issued = file.createVariable("issued", "i8", ())
        issued.setncatts({"standard_name": "forecast_reference_time", **seconds})
        issued[:] = (START + 2 * STEP).astype(int)
        edges = np.stack([ends - STEP, ends], axis=1).astype(int)
        time = file.createVariable("time", "i8", ("time",))
        time.setncatts({"standard_name": "time", "bounds": "edges", **seconds})
        time[:] = edges[:, mark]
        file.createVariable("edges", "i8", ("time", "bnds"))[:] = edges
        for axis, values in (("y", GRID.y), ("x", GRID.x)):
            place = file.createVariable(axis, "f8", (axis,))
            place.setncatts({"standard_name": f"projection_{axis}_coordinate", "units": "m"})
            place[:] = values
    return path


@pytest.mark.parametrize("mark", [0, 1])
def test_a_field_is_valid_at_the_end_of_its_interval(mark: int, tmp_path: Path, archive: RadarArchive) -> None:
    perfect = archive.rain_rate(3, 3 + LEADS)
    path = theirs(perfect, tmp_path / "f.nc", mark=mark)
    file = open_forecast_file(path)
    assert (file.lead_times / STEP).tolist() == [1, 2, 3] and file.interval_minutes == 5.0
    counts = evaluate([path], archive, thresholds=LEVELS).counts
    assert counts.hits.sum() > 0 and counts.misses.sum() == counts.false_alarms.sum() == 0
    np.testing.assert_array_equal((load_forecast(path).lead_times / STEP), [1, 2, 3])


def test_intervals_that_differ_within_a_file_or_between_files_are_refused(tmp_path: Path) -> None:
    path = theirs(rain(3), tmp_path / "f.nc")
    with netCDF4.Dataset(path, "a") as file:
        file["edges"][:, 0] = (START + 2 * STEP).astype(int)
    with pytest.raises(DataError, match=r"f.nc holds means over intervals of different lengths: 5, 10, 15 min"):
        open_forecast_file(path)
    forecast(2).save(tmp_path / "a.nc")
    forecast(4, interval_minutes=10.0).save(tmp_path / "b.nc")
    with pytest.raises(DataError, match=r"different intervals \[min\]: 5.0 in .*a.nc, 10.0 in .*b.nc"):
        group_by_model([tmp_path / "a.nc", tmp_path / "b.nc"])
    forecast(4, members=3).save(tmp_path / "c.nc")
    with pytest.raises(DataError, match=r"different numbers of members: 1 in .*a.nc, 3 in .*c.nc"):
        group_by_model([tmp_path / "a.nc", tmp_path / "c.nc"])


def test_two_trained_models_of_one_name_are_not_scored_as_one(tmp_path: Path) -> None:
    for issue, name in ((2, "a"), (4, "b")):
        forecast(issue, attributes={"bundle_sha256": name * 64}).save(tmp_path / f"{name}.nc")
    with pytest.raises(DataError, match=r"different weights \(bundle_sha256\): a+ in .*a.nc, b+ in .*b.nc"):
        group_by_model([tmp_path / "a.nc", tmp_path / "b.nc"])
    assert len(group_by_model([tmp_path / "a.nc", tmp_path / "b.nc"], ["one", "two"])) == 2


def test_no_value_that_stands_for_missing_counts_as_dry(tmp_path: Path) -> None:
    field = rain(3)
    field[np.isnan(field)] = 0
    field[0, 5, 5] = -9999
    with pytest.raises(DataError, match="hole.nc: 1 values of rr are negative or infinite, such as -9999 mm/h"):
        read_back(theirs(field, tmp_path / "hole.nc"))
    assert np.isnan(read_back(theirs(field, tmp_path / "said.nc", _FillValue=np.float32(-9999)))[0, 0, 5, 5])
    field[0, 5, 5] = -5e-5
    assert read_back(theirs(field, tmp_path / "rounding.nc"))[0, 0, 5, 5] == 0
    for wrong in (np.inf, -2e-4):
        field[0, 5, 5] = wrong
        with pytest.raises(DataError, match="negative or infinite"):
            read_back(theirs(field, tmp_path / "wrong.nc"))


@pytest.mark.parametrize(
    ("units", "gain", "per_hour"),
    [
        ("mm h-1", 0.01, 1), ("mm/hour", 0.1, 1), ("mm hr-1", 0.01, 1), ("mm min-1", 0.01, 60),
        ("kg m-2 s-1", 1e-5, 3600), ("mm h-1", np.float32(0.01), 1),
    ],
)  # fmt: skip
def test_packed_numbers_are_the_decimals_that_they_stand_for(
    units: str, gain: float, per_hour: int, tmp_path: Path
) -> None:
    stored = np.arange(3 * 20 * 26, dtype=np.int16).reshape(3, 20, 26)
    stored[0, 0, 0] = -1
    found = read_back(theirs(stored, tmp_path / "f.nc", units=units, scale_factor=gain, _FillValue=np.int16(-1)))[0]
    exact = [float(Fraction(int(value)) * Fraction(str(gain)) * per_hour) for value in stored.ravel()[1:]]
    np.testing.assert_array_equal(found.ravel()[1:], np.array(exact, dtype=np.float32))
    assert np.isnan(found[0, 0, 0])


def read_back(path: Path) -> np.ndarray:
    file = open_forecast_file(path)
    return file.read(file.issue_times[0], file.lead_times)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.rename_vars(rprate="x").drop_attrs(), "holds no rain rate"),
        (lambda d: d.assign(rprate=d.rprate.assign_attrs(units="mm")), "units 'mm', expected 'mm h-1'"),
        (lambda d: d.drop_vars("init"), "does not say when it was issued"),
        (lambda d: d.drop_vars("step"), "does not say its lead times"),
        (lambda d: d.drop_vars("proj"), "does not say its map projection"),
        (lambda d: d.assign_coords(step=d.step.assign_attrs(units="fortnights")), "units 'fortnights'"),
        (lambda d: d.expand_dims(level=2), "the axis 'level'"),
    ],
)
def test_files_that_do_not_say_what_they_are_are_refused(change: Any, message: str, tmp_path: Path) -> None:
    change(foreign(2)).to_netcdf(tmp_path / "strange.nc")
    with pytest.raises(DataError, match=f"strange.nc.*{message}"):
        open_forecast_file(tmp_path / "strange.nc")


def test_what_is_no_forecast_is_refused(tmp_path: Path, archive: RadarArchive) -> None:
    (tmp_path / "text.nc").write_text("rain")
    with pytest.raises(DataError, match="text.nc cannot be read as netCDF or Zarr"):
        evaluate([tmp_path / "text.nc"], archive, thresholds=LEVELS)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no forecast file"):
        evaluate([tmp_path / "empty"], archive, thresholds=LEVELS)
    with pytest.raises(DataError, match="there is no forecast"):
        evaluate([tmp_path / "absent"], archive, thresholds=LEVELS)
    with pytest.raises(ConfigError, match="no forecast to evaluate"):
        evaluate([], archive, thresholds=LEVELS)


def test_partial_overlap_scores_the_overlap_and_says_what_was_left_out(tmp_path: Path, archive: RadarArchive) -> None:
    for issue in (0, 12, 14, 20, 30):
        forecast(issue).save(tmp_path / "net" / f"{issue}.nc")
    found = evaluate([tmp_path / "net"], archive, thresholds=LEVELS, baselines=[Trend()])
    # The archive ends at slot 15: of issue 14 only the first lead is observed.
    assert [case.issue_time for case in found.counts.cases] == [START + 12 * STEP, START + 14 * STEP]
    assert (found.counts.valid[1] > 0).tolist() == [True, False, False]
    assert found.fields_without_pixels() == 2 and found.is_partial
    left_out = found.left_out()
    assert left_out["issue times without any observed frame after them"] == [
        "mch 2016-07-11T22:40Z", "mch 2016-07-11T23:30Z"
    ]  # fmt: skip
    assert left_out["issue times without the 2 frames that trend starts from"] == ["mch 2016-07-11T21:00Z"]


def test_models_of_other_times_and_leads_are_scored_where_they_meet(tmp_path: Path, archive: RadarArchive) -> None:
    for issue in (2, 4, 6):
        forecast(issue).save(tmp_path / "net" / f"{issue}.nc")
    for issue in (4, 6, 8):
        forecast(issue, "longer", leads=5).save(tmp_path / "longer" / f"{issue}.nc")
    found = evaluate([tmp_path / "net", tmp_path / "longer"], archive, thresholds=LEVELS)
    assert found.counts.shape == (2, 2, 3, 3)
    assert found.left_out() == {
        "issue times that not all models have": ["mch 2016-07-11T21:10Z", "mch 2016-07-11T21:40Z"],
        "lead times that not all models have": ["20 min", "25 min"],
    }


def test_an_analysis_among_the_leads_is_left_out_and_baselines_keep_theirs(
    tmp_path: Path, place: Path, archive: RadarArchive
) -> None:
    forecast(4, leads=5, lead_times=np.arange(-1, 4) * STEP).save(tmp_path / "net.nc")
    found = evaluate([tmp_path / "net.nc"], archive, thresholds=LEVELS, baselines=[Rising()])
    assert found.counts.lead_minutes.tolist() == [5.0, 10.0, 15.0]
    assert found.left_out() == {"lead times that are not ahead": ["-5 min", "0 min"]}
    alone = evaluate([place / "net"], archive, thresholds=LEVELS, baselines=[Rising()], first=START + 4 * STEP)
    np.testing.assert_array_equal(found.counts.false_alarms[1, 0], alone.counts.false_alarms[1, 0])
    forecast(4, leads=2, lead_times=np.arange(-1, 1) * STEP).save(tmp_path / "past.nc")
    with pytest.raises(DataError, match="no lead time of the forecasts is ahead of its issue time: -5 to 0 min"):
        evaluate([tmp_path / "past.nc"], archive, thresholds=LEVELS)


def test_a_gap_in_the_archive_is_masked_not_dry(tmp_path: Path) -> None:
    field = rain(8)
    with ArchiveWriter.create(tmp_path / "gap.zarr", GRID, first_time=START, step=STEP, interval_minutes=5.0) as writer:
        for index in (0, 1, 2, 4, 5, 6, 7):
            writer.write(START + index * STEP, field[index])
    forecast(1).save(tmp_path / "net.nc")
    found = evaluate([tmp_path / "net.nc"], tmp_path / "gap.zarr", thresholds=LEVELS)
    assert (found.counts.valid[0] > 0).tolist() == [True, False, True]
    assert found.left_out() == {"fields without an observed frame": ["gap 2016-07-11T21:05Z + 10 min"]}
    assert found.is_partial and found.counts.masked_share()[1] == 1.0


def far_archive(path: Path, **changes: Any) -> Path:
    values = {"first_time": START, "step": STEP, "grid": GRID, "interval_minutes": 5.0, **changes}
    return write_archive(path, rain(16, values["grid"].shape), **values)


def test_data_that_do_not_belong_together_are_refused_with_both_sides(tmp_path: Path, place: Path) -> None:
    net = place / "net"
    shifted = Grid.from_corner(4_000_500.0, 3_000_000.0, 1000.0, 1000.0, GRID.shape, "EPSG:3035")
    coarse = Grid.from_corner(4_000_000.0, 3_000_000.0, 2000.0, 2000.0, GRID.shape, "EPSG:3035")
    refusals: list[tuple[dict[str, Any], str]] = [
        ({"grid": shifted}, r"net \(.*net_2.nc\) lies on another grid than .*0.zarr: 20x26 pixels of 1x1 km"),
        (
            {"grid": shifted},
            r"\(Lambert Azimuthal Equal Area\), corner at \(4000000, 3000000\), archive .* \(4000500, 3000000",
        ),
        ({"grid": coarse}, "archive 20x26 pixels of 2x2 km"),
        ({"interval_minutes": 10.0}, "holds means over 5 min, .*3.zarr means over 10 min"),
        ({"step": np.timedelta64(1200, "s")}, r"lead times of net \(5 to 15 min\) are no steps of .* every 20 min"),
        ({"first_time": START + np.timedelta64(1, "D")}, "issued from 2016-07-11T21:10:00.*reaches from 2016-07-12"),
    ]
    for number, (changes, message) in enumerate(refusals):
        with pytest.raises(DataError, match=message):
            evaluate([net], far_archive(tmp_path / f"{number}.zarr", **changes), thresholds=LEVELS)


def test_forecasts_that_do_not_meet_are_refused(tmp_path: Path, place: Path, archive: RadarArchive) -> None:
    forecast(3, "late").save(tmp_path / "late.nc")
    with pytest.raises(DataError, match="no issue time is in all forecasts: net from .*21:10:00 to .*late from "):
        evaluate([place / "net", tmp_path / "late.nc"], archive, thresholds=LEVELS)
    forecast(2, "ahead", lead_times=np.arange(4, 7) * STEP).save(tmp_path / "ahead.nc")
    with pytest.raises(DataError, match="no lead time in common: net has 5 to 15 min, ahead has 20 to 30 min"):
        evaluate([place / "net" / "net_2.nc", tmp_path / "ahead.nc"], archive, thresholds=LEVELS)
    with pytest.raises(DataError, match="two forecasts of net issued at 2016-07-11T21:10:00"):
        evaluate([place / "net", place / "net" / "net_2.nc"], archive, thresholds=LEVELS)
    with pytest.raises(DataError, match="forecasts of a have different lead times: 5 to 15 min"):
        evaluate([("a", place / "net"), ("a", tmp_path / "ahead.nc")], archive, thresholds=LEVELS)


def test_nothing_valid_is_refused_with_the_share_of_each(tmp_path: Path, archive: RadarArchive) -> None:
    made = forecast(2, "blind")
    replace(made, rain_rate=np.full_like(made.rain_rate, np.nan)).save(tmp_path / "blind.nc")
    with pytest.raises(DataError, match=r"valid by themselves: the archive 98.8%, blind 0.0%"):
        evaluate([tmp_path / "blind.nc"], archive, thresholds=LEVELS)


def test_thresholds_beyond_the_data_are_undefined_not_zero(place: Path, archive: RadarArchive) -> None:
    found = evaluate([place / "net"], archive, thresholds=(1.0, 900.0))
    assert np.isnan(csi(found.counts)[0, 0, 0, 1]) and found.counts.hits.sum() > 0


def test_windows_and_thresholds_are_checked(place: Path, archive: RadarArchive) -> None:
    with pytest.raises(ConfigError, match="odd numbers of pixels, got 4"):
        evaluate([place / "net"], archive, thresholds=LEVELS, windows=(4,))
    with pytest.raises(ConfigError, match="ascend"):
        evaluate([place / "net"], archive, thresholds=(5.0, 1.0))
    assert "fss" not in evaluate([place / "net"], archive, thresholds=LEVELS, windows=()).sums


def test_a_baseline_equals_its_own_forecast_files(place: Path, tmp_path: Path, archive: RadarArchive) -> None:
    for issue in (2, 4):
        field = np.repeat(archive.rain_rate(issue, issue + 1), LEADS, axis=0)
        replace(forecast(issue, "copied"), rain_rate=field[None, None]).save(tmp_path / "copied" / f"{issue}.nc")
    found = evaluate([tmp_path / "copied"], archive, thresholds=LEVELS, baselines=[Persistence()])
    np.testing.assert_array_equal(found.counts.hits[0], found.counts.hits[1])
    # Files of a baseline's name stand in for it.
    named = evaluate([("persistence", tmp_path / "copied")], archive, thresholds=LEVELS, baselines=[Persistence()])
    assert named.models == ("persistence",) and named.provenance["models"]["persistence"]["kind"] == "forecast"


def test_an_ensemble_is_counted_by_its_mean_and_scored_as_an_ensemble(tmp_path: Path, archive: RadarArchive) -> None:
    forecast(2, "ens", members=4).save(tmp_path / "ens.nc")
    found = evaluate([tmp_path / "ens.nc"], archive, thresholds=LEVELS)
    made = forecast(2, "ens", members=4).rain_rate[:, 0]
    observed = archive.rain_rate(3, 3 + LEADS)
    mean = made.mean(axis=0, dtype=np.float64).astype(np.float32)
    np.testing.assert_array_equal(found.counts.hits[0, 0], count_events_numpy(mean, observed, LEVELS).hits)
    sums: Any = found.sums["crps"]["ens"]
    ok = ~np.isnan(observed) & ~np.isnan(mean)
    spread = np.abs(made[:, None] - made[None]).mean(axis=(0, 1))
    by_hand = (np.abs(made - observed).mean(axis=0) - spread / 2)[ok].mean()
    assert float(crps(sums.pool())) == pytest.approx(by_hand, rel=1e-5)
    saved = Evaluation.load(found.save(tmp_path / "skill"))
    assert saved.sums["rank"]["ens"].members == 4  # type: ignore[attr-defined]
    assert {row.split(",")[7] for row in (tmp_path / "skill" / "scores.csv").read_text().splitlines()} >= {
        "crps", "fair_crps", "brier_score", "csi", "fss", "mse"
    }  # fmt: skip


def test_what_was_saved_is_loaded_and_saved_again_to_the_same_bytes(tmp_path: Path, whole: Evaluation) -> None:
    first = whole.save(tmp_path / "a")
    again = Evaluation.load(first)
    assert contents(again.save(tmp_path / "b")) == contents(first)
    assert again.counts.equals(whole.counts) and again.is_synthetic
    with pytest.raises(ConfigError, match="a exists"):
        whole.save(tmp_path / "a")
    whole.save(tmp_path / "a", overwrite=True)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a", "b"]


def test_the_provenance_names_data_models_and_rules(whole: Evaluation) -> None:
    source = whole.provenance["sources"]["mch"]
    assert source["attributes"]["zr_a"] == 316.0 and source["step_minutes"] == 5.0 and len(source["fingerprint"]) == 64
    net = whole.provenance["models"]["net"]
    assert net["kind"] == "forecast" and len(net["files"]) == 4
    assert whole.provenance["models"]["persistence"]["kind"] == "baseline"
    assert whole.provenance["comparison"] == ">=" and whole.provenance["zero_by_zero"] == "undefined"
    json.dumps(whole.provenance, allow_nan=False)


def test_scores_csv_is_tidy_and_has_a_number_or_a_reason(tmp_path: Path, whole: Evaluation) -> None:
    import csv

    with (whole.save(tmp_path / "skill") / "scores.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert all((row["value"] != "") != row["undefined_reason"].startswith("undefined") for row in rows)
    assert all(row["n_valid"] for row in rows)
    counts = pool(whole.counts, ("case",))
    row = next(
        r for r in rows
        if (r["model"], r["lead_minutes"], r["threshold"], r["metric"], r["aggregation"])
        == ("unet", "10.0", "1.0", "csi", "pooled")
    )  # fmt: skip
    assert int(row["hits"]) == counts.hits[1, 1, 1]
    assert float(row["value"]) == counts.hits[1, 1, 1] / (counts.total - counts.correct_negatives)[1, 1, 1]
    overall = [r for r in rows if r["metric"] == "csi" and r["lead_minutes"] == "" and r["model"] == "net"]
    assert {r["aggregation"] for r in overall} == {"pooled", "mean_over_leads", "mean_over_cases"}


def test_damaged_folders_are_refused_by_name(tmp_path: Path, whole: Evaluation) -> None:
    with pytest.raises(DataError, match="nothing is not an evaluation"):
        Evaluation.load(tmp_path / "nothing")
    folder = whole.save(tmp_path / "skill")
    (folder / "sums.nc").write_bytes(b"cut")
    with pytest.raises(DataError, match="sums.nc cannot be read"):
        Evaluation.load(folder)


@pytest.mark.parametrize("name", ["counts.nc", "sums.nc", "examples.nc"])
def test_a_byte_that_changed_is_found_before_it_becomes_a_number(tmp_path: Path, whole: Evaluation, name: str) -> None:
    folder = whole.save(tmp_path / "skill")
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name} cannot be read: it is damaged"):
        Evaluation.load(folder)


def test_an_evaluation_of_before_loads_without_digests(tmp_path: Path, whole: Evaluation) -> None:
    folder = whole.save(tmp_path / "skill")
    values = json.loads((folder / "evaluation.json").read_text())
    assert set(values.pop("sha256")) == {"counts.nc", "sums.nc", "examples.nc"}
    (folder / "evaluation.json").write_text(json.dumps(values))
    assert Evaluation.load(folder).counts.equals(whole.counts)
    del values["models"]
    for content, message in ((values, "says nothing of models"), ([], "of another format")):
        (folder / "evaluation.json").write_text(json.dumps(content))
        with pytest.raises(DataError, match=message):
            Evaluation.load(folder)


def test_evaluations_that_contradict_each_other_do_not_merge(tmp_path: Path, place: Path, whole: Evaluation) -> None:
    other = far_archive(tmp_path / "mch.zarr", attributes={"zr_a": 200.0})
    with ArchiveWriter.append(other) as writer:
        writer.write(START + 16 * STEP, rain(1)[0])
    for issue in (10, 11):
        forecast(issue).save(tmp_path / "net" / f"{issue}.nc")
    part = evaluate([tmp_path / "net"], other, thresholds=LEVELS)
    base = evaluate([place / "net"], place / "mch.zarr", thresholds=LEVELS)
    with pytest.raises(DataError, match="two archives are labelled mch: .* in one and .* in two"):
        merge_evaluations([base, part], ["one", "two"])
    alone = replace(base, provenance={**base.provenance, "sources": {}})
    with pytest.raises(DataError, match="two archives are labelled mch: .* in two and .* in three"):
        merge_evaluations([alone, replace(base, counts=part.counts), part], ["one", "two", "three"])
    renamed = evaluate([tmp_path / "net"], other, thresholds=LEVELS, label="mch_b")
    merged = merge_evaluations([base, renamed])
    assert set(merged.counts.sources) == {"mch", "mch_b"} and set(merged.provenance["sources"]) == {"mch", "mch_b"}
    with pytest.raises(DataError, match="windows is .* in one and .* in two"):
        narrow = evaluate([tmp_path / "net"], other, thresholds=LEVELS, label="mch_b", windows=(3,))
        merge_evaluations([base, narrow], ["one", "two"])


def test_archives_of_other_shapes_merge_without_their_spectra(tmp_path: Path, place: Path) -> None:
    small = Grid.from_corner(4_000_000.0, 3_000_000.0, 1000.0, 1000.0, (14, 15), "EPSG:3035")
    other = far_archive(tmp_path / "small.zarr", grid=small)
    forecast(3, grid=small).save(tmp_path / "net.nc")
    one = evaluate([place / "net"], place / "mch.zarr", thresholds=LEVELS)
    two = evaluate([tmp_path / "net.nc"], other, thresholds=LEVELS)
    for merged in (merge_evaluations([one, two]), merge_evaluations([two, one])):
        assert merged.sums["continuous"]["net"].shape == (5, 3) and "net" not in merged.sums.get("spectrum", {})
        assert merged.counts.pixels.min() == 14 * 15


def test_examples_are_the_best_and_the_worst_case(whole: Evaluation) -> None:
    values = csi(pool(whole.counts, ("lead_time",)))[0, :, 1]
    best, worst = whole.examples
    assert best.case == whole.counts.cases[int(np.argmax(values))]
    assert worst.case == whole.counts.cases[int(np.argmin(values))]
    assert (best.case, worst.case) == best_and_worst(whole.counts)
    assert list(best.forecasts) == list(whole.models) and best.observed.shape == (3, 20, 26)


def test_large_examples_are_coarsened_by_means_of_valid_pixels() -> None:
    from nowcast.verification.case_scores import _coarse

    field = np.arange(30, dtype=np.float32).reshape(1, 5, 6)
    field[0, 0, 0] = np.nan
    field[0, :2, 2:4] = np.nan
    coarse = _coarse(field, 2)
    assert coarse.shape == (1, 3, 3)
    assert coarse[0, 0, 0] == pytest.approx((1 + 6 + 7) / 3) and np.isnan(coarse[0, 0, 1])
    assert coarse[0, 2, 0] == pytest.approx(24.5)


def test_memory_does_not_grow_with_the_number_of_cases(tmp_path: Path) -> None:
    grid = Grid.from_corner(4_000_000.0, 3_000_000.0, 1000.0, 1000.0, (90, 100), "EPSG:3035")
    source = far_archive(tmp_path / "big.zarr", grid=grid)
    for issue in range(6):
        forecast(issue, grid=grid, leads=4).save(tmp_path / "net" / f"{issue}.nc")
    peaks = []
    evaluate([tmp_path / "net"], source, thresholds=LEVELS, windows=(5,), last=START)  # compile and import first
    for last in (1, 5):
        tracemalloc.start()
        evaluate([tmp_path / "net"], source, thresholds=LEVELS, windows=(5,), last=START + last * STEP)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    one_case = 4 * 90 * 100 * 4
    assert peaks[1] - peaks[0] < one_case, [peak / one_case for peak in peaks]


def test_above_means_above_in_every_score_with_a_threshold(tmp_path: Path) -> None:
    source = write_archive(
        tmp_path / "flat.zarr", np.ones((8, *GRID.shape), np.float32), first_time=START, step=STEP, grid=GRID,
        interval_minutes=5.0,
    )  # fmt: skip
    made = forecast(2, members=2)
    replace(made, rain_rate=np.full_like(made.rain_rate, 1.0)).save(tmp_path / "net.nc")
    for comparison in (">=", ">"):
        found = evaluate([tmp_path / "net.nc"], source, thresholds=(0.5, 1.0), comparison=comparison)  # type: ignore[arg-type]
        rows = {row["metric"]: row for row in score_rows(found) if row["threshold"] == 1.0 and not row["lead_minutes"]}
        assert all(rows[metric]["comparison"] == comparison for metric in ("csi", "fss", "brier_score"))
        sums: Any = {kind: found.sums[kind]["net"].pool() for kind in ("fss", "pooled", "probability")}
        reached = [
            int(rows["csi"]["hits"]), int(sums["fss"].observed_events[1, 0]),
            int(sums["pooled"].hits[0, 1]), int(sums["probability"].events[1].sum()),
        ]  # fmt: skip
        assert all(number > 0 for number in reached) if comparison == ">=" else reached == [0, 0, 0, 0]
        assert (rows["fss"]["value"] == 1.0) == (comparison == ">=")
        assert sums["fss"].thresholds.tolist() == sums["probability"].thresholds.tolist() == [0.5, 1.0]


def test_windows_that_do_not_fit_are_named(
    place: Path, archive: RadarArchive, caplog: pytest.LogCaptureFixture
) -> None:
    evaluate([place / "net" / "net_2.nc"], archive, thresholds=LEVELS, windows=(1, 21, 41))
    assert "FSS windows of 21, 41 pixels are larger than the grid (20) and left out" in caplog.text


def test_compat_needs_the_comparison_it_counts_by(whole: Evaluation) -> None:
    with pytest.raises(DataError, match="pysteps counts events by '>', these were counted by '>='"):
        list(compat_rows(whole.counts, "pysteps"))


@pytest.mark.slow
def test_processes_and_a_dask_cluster_give_the_same_evaluation(place: Path, tmp_path: Path, whole: Evaluation) -> None:
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    distributed = pytest.importorskip("distributed")
    from nowcast.prediction.persistence import Persistence as Shipped

    def run(executor: Any) -> dict[str, bytes]:
        found = evaluate(
            [place / "net", place / "unet"],
            place / "mch.zarr",
            thresholds=LEVELS,
            baselines=[Shipped()],
            executor=executor,
        )
        return contents(found.save(tmp_path / "skill", overwrite=True))

    alone = run(None)
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool_of_two:
        assert run(pool_of_two) == alone
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        assert run(client.get_executor(pure=False)) == alone


def test_cases_order_by_source_and_time() -> None:
    cases = [Case("b", START), Case("a", START + STEP), Case("a", START)]
    assert [str(case) for case in sorted(cases)] == [
        "a 2016-07-11T21:00Z", "a 2016-07-11T21:05Z", "b 2016-07-11T21:00Z"
    ]  # fmt: skip
    assert all(sorted(order) == sorted(cases) for order in itertools.permutations(cases))
