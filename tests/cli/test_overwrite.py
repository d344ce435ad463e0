"""No command deletes what it was not asked to replace."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.cli.conftest import TINY, Run


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def letters(tmp_path: Path) -> Path:
    """Somebody's folder."""
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters/mine.txt").write_text("mine")
    return tmp_path / "letters"


def test_a_folder_of_other_files_is_never_replaced(
    nowcast: Run, archive: Path, run_folder: Path, letters: Path
) -> None:
    commands: list[list[object]] = [
        ["train", archive, "--cache", run_folder.parent / "cache", *TINY],
        ["mnist", "train"],
        ["demo"],
        ["evaluate", run_folder, "--against", archive],
        ["report", run_folder],
        ["config", "init"],
        ["plot", "frame", archive],
        ["ingest", archive],
        ["ingest", archive, "--profile", "mlcast"],
    ]
    for command in commands:
        result = nowcast(*command, "-o", letters, "--overwrite", expect=2)
        assert "it is not replaced" in str(result.exception), command
    store = letters.rename(letters.with_suffix(".zarr"))
    for model in ("persistence", run_folder):
        result = nowcast("predict", model, archive, "-o", store, "--overwrite", expect=2)
        assert "is not a store of forecasts" in str(result.exception)
    assert contents(store) == {"mine.txt": b"mine"}


def test_an_input_is_never_replaced(nowcast: Run, archive: Path, run_folder: Path, tmp_path: Path) -> None:
    before = contents(archive), contents(run_folder)
    cache = ["--cache", run_folder.parent / "cache"]
    commands: list[list[object]] = [
        ["train", archive, *cache, *TINY, "--init-from", run_folder, "-o", run_folder],
        ["train", archive, *cache, *TINY, "--init-from", run_folder / "model", "-o", run_folder],
        ["train", archive, *cache, *TINY, "-o", archive],
        ["mnist", "train", "--init-from", run_folder, "-o", run_folder],
        ["predict", "persistence", archive, "-o", archive],
        ["ingest", archive, "-o", archive],
        ["report", run_folder, "-o", run_folder / "training.json"],
        ["inspect", archive, "--picture", archive / "zarr.json"],
        ["inspect", archive, "--save-clutter", archive / "zarr.json"],
        ["export", run_folder, "-o", run_folder / "training.json"],
        ["view", run_folder / "training.json", "-o", run_folder / "training.json"],
    ]
    for command in commands:
        nowcast(*command, "--overwrite", expect=2)
    assert (contents(archive), contents(run_folder)) == before


def test_a_training_that_cannot_begin_leaves_the_old_run(
    nowcast: Run, archive: Path, run_folder: Path, tmp_path: Path
) -> None:
    run, cache = tmp_path / "run1", ["--cache", run_folder.parent / "cache"]
    shutil.copytree(run_folder, run)
    before = contents(run)
    for wrong, code in ((["--set", "model.hidden_channels=[]"], 2), (["--set", "model.hidden_channels=[4]"], 6)):
        start = ["--init-from", run_folder] if code == 6 else []
        nowcast("train", archive, "-o", run, "--overwrite", *cache, *TINY, *wrong, *start, expect=code)
        assert contents(run) == before and list(tmp_path.iterdir()) == [run]
    nowcast("train", archive, "-o", run, "--overwrite", *cache, *TINY)
    assert contents(run) != before and list(tmp_path.iterdir()) == [run]


def test_pictures_and_masks_overwrite_nothing_unasked(
    nowcast: Run, archive: Path, run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_prep.quality.CLUTTER_DAYS", 1)
    monkeypatch.setattr("data_prep.quality.CLUTTER_FRAMES", 1)
    picture, mask = tmp_path / "a.png", tmp_path / "mask.npy"
    commands: dict[Path, list[object]] = {
        picture: ["inspect", archive, "--picture", picture],
        mask: ["inspect", archive, "--save-clutter", mask],
    }
    for path, command in commands.items():
        path.write_text("mine")
        assert f"{path} exists" in str(nowcast(*command, expect=2).exception)
        assert path.read_text() == "mine"
        nowcast(*command, "--overwrite")
        assert path.read_bytes() != b"mine"
    others: list[list[object]] = [
        ["mnist", "evaluate", run_folder, "--figure", picture],
        ["evaluate", archive, "--against", archive, "-o", tmp_path / "skill", "--met", picture],
    ]
    for command in others:
        assert f"{picture} exists" in str(nowcast(*command, expect=2).exception)
    assert sorted(tmp_path.iterdir()) == [picture, mask]
