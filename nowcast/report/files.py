"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def draft(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` that takes its place when all went well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        place = Path(folder) / f"draft{path.suffix.lower()}"
        yield place
        os.replace(place, path)


def write_text(text: str, path: str | Path) -> Path:
    """Write a UTF-8 text file."""
    path = Path(path)
    with draft(path) as place:
        place.write_text(text, encoding="utf-8", newline="\n")
    return path
