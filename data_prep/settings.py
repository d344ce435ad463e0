"""What an ingest is told against what an archive was made with: gone on with, or refused; never silently changed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from data_prep.decode import DecodeOptions
from data_prep.quality import QualityOptions
from data_prep.readers.options import ReadOptions, option_name
from data_prep.readers.registry import reader
from nowcast.errors import ConfigError

# The attribute of an archive that says which reader options changed its values (JSON).
READ_OPTIONS = "read_options"


def recorded_settings(options: DecodeOptions) -> dict[str, Any]:
    """What a new archive says of how its frames were made."""
    return {
        **options.quality.to_attributes(),
        "keeps_quality": int(options.keep_quality),
        READ_OPTIONS: json.dumps(options.read.recorded()),
    }


def continued_settings(
    path: Path,
    attributes: Mapping[str, Any],
    format: str,
    read: ReadOptions,
    quality: QualityOptions | Mapping[str, Any] | None,
    *,
    keep_quality: bool,
) -> DecodeOptions:
    """How the frames of an existing archive are made, with what is given.

    Args:
        path, attributes: The archive.
        quality: Wholly given, in part, or not at all: then as the archive was made.

    Raises:
        ConfigError: The archive was made otherwise.
    """
    if keep_quality and not attributes.get("keeps_quality"):
        raise ConfigError(
            f"{path} was made without the quality index, so it cannot be kept now",
            "leave --keep-quality out, or ingest into another archive",
        )
    if not isinstance(quality, QualityOptions):
        given = dict(quality or {})
        made = QualityOptions.from_attributes(attributes, clutter_mask=given.get("clutter_mask"))
        quality = dataclasses.replace(made, **given)
    for name, value in quality.to_attributes().items():
        if name != "clutter_mask" and attributes.get(name, value) != value:
            raise ConfigError(
                f"{path} was made with {name} = {attributes[name]}, now it would be {value}",
                "leave the option out to go on as it was made, or ingest into another archive",
            )
    return DecodeOptions(
        format, _continued_reading(path, attributes, read), quality, bool(attributes.get("keeps_quality"))
    )


def _continued_reading(path: Path, attributes: Mapping[str, Any], read: ReadOptions) -> ReadOptions:
    if READ_OPTIONS not in attributes:
        return read
    recorded = json.loads(str(attributes[READ_OPTIONS]))
    for name, value in read.recorded().items():
        if recorded.get(name) != value:
            made = f"{name} = {recorded[name]}" if name in recorded else f"no {name}"
            raise ConfigError(
                f"{path} was made with {made}, now it would be {value}",
                f"leave {option_name(name)} out to go on as it was made, or ingest into another archive",
            )
    return read.with_recorded(recorded)


def check_attributes(path: Path, attributes: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Refuse attributes of a new archive for one that says otherwise already.

    Raises:
        ConfigError: It does.
    """
    for name, value in given.items():
        if name != "history" and attributes.get(name) != value:
            raise ConfigError(
                f"{path} says {name} = {attributes.get(name, 'nothing')}, {value} is asked for",
                "--attribute is for a new archive: leave it out, or ingest into another one",
            )


def check_heeded(read: ReadOptions, formats: Iterable[str]) -> None:
    """Refuse an option that not one of the files' readers heeds.

    Args:
        formats: Of the files; as many are looked at as it takes.

    Raises:
        ConfigError: It means nothing to them.
    """
    unused = set(read.given())
    if not unused:
        return
    met: dict[str, None] = {}
    for format in formats:
        met[format] = None
        unused.difference_update(reader(format).uses)
        if not unused:
            return
    if met:
        names = ", ".join(option_name(name) for name in read.given() if name in unused)
        heeded = [option_name(name) for used in met for name in reader(used).uses]
        raise ConfigError(
            f"{names} means nothing to the reader{'s' if len(met) > 1 else ''} {', '.join(met)}",
            f"leave it out; these files take {', '.join(dict.fromkeys(heeded)) or 'no such option'}",
        )
