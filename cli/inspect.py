"""`nowcast inspect`: what an archive, a model, a run or a forecast file holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli.options import TIME, echo_json, json_option, overwrite_option

DAYS_SHOWN, GAPS_SHOWN, REASONS_SHOWN, FINDINGS_SHOWN = 14, 5, 10, 50
STEP_TEXT = {
    "rain_threshold_mmh": "rain below {:g} mm/h made dry",
    "rate_cap_mmh": "rates capped at {:g} mm/h",
    "quality_index_minimum": "quality index of {:g} or more",
    "clutter_mask": "clutter mask {}",
    "speckle_neighbours": "wet pixels with fewer than {:g} wet neighbours made dry",
}
# Threads that read for --check: decoding does not keep other threads waiting.
CHECK_WORKERS = 8


@click.command(name="inspect")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--picture", type=click.Path(path_type=Path), help="Draw an archive, or a forecast: .png, .pdf or .svg.")
@click.option(
    "--window", type=click.IntRange(min=1), default=17, show_default=True, help="Frames of a window to count."
)
@click.option("--files", is_flag=True, help="List every source file with what became of it.")
@click.option(
    "--save-clutter", type=click.Path(path_type=Path), help="Write a mask of static clutter to this .npy file."
)
@click.option("--check", is_flag=True, help="Read every frame of an archive back; leaves with 3 where one is damaged.")
@click.option("--check-from", type=TIME, help="Go on with a check that was stopped, from this time.")
@json_option
@overwrite_option
def command(
    path: Path,
    picture: Path | None,
    window: int,
    files: bool,
    save_clutter: Path | None,
    check: bool,
    check_from: Any,
    as_json: bool,
    overwrite: bool,
) -> None:
    """What PATH holds: an archive, a model or run, or a forecast file."""
    from nowcast.data.outputs import require_free
    from nowcast.errors import ConfigError

    kind = _kind(path)
    check = check or check_from is not None
    for output in filter(None, (picture, save_clutter)):
        require_free(output, "file", overwrite=overwrite, inputs=[path])
    if kind != "archive" and (files or save_clutter or check):
        raise ConfigError(f"{path} is no archive", "--files, --save-clutter and --check are for archives")
    if kind == "model" and picture:
        raise ConfigError(f"{path} is a model; there is no picture of one")
    values = {"archive": _archive, "model": _model, "forecast": _forecast}[kind](path, window, picture)
    if files:
        values["files"]["entries"] = _entries(path)
    if save_clutter is not None:
        values["clutter"] = _save_clutter(path, save_clutter)
    if check:
        values["check"] = _check(path, check_from)
    if as_json:
        echo_json(values)
    else:
        {"archive": _print_archive, "model": _print_model, "forecast": _print_forecast}[kind](values)
    if check:
        _require_whole(path, values["check"])


def _kind(path: Path) -> str:
    """archive, model or forecast, by what is there.

    Raises:
        DataError: Nothing is there, or nothing of ours.
    """
    from nowcast.errors import DataError

    if not path.exists():
        raise DataError(f"there is nothing at {path}")
    if (
        (path / "bundle.json").is_file()
        or (path / "model" / "bundle.json").is_file()
        or (path / "config.yaml").is_file()
    ):
        return "model"
    if path.is_file():
        return _kind_of_file(path)
    if (path / "evaluation.json").is_file():
        raise DataError(f"{path} is an evaluation", f"look at it with: nowcast report {path}")
    if (path / "zarr.json").is_file() and '"forecast_reference_time' in (path / "zarr.json").read_text():
        return "forecast"
    if (path / "forecast_reference_time").exists():
        return "forecast"
    if not any((path / name).exists() for name in ("zarr.json", ".zgroup", ".zmetadata")):
        files = sorted(path.glob("*.nc"))
        if files and _kind_of_file(files[0]) == "forecast":
            raise DataError(f"{path} is a folder of {len(files)} netCDF files", f"name one of them, such as {files[0]}")
    return "archive"


def _kind_of_file(path: Path) -> str:
    """forecast: the only single file that is of ours.

    Raises:
        DataError: It is a radar file, or foreign.
    """
    from data_prep.readers.registry import detect_format
    from nowcast.errors import DataError

    try:
        found = detect_format(path)
    except DataError as error:
        raise DataError(
            f"{error.message}; inspect takes an archive, a model or run, or a forecast file", error.hint
        ) from error
    if found != "cf_netcdf":
        raise DataError(
            f"{path} is a radar file of the format {found}, and no forecast",
            f"bring it into an archive first: nowcast ingest {path} -o archive.zarr",
        )
    return "forecast"


def _archive(path: Path, window: int, picture: Path | None) -> dict[str, Any]:
    from nowcast.data.archive import open_archive
    from nowcast.data.inspection import inspect_archive

    archive = open_archive(path)
    if picture is not None:
        from nowcast.report.coverage import archive_figure
        from nowcast.report.plot import save_figure

        save_figure(archive_figure(archive), picture)
    return inspect_archive(archive, window_length=window)


def _entries(path: Path) -> list[dict[str, Any]]:
    from dataclasses import asdict

    from nowcast.data.archive import read_manifest

    last_word = {entry.file: entry for entry in read_manifest(path)}
    return [{**asdict(entry), "times": list(entry.times)} for entry in last_word.values()]


def _save_clutter(path: Path, target: Path) -> dict[str, Any]:
    import numpy as np

    from data_prep.quality import find_static_clutter
    from nowcast.data.archive import open_archive
    from nowcast.errors import ConfigError
    from nowcast.report.files import draft

    if target.suffix != ".npy":
        raise ConfigError(f"{target}: the mask is written as .npy")
    mask = find_static_clutter(open_archive(path))
    with draft(target) as place:
        np.save(place, mask)
    return {"file": str(target), "pixels": int(mask.sum())}


def _check(path: Path, since: Any) -> dict[str, Any]:
    import os
    from dataclasses import asdict

    from cli.progress import progress
    from nowcast.data.archive import open_archive
    from nowcast.data.archive_check import ArchiveCheck, check_manifest

    archive = open_archive(path)
    reading = ArchiveCheck(archive, since=since, workers=min(os.cpu_count() or 1, CHECK_WORKERS))
    found, done = [], 0
    try:
        for finding in progress(reading, "check"):
            done += 1
            if finding is not None:
                found.append(finding)
                click.echo(f"damaged: {finding}", err=True)
    except KeyboardInterrupt:
        if done < len(reading):
            click.echo(
                f"checked {done} of {len(reading)} frames; go on with --check-from {reading.times[done]}", err=True
            )
        raise
    found = check_manifest(archive) + reading.confirmed(found)
    return {"frames": len(reading), "findings": [asdict(finding) for finding in found]}


def _require_whole(path: Path, check: dict[str, Any]) -> None:
    """Leave with the code of unusable data where something was found.

    Raises:
        DataError: With what to do.
    """
    from nowcast.errors import DataError

    if check["findings"]:
        raise DataError(
            f"{path}: {len(check['findings'])} findings in {check['frames']} frames",
            "remove the files that are named and give the nowcast ingest command that made it again: it stores what is "
            "gone; without the sources, make it anew from a copy",
        )


def _model(path: Path, window: int, picture: Path | None) -> dict[str, Any]:
    from nowcast.models.bundle import find_bundle, load_bundle

    bundle = load_bundle(path)
    parameters = sum(value.numel() for value in bundle.net.parameters())
    return {
        "kind": "model",
        "path": str(find_bundle(path)),
        "name": bundle.name,
        "parameters": parameters,
        "step_minutes": None if bundle.step_seconds is None else bundle.step_seconds / 60,
        "pixel_km": None if bundle.pixel_size_km is None else list(bundle.pixel_size_km),
        "normalizer": bundle.normalizer.to_dict(),
        "config": bundle.config.model_dump(mode="json"),
        "provenance": dict(bundle.provenance),
    }


def _forecast(path: Path, window: int, picture: Path | None) -> dict[str, Any]:
    import numpy as np

    from nowcast.data.forecast import load_forecast

    forecast = load_forecast(path)
    dy, dx = forecast.grid.pixel_size_km
    valid = ~np.isnan(forecast.rain_rate)
    wet = forecast.rain_rate >= np.float32(0.1)
    if picture is not None:
        from nowcast.report.plot import frame_figure, save_figure

        title = f"{forecast.model}: {forecast.valid_times[-1, 0]} UTC, +{forecast.lead_minutes[0]:g} min"
        save_figure(frame_figure(forecast.rain_rate[0, -1, 0], forecast.grid, title=title), picture)
    return {
        "kind": "forecast",
        "path": str(path),
        "model": forecast.model,
        "issue_times": [str(time) for time in forecast.issue_times],
        "lead_minutes": [float(value) for value in forecast.lead_minutes],
        "members": forecast.rain_rate.shape[0],
        "interval_minutes": forecast.interval_minutes,
        "grid": {"shape": list(forecast.grid.shape), "pixel_km": [dy, dx], "crs": forecast.grid.crs.name},
        "valid_share": float(valid.mean()),
        "wet_share": [float(wet[:, :, n].sum() / max(1, valid[:, :, n].sum())) for n in range(wet.shape[2])],
        "maximum_mm_h": float(np.nanmax(forecast.rain_rate)) if valid.any() else float("nan"),
        "attributes": dict(forecast.attributes),
    }


def _print_archive(values: dict[str, Any]) -> None:
    grid, quantity, gaps, rain, mask = (values[key] for key in ("grid", "quantity", "gaps", "rain", "mask"))
    rows, columns = grid["shape"]
    kind = (
        "instantaneous" if quantity["interval_minutes"] is None else f"mean over {quantity['interval_minutes']:g} min"
    )
    made = f", from {quantity['made_from']}" if quantity["made_from"] else ""
    relation = f", Z = {quantity['zr_a']:g} R^{quantity['zr_b']:g}" if quantity["zr_a"] else ""
    _line("archive", values["path"] + (" (synthetic)" if values["synthetic"] else ""))
    if values["being_written"]:
        _line("state", "being written, or its last writer was stopped; the next ingest puts it in order")
    _line("source", ", ".join(text for text in values["source"].values() if text) or "not stated")
    _line("quantity", f"{quantity['stored']}, {kind}{made}{relation}")
    if quantity["read_options"]:
        _line("read with", ", ".join(f"{name} = {value}" for name, value in quantity["read_options"].items()))
    _line("grid", f"{rows}x{columns} pixels of {grid['pixel_km'][0]:.4g}x{grid['pixel_km'][1]:.4g} km")
    named = f" ({grid['crs']})" if grid["crs"] != "unknown" else ""
    _line("projection", f"{grid['projection'] or 'in crs_wkt'}{named}")
    northwest, _, _, southeast = grid["corners_lon_lat"]
    _line("corners", f"NW {_place(northwest)}, SE {_place(southeast)}")
    _line("time", f"{values['time']['first']} to {values['time']['last']} UTC, step {values['step_minutes']:g} min")
    _line("frames", ", ".join(f"{number} {name}" for name, number in values["frames"].items() if number))
    _list_some(
        [
            f"{frame['time']}: partial, {_percent(frame['valid_share'])} of the usual pixels are valid"
            for frame in values["partial"]
        ]
    )
    _line("runs", f"{values['runs']} without a gap, the longest {_frames(values['longest_run'])}")
    _line("windows", f"{values['windows']} of {_frames(values['window_length'])}")
    _line("gaps", f"{gaps['number']}, together {_frames(gaps['frames'])}" if gaps["number"] else "none")
    for gap in gaps["longest"][:GAPS_SHOWN]:
        _line("", f"{gap['first']} to {gap['last']}: {_gap(gap)}")
    if gaps["number"] > GAPS_SHOWN:
        _line("", f"and {gaps['number'] - GAPS_SHOWN} shorter (--json lists the {len(gaps['longest'])} longest)")
    _line("rain", f"{100 * rain['wet_share']:.2f} % wet (0.1 mm/h and more), maximum {rain['maximum_mm_h']:.1f} mm/h")
    if rain["frames_measured"] < values["frames"]["present"]:
        _line("", f"from a sample of {_frames(rain['frames_measured'])}")
    for day in rain["days"][:DAYS_SHOWN]:
        share = f"{100 * day['wet_share']:.2f} % wet, maximum {day['maximum_mm_h']:.1f} mm/h"
        _line("", f"{day['date']}: {day['present']} of {day['slots']} frames, {share if day['present'] else 'nothing'}")
    if len(rain["days"]) > DAYS_SHOWN:
        _line("", f"and {len(rain['days']) - DAYS_SHOWN} more days (--json lists all)")
    shares = {name: f"{100 * share:.1f} % {name.replace('_', ' ')}" for name, share in mask.items()}
    _line("pixels", ", ".join(shares.values()))
    odd = values["implausible"]
    _line("implausible", f"{_frames(len(odd))} unlike the others" if odd else "no frame is unlike the others")
    _list_some([f"{frame['time']}: {frame['reason']}" for frame in odd])
    for finding in values.get("check", {}).get("findings", [])[:FINDINGS_SHOWN]:
        _line("damaged", ": ".join(part for part in (finding["time"], finding["reason"], finding["file"]) if part))
    if "check" in values and not values["check"]["findings"]:
        checked = values["check"]["frames"]
        _line("check", f"{_frames(checked)} read, each as it was written" if checked else "no frame from that time on")
    _print_quality(values["quality"])
    _print_files(values["files"])
    if "clutter" in values:
        _line("clutter", f"{values['clutter']['pixels']} pixels, written to {values['clutter']['file']}")


def _frames(number: int) -> str:
    return f"{number} frame" + ("s" if number != 1 else "")


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _gap(gap: dict[str, Any]) -> str:
    bad = "" if not gap["bad"] else ", bad" if gap["bad"] == gap["frames"] else f", {gap['bad']} of them bad"
    return _frames(gap["frames"]) + bad


def _place(lon_lat: list[float]) -> str:
    lon, lat = lon_lat
    # Longitudes of a grid may run beyond 180.
    lon = (lon + 180) % 360 - 180
    return f"{abs(lon):.2f}{'E' if lon >= 0 else 'W'} {abs(lat):.2f}{'N' if lat >= 0 else 'S'}"


def _list_some(lines: list[str]) -> None:
    for line in lines[:GAPS_SHOWN]:
        _line("", line)
    if len(lines) > GAPS_SHOWN:
        _line("", f"and {len(lines) - GAPS_SHOWN} more (--json lists all)")


def _print_quality(quality: dict[str, Any]) -> None:
    from nowcast.data.frame_measures import CHANGES

    steps = [STEP_TEXT[name].format(value) for name, value in quality["steps"].items() if value != "off"]
    _line("quality", ", ".join(steps) or "every step off")
    for name, pixels in quality["pixels_changed"].items():
        if pixels:
            what = CHANGES[name] if pixels != 1 else CHANGES[name].replace("pixels", "pixel", 1)
            _line("", f"{pixels} {what}, in {_frames(quality['frames_changed'][name])}")


def _print_files(files: dict[str, Any]) -> None:
    counts = ", ".join(f"{number} {status}" for status, number in sorted(files["by_status"].items()))
    _line("files", counts or "not recorded")
    for reason in files["by_reason"][:REASONS_SHOWN]:
        more = f" (and {reason['files'] - 1} more like it: --files lists them)" if reason["files"] > 1 else ""
        _line("", f"{reason['files']} {reason['status']}: {reason['example']}{more}")
    _list_some([f"look at {suspect['file']}: {suspect['suspicion']}" for suspect in files["suspects"]])
    for entry in files.get("entries", []):
        detail = entry["reason"] or f"{len(entry['times'])} frames, {entry['duplicates']} duplicates"
        detail += f"; look at it: {entry['suspicion']}" if entry["suspicion"] else ""
        click.echo(f"{entry['status']:<10} {entry['file']}: {detail}")


def _print_model(values: dict[str, Any]) -> None:
    _line("model", values["path"])
    _line("net", f"{values['name']}, {values['parameters']} parameters")
    if values["step_minutes"] is not None:
        dy, dx = values["pixel_km"]
        _line("made for", f"a step of {values['step_minutes']:g} min, pixels of {dy:.4g}x{dx:.4g} km")
    data = values["config"]["data"]
    _line("frames", f"{data['input_frames']} in, {data['output_frames']} out in training")
    _line("normaliser", ", ".join(f"{key} {value}" for key, value in values["normalizer"].items()))
    for key, value in values["provenance"].items():
        _line(key, str(value))


def _print_forecast(values: dict[str, Any]) -> None:
    issues, leads = values["issue_times"], values["lead_minutes"]
    rows, columns = values["grid"]["shape"]
    dy, dx = values["grid"]["pixel_km"]
    _line("forecast", values["path"])
    _line("model", values["model"])
    _line("issued", issues[0] if len(issues) == 1 else f"{len(issues)} times from {issues[0]} to {issues[-1]}")
    _line("lead times", f"{len(leads)} from {leads[0]:g} to {leads[-1]:g} min, {values['members']} member(s)")
    _line("grid", f"{rows}x{columns} pixels of {dy:.4g}x{dx:.4g} km, {values['grid']['crs']}")
    wet = values["wet_share"]
    _line(
        "rain",
        f"{100 * wet[0]:.2f} % wet at first, {100 * wet[-1]:.2f} % at last, maximum {values['maximum_mm_h']:.1f} mm/h",
    )
    for key, value in values["attributes"].items():
        if key not in ("Conventions", "comment", "references"):
            _line(key, str(value))


def _line(label: str, text: str) -> None:
    click.echo(f"{label:<12} {text}")
