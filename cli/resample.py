"""`nowcast resample`: an archive of another cadence or pixel size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli.options import DURATION_TYPE, echo_json, json_option, output_option, overwrite_option
from cli.progress import progress


@click.command(name="resample")
@click.argument("archive", type=click.Path(path_type=Path))
@output_option("The new archive.")
@click.option("--step", type=DURATION_TYPE, help="Its cadence, for example 5min; that of ARCHIVE unless given.")
@click.option("--pixel-km", type=float, help="Its pixel size [km], not below that of ARCHIVE.")
@overwrite_option
@json_option
def command(archive: Path, output: Path, step: Any, pixel_km: float | None, overwrite: bool, as_json: bool) -> None:
    """Make an archive of another cadence, of larger pixels, or both from ARCHIVE.

    Frames at the times of ARCHIVE stay as they are; those between two of its frames are made along the motion of the
    rain, and are smoother than observed ones. Nothing is made across a gap. A longer step takes the frames at its
    slots, without a mean over time. Larger pixels are means by area. The same command continues one that was stopped.
    """
    from data_prep.resample import resample_archive
    from nowcast.errors import ConfigError

    if step is None and pixel_km is None:
        raise ConfigError("neither a cadence nor a pixel size is given", "add --step 5min, --pixel-km 1, or both")
    report = resample_archive(
        archive,
        output,
        step=step,
        pixel_km=pixel_km,
        overwrite=overwrite,
        progress=lambda slots: progress(slots, "resample"),
    )
    if as_json:
        echo_json(report.to_dict())
        return
    click.echo(f"{report.archive}: {report.description}")
    kept = f", {report.kept} of them by an earlier run" if report.kept else ""
    click.echo(
        f"{report.taken} frames at times of {archive}, {report.made} made between two{kept}; {report.seconds:.1f} s"
    )
    if report.absent:
        click.echo(f"{report.absent} slots stay absent: a frame of {archive} at them or beside them is missing")
