"""What becomes of the frames of one file, and how its entry in the manifest says so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from data_prep.decode import DecodedFile
from nowcast.data.archive import FileStatus, ManifestEntry
from nowcast.data.frame_measures import CHANGES


@dataclass
class Outcome:
    """What became of the frames so far."""

    reason: str = ""
    times: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    duplicates: int = 0
    refusals: list[str] = field(default_factory=list)
    changed: Counter[str] = field(default_factory=Counter)

    def add(self, when: np.datetime64, series: Mapping[str, float], *, replaces: bool) -> None:
        self.times.append(str(when))
        if replaces:
            self.replaced.append(str(when))
        self.changed.update({name: int(series[f"n_{name}"]) for name in CHANGES if series.get(f"n_{name}")})

    def refuse(self, reason: str) -> None:
        self.refusals.append(reason)

    def entry(self, file: DecodedFile) -> ManifestEntry:
        reason = self.reason
        if self.refusals:
            more = f" (and {len(self.refusals) - 1} more frames)" if len(self.refusals) > 1 else ""
            reason = f"{self.refusals[0]}{more}"
        status: FileStatus = "stored" if self.times else "duplicate"
        if reason:
            status = "partial" if self.times or self.duplicates else "skipped"
        stamp = file.stamp
        return ManifestEntry(
            file=file.path,
            status=status,
            sha256=stamp.sha256,
            size=stamp.size,
            modified_ns=stamp.modified_ns,
            format=file.format,
            times=tuple(self.times),
            replaced=tuple(self.replaced),
            duplicates=self.duplicates,
            reason=reason,
        )


def says_the_same(old: ManifestEntry | None, new: ManifestEntry) -> bool:
    """Whether a file is refused again for the same reason: said once is enough."""
    return old is not None and (old.sha256, old.reason) == (new.sha256, new.reason) and not new.times
