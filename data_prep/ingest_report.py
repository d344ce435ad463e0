"""What an ingest did, as it goes and in the end."""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nowcast.data.inspection import general_reason

logger = logging.getLogger(__name__)

# Files that are named as the ingest goes, in all and of one kind of reason; all stand in the report and the manifest.
FILES_LOGGED, ALIKE_LOGGED = 50, 3
# Kinds of reasons that one sentence tells.
KINDS_TOLD = 3


@dataclass
class IngestReport:
    """What an ingest did.

    Attributes:
        archive: Where it lies.
        files: Number of files by status; "known" are those that an earlier ingest took.
        stored, replaced, duplicates, refused: Numbers of frames.
        changed: Pixels that each quality step changed.
        skipped: Files that could not be used at all or in part, with the reason.
        suspects: Files whose frames were stored and look wrong, with the reason.
        cadence: The distances between the archive's frames, for people.
        description: The archive in one line.
        seconds: How long it took.
    """

    archive: Path
    files: Counter[str] = field(default_factory=Counter)
    stored: int = 0
    replaced: int = 0
    duplicates: int = 0
    refused: int = 0
    changed: Counter[str] = field(default_factory=Counter)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    suspects: list[tuple[str, str]] = field(default_factory=list)
    cadence: str = ""
    description: str = ""
    seconds: float = 0.0
    _alike: dict[str, list[str]] = field(default_factory=dict)

    @property
    def is_partial(self) -> bool:
        """Whether some file, or some frame of one, could not be used."""
        return bool(self.skipped)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        values = {name: value for name, value in dataclasses.asdict(self).items() if not name.startswith("_")}
        values |= {"archive": str(self.archive), "files": dict(self.files), "changed": dict(self.changed)}
        for name in ("skipped", "suspects"):
            values[name] = [{"file": file, "reason": reason} for file, reason in getattr(self, name)]
        return values

    def skip(self, file: str, reason: str) -> None:
        """Say that a file could not be used, wholly or in part; the first few of every kind are logged as they come."""
        self.skipped.append((file, reason))
        alike = self._alike.setdefault(general_reason(reason), [])
        alike.append(file)
        if len(self.skipped) > FILES_LOGGED + 1:
            return
        if len(self.skipped) == FILES_LOGGED + 1:
            logger.warning("further files that cannot be used stand in the manifest alone")
        elif len(alike) <= ALIKE_LOGGED:
            logger.warning("%s: %s", file, reason)
        elif len(alike) == ALIKE_LOGGED + 1:
            logger.warning("%s: as %s; further ones like them stand in the manifest alone", file, alike[0])

    def suspect(self, file: str, reason: str) -> None:
        """Say that a file's frame was stored and looks wrong."""
        self.suspects.append((file, reason))
        if len(self.suspects) <= FILES_LOGGED:
            logger.warning("stored, but look at it: %s: %s", file, reason)


def group_reasons(skipped: Sequence[tuple[str, str]]) -> str:
    """Why files cannot be used, for people: each kind of reason once, with its first file and how many are like it."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for file, reason in skipped:
        groups.setdefault(general_reason(reason), []).append((file, reason))
    texts = []
    for (file, reason), *others in list(groups.values())[:KINDS_TOLD]:
        texts.append(f"{file}: {reason}" + (f" (and {len(others)} more like it)" if others else ""))
    more = sum(map(len, list(groups.values())[KINDS_TOLD:]))
    return "; ".join(texts) + (f"; and {more} more" if more else "")
