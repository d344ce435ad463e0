"""Outputs: what may be replaced when a command is told to overwrite, and how the new takes the place of the old.

A path is replaced only when it is recognisably what is about to be written there. A new output is made beside the
old one; the old one goes last.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from nowcast.errors import ConfigError

Kind = Literal["file", "run", "archive", "forecasts", "evaluation", "demo"]
NAMES: dict[Kind, str] = {
    "file": "a file",
    "run": "a training run",
    "archive": "an archive",
    "forecasts": "a store of forecasts",
    "evaluation": "an evaluation",
    "demo": "a folder of nowcast demo",
}
# Written first into a demo's folder, so that one which was stopped is known as well.
DEMO_MARK = "nowcast-demo.json"


def require_free(path: str | Path, kind: Kind, *, overwrite: bool, inputs: Iterable[str | Path] = ()) -> None:
    """Refuse an output path that is taken and may not be replaced. Nothing is removed.

    Free is what does not exist, and an empty folder where a folder is wanted. With `overwrite`, what is recognisably
    of the kind may be replaced too, unless it is the current folder or a parent of it, or equals, contains or lies
    inside one of `inputs` (paths that do not exist, such as a model's name, are passed over).

    Raises:
        ConfigError: The path is taken.
    """
    path = Path(path)
    if not is_taken(path, kind):
        return
    if not overwrite:
        raise ConfigError(f"{path} exists", "choose another name with -o, or pass --overwrite")
    place = path.resolve()
    here = Path.cwd().resolve()
    if place == here or place in here.parents:
        raise ConfigError(f"{path} is the current folder or contains it: it is not replaced", "choose another name")
    for entry in inputs:
        other = Path(entry)
        if not other.exists():
            continue
        other = other.resolve()
        if place == other:
            raise ConfigError(f"{path} is read and would be overwritten", "choose another name")
        if place in other.parents or other in place.parents:
            where = f"contains {entry}" if place in other.parents else f"lies inside {entry}"
            raise ConfigError(f"{path} {where}, which is read: it is not replaced", "choose another name")
    if not is_output(path, kind):
        raise ConfigError(
            f"{path} is not {NAMES[kind]}: it is not replaced", "choose another name, or remove it yourself"
        )


def is_taken(path: Path, kind: Kind) -> bool:
    """Whether something is at a path; an empty folder does not count where a folder is wanted."""
    if not os.path.lexists(path):
        return False
    return kind == "file" or not path.is_dir() or any(path.iterdir())


def is_output(path: Path, kind: Kind) -> bool:
    """Whether a path holds what this project writes of a kind."""
    if kind == "file":
        return path.is_file()
    if not path.is_dir():
        return False
    if kind == "run":
        return any((path / name).is_file() for name in ("training.json", "model/bundle.json"))
    if kind == "demo":
        whole = is_output(path / "rain.zarr", "archive") and is_output(path / "run", "run")
        return whole or (path / DEMO_MARK).is_file()
    if kind == "evaluation":
        return str(_json(path / "evaluation.json").get("format", "")).startswith("nowcast-evaluation")
    attributes = _json(path / "zarr.json").get("attributes", {})
    if not isinstance(attributes, dict):
        return False
    if kind == "archive":
        return str(attributes.get("format", "")).startswith("nowcast-archive") or "mlcast_created_on" in attributes
    forecast = str(attributes.get("source", "")).startswith("nowcast model") or "model" in attributes
    return forecast and (path / "forecast_reference_time").is_dir()


def put_in_place(draft: str | Path, path: str | Path) -> None:
    """Give a finished draft on the same file system its name; what stood there is removed afterwards.

    A failure leaves the old one where it was.
    """
    draft, path = Path(draft), Path(path)
    if not path.is_dir() and not draft.is_dir():
        os.replace(draft, path)
        return
    place = _beside(path)
    old = place / "old"
    if os.path.lexists(path):
        path.rename(old)
    try:
        draft.rename(path)
    except BaseException:
        if os.path.lexists(old):
            old.rename(path)
        place.rmdir()
        raise
    shutil.rmtree(place)


@contextmanager
def replacing(path: str | Path, *, keep: Callable[[Path], bool]) -> Iterator[None]:
    """Move what is at a path aside while something new is made there; it goes when all went well.

    After any exception (a failure, Ctrl-C, an exit) the old one takes its place again, unless `keep` finds the new
    one worth keeping. Ask `require_free` before.
    """
    path = Path(path)
    if not os.path.lexists(path):
        yield
        return
    place = _beside(path)
    old = place / "old"
    path.rename(old)
    try:
        yield
    except BaseException:
        if not keep(path):
            if path.is_dir():
                shutil.rmtree(path)
            old.rename(path)
        shutil.rmtree(place)
        raise
    shutil.rmtree(place)


def _beside(path: Path) -> Path:
    """A hidden folder beside a path. Removing it removes links in it, never what they lead to."""
    return Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.absolute().parent))


def _json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
