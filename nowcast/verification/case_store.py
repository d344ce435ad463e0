"""CaseStore: the finished cases of an evaluation, kept beside it until it is whole, so that a stopped run goes on.

One file a case, written whole or not at all, with the digests of the files that the case was scored from: what was kept
is what would be computed again, bit for bit, and a forecast that was mended meanwhile is scored anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from nowcast.data.archive_lock import lock_archive
from nowcast.data.archive_store import cannot_write
from nowcast.errors import ConfigError, NowcastError
from nowcast.verification.case_scores import CaseScores
from nowcast.verification.counts import Case
from nowcast.verification.measures import KINDS
from nowcast.verification.sums import Sums

PLAN = "plan.json"


class CaseStore:
    """Scores of cases in a hidden folder beside the evaluation that they will make.

    Args:
        path: The evaluation.
        about: All that the scores of every case depend on, as JSON values; a resumed run must say the same.
        resume: Go on with the cases that are there.
        overwrite: Without `resume`, begin anew where another run was stopped.

    Raises:
        ConfigError: A run for this evaluation was stopped and neither `resume` nor `overwrite` is given, or it was
            another run.
        DataError: Another process writes it.
    """

    def __init__(
        self, path: str | Path, about: Mapping[str, Any], *, resume: bool = False, overwrite: bool = False
    ) -> None:
        self.path = Path(path)
        self._draft = draft_of(self.path)
        self._about = json.dumps(about, sort_keys=True, indent=1)
        self._holds_scores = False
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = lock_archive(self._draft)
        try:
            self._begin(resume=resume, overwrite=overwrite)
        except BaseException:
            self._lock.close()
            raise

    def _begin(self, *, resume: bool, overwrite: bool) -> None:
        plan = self._draft / PLAN
        if not plan.is_file() or (overwrite and not resume):
            if self._draft.exists():
                shutil.rmtree(self._draft)
            self._draft.mkdir()
            _write_whole(plan, self._about.encode())
        elif not resume:
            raise ConfigError(
                f"an evaluation for {self.path} was stopped before its end", "go on with --resume, or pass --overwrite"
            )
        elif plan.read_text(encoding="utf-8") != self._about:
            was, now = json.loads(plan.read_text(encoding="utf-8")), json.loads(self._about)
            differs = sorted(key for key in was.keys() | now.keys() if was.get(key) != now.get(key))
            raise ConfigError(
                f"the evaluation for {self.path} that was stopped had other {', '.join(differs)}",
                "give the same command, or start anew with --overwrite",
            )

    def __enter__(self) -> CaseStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Under the lock still: another run may begin in the folder as soon as it is given back.
        try:
            if isinstance(error, NowcastError) and self._draft.exists():
                if self._holds_scores:
                    self._tell_of_what_is_kept(error)
                else:
                    self.remove()
            if not self._draft.exists():
                Path(self._lock.name).unlink(missing_ok=True)
        finally:
            self._lock.close()

    def _tell_of_what_is_kept(self, error: NowcastError) -> None:
        number = len(list(self._draft.glob("*.npz")))
        kept = f"{number} case{'s are' if number > 1 else ' is'} scored and kept: mend it, then go on with --resume"
        error.hint = kept if error.hint is None else f"{error.hint}. {kept}"

    def remove(self) -> None:
        """Take the folder away, once the evaluation stands under its name."""
        shutil.rmtree(self._draft)

    def write(self, scores: CaseScores, files: Mapping[str, str]) -> None:
        """Keep the scores of a case, made of files with these digests by model.

        Raises:
            DataError: The disk is full, and the like.
        """
        self._holds_scores |= bool(scores.table.any())
        arrays: dict[str, np.ndarray] = {"table": scores.table, "pixels": scores.pixels, "digest": scores.digest}
        kinds: list[list[Any]] = []
        for model, sums in scores.sums.items():
            for kind, values in sums.items():
                labels: dict[str, Any] = {}
                for name in values.LABELS:
                    label = getattr(values, name)
                    if isinstance(label, np.ndarray):
                        arrays[f"{len(kinds)}/{name}"] = label
                    else:
                        labels[name] = label
                arrays |= {f"{len(kinds)}/{name}": getattr(values, name) for name in values.additive_fields()}
                kinds.append([model, kind, labels])
        about = {"files": dict(files), "valid": dict(scores.valid), "members": dict(scores.members), "kinds": kinds}
        text = json.dumps(about)
        arrays["about"] = np.frombuffer(text.encode(), dtype=np.uint8)
        target = self._file(scores.case)
        draft = target.with_suffix(".draft")
        try:
            with draft.open("wb") as file:
                np.savez(file, **arrays)  # type: ignore[arg-type]
            os.replace(draft, target)
        except OSError as error:
            draft.unlink(missing_ok=True)
            raise cannot_write(self.path, error) from error

    def read(self, case: Case, files: Mapping[str, str]) -> CaseScores | None:
        """What was kept of a case; None for nothing, for other files, or for a file that a failing disk has cut."""
        path = self._file(case)
        if not path.is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as arrays:
                about = json.loads(arrays["about"].tobytes())
                if about["files"] != dict(files):
                    return None
                sums: dict[str, dict[str, Sums]] = {}
                for number, (model, kind, labels) in enumerate(about["kinds"]):
                    made = KINDS[kind]
                    names = [*made.additive_fields(), *(name for name in made.LABELS if name not in labels)]
                    values = {name: arrays[f"{number}/{name}"] for name in names}
                    sums.setdefault(model, {})[kind] = made(**values, **labels)
                table, pixels, digest = (arrays[name] for name in ("table", "pixels", "digest"))
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
            return None
        self._holds_scores |= bool(table.any())
        return CaseScores(case, table, pixels, digest, about["valid"], about["members"], sums)

    def _file(self, case: Case) -> Path:
        # To the second: a case names its time to the minute.
        named = f"{case.source} {case.issue_time}"
        return self._draft / (hashlib.sha256(named.encode()).hexdigest()[:32] + ".npz")


def draft_of(path: Path) -> Path:
    """Where the finished cases of an evaluation lie until it is complete."""
    return path.parent / f".{path.name}.partial"


def _write_whole(path: Path, content: bytes) -> None:
    draft = path.with_suffix(".draft")
    draft.write_bytes(content)
    os.replace(draft, path)
