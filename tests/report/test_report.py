"""The report: one set of numbers in every file, no number without its n, and a page that a browser shows whole."""

from __future__ import annotations

import csv
import html
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from cli.plot import command as plot_command
from cli.report import command
from nowcast.errors import ConfigError, DataError
from nowcast.report.decisions import Settings
from nowcast.report.report import SkillReport, report_schema
from nowcast.report.tables import CSV_COLUMNS
from nowcast.verification.counts import CONTINGENCY
from nowcast.verification.evaluation import Evaluation, merge_evaluations, ranked_cases
from nowcast.verification.score_table import COLUMNS
from nowcast.verification.scores import csi, pool
from tests.report.browser import Browser
from tests.report.small_skill import small_evaluation, with_fields
from tests.report.test_analysis import changed

FAST = Settings(replicates=300)


def report(evaluation: Evaluation | None = None) -> SkillReport:
    return SkillReport.of([small_evaluation(cases=25) if evaluation is None else evaluation], settings=FAST)


def rows_of_tables(page: str) -> dict[str, list[list[str]]]:
    """Cells of every table by its caption, tags taken off."""
    found = {}
    for table in re.findall(r"<table.*?</table>", page, re.DOTALL):
        caption = re.search(r"<caption>(.*?)</caption>", table, re.DOTALL)
        rows = re.findall(r"<tr.*?</tr>", table, re.DOTALL)
        cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in rows]
        plain = [[html.unescape(re.sub(r"<[^>]+>", "", cell)).strip() for cell in row] for row in cells]
        found["" if caption is None else html.unescape(caption[1])] = plain
    return found


def test_numbers_on_the_page_are_the_counts() -> None:
    evaluation = small_evaluation(cases=25)
    table = rows_of_tables(report(evaluation).to_html())["CSI at ≥ 1 mm/h"]
    header, *rows = table
    pooled = pool(evaluation.counts, ("case",))
    values = csi(pooled)
    assert header[:4] == ["lead [min]", "net", "persistence", "extrapolation"]
    assert [row[0] for row in rows] == ["15", "30", "45", "60", "all"]
    for lead, row in enumerate(rows[:-1]):
        for m in range(3):
            assert float(row[1 + m].split()[0]) == pytest.approx(values[m, lead, 1], abs=0.0005)
        assert int(row[6].replace("\u202f", "")) == pooled.observed[0, lead, 1]
        assert row[7] == f"{100 * pooled.observed[0, lead, 1] / pooled.total[0, lead, 1]:.1f} %"
        assert row[8] == "15.0 %" and row[9] == "25"
    difference = values[0, 0, 1] - values[1, 0, 1]
    assert rows[0][4].startswith(f"{difference:+.3f} [") and rows[0][4].endswith("▲")


def test_every_file_has_the_same_numbers() -> None:
    made = report()
    values = made.to_dict()
    keys = ("lead_minutes", "threshold", "scale_km", "bin")
    from_json = {(row["model"], row["metric"], *(row[key] for key in keys)): row for row in values["scores"]}
    assert len(from_json) == len(values["scores"])
    rows = list(csv.DictReader(io.StringIO(made.to_csv())))
    assert tuple(rows[0]) == CSV_COLUMNS and CSV_COLUMNS[: len(COLUMNS)] == COLUMNS
    checked = 0
    for row in rows:
        if row["aggregation"] == "pooled" and not row["reference"]:
            place = (float(row[key]) if row[key] else None for key in keys)
            other = from_json[row["model"], row["metric"], *place]
            for key in ("value", "ci_low", "ci_high", "n_blocks", "hits", "n_valid"):
                assert other[key] == (float(row[key]) if row[key] else None)
            checked += 1
    assert checked == len(from_json)
    overall = from_json["net", "csi", None, 1.0, None, None]
    cell = f"{overall['value']:.3f} [{overall['ci_low']:.3f}, {overall['ci_high']:.3f}]"
    assert cell in made.to_markdown()
    assert cell in rows_of_tables(made.to_html())["CSI at ≥ 1 mm/h"][-1][1]


def test_differences_and_their_cross_checks_stand_in_both_files() -> None:
    made = report(with_fields(small_evaluation(cases=22, leads=2, models=("net", "persistence")), members=3, size=24))
    values = made.to_dict()
    rows = [row for row in csv.DictReader(io.StringIO(made.to_csv())) if row["reference"]]
    wanted = values["differences"] + values["cross_checks"]
    assert len(rows) == len(wanted)
    for row, other in zip(rows, wanted, strict=True):
        is_check = "statistic" in other
        metric = "csi_diebold_mariano" if is_check else f"{other['metric']}_difference"
        value = other["statistic" if is_check else "value"]
        assert (row["model"], row["reference"], row["metric"]) == (other["model"], other["reference"], metric)
        assert (float(row["value"]) if row["value"] else None) == value and row["decision"] == other["decision"]
        assert (float(row["p_value"]) if row["p_value"] else None) == other["p_value"]
    metrics = {row["metric"] for row in values["differences"]}
    assert metrics == {"csi", "mae", "rmse", "correlation", "fss", "csi_max_pool", "csi_mean_pool", "crps",
                       "brier_score"}  # fmt: skip
    assert set(values["intervals"]["tests_by_metric"]) == metrics
    with_interval = {row["metric"] for row in values["scores"] if row["ci_low"] is not None}
    assert with_interval == metrics | {"pod", "far", "frequency_bias", "mean_error", "fair_crps"}


def test_the_json_file_validates_against_the_shipped_schema() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(report_schema())
    validator.check_schema(report_schema())
    empty = small_evaluation(cases=25)
    zero = np.zeros_like(empty.counts.hits)
    nothing = changed(empty, hits=zero, false_alarms=zero, misses=zero, correct_negatives=empty.counts.total)
    for evaluation in (
        small_evaluation(cases=25),
        small_evaluation(cases=1),
        nothing,
        with_fields(small_evaluation(cases=6, leads=2), members=3),
    ):
        values = json.loads(report(evaluation).to_json())
        errors = [f"{list(error.absolute_path)}: {error.message}" for error in validator.iter_errors(values)]
        assert errors == []
    values["scores"][0]["value"] = "NaN"
    assert not validator.is_valid(values)


def test_undefined_cells_say_why_and_are_null_in_json() -> None:
    evaluation = small_evaluation(cases=25)
    cleared = {name: np.array(getattr(evaluation.counts, name)) for name in CONTINGENCY}
    for name in ("hits", "false_alarms", "misses"):
        cleared[name][..., 2] = 0
    cleared["correct_negatives"][..., 2] = evaluation.counts.total[..., 2]
    made = report(changed(evaluation, **cleared))
    page = made.to_html()
    assert rows_of_tables(page)["CSI at ≥ 10 mm/h"][1][1] == "undefined (0 observed, 0 forecast)"
    assert "undefined (0 observed, 0 forecast)" in made.to_markdown()
    (row,) = [
        row
        for row in made.to_dict()["scores"]
        if (row["model"], row["lead_minutes"], row["threshold"], row["metric"]) == ("net", 15.0, 10.0, "csi")
    ]
    assert row["value"] is None and row["undefined_reason"] == "undefined (0 observed, 0 forecast)"
    for text in (page, made.to_markdown(), made.to_json()):
        assert "nan" not in re.sub(r"[a-z]nan|nan[a-z]", "", text.lower())


def test_an_infinite_bias_has_no_number_in_json_and_says_why() -> None:
    evaluation = small_evaluation(cases=25)
    nothing = np.zeros_like(evaluation.counts.hits)
    warned = np.full_like(nothing, 7)
    counts = {"hits": nothing, "misses": nothing, "false_alarms": warned}
    made = report(changed(evaluation, **counts, correct_negatives=evaluation.counts.total - 7))
    rows = [row for row in made.to_dict()["scores"] if row["metric"] == "frequency_bias"]
    assert rows and {row["value"] for row in rows} == {None}
    assert {row["undefined_reason"] for row in rows} == {"infinite (events forecast where none was observed)"}
    assert "∞" in made.to_html()


def test_the_same_seed_gives_the_same_bytes() -> None:
    evaluation = with_fields(small_evaluation(cases=8, leads=2), members=3)
    one, two = report(evaluation), report(evaluation)
    for kind in ("to_html", "to_markdown", "to_csv", "to_json"):
        assert getattr(one, kind)() == getattr(two, kind)()


def test_synthetic_data_is_labelled_before_any_number() -> None:
    made = report(small_evaluation(cases=25, synthetic=True))
    for text in (made.to_html(), made.to_markdown()):
        body = text.partition("</head>")[2] or text
        assert body.index("Synthetic data") < body.index("25 forecasts issued")
    assert made.to_dict()["synthetic"] is True
    assert "Synthetic data" not in report().to_html()


def test_a_strict_comparison_is_named_everywhere() -> None:
    evaluation = small_evaluation(cases=25)
    strict = Evaluation(replace(evaluation.counts, comparison=">"), {}, evaluation.provenance)
    made = report(strict)
    for text in (html.unescape(made.to_html()), made.to_markdown()):
        assert "≥" not in text and "At > 1 mm/h net beats" in text
    assert made.to_dict()["comparison"] == ">"


def test_a_page_of_one_event_ranks_nothing() -> None:
    page = report(small_evaluation(cases=30, hours_apart=0.05)).to_html()
    assert "single event is described here, and nothing is ranked" in page
    assert "beats" not in page and "▲</td>" not in page and "Scorecard" not in page


def test_the_page_asks_for_nothing_and_escapes_names() -> None:
    evaluation = small_evaluation(cases=25, models=("<b>net</b>", "persistence"))
    page = report(evaluation).to_html()
    assert "<b>net</b>" not in page and "&lt;b&gt;net&lt;/b&gt;" in page and "nobody &amp; sons" in page
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert "<script" not in page and "url(" not in page and "@import" not in page


MANY = ("net", "tree", "persistence", "extrapolation")


def folded(page: str) -> list[str]:
    return re.findall(r"<details.*?</details>", page, re.DOTALL)


def test_of_many_comparisons_the_first_stands_on_the_page_and_the_others_are_folded_away() -> None:
    evaluation = with_fields(small_evaluation(cases=25, leads=2, models=MANY), members=3)
    page = report(evaluation).to_html()
    others = ["net − extrapolation", "tree − persistence", "tree − extrapolation", "net − tree"]
    summaries = [re.sub(r"<[^>]+>", "", text) for text in re.findall(r"<summary>(.*?)</summary>", page, re.DOTALL)]
    assert summaries[0].startswith("net against extrapolation: better at ≥ ")
    assert f"4 more: {', '.join(others)}" in summaries
    for part in folded(page):
        assert "net − persistence" not in part and "net against persistence" not in part
    # Every number of a comparison is on the page once, unfolded or folded.
    tables = rows_of_tables(page)
    assert tables["CSI at ≥ 1 mm/h"][0][5] == "net − persistence"
    assert tables["Differences of CSI at ≥ 1 mm/h"][0][1:] == others
    for caption in (
        "Continuous scores [mm/h]",
        "CSI after pooling blocks of pixels",
        "CRPS and Brier score by lead time",
    ):
        assert {row[1] for row in tables[f"Differences: {caption}"][1:]} == set(others)
        assert {row[1] for row in tables[caption][1:]} == {*MANY, "net − persistence"}


def test_few_comparisons_are_not_folded() -> None:
    assert folded(report().to_html()) == []


def test_a_name_with_a_bar_keeps_its_place_in_a_table_of_markdown() -> None:
    text = report(small_evaluation(cases=25, models=("a|b", "persistence"))).to_markdown()
    header = next(line for line in text.splitlines() if line.startswith("| lead [min] |"))
    assert "| a\\|b | persistence | a\\|b − persistence |" in header


def test_provenance_tells_what_a_score_depends_on() -> None:
    page = html.unescape(report().to_html())
    for wanted in ("Z = 200 R^1.6", ">= threshold", "0123456789abcdef", "100x100 pixels of 1x1 km", "seed 0",
                   "Benjamini", "never 0, never 1", "15.0 % of the pixels are masked", "abababab…"):  # fmt: skip
        assert wanted in page


def test_several_evaluations_are_merged_exactly_and_refused_when_they_do_not_fit(tmp_path: Path) -> None:
    spring = small_evaluation(cases=15)
    summer = small_evaluation(cases=15, start="2024-07-01T00:00", source="more rain")
    made = SkillReport.of([spring, summer], settings=FAST)
    whole = report(merge_evaluations([summer, spring]))
    assert made.to_json() == whole.to_json() and made.to_dict()["cases"] == 30
    other = small_evaluation(cases=15, thresholds=(0.2, 2.0, 20.0))
    with pytest.raises(DataError, match=r"a has the thresholds 0.1, 1, 10, b has 0.2, 2, 20"):
        SkillReport.of([spring, other], settings=FAST, names=["a", "b"])


def test_fields_bring_scale_spectra_ensembles_and_frames() -> None:
    page = report(with_fields(small_evaluation(cases=6, leads=2), members=3)).to_html()
    for heading in ("Fractions skill score by scale", "Power spectra", "Reliability", "ROC", "Rank histogram",
                    "Spread and error", "Best case", "Worst case", "Continuous scores",
                    "CSI after pooling", "net is smooth: at 30 min it keeps"):  # fmt: skip
        assert heading in page
    # Two cases, observed and three models, two lead times.
    assert page.count('<img src="data:image/png;base64,') == 2 * 4 * 2
    assert page.count('<svg class="chart"') == 3 * 4 + 2 + 3 + 3 * 2 + 2 * 2 + 3 * 3 + 1 + 1
    plain = report(small_evaluation(cases=6)).to_html()
    assert "Power spectra" not in plain and "<img" not in plain


def test_tables_of_sums_and_groups_hold_every_threshold() -> None:
    made = report(with_fields(small_evaluation(cases=22, leads=4, hours_apart=200.0), members=3, size=24))
    tables = rows_of_tables(made.to_html())
    groups = next(rows for caption, rows in tables.items() if caption.startswith("CSI by season and hour"))
    values = {(row["group"], f"{row['threshold']:g}"): row for row in made.to_dict()["groups"]}
    assert len(groups) - 1 == len(values) > 9
    level = ""
    for row in groups[1:]:
        level = row[0] or level
        wanted = values[row[1], level]
        assert [float(cell) for cell in row[2:5]] == pytest.approx(list(wanted["csi"].values()), abs=5e-4)
        assert row[5:] == [
            f"{wanted['observed']:,}".replace(",", "\u202f"),
            str(wanted["cases"]),
            str(wanted["blocks"]),
        ]
        assert f"| {level} | {row[1]} | {row[2]} |" in made.to_markdown()
    crps = tables["CRPS and Brier score by lead time"]
    assert [row[0] for row in crps if row[0]][1:] == [
        "CRPS [mm/h]", "fair CRPS [mm/h]", *(f"Brier score ≥ {level} mm/h" for level in ("0.1", "1", "10"))
    ]  # fmt: skip
    differences = {
        (row["lead_minutes"], row["reference"]): row for row in made.to_dict()["differences"] if row["metric"] == "crps"
    }
    row = next(row for row in crps if row[1] == "net − persistence")
    wanted = differences[None, "persistence"]
    shown = f"{wanted['value']:+.3f} [{wanted['ci_low']:+.3f}, {wanted['ci_high']:+.3f}]".replace("-", "−")
    assert row[4].startswith(shown) and wanted["decision"] == "better" and row[4].endswith("▲")


def test_a_disagreement_of_the_tests_is_named_in_a_sentence() -> None:
    made = report(small_evaluation(cases=25))
    assert "decides as the bootstrap does in 24 of 24 cells" in made.to_markdown()
    first = made.analysis.comparisons[0]
    contradicted = replace(made.analysis.cross_checks[0], decision=np.full(first.decision.shape, "worse", dtype=object))
    checks = (contradicted, *made.analysis.cross_checks[1:])
    other = SkillReport(replace(made.analysis, cross_checks=checks), "x")
    for page in (html.unescape(other.to_html()), other.to_markdown()):
        assert "decides as the bootstrap does in 12 of 24 cells" in page
        assert (
            "net against persistence at ≥ 1 mm/h, 15–60 min: better by the bootstrap, worse by Diebold-Mariano: the "
            "tests contradict each other, rely on neither." in page
        )
    single = report(small_evaluation(cases=1)).to_markdown()
    assert "there are no intervals below 5 rain episodes" in single and "95 % intervals" not in single.split("## ")[2]
    lone = report(small_evaluation(cases=5))
    assert "Diebold-Mariano" not in lone.to_markdown().split("## Provenance")[0]


def test_small_scores_keep_their_digits_and_wide_intervals_are_not_drawn() -> None:
    from nowcast.report.skill_charts import score_charts
    from nowcast.report.tables import number

    assert number(0.00012, decimals=5) == "0.00012" and number(-0.5, signed=True) == "−0.500"
    made = report(small_evaluation(cases=25))
    estimate = made.analysis.scores["csi"]
    wide = replace(estimate, low=np.zeros_like(estimate.low), high=np.ones_like(estimate.high))
    scores = {**made.analysis.scores, "csi": wide}
    lines = score_charts(replace(made.analysis, scores=scores), "csi")[0].lines
    assert all(line.low is not None and np.isnan(line.low).all() for line in lines)
    assert not any(np.isnan(line.low).any() for line in score_charts(made.analysis, "csi")[0].lines)


def test_best_and_worst_are_cases_scored_throughout() -> None:
    evaluation = small_evaluation(cases=6)
    table = {name: np.array(getattr(evaluation.counts, name)) for name in CONTINGENCY}
    for name in table:
        table[name][:, 2, 1:] = 0  # one case is observed at the first, easy lead time alone
    table["misses"][:, 2, 0] = table["false_alarms"][:, 2, 0] = 0
    table["correct_negatives"][:, 2, 0] = evaluation.counts.valid[2, 0] - table["hits"][:, 2, 0]
    table["hits"][:, 2, 0] = table["hits"][:1, 2, 0]
    table["correct_negatives"][:, 2, 0] = evaluation.counts.valid[2, 0] - table["hits"][:, 2, 0]
    counts = changed(evaluation, **table).counts
    assert counts.cases[2] not in ranked_cases(counts) and len(ranked_cases(counts)) == 5
    alone = counts.select(cases=np.arange(6) == 2)
    assert ranked_cases(alone) == [counts.cases[2]], "a case alone is ranked as it is"


def run(*arguments: object) -> str:
    result = CliRunner().invoke(command, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_the_command_writes_all_files_and_overwrites_nothing(tmp_path: Path) -> None:
    skill = small_evaluation(cases=25).save(tmp_path / "skill")
    page = tmp_path / "out" / "report.html"
    files = {kind: tmp_path / f"report.{kind}" for kind in ("markdown", "json", "csv")}
    options = [part for kind, path in files.items() for part in (f"--{kind}", path)]
    said = run(skill, "-o", page, *options, "--replicates", 300, "--title", "Nets of May")
    assert "25 cases in 25 independent rain episodes" in said
    assert "<h1>Nets of May</h1>" in page.read_text(encoding="utf-8")
    assert json.loads(files["json"].read_text(encoding="utf-8"))["intervals"]["replicates"] == 300
    with pytest.raises(ConfigError, match="exists"):
        run(skill, "-o", page)
    with pytest.raises(DataError, match="is not an evaluation"):
        run(tmp_path, "-o", tmp_path / "x.html")
    assert not (tmp_path / "x.html").exists()


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    small_evaluation(cases=6).save(tmp_path / "skill")
    arguments = [str(tmp_path / "skill"), "-o", str(tmp_path / "a"), "--csv", str(tmp_path / "a")]
    with pytest.raises(ConfigError, match="two files are to be written"):
        CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert not (tmp_path / "a").exists()


def test_a_page_that_cannot_be_made_leaves_the_older_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    skill, page = small_evaluation(cases=6).save(tmp_path / "skill"), tmp_path / "report.html"
    files = [page, tmp_path / "report.md"]
    for file in files:
        file.write_text("old")

    def broken(self: SkillReport) -> str:
        raise DataError("no markdown today")

    monkeypatch.setattr(SkillReport, "to_markdown", broken)
    with pytest.raises(DataError, match="no markdown today"):
        run(skill, "-o", page, "--markdown", files[1], "--replicates", 200, "--overwrite")
    assert [file.read_text() for file in files] == ["old", "old"]
    with pytest.raises(ConfigError, match="lies inside"):
        run(skill, "-o", skill / "evaluation.json", "--overwrite")


def test_scores_of_scale_and_of_probabilities_name_the_comparison_too() -> None:
    evaluation = with_fields(small_evaluation(cases=6, leads=2), members=3)
    above = replace(evaluation, counts=replace(evaluation.counts, comparison=">"))
    page = html.unescape(report(above).to_html())
    for section in ("fss", "ensembles"):
        text = page.split(f'<section id="{section}">')[1].split("</section>")[0]
        assert "> 1 mm/h" in text and "≥" not in text


@pytest.mark.parametrize("kind", ["csi", "frequency_bias", "performance", "fss", "spectra", "samples"])
def test_skill_is_drawn_as_pictures(kind: str, tmp_path: Path) -> None:
    skill = with_fields(small_evaluation(cases=6, leads=2)).save(tmp_path / "skill")
    arguments = ["skill", str(skill), "--kind", kind, "-o", str(tmp_path / "x.png"), "--replicates", "200"]
    result = CliRunner().invoke(plot_command, arguments, catch_exceptions=False)
    assert result.exit_code == 0 and (tmp_path / "x.png").stat().st_size > 10_000


def test_pictures_of_unknown_thresholds_are_refused(tmp_path: Path) -> None:
    skill = small_evaluation(cases=3).save(tmp_path / "skill")
    for kind, threshold, message in (("csi", "2", "2 is not among"), ("fss", "1", "nothing for fss")):
        arguments = ["skill", str(skill), "--kind", kind, "--threshold", threshold, "-o", str(tmp_path / "x.png")]
        with pytest.raises(ConfigError, match=message):
            CliRunner().invoke(plot_command, arguments, catch_exceptions=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("width", "scheme", "media"), [(1200, "light", "screen"), (375, "dark", "screen"), (750, "light", "print")]
)
def test_a_browser_shows_all_figures_and_asks_the_network_for_nothing(
    width: int, scheme: str, media: str, tmp_path: Path
) -> None:
    page = tmp_path / "report.html"
    made = report(with_fields(small_evaluation(cases=25, leads=4, synthetic=True), members=3))
    page.write_text(made.to_html(), encoding="utf-8")
    measure = """return [...document.querySelectorAll('svg.chart, .frames img, table')].map(node => {
        const box = node.getBoundingClientRect();
        return [node.tagName, box.width, box.height, node.tagName !== 'IMG' || node.naturalWidth > 0]; })"""
    with Browser() as browser:
        browser.emulate(width=width, height=900, scheme=scheme, media=media)
        browser.open(page)
        found: list[list[Any]] = browser.run(measure)
        assert len(found) > 40
        assert all(across > 60 and down > 20 and loaded for _, across, down, loaded in found)
        assert browser.run("return document.documentElement.scrollWidth") <= width
        colours = browser.run(
            "const style = getComputedStyle(document.body); return [style.color, style.backgroundColor]"
        )
        light, dark = (np.mean([int(part) for part in re.findall(r"\d+", colour)[:3]]) for colour in colours[::-1])
        assert (light > 200 and dark < 60) if scheme == "light" else (light < 60 and dark > 200)
        assert browser.complaints() == [] and browser.requests() == []


@pytest.mark.slow
def test_what_is_folded_away_opens_and_is_whole_on_paper(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text(report(with_fields(small_evaluation(cases=25, leads=2, models=MANY))).to_html(), encoding="utf-8")
    heights = "return [...document.querySelectorAll('details > :last-child')].map(node => node.offsetHeight)"
    with Browser() as browser:
        browser.open(page)
        assert not browser.run("return document.querySelector('details').open")
        browser.run("document.querySelector('summary').focus()")
        assert browser.run("return document.activeElement.tagName") == "SUMMARY"  # a key reaches it
        browser.run("document.activeElement.click()")
        assert browser.run("return document.querySelector('details').open")
        for width in (1200, 375):
            browser.emulate(width=width, height=900)
            browser.run("for (const node of document.querySelectorAll('details')) node.open = true")
            assert browser.run("return document.documentElement.scrollWidth") <= width
        browser.run("for (const node of document.querySelectorAll('details')) node.open = false")
        browser.emulate(width=1200, height=900, media="print")
        assert min(browser.run(heights)) > 40 and len(browser.run(heights)) > 8
        rows = browser.run("return [...document.querySelectorAll('details tr')].map(row => row.offsetHeight)")
        assert min(rows) > 5
        assert browser.complaints() == []


@pytest.mark.slow
def test_a_large_report_is_quick_and_small() -> None:
    """200 cases, 3 models, 6 thresholds, 20 leads from stored counts: 5 s and 2 MB."""
    import time

    evaluation = small_evaluation(cases=200, leads=20, thresholds=(0.1, 0.5, 1.0, 5.0, 10.0, 30.0))
    started = time.process_time()
    page = SkillReport.of([evaluation]).to_html()
    assert time.process_time() - started <= 5.0 and len(page.encode()) <= 2_000_000
