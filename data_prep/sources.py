"""What `nowcast ingest` is given, as a list of files: files, folders, patterns."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from nowcast.errors import ConfigError

ZARR_MARKERS = ("zarr.json", ".zgroup", ".zmetadata", ".zarray")


def list_sources(sources: Iterable[str | Path], *, without: Path | None = None) -> list[Path]:
    """Every file of the sources once, in the natural order of names; a Zarr folder counts as one file.

    Folders are walked; hidden files and folders in them are left out.

    Args:
        without: A path to leave out with all below it: the archive that is being written.

    Raises:
        ConfigError: A source that is not there, or nothing at all.
    """
    excluded = None if without is None else str(without.absolute())
    found: dict[Path, None] = {}
    for source in sources:
        for path in _expand(source):
            if excluded is None or not f"{path.absolute()}{os.sep}".startswith(excluded + os.sep):
                found[path] = None
    if not found:
        raise ConfigError("there is not a single file to ingest")
    return sorted(found, key=_natural)


def _expand(source: str | Path) -> Iterator[Path]:
    path = Path(source)
    if path.exists():
        yield from _walk(path)
        return
    if glob.has_magic(str(source)):
        matches = sorted(glob.glob(str(source), recursive=True))
        if not matches:
            raise ConfigError(f"nothing matches {source}")
        for match in matches:
            yield from _walk(Path(match))
        return
    raise ConfigError(f"there is no file or folder {source}")


def _walk(path: Path) -> Iterator[Path]:
    if not path.is_dir() or any((path / marker).is_file() for marker in ZARR_MARKERS):
        yield path
        return
    for entry in sorted(path.iterdir()):
        if not entry.name.startswith("."):
            yield from _walk(entry)


def _natural(path: Path) -> list[tuple[int, int | str]]:
    """A key that sorts frame_10 after frame_9."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", str(path))]
