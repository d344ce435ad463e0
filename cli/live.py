"""`nowcast live`: watch a folder into which radar files arrive, and issue a forecast for each new frame."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path
from typing import Any

import click

from cli.options import DURATION_TYPE, leads_until, load_forecaster, output_option
from cli.predict import DEFAULT_LEADS

EXIT_PARTIAL = 5

log = logging.getLogger(__name__)


@click.command(name="live")
@click.argument("model")
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@output_option("The folder of forecast files, one for each issue time.")
@click.option(
    "--archive", type=click.Path(path_type=Path), help="The archive that files go into; OUTPUT.zarr unless given."
)
@click.option("--once", is_flag=True, help="Take what is there, make what is due, and stop: for cron.")
@click.option("--poll", type=DURATION_TYPE, default="5s", show_default=True, help="How often the folder is looked at.")
@click.option(
    "--catch-up",
    type=DURATION_TYPE,
    default="1h",
    show_default=True,
    help="How far back from the newest frame forecasts are still made.",
)
@click.option("--minutes", type=float, help="How far ahead; as far as the model was trained unless given.")
@click.option("--probabilities", is_flag=True, help="Also the chance of reaching each threshold.")
@click.option("--members", type=click.IntRange(min=1), help="Ensemble members, of a model that draws them.")
@click.option("--seed", type=click.IntRange(min=0), help="The same seed draws the same members; 0 unless given.")
@click.option("--format", "format_name", default="auto", show_default=True, help="Format of the files.")
@click.option("--step", type=DURATION_TYPE, help="Cadence of a new archive; found from its files unless given.")
@click.option("--time-pattern", metavar="%Y%m%d%H%M", help="Time in the file name, for files without one inside.")
@click.option("--accumulation-minutes", type=float, help="Interval of accumulations, where the files do not say it.")
def command(
    model: str,
    folder: Path,
    output: Path,
    archive: Path | None,
    once: bool,
    poll: Any,
    catch_up: Any,
    minutes: float | None,
    probabilities: bool,
    members: int | None,
    seed: int | None,
    **read: Any,
) -> None:
    """Watch FOLDER for radar files and forecast from each new frame with MODEL, the newest first.

    A file counts as complete when it is the same at two looks (with --once, as it is). Files that cannot be read are
    named and passed over. Stops cleanly on Ctrl-C (exit code 130) and SIGTERM (143); the same command goes on.
    With --once it leaves with 5 where some files could not be used, and with 3 where none could.
    """
    import numpy as np

    from nowcast.errors import ConfigError, DataError
    from nowcast.prediction.live import LiveForecasts, run_live

    if output.absolute().is_relative_to(folder.absolute()):
        raise ConfigError(f"the output {output} lies in the folder that is watched", "choose another -o")
    if seed is not None and members is None:
        raise ConfigError("--seed draws members, and none are asked for", "add --members N")
    forecaster = load_forecaster(model)
    default = getattr(forecaster, "output_frames", DEFAULT_LEADS)
    forecasts = LiveForecasts(
        forecaster,
        output,
        lambda step: leads_until(minutes, step, default),
        catch_up,
        {"chances": probabilities} | ({} if members is None else {"members": members, "seed": seed or 0}),
    )
    feed = Feed(folder, archive or output.with_name(f"{output.name}.zarr"), read, patient=not once)
    seconds = float(poll / np.timedelta64(1, "s"))
    if not once:
        log.info("watching %s every %g s", folder, seconds)

    def wait() -> bool:
        if not once:
            time.sleep(seconds)
        return not once

    made = run_live(forecasts, feed.refresh, wait)
    click.echo(f"{len(made)} forecast{'s' if len(made) != 1 else ''} by {forecaster.name}: {output}")
    if feed.archive is None:
        raise DataError(f"no file in {folder} could be used", "nowcast ingest says more")
    if feed.unused:
        sys.exit(EXIT_PARTIAL)


class Feed:
    """Brings the files of a folder into an archive as they arrive.

    Args:
        read: Options of the reader, and `step`, which a new archive is made with.
        patient: Whether a file must be the same at two looks before it is read: it may still be written.

    Attributes:
        archive: The archive as it was last opened; None while no file was usable.
        unused: Files that could not be used, wholly or in part.
    """

    def __init__(self, folder: Path, archive: Path, read: dict[str, Any], *, patient: bool) -> None:
        from data_prep.ingest import IngestOptions
        from data_prep.readers.options import ReadOptions

        self.folder, self.path, self.patient = folder, archive, patient
        self.options = IngestOptions(
            format=read["format_name"],
            read=ReadOptions(time_pattern=read["time_pattern"], accumulation_minutes=read["accumulation_minutes"]),
            step=read["step"],
        )
        self.archive: Any = None
        self.unused: set[Path] = set()
        self._seen: dict[Path, tuple[int, int]] = {}
        self._taken: dict[Path, tuple[int, int]] = {}
        self._refused: dict[Path, tuple[int, int]] = {}

    def refresh(self) -> Any:
        """Take in the files that are new or changed since they were last read; the archive.

        Raises:
            DataError: Not one of them can be used, and there is no archive yet: they are tried again together with
                the next one (a step takes two frames).
        """
        from nowcast.data.archive import open_archive

        if self.archive is None and self.path.exists():
            self.archive = open_archive(self.path)
        ready = self._ready()
        if ready and ready != self._refused:
            self._take(ready)
        return self.archive

    def _ready(self) -> dict[Path, tuple[int, int]]:
        stamps = {path: _stamp(path) for path in self._list()}
        ready = {
            path: stamp
            for path, stamp in stamps.items()
            if stamp is not None
            and self._taken.get(path) != stamp
            and (not self.patient or self._seen.get(path) == stamp)
        }
        self._seen = {path: stamp for path, stamp in stamps.items() if stamp is not None}
        return ready

    def _list(self) -> list[Path]:
        from data_prep.sources import list_sources

        if not any(self.folder.iterdir()):
            return []
        return list_sources([self.folder], without=self.path)

    def _take(self, ready: dict[Path, tuple[int, int]]) -> None:
        from data_prep.ingest import ingest
        from nowcast.data.archive import open_archive
        from nowcast.errors import DataError

        try:
            report = ingest(list(ready), self.path, options=self.options)
        except DataError:
            self._refused = ready
            raise
        self._taken |= ready
        self.unused = (self.unused - set(ready)) | {Path(file) for file, _ in report.skipped}
        self.archive = open_archive(self.path)


def _stamp(path: Path) -> tuple[int, int] | None:
    """Size and time of change; None for a file that is gone meanwhile."""
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_size, state.st_mtime_ns
