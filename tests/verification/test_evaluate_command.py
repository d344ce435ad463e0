"""`nowcast evaluate`: what it prints, what it writes, and the exit codes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from cli.main import main
from nowcast.data.archive_writer import write_archive
from nowcast.data.forecast import Forecast
from nowcast.data.grid import Grid
from nowcast.verification.evaluation import Evaluation

START = np.datetime64("2016-07-11T21:00:00", "s")
STEP = np.timedelta64(300, "s")
GRID = Grid.from_corner(4_000_000.0, 3_000_000.0, 1000.0, 1000.0, (20, 26), "EPSG:3035")


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command line."""
    with pytest.raises(SystemExit) as leave:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return int(leave.value.code or 0), captured.out, captured.err


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("command")
    rng = np.random.default_rng(0)
    field = np.where(rng.random((12, *GRID.shape)) < 0.4, rng.gamma(0.6, 4.0, (12, *GRID.shape)), 0.0)
    field = field.astype(np.float32)
    write_archive(folder / "mch.zarr", field, first_time=START, step=STEP, grid=GRID, attributes={"synthetic": True})
    for issue in (2, 4):
        # Right half right, left half dry: half of the events are hit.
        half = field[issue + 1 : issue + 4].copy()
        half[:, :, :13] = 0
        made = Forecast(half[None, None], START + np.array([issue]) * STEP, np.arange(1, 4) * STEP, GRID, "net")
        made.save(folder / "net" / f"{issue}.nc")
    return folder


def arguments(place: Path, output: Path, *more: object) -> tuple[object, ...]:
    return (
        "evaluate", place / "net", "--against", place / "mch.zarr", "-o", output,
        "--baseline", "persistence", "--threshold", "0.1,1", "--scale", "none", *more,
    )  # fmt: skip


def test_it_prints_scores_with_sample_sizes_and_writes_the_folder(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, *arguments(place, tmp_path / "skill"))
    assert code == 0
    assert "2 cases, 3 lead times, 100.0% of the pixels valid in all" in out and "Synthetic data." in out
    found = Evaluation.load(tmp_path / "skill").counts
    observed = int(found.observed[0, :, :, 1].sum())
    row = next(line for line in out.splitlines() if re.match(r"\s+1\s+\d+ net ", line))
    assert str(observed) in row.split() and "0.000" in row  # no false alarms
    assert found.false_alarms[0].sum() == 0 and found.models == ("net", "persistence")
    assert {entry.name for entry in (tmp_path / "skill").iterdir()} >= {"counts.nc", "scores.csv", "evaluation.json"}


def test_json_is_one_object_on_standard_output(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, *arguments(place, tmp_path / "skill", "--json"))
    values = json.loads(out)
    assert code == 0 and values["cases"] == 2 and values["left_out"] == {}
    assert any(row["metric"] == "csi" and row["hits"] > 0 for row in values["scores"])


@pytest.mark.parametrize(
    ("gate", "code"), [("csi@1mm:5min=0.3", 0), ("csi@1mm=0.3", 0), ("csi@1mm:5min=0.9", 10), ("pod@1mm=0.9", 10)]
)
def test_a_gate_fails_with_its_own_exit_code(
    gate: str, code: int, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, _, err = run(capsys, *arguments(place, tmp_path / "skill", "--fail-below", gate))
    assert found == code
    assert (f"Gate failed: {gate}: net has" in err) == (code == 10)
    assert "persistence has" not in err


@pytest.mark.parametrize(("gate", "code"), [("far@1mm=0.1", 0), ("frequency_bias@1mm=0.4", 10), ("pofd@1mm:5min=0", 0)])
def test_scores_of_which_less_is_better_have_a_gate_above(
    gate: str, code: int, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, _, err = run(capsys, *arguments(place, tmp_path / "skill", "--fail-above", gate))
    assert found == code and (f"Gate failed: {gate}: net has" in err) == (code == 10)


def test_a_gate_for_a_lead_that_is_not_there_is_refused_before_the_run(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, *arguments(place, tmp_path / "skill", "--fail-below", "csi@1mm:60min=0.3"))
    assert code == 2 and "no lead time of 60 min, there are 5, 10, 15" in err
    assert not (tmp_path / "skill").exists() and "evaluate:" not in err


def test_json_has_null_for_what_is_undefined_or_infinite(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(word: str) -> float:
        raise AssertionError(f"{word} is no JSON")

    code, out, _ = run(capsys, *arguments(place, tmp_path / "skill", "--json", "--threshold", "1,900"))
    rows = json.loads(out, parse_constant=refuse)["scores"]
    undefined = [row for row in rows if row["threshold"] == 900]
    assert code == 0 and undefined and all(row["value"] is None for row in undefined)
    # Rain where none was observed: an infinite frequency bias.
    wet = np.full((1, 1, 3, *GRID.shape), 1000.0, dtype=np.float32)
    Forecast(wet, START + np.array([2]) * STEP, np.arange(1, 4) * STEP, GRID, "wet").save(tmp_path / "wet.nc")
    code, out, _ = run(
        capsys, "evaluate", tmp_path / "wet.nc", "--against", place / "mch.zarr", "-o", tmp_path / "wet",
        "--threshold", "1,900", "--scale", "none", "--json",
    )  # fmt: skip
    assert code == 0
    json.loads(out, parse_constant=refuse)


def test_fields_without_an_observed_frame_are_left_out_by_name(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dry = np.zeros((1, 1, 3, *GRID.shape), dtype=np.float32)
    made = Forecast(dry, START + np.array([9]) * STEP, np.arange(1, 4) * STEP, GRID, "net")
    made.save(tmp_path / "late.nc")
    code, out, err = run(
        capsys, "evaluate", tmp_path / "late.nc", "--against", place / "mch.zarr", "-o", tmp_path / "skill",
        "--scale", "none",
    )  # fmt: skip
    assert code == 5 and "Left out, fields without an observed frame: 1 (mch 2016-07-11T21:45Z + 15 min)" in err
    assert "- is undefined (0/0): no valid pixel, or nothing observed" in out


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--fail-below", "csi@1mm"), "is no gate; write csi@1mm:60min=0.3"),
        (("--fail-below", "cis@1mm=0.3"), "no score 'cis'"),
        (("--fail-below", "csi@7mm=0.3"), "7 mm/h is not among the thresholds 0.1, 1"),
        (("--fail-below", "csi@1mm:60min=0.3"), "no lead time of 60 min, there are 5, 10, 15"),
        (("--compat", "hko"), "no convention 'hko'"),
        (("--fail-below", "far@1mm=0.3"), "a greater far is no better; write --fail-above far@1mm=0.3"),
        (("--fail-above", "csi@1mm=0.3"), "a greater csi is better; write --fail-below csi@1mm=0.3"),
        (("--fail-below", "csi@1mm=0.3.1"), "holds a number that is none"),
        (("--baseline", "magic"), "no baseline 'magic'"),
        (("--baseline", "persistance"), "did you mean persistence?"),
        (("--scale", "4"), "odd numbers of pixels, got 4"),
        (("--threshold", "5,1"), "thresholds must ascend"),
        (("--scheduler", "tcp://127.0.0.1:1"), "no Dask scheduler answers"),
        (("--scheduler", "tcp://127.0.0.1:1", "--workers", "2"), "give one of the two"),
    ],
)
def test_what_cannot_be_meant_is_refused_as_usage(
    option: tuple[str, ...], message: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    if option[0] == "--scheduler":
        pytest.importorskip("distributed")
        monkeypatch.setattr("cli.evaluate.SCHEDULER_TIMEOUT", "1s")
    code, _, err = run(capsys, *arguments(place, tmp_path / "skill", *option))
    assert code == 2 and message in err


def test_partial_overlap_has_its_own_exit_code(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(
        capsys, "evaluate", place / "net", "--against", place / "mch.zarr", "-o", tmp_path / "skill",
        "--baseline", "extrapolation", "--scale", "none",
    )  # fmt: skip
    assert code == 0, err
    dry = np.zeros((1, 1, 3, *GRID.shape), dtype=np.float32)
    Forecast(dry, START + np.array([50]) * STEP, np.arange(1, 4) * STEP, GRID, "net").save(tmp_path / "late" / "50.nc")
    code, _, err = run(
        capsys, "evaluate", f"net={place / 'net'}", f"net={tmp_path / 'late'}", "--against", place / "mch.zarr",
        "-o", tmp_path / "partial", "--scale", "none",
    )  # fmt: skip
    assert code == 5 and "without any observed frame after them: 1 (mch 2016-07-12T01:10Z)" in err


def test_existing_output_is_kept_unless_told(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "skill").mkdir()
    (tmp_path / "skill" / "mine.txt").write_text("kept")
    code, _, err = run(capsys, *arguments(place, tmp_path / "skill"))
    assert code == 2 and "exists" in err and (tmp_path / "skill" / "mine.txt").read_text() == "kept"
    code, _, err = run(capsys, *arguments(place, tmp_path / "skill", "--overwrite"))
    assert code == 2 and "is not an evaluation" in err and (tmp_path / "skill" / "mine.txt").read_text() == "kept"
    (tmp_path / "skill" / "evaluation.json").write_text('{"format": "nowcast-evaluation-1"}')
    assert run(capsys, *arguments(place, tmp_path / "skill", "--overwrite"))[0] == 0
    assert not (tmp_path / "skill" / "mine.txt").exists()


def test_conventions_and_met_lines_are_written_beside(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(
        capsys, *arguments(place, tmp_path / "skill", "--compat", "pysteps", "--met", tmp_path / "net.stat")
    )
    assert code == 0 and "CSI as pysteps scores" in out and "an event is > the threshold" in out
    assert (tmp_path / "skill" / "compat-pysteps.csv").read_text().startswith("convention,model,threshold")
    assert len((tmp_path / "net.stat").read_text().splitlines()) == 1 + 2 * 2 * 3 * 2
    assert Evaluation.load(tmp_path / "skill").counts.comparison == ">"


def test_unusable_data_has_exit_code_three(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(
        capsys, "evaluate", place / "mch.zarr", "--against", place / "mch.zarr", "-o", tmp_path / "skill"
    )
    assert code == 3 and "does not say when it was issued" in err
