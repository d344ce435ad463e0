"""`nowcast report`: evaluations to one offline HTML page, Markdown, CSV and JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli.options import output_option, overwrite_option


@click.command(name="report")
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="SKILL...")
@output_option("The HTML page.", default="report.html")
@click.option("--markdown", type=click.Path(path_type=Path), help="Also write Markdown here.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Also write JSON here.")
@click.option("--csv", "csv_file", type=click.Path(path_type=Path), help="Also write all scores with intervals here.")
@click.option("--title", help="Headline of the page.")
@click.option("--reference", "references", help="Models to compare with, a,b; the baselines unless given.")
@click.option(
    "--blocks",
    type=click.Choice(["episode", "day"]),
    default="episode",
    show_default=True,
    help="What is resampled as independent.",
)
@click.option("--level", type=float, default=0.95, show_default=True, help="Of the intervals.")
@click.option("--replicates", type=int, default=10_000, show_default=True, help="Resamples behind the tests.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the resampling.")
@overwrite_option
def command(
    folders: tuple[Path, ...],
    output: Path,
    markdown: Path | None,
    json_file: Path | None,
    csv_file: Path | None,
    title: str | None,
    references: str | None,
    blocks: Any,
    level: float,
    replicates: int,
    seed: int,
    overwrite: bool,
) -> None:
    """One offline page on the skill of SKILL..., folders that `nowcast evaluate` wrote; several are merged exactly.

    Models are called better or worse only where enough independent rain episodes or days say so.
    """
    from nowcast.data.outputs import require_free
    from nowcast.errors import ConfigError
    from nowcast.report.decisions import Settings
    from nowcast.report.files import write_text
    from nowcast.report.report import SkillReport
    from nowcast.report.verdict import opening
    from nowcast.verification.evaluation import Evaluation

    given = [path for path in (output, markdown, json_file, csv_file) if path is not None]
    for number, path in enumerate(given):
        if path.absolute() in [other.absolute() for other in given[:number]]:
            raise ConfigError(f"two files are to be written to {path}", "give each a name of its own")
        require_free(path, "file", overwrite=overwrite, inputs=folders)
    named = None if references is None else tuple(name.strip() for name in references.split(",") if name.strip())
    settings = Settings(level=level, replicates=replicates, seed=seed, blocks=blocks, references=named)
    report = SkillReport.of(
        [Evaluation.load(folder) for folder in folders],
        settings=settings,
        title=title,
        names=[str(folder) for folder in folders],
    )
    wanted = (
        (output, report.to_html),
        (markdown, report.to_markdown),
        (json_file, report.to_json),
        (csv_file, report.to_csv),
    )
    # All is made before the first file of an older report is replaced.
    pages = [(path, make()) for path, make in wanted if path is not None]
    for path, page in pages:
        write_text(page, path)
        click.echo(f"wrote {path}")
    click.echo(opening(report.analysis))
