"""`nowcast config`: show, start, check a configuration, or print its schema."""

from __future__ import annotations

import json
from pathlib import Path

import click

from cli.options import output_option, overwrite_option

source_option = click.option("-c", "--config", "source", help="A preset's name or a YAML file.")
set_option = click.option("--set", "overrides", multiple=True, metavar="a.b=VALUE", help="Set one value.")


@click.group(name="config")
def command() -> None:
    """Show, start, check a configuration, or print its schema."""


@command.command()
@source_option
@set_option
def show(source: str | None, overrides: tuple[str, ...]) -> None:
    """Every value of the effective configuration, and where it came from."""
    from nowcast.config import load_config

    rows = list(load_config(source, overrides=overrides).explain())
    width = max(len(path) for path, _, _ in rows)
    for path, value, origin in rows:
        click.echo(f"{path:<{width}}  {json.dumps(value):<24}  {origin}")


@command.command()
@click.argument("preset", default="radar")
@output_option("The file to write.", default="config.yaml")
@overwrite_option
def init(preset: str, output: Path, overwrite: bool) -> None:
    """Write a full configuration to start from."""
    from nowcast.config import load_config, write_config
    from nowcast.data.outputs import require_free
    from nowcast.report.files import draft

    require_free(output, "file", overwrite=overwrite)
    with draft(output) as place:
        write_config(load_config(preset).config, place)
    click.echo(f"wrote {output}; train with: nowcast train ARCHIVE -c {output} -o RUN")


@command.command()
@click.argument("file")
@set_option
def validate(file: str, overrides: tuple[str, ...]) -> None:
    """Check a configuration file; all mistakes at once."""
    from nowcast.config import load_config

    load_config(file, overrides=overrides)
    click.echo(f"{file} is a valid configuration")


@command.command()
def schema() -> None:
    """The JSON schema of a configuration file."""
    from nowcast.config import Config

    click.echo(json.dumps(Config.model_json_schema(), indent=2))


@command.command()
def presets() -> None:
    """The presets that ship with the package."""
    from nowcast.config import preset_names

    click.echo("\n".join(preset_names()))
