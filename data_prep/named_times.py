"""The times in the names of files against those inside: a check, never in their place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

import numpy as np

from data_prep.cadence import time_in_name
from nowcast.data.archive import ManifestEntry

# So many, and such a share, of the files must stand alike in time and name before one that differs is a suspect.
OFFSETS_TO_TRUST, SHARE_TO_TRUST = 5, 0.8
# Names of files that were used, looked at to tell the time of those that were not.
NAMES_COMPARED = 500

Offset = TypeVar("Offset", int, np.timedelta64)


class NamedTimes:
    """How the times of files stand to their names, to find those that stand as almost no other."""

    def __init__(self) -> None:
        self._offsets: list[tuple[str, np.datetime64, int]] = []

    def add(self, file: str, named: np.datetime64, inside: np.datetime64) -> None:
        """A file of one frame: the time that its name tells, and its own."""
        self._offsets.append((file, inside, int((inside - named) / np.timedelta64(60, "s"))))

    def suspects(self) -> Iterator[tuple[str, str]]:
        """(file, reason) of those that differ; none where files are few or differ anyway."""
        usual = _usual([offset for _, _, offset in self._offsets])
        if usual is None:
            return
        for file, inside, offset in self._offsets:
            if offset != usual:
                reason = f"its time {inside} is {offset} min from that in its name; for other files it is {usual} min"
                yield file, reason


def times_of_skipped(entries: Iterable[ManifestEntry]) -> list[np.datetime64]:
    """The valid times that files had which could not be used: those in their names, moved as they are for other files.

    All of it stands in the manifest, so that a run that was stopped and gone on with finds the same.
    """
    entries = list(entries)
    skipped = [entry.file for entry in entries if entry.status == "skipped"]
    if not skipped:
        return []
    used = (entry for entry in entries if len(entry.times) == 1)
    named = ((entry.times[0], time_in_name(entry.file)) for entry in islice(used, NAMES_COMPARED))
    usual = _usual([np.datetime64(inside, "s") - name for inside, name in named if name is not None])
    if usual is None:
        return []
    return [name + usual for name in map(time_in_name, skipped) if name is not None]


def _usual(offsets: Sequence[Offset]) -> Offset | None:
    """What almost all of the offsets between names and times are; None where they are few or differ."""
    if not offsets:
        return None
    usual, number = Counter(offsets).most_common(1)[0]
    return usual if number >= max(OFFSETS_TO_TRUST, SHARE_TO_TRUST * len(offsets)) else None
