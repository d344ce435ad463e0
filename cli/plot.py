"""`nowcast plot`: a frame, a sequence, an animation, or skill against lead time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.options import DURATION_TYPE, NUMBERS, TIME, output_option, overwrite_option

if TYPE_CHECKING:
    import numpy as np

    from nowcast.report.frames import Frames

issue_option = click.option("--issue", type=TIME, help="Issue time (UTC) of a forecast with several; the last.")
against_option = click.option("--against", type=click.Path(path_type=Path), help="The archive with what was observed.")
member_option = click.option("--member", type=click.IntRange(min=1), help="Which ensemble member; the first.")


@click.group(name="plot")
def command() -> None:
    """Pictures: a frame, a sequence, an animation, skill against lead time."""


@command.command()
@click.argument("source", type=click.Path(path_type=Path))
@output_option("A .png, .pdf or .svg file.")
@click.option("--at", type=TIME, help="Valid time (UTC) in an archive; its last frame unless given.")
@issue_option
@click.option("--lead", type=DURATION_TYPE, help="Lead time of a forecast; its first unless given.")
@member_option
@overwrite_option
def frame(source: Path, output: Path, at: Any, issue: Any, lead: Any, member: int | None, overwrite: bool) -> None:
    """One field of SOURCE, an archive or a forecast."""
    from nowcast.data.outputs import require_free
    from nowcast.errors import ConfigError, DataError
    from nowcast.report.plot import frame_figure, save_figure
    from nowcast.report.words import utc

    require_free(output, "file", overwrite=overwrite, inputs=[source])
    if is_archive(source):
        from nowcast.data.archive import open_archive

        if issue is not None or lead is not None or member is not None:
            raise ConfigError("--issue, --lead and --member belong to a forecast", f"{source} is an archive: use --at")
        archive = open_archive(source)
        if at is None and not archive.present.any():
            raise DataError(f"{source} has no frame that can be read")
        time = archive.times[archive.present][-1] if at is None else at
        field, grid, title = archive.frame(time), archive.grid, f"Observed rain rate, {utc(time)}"
        note = [_interval(archive.interval_minutes), "synthetic data" if archive.is_synthetic else ""]
        note += ["interpolated between frames along the motion"] if _is_made(archive.attrs, time) else []
    else:
        if at is not None:
            raise ConfigError("--at belongs to an archive", f"{source} is a forecast: use --issue and --lead")
        shown = _frames(source, None, issue)
        column = 0 if lead is None else _lead_index(shown, lead)
        field, grid = _member(shown, member)[column], shown.grid
        title = f"{shown.model}, {utc(shown.valid_times[column])}"
        note = [f"{shown.lead_labels[column]} from {utc(shown.issue_time)}", *_notes(shown, member)]
    save_figure(frame_figure(field, grid, title=title, subtitle="  ·  ".join(filter(None, note))), output)
    click.echo(f"wrote {output}")


@command.command()
@click.argument("forecasts", nargs=-1, required=True, type=click.Path(path_type=Path))
@output_option("A .png, .pdf or .svg file.")
@against_option
@issue_option
@click.option("--lead", "leads", type=NUMBERS, help="Lead times in minutes, such as 15,30,60; six of them.")
@member_option
@overwrite_option
def sequence(
    forecasts: tuple[Path, ...],
    output: Path,
    against: Path | None,
    issue: Any,
    leads: tuple[float, ...] | None,
    member: int | None,
    overwrite: bool,
) -> None:
    """Observed above FORECAST..., one column a lead time."""
    import numpy as np

    from nowcast.data.outputs import require_free
    from nowcast.errors import MismatchError
    from nowcast.report.plot import save_figure, sequence_figure
    from nowcast.report.words import utc

    require_free(output, "file", overwrite=overwrite, inputs=[*forecasts, *_given(against)])
    shown = [_frames(path, against, issue) for path in forecasts]
    first = shown[0]
    for other, path in zip(shown[1:], forecasts[1:], strict=True):
        same = first.issue_time == other.issue_time and np.array_equal(first.lead_times, other.lead_times)
        if not (same and first.grid.matches(other.grid)):
            raise MismatchError(
                f"{forecasts[0]} ({utc(first.issue_time)}, {first.lead_times.size} lead times) and {path} "
                f"({utc(other.issue_time)}, {other.lead_times.size} lead times) are not of one issue time and grid",
                "choose one with --issue",
            )
    if leads is None:
        columns = np.unique(np.linspace(0, first.lead_times.size - 1, 6).round().astype(int))
    else:
        columns = np.array([_lead_index(first, np.timedelta64(round(lead * 60), "s")) for lead in leads])
    rows = {} if first.observed is None else {"observed": first.observed[columns]}
    named = zip(_apart([one.model for one in shown], forecasts), shown, strict=True)
    rows |= {name: _member(one, member)[columns] for name, one in named}
    figure = sequence_figure(
        rows,
        first.grid,
        [first.lead_labels[column] for column in columns],
        title=f"Issued {utc(first.issue_time)}",
        subtitle="  ·  ".join(_notes(first, member)),
    )
    save_figure(figure, output)
    click.echo(f"wrote {output}")


@command.command()
@click.argument("source", type=click.Path(path_type=Path))
@output_option("A .gif or .mp4 file.")
@against_option
@issue_option
@member_option
@click.option("--from", "first", type=TIME, help="First valid time of an archive.")
@click.option("--to", "last", type=TIME, help="Last valid time of an archive.")
@click.option(
    "--fps", type=click.FloatRange(min=0.1, max=60.0), default=4.0, show_default=True, help="Frames a second."
)
@overwrite_option
def animate(
    source: Path,
    output: Path,
    against: Path | None,
    issue: Any,
    member: int | None,
    first: Any,
    last: Any,
    fps: float,
    overwrite: bool,
) -> None:
    """SOURCE, an archive or a forecast, as a moving picture; with --against, beside what was observed."""
    import numpy as np

    from nowcast.data.outputs import require_free
    from nowcast.errors import ConfigError, DataError
    from nowcast.report.plot import animate as write_animation
    from nowcast.report.words import utc

    require_free(output, "file", overwrite=overwrite, inputs=[source, *_given(against)])
    if is_archive(source):
        from nowcast.data.archive import open_archive

        if issue is not None or against is not None or member is not None:
            raise ConfigError("--issue, --against and --member belong to a forecast", f"{source} is an archive")
        archive = open_archive(source)
        inside = archive.present.copy()
        if first is not None:
            inside &= archive.times >= first
        if last is not None:
            inside &= archive.times <= last
        if not inside.any():
            raise DataError(f"{source} has no frame between {first} and {last}", archive.describe())
        times, grid = archive.times[inside], archive.grid
        wanted = np.flatnonzero(inside)
        rain = archive.rain_rate(int(wanted[0]), int(wanted[-1]) + 1)
        panels: dict[str, np.ndarray] = {"observed": rain[wanted - wanted[0]]}
        labels = [utc(time) for time in times]
        title = "Synthetic rain rate" if archive.is_synthetic else "Observed rain rate"
    else:
        if first is not None or last is not None:
            raise ConfigError("--from and --to belong to an archive", f"{source} is a forecast: use --issue")
        shown = _frames(source, against, issue)
        panels = {} if shown.observed is None else {"observed": shown.observed}
        panels[shown.model] = _member(shown, member)
        grid = shown.grid
        labels = [f"{utc(time)} ({lead})" for time, lead in zip(shown.valid_times, shown.lead_labels, strict=True)]
        title = "  ·  ".join([f"Issued {utc(shown.issue_time)}", *_notes(shown, member)])
    write_animation(panels, grid, labels, output, title=title, frames_per_second=fps)
    click.echo(f"wrote {output}: {len(labels)} frames")


KINDS = ("csi", "pod", "far", "frequency_bias", "performance", "fss", "spectra", "samples")


@command.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="SKILL...")
@output_option("A .png, .pdf or .svg file.")
@click.option("--kind", type=click.Choice(KINDS), default="csi", show_default=True, help="What is drawn.")
@click.option("--threshold", "thresholds", type=NUMBERS, help="Only these thresholds [mm/h].")
@click.option("--replicates", type=int, default=2000, show_default=True, help="Resamples behind the intervals.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the resampling.")
@overwrite_option
def skill(
    folders: tuple[Path, ...],
    output: Path,
    kind: str,
    thresholds: tuple[float, ...] | None,
    replicates: int,
    seed: int,
    overwrite: bool,
) -> None:
    """Scores of SKILL..., folders that `nowcast evaluate` wrote, against lead time, scale or each other."""
    from nowcast.data.outputs import require_free
    from nowcast.errors import ConfigError
    from nowcast.report import skill_charts
    from nowcast.report.decisions import Settings
    from nowcast.report.figures import charts_figure
    from nowcast.report.plot import save_figure
    from nowcast.report.report import SkillReport
    from nowcast.report.verdict import opening
    from nowcast.verification.evaluation import Evaluation

    require_free(output, "file", overwrite=overwrite, inputs=folders)
    evaluations = [Evaluation.load(folder) for folder in folders]
    settings = Settings(replicates=replicates, seed=seed)
    report = SkillReport.of(evaluations, settings=settings, names=[str(folder) for folder in folders])
    analysis = report.analysis
    leads = skill_charts.chosen_leads(analysis, 3)
    by_threshold = kind not in ("spectra", "samples")
    charts = {
        "performance": lambda: skill_charts.performance_charts(analysis),
        "fss": lambda: skill_charts.fss_charts(analysis, leads),
        "spectra": lambda: skill_charts.spectrum_charts(analysis, leads),
        "samples": lambda: skill_charts.sample_charts(analysis),
    }.get(kind, lambda: skill_charts.score_charts(analysis, kind))()
    if thresholds is not None:
        known = analysis.thresholds.tolist()
        unknown = [threshold for threshold in thresholds if threshold not in known]
        if unknown or not by_threshold:
            raise ConfigError(
                f"--threshold {unknown[0]:g} is not among those counted" if unknown else f"{kind} has no threshold",
                "there are " + ", ".join(f"{threshold:g}" for threshold in known),
            )
        each = len(charts) // len(known)
        charts = [
            chart
            for t, threshold in enumerate(known)
            if threshold in thresholds
            for chart in charts[t * each : (t + 1) * each]
        ]
    if not charts:
        raise ConfigError(f"the evaluation holds nothing for {kind}", "evaluate again with --scale")
    note = "synthetic data" if analysis.evaluation.is_synthetic else ""
    subtitle = "  ·  ".join(filter(None, [note, opening(analysis).split(".")[0]]))
    save_figure(charts_figure(charts, title=report.title, subtitle=subtitle), output)
    click.echo(f"wrote {output}")


def is_archive(path: Path) -> bool:
    """Whether a path is an archive rather than a forecast."""
    import json

    from nowcast.data.archive import FORMAT
    from nowcast.data.mlcast import is_mlcast

    try:
        attributes = json.loads((path / "zarr.json").read_text(encoding="utf-8"))["attributes"]
    except (OSError, ValueError, KeyError):
        return False
    return isinstance(attributes, dict) and (attributes.get("format") == FORMAT or is_mlcast(attributes))


def _given(path: Path | None) -> list[Path]:
    return [] if path is None else [path]


def _frames(path: Path, against: Path | None, issue: Any) -> Frames:
    from nowcast.data.archive import open_archive
    from nowcast.data.forecast import load_forecast
    from nowcast.report.frames import frames_of

    return frames_of(load_forecast(path), None if against is None else open_archive(against), issue=issue)


def _apart(models: Sequence[str], paths: Sequence[Path]) -> list[str]:
    """Names of rows: the models, with their files where two have one name."""
    return [
        model if models.count(model) == 1 else f"{model} ({path.stem})"
        for model, path in zip(models, paths, strict=True)
    ]


def _member(shown: Frames, member: int | None) -> np.ndarray:
    from nowcast.errors import ConfigError

    member = 1 if member is None else member
    if member > shown.forecast.shape[0]:
        raise ConfigError(f"--member {member}: the forecast of {shown.model} has {shown.forecast.shape[0]}")
    return shown.forecast[member - 1]


def _lead_index(shown: Frames, lead: np.timedelta64) -> int:
    import numpy as np

    from nowcast.errors import ConfigError

    found = np.flatnonzero(shown.lead_times == lead)
    if found.size == 0:
        raise ConfigError(
            f"the forecast of {shown.model} has no lead time of {lead / np.timedelta64(60, 's'):g} min",
            f"it has {', '.join(label.strip('+') for label in shown.lead_labels)}",
        )
    return int(found[0])


def _notes(shown: Frames, member: int | None) -> list[str]:
    members = shown.forecast.shape[0]
    notes = [f"member {1 if member is None else member} of {members}"] if members > 1 else []
    return [*notes, "synthetic data"] if shown.synthetic else notes


def _interval(minutes: float | None) -> str:
    return "instantaneous" if minutes is None else f"mean over the {minutes:g} min before"


def _is_made(attrs: Mapping[str, Any], time: np.datetime64) -> bool:
    """Whether `nowcast resample` made the frame of a time: its source had none then."""
    import numpy as np

    first, seconds = attrs.get("resampled_from_first_time"), attrs.get("resampled_from_step_seconds")
    if first is None or seconds is None:
        return False
    return bool((time - np.datetime64(first)) % np.timedelta64(int(seconds), "s") != np.timedelta64(0, "s"))
