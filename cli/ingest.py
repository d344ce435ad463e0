"""`nowcast ingest`: radar files of any format into one archive."""

from __future__ import annotations

import datetime
import json
import os
import shlex
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.options import DURATION_TYPE, echo_json, json_option, output_option, overwrite_option

if TYPE_CHECKING:
    from data_prep.ingest import IngestReport

EXIT_PARTIAL = 5
# Attribute of the archive beside an mlcast data set: the options that it was made with.
COMMAND_OPTIONS = "command_options"
# Files that a worker should have, for its start to pay.
FILES_PER_WORKER = 20


@click.command(name="ingest")
@click.argument("sources", nargs=-1, required=True, metavar="SRC...")
@output_option("The archive, new or existing; an existing one is continued.")
@click.option("--format", "format_name", default="auto", show_default=True, help="The files' format; see the readers.")
@click.option("--append", is_flag=True, help="The archive must be there already.")
@click.option("--step", type=DURATION_TYPE, help="Cadence of a new archive; found from the files unless given.")
@click.option("--time-tolerance", type=DURATION_TYPE, help="Move frames this near a slot of the time axis to it.")
@click.option(
    "--duplicates",
    type=click.Choice(["refuse", "last"]),
    default="refuse",
    show_default=True,
    help="What becomes of a different frame for a time that is there.",
)
@click.option("--longest-gap", type=DURATION_TYPE, help="Refuse frames further than this from all others. [366d]")
@click.option("--workers", type=click.IntRange(min=1), help="Processes that decode; as many as there are cores.")
@click.option("--scheduler", metavar="tcp://HOST:PORT", help="Decode on this Dask cluster instead.")
@click.option("--time-limit", type=DURATION_TYPE, help="Skip a file that takes longer to read. [10min]")
@click.option("--rate-cap", metavar="MM_H", help="Bring larger rain rates down to this [mm/h]; 'off' keeps them. [300]")
@click.option("--rain-threshold", metavar="MM_H", help="Make smaller rain rates dry [mm/h]; off unless given.")
@click.option("--minimum-quality", metavar="INDEX", help="Make pixels of a lower quality index missing.")
@click.option("--clutter-mask", metavar="FILE", help="Make these pixels missing: a .npy or .png mask.")
@click.option("--speckle", metavar="N", help="Make wet pixels with fewer than N wet neighbours dry.")
@click.option("--keep-quality", is_flag=True, help="Store the quality index beside the rain rate.")
@click.option("--z-relation", metavar="A,B", help="Z = A R^B for reflectivity, above what the files say.")
@click.option("--accumulation-minutes", type=float, help="Interval of accumulations, where the files do not say it.")
@click.option("--crop", metavar="S,W,N,E", help="Keep this window [degrees].")
@click.option("--crop-pixels", metavar="ROW,ROW,COL,COL", help="Keep this window: first and last + 1, north first.")
@click.option("--coarsen", type=click.IntRange(min=1), default=1, help="Average blocks of N by N pixels.")
@click.option("--time-pattern", metavar="%Y%m%d%H%M", help="Time in the file name, for files without one inside.")
@click.option("--variable", help="Variable or quantity to read, where there are several.")
@click.option("--missing-value", "missing_values", type=float, multiple=True, help="A stored value that means missing.")
@click.option("--grid", "grid_name", help="Grid of formats without geography, for example hko7.")
@click.option("--coordinates", type=click.Path(path_type=Path), help="File of coordinates beside the data (MeteoNet).")
@click.option("--pickled-dates", is_flag=True, help="Read pickled dates (MeteoNet) through a reader of dates alone.")
@click.option("--vil-rain-rate", metavar="A,B", help="R = A VIL^B for vertically integrated liquid (SEVIR).")
@click.option("--catalog", type=click.Path(path_type=Path), help="Table of times and places (SEVIR).")
@click.option("--event", help="The one event to read (SEVIR).")
@click.option("--max-pixels", type=click.IntRange(min=1), help="The largest grid that is decoded.")
@click.option(
    "--profile",
    type=click.Choice(["nowcast", "mlcast"]),
    default="nowcast",
    show_default=True,
    help="Layout: an archive, or a finished data set of the MLCast source-data specification.",
)
@click.option("--attribute", "attributes", multiple=True, metavar="KEY=VALUE", help="Global attribute of the archive.")
@overwrite_option
@json_option
def command(
    sources: tuple[str, ...],
    output: Path,
    append: bool,
    workers: int | None,
    scheduler: str | None,
    time_limit: Any,
    profile: str,
    overwrite: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Bring SRC... (files, folders, patterns) into one archive of rain rate.

    The same command again continues where it stopped, and takes files that came since. Leaves with 5 where some files
    could not be used: they are listed, and stand in the archive's manifest with the reason.
    """
    import numpy as np

    from data_prep.ingest import ingest
    from data_prep.sources import list_sources
    from nowcast.data.mlcast import written_once
    from nowcast.data.outputs import require_free
    from nowcast.errors import ConfigError

    if profile == "mlcast" and (append or (output.exists() and not overwrite)):
        refused = written_once(output)
        raise ConfigError(refused.message, f"{refused.hint}; or replace it: --overwrite")
    if profile == "mlcast":
        within = output.resolve().parents
        inputs = [source for source in sources if Path(source).resolve() not in within]
        require_free(output, "archive", overwrite=overwrite, inputs=inputs)
    if append and overwrite:
        raise ConfigError("--append adds to an archive, --overwrite replaces it", "give one or the other")
    if append and not output.exists():
        raise ConfigError(f"there is no archive {output} to append to", "leave --append out to make one")
    number = len(list_sources(sources, without=output))
    if workers is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        workers = max(1, min(cores, number // FILES_PER_WORKER))
    # The mlcast profile is written from an archive beside it, which a run that is stopped goes on with.
    archive = output if profile == "nowcast" else output.with_name(f".{output.name}.ingest")
    options = _options(given)
    if profile == "mlcast":
        overwrite_archive = overwrite or _is_stale(archive, sources, given)
        options = replace(options, attributes={**options.attributes, COMMAND_OPTIONS: _said(given)})
    else:
        overwrite_archive = overwrite
    with _Bar(number) as bar:
        report = ingest(
            sources,
            archive,
            options=options,
            workers=workers,
            scheduler=scheduler,
            time_limit_s=None if time_limit is None else float(time_limit / np.timedelta64(1, "s")),
            overwrite=overwrite_archive and archive.exists(),
            on_progress=bar.update,
        )
    if profile == "mlcast":
        _finish_mlcast(archive, output, overwrite=overwrite, attributes=_attributes(given["attributes"]))
        report.archive = output
    if as_json:
        echo_json(report.to_dict())
    else:
        _print(report)
    sys.exit(EXIT_PARTIAL if report.is_partial else 0)


def _options(given: dict[str, Any]) -> Any:
    import numpy as np

    from data_prep.ingest import IngestOptions

    gap = {} if given["longest_gap"] is None else {"longest_gap": given["longest_gap"]}
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return IngestOptions(
        format=given["format_name"],
        read=_read_options(given),
        quality=_quality_options(given),
        keep_quality=given["keep_quality"],
        step=given["step"],
        time_tolerance=np.timedelta64(0, "s") if given["time_tolerance"] is None else given["time_tolerance"],
        duplicates=given["duplicates"],
        **gap,
        attributes={"history": f"{now} {shlex.join(['nowcast', *sys.argv[1:]])}", **_attributes(given["attributes"])},
    )


def _said(given: dict[str, Any]) -> str:
    """What an ingest was told, for comparison with what another is told."""
    return json.dumps({key: str(value) for key, value in sorted(given.items())})


def _is_stale(archive: Path, sources: tuple[str, ...], given: dict[str, Any]) -> bool:
    """Whether the archive that a stopped run of the mlcast profile left is of other files or other options."""
    from data_prep.sources import list_sources
    from nowcast.data.archive import open_archive
    from nowcast.errors import DataError

    if not archive.exists():
        return False
    try:
        left = open_archive(archive)
        files = {entry.file for entry in left.manifest()}
    except DataError:
        return True
    stale = left.attrs.get(COMMAND_OPTIONS) != _said(given) or not files <= set(map(str, list_sources(sources)))
    if stale:
        click.echo(f"what an earlier run left in {archive} is of other files or options: it is made anew", err=True)
    return stale


def _attributes(texts: tuple[str, ...]) -> dict[str, str]:
    from nowcast.errors import ConfigError

    pairs = [text.partition("=") for text in texts]
    if any(not key or not separator for key, separator, _ in pairs):
        raise ConfigError(f"--attribute {' '.join(texts)}: expected KEY=VALUE")
    return {key: value for key, _, value in pairs}


def _finish_mlcast(archive: Path, output: Path, *, overwrite: bool, attributes: dict[str, str]) -> None:
    from nowcast.data.mlcast import export_mlcast
    from nowcast.data.outputs import put_in_place, require_free

    require_free(output, "archive", overwrite=overwrite)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.absolute().parent) as folder:
        put_in_place(export_mlcast(archive, Path(folder) / output.name, attributes=attributes), output)
    shutil.rmtree(archive)


def _read_options(given: dict[str, Any]) -> Any:
    from data_prep.readers.options import BoundingBox, PixelWindow, ReadOptions
    from nowcast.data.units import ZRelation
    from nowcast.errors import ConfigError

    crop: Any = None
    if given["crop"] and given["crop_pixels"]:
        raise ConfigError("--crop and --crop-pixels are two ways to say one thing", "give one of them")
    if given["crop"]:
        crop = BoundingBox(*_numbers("--crop", given["crop"], 4))
    if given["crop_pixels"]:
        top, bottom, left, right = (int(value) for value in _numbers("--crop-pixels", given["crop_pixels"], 4))
        crop = PixelWindow((top, bottom), (left, right))
    relation, vil = given["z_relation"], given["vil_rain_rate"]
    for option, pair in (("--z-relation", relation), ("--vil-rain-rate", vil)):
        if pair and not all(0 < value < float("inf") for value in _numbers(option, pair, 2)):
            raise ConfigError(f"{option} {pair}: both numbers must be positive")
    more = {} if given["max_pixels"] is None else {"max_pixels": given["max_pixels"]}
    return ReadOptions(
        z_relation=ZRelation(*_numbers("--z-relation", relation, 2)) if relation else None,
        accumulation_minutes=given["accumulation_minutes"],
        crop=crop,
        coarsen=given["coarsen"],
        time_pattern=given["time_pattern"],
        variable=given["variable"],
        missing_values=given["missing_values"],
        grid=given["grid_name"],
        coordinates=given["coordinates"],
        pickled_dates=given["pickled_dates"],
        vil_rain_rate=tuple(_numbers("--vil-rain-rate", vil, 2)) if vil else None,  # type: ignore[arg-type]
        catalog=given["catalog"],
        event=given["event"],
        **more,
    )


def _quality_options(given: dict[str, Any]) -> dict[str, Any]:
    """The steps that are named; for the others the archive's own, or the defaults, hold."""
    values: dict[str, Any] = {
        name: _number_or_off(f"--{option.replace('_', '-')}", given[option])
        for option, name in (
            ("rain_threshold", "rain_threshold_mm_h"),
            ("rate_cap", "rate_cap_mm_h"),
            ("minimum_quality", "minimum_quality"),
            ("speckle", "speckle_neighbours"),
        )
        if given[option] is not None
    }
    if values.get("speckle_neighbours") is not None:
        values["speckle_neighbours"] = int(values["speckle_neighbours"])
    if given["clutter_mask"] is not None:
        values["clutter_mask"] = given["clutter_mask"]
    return values


def _number_or_off(option: str, text: str | None) -> float | None:
    from nowcast.errors import ConfigError

    if text is None or text == "off":
        return None
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"{option} {text}: expected a number or 'off'") from None


def _numbers(option: str, text: str, number: int) -> list[float]:
    from nowcast.errors import ConfigError

    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) != number:
        raise ConfigError(f"{option} {text}: expected {number} numbers separated by commas")
    return values


class _Bar:
    """Progress on standard error: a bar on a terminal, a line every few seconds elsewhere."""

    def __init__(self, total: int) -> None:
        from tqdm import tqdm

        terminal = sys.stderr.isatty()
        self._bar = tqdm(total=total, desc="ingest", unit="file", mininterval=0.2 if terminal else 10.0, disable=None)

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *details: object) -> None:
        self._bar.close()

    def update(self, done: int, total: int, report: IngestReport) -> None:
        self._bar.update(done - self._bar.n)


def _print(report: IngestReport) -> None:
    files = ", ".join(f"{number} {status}" for status, number in sorted(report.files.items()))
    frames = f"{report.stored} frames stored, {report.duplicates} there already"
    if report.replaced:
        frames += f", {report.replaced} replaced"
    if report.refused:
        frames += f", {report.refused} refused"
    click.echo(f"{report.archive}: {report.description}")
    click.echo(f"files: {files}; {frames}; {report.seconds:.1f} s")
    if report.cadence:
        click.echo(f"frames apart by: {report.cadence}")
    for name, pixels in sorted(report.changed.items()):
        if pixels:
            click.echo(f"quality: {pixels} pixels {name.replace('_', ' ')}")
    if report.suspects:
        click.echo(f"stored, but unlike the others: {len(report.suspects)} frames (named above; see nowcast inspect)")
    if report.skipped:
        click.echo(f"not used, wholly or in part: {len(report.skipped)} files (nowcast inspect lists them by reason)")
