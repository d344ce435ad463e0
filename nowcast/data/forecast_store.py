"""ForecastStore: many issue times into one Zarr store, one at a time, whole at the end or continued after a stop.

The draft lies hidden beside the target and takes its name when the last issue time is in it. The layout of the store
is that of `nowcast.data.forecast`.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import xarray as xr
import zarr

from nowcast.data.archive_lock import lock_archive
from nowcast.data.forecast import Forecast
from nowcast.data.forecast_file import CHANCES
from nowcast.data.outputs import is_taken, put_in_place, require_free
from nowcast.errors import ConfigError, DataError

STORE, PLAN, DONE = "store.zarr", "plan.json", "done.txt"
ISSUE = "forecast_reference_time"


class ForecastStore:
    """A Zarr store of the forecasts of some issue times, being written.

    Memory holds one issue time. After a kill the same call with `resume` goes on; a forecast that was half written
    is written again.

    Args:
        path: The store; it appears when the last forecast is in it.
        issue_times: All that it will hold, datetime64[s], ascending.
        about: What else tells the forecasts of one call from those of another (model, archive, seed, ...); a
            resumed call must say the same.
        resume: Go on with the draft that is there; a finished store of these issue times is left alone.
        overwrite: Replace a store or draft that is there.

    Raises:
        ConfigError: The path is taken, see `require_free`; a draft is there and neither `resume` nor `overwrite` is
            given, or it is one of another call.
        DataError: Another process writes it.
    """

    def __init__(
        self,
        path: str | Path,
        issue_times: Sequence[np.datetime64] | np.ndarray,
        *,
        about: dict[str, Any],
        resume: bool = False,
        overwrite: bool = False,
    ) -> None:
        self.path = Path(path)
        self.issue_times = np.asarray(issue_times, dtype="datetime64[s]")
        self._draft = draft_of(self.path)
        self._plan = json.dumps({"issue_times": _digest(self.issue_times), **about}, sort_keys=True, default=str)
        self._lock = lock_archive(self._draft)
        try:
            self._done = self._begin(resume=resume, overwrite=overwrite)
            if self._draft.exists() and len(self._done) == self.issue_times.size:
                self._publish()
        except BaseException:
            self._lock.close()
            raise

    def __enter__(self) -> ForecastStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Removed while it is held: afterwards it may be another writer's.
        if self.is_complete:
            Path(self._lock.name).unlink(missing_ok=True)
        self._lock.close()

    @property
    def is_complete(self) -> bool:
        """Whether the store stands under its name with every issue time."""
        return len(self._done) == self.issue_times.size and not self._draft.exists()

    @property
    def outstanding(self) -> np.ndarray:
        """Issue times whose forecast is not in the store yet."""
        return np.array([time for time in self.issue_times if str(time) not in self._done], dtype="datetime64[s]")

    def write(self, forecast: Forecast) -> None:
        """Put the forecast of one issue time in its place; after the last one the store takes its name.

        Raises:
            DataError: Another shape, lead times or grid than those of the forecasts before it.
        """
        (time,) = forecast.issue_times
        store = self._draft / STORE
        if not self._done:
            self._make_room(store, forecast)
        index = int(np.searchsorted(self.issue_times, time))
        group = zarr.open_group(store, mode="r+")
        fields = {"rainfall_rate": forecast.rain_rate.swapaxes(0, 1)[0]}
        if forecast.chances is not None:
            fields[CHANCES] = forecast.chances.swapaxes(1, 2)[0]
        for name, values in fields.items():
            array = group[name]
            assert isinstance(array, zarr.Array)
            if array.shape[1:] != values.shape:
                raise DataError(f"{self.path}: the forecast of {time} has shape {values.shape}, not {array.shape[1:]}")
            array[index] = values
        # The line comes after the fields: a forecast without one is written again.
        with (self._draft / DONE).open("a", encoding="utf-8") as done:
            done.write(f"{time}\n")
        self._done.add(str(time))
        if len(self._done) == self.issue_times.size:
            self._publish()

    def _begin(self, *, resume: bool, overwrite: bool) -> set[str]:
        """The issue times that are done."""
        continues = resume and not overwrite and is_taken(self.path, "forecasts")
        if continues and np.array_equal(_issue_times(self.path), self.issue_times):
            shutil.rmtree(self._draft, ignore_errors=True)  # of a run killed after it published
            return {str(time) for time in self.issue_times}
        require_free(self.path, "forecasts", overwrite=overwrite)
        if not (self._draft / PLAN).is_file() or (overwrite and not resume):
            if self._draft.exists():
                shutil.rmtree(self._draft)
            self._draft.mkdir(parents=True)
            (self._draft / PLAN).write_text(self._plan, encoding="utf-8")
            return set()
        if not resume:
            raise ConfigError(
                f"a run for {self.path} was stopped before its end", "go on with --resume, or pass --overwrite"
            )
        if (self._draft / PLAN).read_text(encoding="utf-8") != self._plan:
            raise ConfigError(
                f"the run for {self.path} that was stopped had another model, archive, or other times or options",
                "give the same command, or start anew with --overwrite",
            )
        done = self._draft / DONE
        # What follows the last line's end was being written when the process ended.
        text = done.read_text(encoding="utf-8") if done.is_file() else ""
        lines = set(text[: text.rfind("\n") + 1].split())
        done.write_text("".join(f"{line}\n" for line in sorted(lines)), encoding="utf-8")
        return lines

    def _make_room(self, store: Path, forecast: Forecast) -> None:
        """The store with the coordinates of the first forecast, and room for all issue times."""
        if store.exists():
            shutil.rmtree(store)
        dataset = forecast.to_zarr_dataset()
        last = f"{self.issue_times[-1]}Z"
        dataset.attrs["history"] = f"issued for {self.issue_times[0]}Z to {last}"
        if "input_times" in dataset.attrs:
            dataset.attrs["input_times"] = f"{dataset.attrs['input_times'].split(' to ')[0]} to {last}"
        dataset.to_zarr(store, mode="w", zarr_format=3, consolidated=False)
        group = zarr.open_group(store, mode="r+")
        number = self.issue_times.size
        for name in {"rainfall_rate", CHANCES} & set(dataset.variables):
            array = group[str(name)]
            assert isinstance(array, zarr.Array)
            array.resize((number, *array.shape[1:]))
        attributes = dict(group[ISSUE].attrs)
        del group[ISSUE]
        times = group.create_array(
            ISSUE,
            shape=(number,),
            chunks=(number,),
            dtype="int64",
            dimension_names=[ISSUE],
            attributes=attributes,  # type: ignore[arg-type]
        )
        times[:] = self.issue_times.astype("int64")

    def _publish(self) -> None:
        put_in_place(self._draft / STORE, self.path)
        shutil.rmtree(self._draft)


def draft_of(path: Path) -> Path:
    """Where the draft of a store lies until it is complete."""
    return path.parent / f".{path.name}.partial"


def _issue_times(path: Path) -> np.ndarray:
    try:
        with xr.open_zarr(path, consolidated=False, decode_timedelta=False, chunks=None) as store:
            return np.asarray(store[ISSUE].values, dtype="datetime64[s]")
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path} exists and is not a store of forecasts: {error}", "choose another name") from error


def _digest(times: np.ndarray) -> str:
    return hashlib.sha256(times.astype("int64").tobytes()).hexdigest()
