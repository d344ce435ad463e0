"""`nowcast view`: one offline page that plays a forecast."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli.options import TIME, output_option, overwrite_option, threshold_option


@click.command(name="view")
@click.argument("forecast", type=click.Path(path_type=Path))
@click.argument("archive", required=False, type=click.Path(path_type=Path))
@output_option("The HTML page to write.")
@threshold_option
@click.option("--issue", type=TIME, help="Issue time (UTC) of a forecast with several; the last.")
@click.option(
    "--neighbourhood",
    type=click.FloatRange(min=0.0),
    default=10.0,
    show_default=True,
    help="How far [km] pixels count for the probability of a single forecast.",
)
@overwrite_option
def command(
    forecast: Path,
    archive: Path | None,
    output: Path,
    thresholds: tuple[float, ...],
    issue: Any,
    neighbourhood: float,
    overwrite: bool,
) -> None:
    """One offline page that plays FORECAST over its lead times, beside the ARCHIVE's observations."""
    from nowcast.data.archive import open_archive
    from nowcast.data.forecast import load_forecast
    from nowcast.data.outputs import require_free
    from nowcast.report.files import write_text
    from nowcast.report.frames import frames_of
    from nowcast.report.view import view_page

    inputs = [forecast] if archive is None else [forecast, archive]
    require_free(output, "file", overwrite=overwrite, inputs=inputs)
    source = None if archive is None else open_archive(archive)
    frames = frames_of(load_forecast(forecast), source, issue=issue)
    page = view_page(frames, thresholds=thresholds, neighbourhood_km=neighbourhood)
    write_text(page, output)
    click.echo(f"wrote {output} ({len(page) / 1e6:.1f} MB)")
    if frames.unobserved:
        click.echo(f"no observation at {frames.unobserved} of {frames.lead_times.size} lead times", err=True)
