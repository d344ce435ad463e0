"""`nowcast predict`: forecasts from an archive, one file an issue time."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from cli.options import DURATION_TYPE, TIME, leads_until, load_forecaster, output_option, overwrite_option

DEFAULT_LEADS = 12
EXIT_PARTIAL = 5


@click.command(name="predict")
@click.argument("model")
@click.argument("archive", type=click.Path(path_type=Path))
@output_option("A .nc file (one issue time), a .zarr store, or a folder of .nc files.")
@click.option("--at", type=TIME, help="Issue time (UTC); the archive's last possible one unless given.")
@click.option("--from", "first", type=TIME, help="First issue time.")
@click.option("--to", "last", type=TIME, help="Last issue time.")
@click.option("--every", type=DURATION_TYPE, help="Distance of issue times, for example 30min.")
@click.option("--minutes", type=float, help="How far ahead; as far as the model was trained unless given.")
@click.option("--probabilities", is_flag=True, help="Also the chance of reaching each threshold.")
@click.option("--members", type=click.IntRange(min=1), help="Ensemble members, of a model that draws them.")
@click.option("--seed", type=click.IntRange(min=0), help="The same seed draws the same members; 0 unless given.")
@click.option("--resume", is_flag=True, help="Keep the forecasts that are there, make the others.")
@overwrite_option
def command(
    model: str,
    archive: Path,
    output: Path,
    at: Any,
    first: Any,
    last: Any,
    every: Any,
    minutes: float | None,
    probabilities: bool,
    members: int | None,
    seed: int | None,
    resume: bool,
    overwrite: bool,
) -> None:
    """Forecast from ARCHIVE with MODEL: a run folder or a bundle; pretrained (the model of the package, which learnt
    synthetic rain alone, of 1 km and 5 min); persistence, extrapolation or scale-decay.
    """
    import numpy as np

    from nowcast.data.archive import open_archive
    from nowcast.data.outputs import Kind, require_free
    from nowcast.errors import ConfigError
    from nowcast.prediction.predict import choose_issue_times, possible_issue_times, skipped_issue_times

    if seed is not None and members is None:
        raise ConfigError("--seed draws members, and none are asked for", "add --members N")
    skipped: Any = ()
    many = any(value is not None for value in (first, last, every))
    if at is not None and many:
        raise ConfigError("--at is one issue time, --from, --to and --every are many", "give one or the other")
    if output.suffix in (".nc", ".zarr") and not resume:
        kind: Kind = "file" if output.suffix == ".nc" else "forecasts"
        require_free(output, kind, overwrite=overwrite, inputs=[model, archive])
    forecaster, source = load_forecaster(model), open_archive(archive)
    num_leads = leads_until(minutes, source.step, getattr(forecaster, "output_frames", DEFAULT_LEADS))
    if many:
        times = choose_issue_times(source, forecaster.input_frames, first=first, last=last, every=every)
        skipped = skipped_issue_times(source, times, first=first, last=last, every=every)
    elif at is not None:
        times = np.array([at])
    else:
        times = possible_issue_times(source, forecaster.input_frames)[-1:]
    empty = write_forecasts(
        forecaster,
        source,
        times,
        num_leads,
        output,
        how={"chances": probabilities} | ({} if members is None else {"members": members, "seed": seed or 0}),
        overwrite=overwrite,
        resume=resume,
    )
    number = f"{len(times)} forecast{'s' if len(times) != 1 else ''}"
    click.echo(f"{number} of {num_leads} lead times by {forecaster.name}: {output}")
    for reason, some in (
        (f"Left out, issue times without {forecaster.input_frames} frames up to them", skipped),
        ("Without any value, as the newest frames measured nothing, forecasts of", empty),
    ):
        if len(some):
            click.echo(f"{reason}: {len(some)} (the first {some[0]}Z)", err=True)
    if len(skipped) or len(empty):
        sys.exit(EXIT_PARTIAL)


def write_forecasts(
    forecaster: Any,
    source: Any,
    times: Any,
    num_leads: int,
    output: Path,
    *,
    how: dict[str, Any],
    overwrite: bool = False,
    resume: bool = False,
) -> list[Any]:
    """Make and save one forecast after the other, one in memory at a time; the issue times whose forecast is NaN alone.

    Args:
        how: What else `forecast_at` is told: chances, members, seed.
    """
    import numpy as np

    from cli.progress import progress
    from nowcast.data.forecast_store import ForecastStore
    from nowcast.errors import ConfigError, DataError
    from nowcast.prediction.predict import climate_attributes, forecast_at, forecast_file_name, require_same

    if len(times) == 0:
        raise DataError(f"the archive has no {forecaster.input_frames} consecutive frames to start from")
    if output.suffix == ".nc" and len(times) != 1:
        raise ConfigError(
            f"{output} holds one issue time, {len(times)} were asked for", "give -o a folder or a .zarr name"
        )
    attributes = climate_attributes(forecaster, source)
    empty = []

    def make(time: Any) -> Any:
        made = forecast_at(forecaster, source, time, num_leads, attributes=attributes, **how)
        if np.isnan(made.rain_rate).all():
            empty.append(time)
        return made

    if resume and output.suffix == ".zarr" and output.exists():
        require_same(output, forecaster, source, num_leads, **how)
    if output.suffix == ".zarr":
        about = {
            "model": forecaster.name,
            **getattr(forecaster, "identity", {}),
            "archive": source.fingerprint,
            "leads": num_leads,
            **how,
        }
        with ForecastStore(output, times, about=about, resume=resume, overwrite=overwrite) as store:
            for time in progress(store.outstanding, "predict"):
                store.write(make(time))
        return empty
    for time in progress(times, "predict"):
        path = output if output.suffix == ".nc" else output / forecast_file_name(forecaster, time)
        if resume and path.exists():
            require_same(path, forecaster, source, num_leads, **how)
        else:
            make(time).save(path, overwrite=overwrite)
    return empty
