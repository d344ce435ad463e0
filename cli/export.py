"""`nowcast export`: the net of a model as a file that runs without this package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from cli.options import output_option, overwrite_option


@click.command(name="export")
@click.argument("model", type=click.Path(path_type=Path))
@output_option("The file; its description goes beside it as OUTPUT.json.")
@click.option("--format", "format_name", type=click.Choice(["pt2", "onnx"]), default="pt2", show_default=True)
@click.option("--leads", type=click.IntRange(min=1), help="Lead times of the program; as trained unless given.")
@overwrite_option
def command(model: Path, output: Path, format_name: str, leads: int | None, overwrite: bool) -> None:
    """Write the net of MODEL, from normalised inputs to logits, for any batch and grid.

    The file is read back and compared with the net on random inputs of two sizes before it gets its name.
    """
    from nowcast.data.outputs import require_free
    from nowcast.models.bundle import load_bundle
    from nowcast.models.export import describe_program, export_program
    from nowcast.report.files import write_text

    beside = output.with_name(f"{output.name}.json")
    for path in (output, beside):
        require_free(path, "file", overwrite=overwrite, inputs=[model])
    bundle = load_bundle(model)
    num_leads = leads or bundle.config.data.output_frames
    with _without_warnings():
        difference = export_program(bundle, output, format=format_name, num_leads=num_leads)
    description = describe_program(bundle, format=format_name, num_leads=num_leads, difference=difference)
    write_text(json.dumps(description, indent=2) + "\n", beside)
    ahead = f"{num_leads} lead time{'s' if num_leads > 1 else ''}"
    click.echo(f"{output}: {ahead}, differs from the net by at most {difference:.2g} in its logits")


def _without_warnings() -> Any:
    """Torch warns of its own internals while it exports."""
    import warnings

    return warnings.catch_warnings(action="ignore")
