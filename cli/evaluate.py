"""`nowcast evaluate`: score forecasts against an archive, with baselines, all under one mask."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from cli.options import TIME, echo_json, json_option, output_option, overwrite_option, threshold_option

EXIT_PARTIAL = 5
EXIT_GATE = 10
SCHEDULER_TIMEOUT = "20s"
GATE = re.compile(r"^(?P<metric>[a-z0-9_]+)@(?P<threshold>[0-9.]+)mm(?::(?P<lead>[0-9.]+)min)?=(?P<bound>-?[0-9.]+)$")
# Scores of which less is better, or of which too much is a fault.
WORSE_ABOVE = ("far", "pofd", "frequency_bias")


@dataclass(frozen=True)
class Gate:
    """A bound that a score of every forecast must keep; without a lead, all leads are pooled.

    Attributes:
        text: As it was written.
        bound: The least value, or the greatest of an `upper` gate.
    """

    text: str
    metric: str
    threshold: float
    lead_minutes: float | None
    bound: float
    upper: bool = False

    @property
    def option(self) -> str:
        return "--fail-above" if self.upper else "--fail-below"

    def holds(self, value: float) -> bool:
        """False for an undefined score."""
        return value <= self.bound if self.upper else value >= self.bound


class GateType(click.ParamType):
    """A gate such as csi@1mm:60min=0.3."""

    name = "score@threshold:lead=bound"

    def __init__(self, *, upper: bool = False) -> None:
        self.upper = upper

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, Gate):
            return value
        match = GATE.match(str(value))
        if match is None:
            self.fail(f"'{value}' is no gate; write csi@1mm:60min=0.3, or csi@1mm=0.3 for all leads", param, ctx)
        try:
            threshold, bound = float(match["threshold"]), float(match["bound"])
            lead = None if match["lead"] is None else float(match["lead"])
        except ValueError:
            self.fail(f"'{value}' holds a number that is none; write csi@1mm:60min=0.3", param, ctx)
        if (match["metric"] in WORSE_ABOVE) != self.upper:
            other = "--fail-below" if self.upper else "--fail-above"
            good = "better" if self.upper else "no better"
            self.fail(f"'{value}': a greater {match['metric']} is {good}; write {other} {value}", param, ctx)
        return Gate(match[0], match["metric"], threshold, lead, bound, self.upper)


class NamesType(click.ParamType):
    """Names separated by commas."""

    name = "a,b,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        names = value if isinstance(value, tuple) else tuple(part.strip() for part in str(value).split(","))
        return tuple(name for name in names if name and name != "none")


@click.command(name="evaluate")
@click.argument("forecasts", nargs=-1, required=True, metavar="[NAME=]FORECAST...")
@click.option("--against", "archive", required=True, type=click.Path(path_type=Path), help="The archive of radar.")
@output_option("The folder of counts and scores.", default="skill")
@threshold_option
@click.option(
    "--baseline",
    "baselines",
    type=NamesType(),
    default="persistence,extrapolation",
    show_default=True,
    help="Forecasts made anew for the same cases; none for no baseline.",
)
@click.option(
    "--scale",
    "windows",
    default="1,5,11,21,41",
    show_default=True,
    help="Sides of the FSS windows [pixels], odd; none for no FSS.",
)
@click.option("--from", "first", type=TIME, help="First issue time to score.")
@click.option("--to", "last", type=TIME, help="Last issue time to score.")
@click.option("--label", help="Name of the archive in the results; its file name unless given.")
@click.option("--compat", help="Also score as hko7, sevir, earthformer, diffcast or pysteps does (see CONVENTIONS.md).")
@click.option("--fail-below", "gates", type=GateType(), multiple=True, help="Exit code 10 below, csi@1mm:60min=0.3.")
@click.option(
    "--fail-above",
    "upper_gates",
    type=GateType(upper=True),
    multiple=True,
    help="The same for far, pofd and frequency_bias: far@1mm=0.5.",
)
@click.option("--met", type=click.Path(path_type=Path), help="Also write the counts as MET CTC lines to this file.")
@click.option("--workers", type=click.IntRange(min=1), help="Processes of this machine; 1 unless given.")
@click.option("--scheduler", help="Address of a Dask cluster (tcp://...) that scores the cases.")
@click.option("--resume", is_flag=True, help="Go on with the same evaluation where it was stopped.")
@json_option
@overwrite_option
def command(
    forecasts: tuple[str, ...],
    archive: Path,
    output: Path,
    thresholds: tuple[float, ...],
    baselines: tuple[str, ...],
    windows: str,
    first: Any,
    last: Any,
    label: str | None,
    compat: str | None,
    gates: tuple[Gate, ...],
    upper_gates: tuple[Gate, ...],
    met: Path | None,
    workers: int | None,
    scheduler: str | None,
    resume: bool,
    as_json: bool,
    overwrite: bool,
) -> None:
    """Score FORECAST... (CF files, stores, or folders of them) against an archive.

    All models and baselines are scored on the same pixels of the same cases. FORECAST may be named: net=out/.
    """
    from nowcast.errors import ConfigError
    from nowcast.report.files import write_text
    from nowcast.verification.compat import compat_rows, convention, met_ctc_lines
    from nowcast.verification.counts import AT_OR_ABOVE
    from nowcast.verification.evaluate import evaluate

    if workers is not None and scheduler is not None:
        raise ConfigError("--workers are processes of this machine, --scheduler has its own", "give one of the two")
    gates = (*gates, *upper_gates)
    _check_gates(gates, thresholds, forecasts)
    comparison = AT_OR_ABOVE if compat is None else convention(compat).comparison
    _require_free_outputs(output, met, overwrite=overwrite, forecasts=forecasts, archive=archive)
    with _executor(workers, scheduler) as executor:
        result = evaluate(
            [_named(text) for text in forecasts],
            archive,
            thresholds=thresholds,
            baselines=[_baseline(name) for name in baselines],
            windows=_windows(windows),
            comparison=comparison,
            label=label,
            first=first,
            last=last,
            executor=executor,
            progress=_progress,
            output=output,
            resume=resume,
            overwrite=overwrite,
        )
    rows = [] if compat is None else list(compat_rows(result.counts, compat))
    if compat is not None:
        _write_csv(output / f"compat-{compat}.csv", rows)
    if met is not None:
        write_text("".join(line + "\n" for line in met_ctc_lines(result.counts)), met)
    failed = [finding for gate in gates for finding in _failures(gate, result)]
    if as_json:
        echo_json(_summary(result, output, rows, failed))
    else:
        click.echo("\n".join(score_table(result)))
        if compat is not None:
            click.echo("\n".join(compat_table(compat, rows)))
        click.echo(f"counts, sums and scores: {output}")
    for reason, items in result.left_out().items():
        click.echo(f"Left out, {reason}: {len(items)} ({_some(items)})", err=True)
    for note in _notes(result):
        click.echo(note, err=True)
    for finding in failed:
        click.echo(f"Gate failed: {finding}", err=True)
    if failed:
        sys.exit(EXIT_GATE)
    if result.is_partial:
        sys.exit(EXIT_PARTIAL)


def score_table(evaluation: Any) -> list[str]:
    """CSI, POD, FAR and bias by model and threshold, over all leads and at four of them, with the sample sizes."""
    from nowcast.verification.scores import csi, far, frequency_bias, pod, pool

    counts = evaluation.counts
    together, by_lead = pool(counts, ("case", "lead_time")), pool(counts, ("case",))
    leads = sorted({round(index * (counts.lead_times.size - 1) / 3) for index in range(4)})
    width = max(len(name) for name in (*counts.models, "model"))
    shown = " ".join(f"{counts.lead_minutes[lead]:>4g}min" for lead in leads)
    share = counts.valid.sum() / max(int(counts.pixels.sum()), 1)
    synthetic = " Synthetic data." if evaluation.is_synthetic else ""
    lines = [
        f"{len(counts.cases)} cases, {counts.lead_times.size} lead times, {share:.1%} of the pixels valid in all; "
        f"an event is {counts.comparison} the threshold; counts pooled.{synthetic}",
        f"{'mm/h':>6} {'observed':>10} {'model':<{width}} {'CSI':>6} {'POD':>6} {'FAR':>6} {'bias':>6}   CSI at "
        + shown,
    ]
    values = [score(together) for score in (csi, pod, far, frequency_bias)]
    csi_by_lead = csi(by_lead)
    for t, threshold in enumerate(counts.thresholds):
        for m, model in enumerate(counts.models):
            numbers = " ".join(f"{_number(value[m, t]):>6}" for value in values)
            ahead = " ".join(f"{_number(csi_by_lead[m, lead, t]):>7}" for lead in leads)
            observed = f"{together.observed[m, t]}"
            lines.append(f"{threshold:>6g} {observed:>10} {model:<{width}} {numbers}          {ahead}")
    if any("-" in line.split() for line in lines[2:]):
        lines.append("- is undefined (0/0): no valid pixel, or nothing observed, nothing forecast, or both")
    return lines


def compat_table(name: str, rows: list[dict[str, Any]]) -> list[str]:
    """CSI by the rule of a benchmark, one line a model; its other scores are in the file."""
    levels = sorted({row["threshold"] for row in rows})
    value = {(row["model"], row["threshold"]): row["value"] for row in rows if row["metric"] == "csi"}
    models = list(dict.fromkeys(row["model"] for row in rows))
    width = max(len(model) for model in models)
    head = " ".join(f"{level:>6g}" for level in levels)
    lines = [f"CSI as {name} scores ({rows[0]['rule']}):", f"{'mm/h':<{width}} {head}"]
    return lines + [
        f"{model:<{width}} " + " ".join(f"{_number(value[model, level]):>6}" for level in levels) for model in models
    ]


def _number(value: float) -> str:
    return "-" if value != value else f"{value:.3f}"


def _named(text: str) -> Any:
    """A path, or (name, path) from NAME=PATH; a path that exists is a path."""
    name, equals, path = text.partition("=")
    return text if not equals or Path(text).exists() or "/" in name else (name, path)


def _baseline(name: str) -> Any:
    from nowcast.errors import ConfigError
    from nowcast.prediction import BASELINES, baseline

    found = baseline(name)
    if found is None:
        near = difflib.get_close_matches(name, BASELINES, 1)
        hint = f"did you mean {near[0]}?" if near else "--baseline none for no baseline"
        raise ConfigError(f"no baseline '{name}'; there are {', '.join(BASELINES)}", hint)
    return found


def _windows(text: str) -> tuple[int, ...]:
    from nowcast.errors import ConfigError

    try:
        return tuple(int(part) for part in text.split(",") if part.strip() != "none")
    except ValueError as error:
        raise ConfigError(f"--scale {text} is not a list of odd numbers of pixels such as 1,5,11") from error


def _check_gates(gates: Sequence[Gate], thresholds: tuple[float, ...], forecasts: tuple[str, ...]) -> None:
    """Refuse gates that the run could not answer, before the run."""
    from nowcast.errors import ConfigError
    from nowcast.verification.scores import SCORES

    for gate in gates:
        if gate.metric not in SCORES:
            raise ConfigError(f"{gate.option} {gate.text}: no score '{gate.metric}'; there are {', '.join(SCORES)}")
        if gate.threshold not in thresholds:
            shown = ", ".join(f"{value:g}" for value in thresholds)
            raise ConfigError(f"{gate.option} {gate.text}: {gate.threshold:g} mm/h is not among the thresholds {shown}")
    if any(gate.lead_minutes is not None for gate in gates):
        from nowcast.data.forecast_file import find_forecast_files, open_forecast_file

        paths = [entry if isinstance(entry, str) else entry[1] for entry in map(_named, forecasts)]
        files = [open_forecast_file(find_forecast_files(path)[0]) for path in paths]
        shared = set.intersection(*({lead.item().total_seconds() / 60 for lead in file.lead_times} for file in files))
        for gate in gates:
            _require_lead(gate, sorted(minutes for minutes in shared if minutes > 0))


def _require_lead(gate: Gate, minutes: list[float]) -> None:
    from nowcast.errors import ConfigError

    if gate.lead_minutes is not None and gate.lead_minutes not in minutes:
        shown = ", ".join(f"{value:g}" for value in minutes)
        raise ConfigError(f"{gate.option} {gate.text}: no lead time of {gate.lead_minutes:g} min, there are {shown}")


def _failures(gate: Gate, evaluation: Any) -> Iterator[str]:
    """What the forecasts (not the baselines) did not keep to; an undefined score does not."""
    from nowcast.verification.scores import SCORES, pool

    counts = evaluation.counts
    threshold = counts.thresholds.tolist().index(gate.threshold)
    if gate.lead_minutes is None:
        values = SCORES[gate.metric](pool(counts, ("case", "lead_time")))[:, threshold]
    else:
        minutes = counts.lead_minutes.tolist()
        _require_lead(gate, minutes)
        values = SCORES[gate.metric](pool(counts, ("case",)))[:, minutes.index(gate.lead_minutes), threshold]
    for model, value in zip(counts.models, values.tolist(), strict=True):
        if evaluation.provenance["models"][model]["kind"] == "forecast" and not gate.holds(value):
            yield f"{gate.text}: {model} has {_number(value)}"


@contextmanager
def _executor(workers: int | None, scheduler: str | None) -> Iterator[Any]:
    if scheduler is not None:
        from nowcast.errors import ConfigError, MissingPackageError

        try:
            from distributed import Client
        except ImportError as error:
            raise MissingPackageError("distributed", "dask", "scoring on a Dask cluster") from error
        try:
            client = Client(scheduler, timeout=SCHEDULER_TIMEOUT)
        except (OSError, ValueError) as error:
            raise ConfigError(f"no Dask scheduler answers at {scheduler}: {error}") from error
        with client:
            yield client.get_executor(pure=False)
        return
    if workers is None or workers == 1:
        yield None
        return
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


def _progress(cases: Iterator[Any], number: int) -> Iterable[Any]:
    from tqdm import tqdm

    # Where there is no terminal, a line every few seconds is enough.
    return tqdm(cases, total=number, desc="evaluate", unit="case", mininterval=0.1 if sys.stderr.isatty() else 5.0)


def _require_free_outputs(
    output: Path, met: Path | None, *, overwrite: bool, forecasts: tuple[str, ...], archive: Path
) -> None:
    """Refuse outputs that exist before the work, not after it."""
    from nowcast.data.outputs import require_free

    named = [_named(text) for text in forecasts]
    inputs = [archive, *(entry if isinstance(entry, str) else entry[1] for entry in named)]
    require_free(output, "evaluation", overwrite=overwrite, inputs=inputs)
    if met is not None:
        require_free(met, "file", overwrite=overwrite, inputs=inputs)


def _summary(evaluation: Any, output: Path, compat: list[dict[str, Any]], failed: list[str]) -> dict[str, Any]:
    from nowcast.verification.score_table import score_rows

    return {
        "output": str(output),
        "cases": len(evaluation.counts.cases),
        "lead_minutes": evaluation.counts.lead_minutes.tolist(),
        "masked_share": evaluation.counts.masked_share().tolist(),
        "fields_without_pixels": evaluation.fields_without_pixels(),
        "left_out": evaluation.left_out(),
        "synthetic": evaluation.is_synthetic,
        "scores": [
            {key: None if value == "" else value for key, value in row.items() if value != "" or key == "value"}
            for row in score_rows(evaluation)
            if row["aggregation"] == "pooled" and row["metric"] in ("csi", "pod", "far", "frequency_bias")
        ],
        "compat": compat,
        "failed_gates": failed,
    }


def _notes(evaluation: Any) -> Iterator[str]:
    """How much of the forecasts was scored, and whether it is enough to tell models apart."""
    from nowcast.verification.bootstrap import MIN_BLOCKS

    cases = evaluation.counts.cases
    lost = sum(len(items) for reason, items in evaluation.left_out().items() if reason.startswith("issue times"))
    if lost:
        yield f"Scored {len(cases)} of {len(cases) + lost} issue times."
    days = len({(case.source, case.issue_time.astype("datetime64[D]")) for case in cases})
    if days < MIN_BLOCKS:
        yield (
            f"{len(cases)} case{'s' * (len(cases) > 1)} on {days} day{'s' * (days > 1)}: too few to rank models. "
            f"Differences are tested from {MIN_BLOCKS} independent days or rain episodes on: "
            "add forecasts of other days."
        )


def _write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    import csv

    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _some(items: list[str], number: int = 3) -> str:
    return ", ".join(items[:number]) + (", ..." if len(items) > number else "")
