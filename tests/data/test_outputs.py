"""What --overwrite may replace, and that the old output goes last."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from nowcast.data.outputs import Kind, is_output, put_in_place, replacing, require_free
from nowcast.errors import ConfigError


def _run(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "training.json").write_text("{}")
    return path


def _with_json(name: str, values: dict[str, object]) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        path.mkdir(parents=True)
        (path / "forecast_reference_time").mkdir()
        (path / name).write_text(json.dumps(values))
        return path

    return make


def _file(path: Path) -> Path:
    path.write_text("mine")
    return path


OUTPUTS: dict[Kind, Callable[[Path], Path]] = {
    "file": _file,
    "run": _run,
    "archive": _with_json("zarr.json", {"attributes": {"format": "nowcast-archive-1"}}),
    "forecasts": _with_json("zarr.json", {"attributes": {"source": "nowcast model persistence"}}),
    "evaluation": _with_json("evaluation.json", {"format": "nowcast-evaluation-1"}),
    "demo": _with_json("nowcast-demo.json", {}),
}


@pytest.mark.parametrize("kind", OUTPUTS)
def test_only_an_output_of_the_kind_is_replaced(kind: Kind, tmp_path: Path) -> None:
    for other, make in OUTPUTS.items():
        path = make(tmp_path / other)
        assert is_output(path, kind) == (kind == other)
        if kind == other:
            require_free(path, kind, overwrite=True)
        else:
            with pytest.raises(ConfigError, match="is not a"):
                require_free(path, kind, overwrite=True)
        with pytest.raises(ConfigError, match=r"exists .*-o, or pass --overwrite"):
            require_free(path, kind, overwrite=False)
    require_free(tmp_path / "new", kind, overwrite=False)


@pytest.mark.parametrize("kind", OUTPUTS)
def test_an_ordinary_folder_is_never_replaced_and_an_empty_one_is_free(kind: Kind, tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    if kind != "file":
        require_free(tmp_path / "letters", kind, overwrite=False)
    (tmp_path / "letters/mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is not a"):
        require_free(tmp_path / "letters", kind, overwrite=True)


def test_a_demo_is_known_by_its_archive_and_run_too(tmp_path: Path) -> None:
    OUTPUTS["archive"](tmp_path / "demo" / "rain.zarr")
    assert not is_output(tmp_path / "demo", "demo")
    _run(tmp_path / "demo" / "run")
    assert is_output(tmp_path / "demo", "demo")


def test_what_is_read_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = _run(tmp_path / "run")
    inner = _run(run / "inner")
    for path, source, words in (
        (run, run, "is read and would be overwritten"),
        (run, inner, "contains"),
        (inner, run, "lies inside"),
    ):
        with pytest.raises(ConfigError, match=words):
            require_free(path, "run", overwrite=True, inputs=["persistence", source])
    (tmp_path / "link").symlink_to(run)
    with pytest.raises(ConfigError, match="is read"):
        require_free(run, "run", overwrite=True, inputs=[tmp_path / "link"])
    require_free(run, "run", overwrite=True, inputs=[_run(tmp_path / "run2")])
    for here in (run, inner):
        monkeypatch.chdir(here)
        with pytest.raises(ConfigError, match="current folder"):
            require_free(run, "run", overwrite=True)


def test_a_draft_takes_the_place_of_a_folder_and_a_failure_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, draft = _run(tmp_path / "run"), _run(tmp_path / "draft")
    (draft / "new.txt").write_text("new")

    def broken(self: Path, target: Path) -> Path:
        if self == draft:
            raise OSError("disk full")
        return rename(self, target)

    rename = Path.rename
    monkeypatch.setattr(Path, "rename", broken)
    with pytest.raises(OSError, match="disk full"):
        put_in_place(draft, old)
    assert (old / "training.json").is_file() and sorted(tmp_path.iterdir()) == [draft, old]
    monkeypatch.undo()
    put_in_place(draft, old)
    assert (old / "new.txt").is_file() and list(tmp_path.iterdir()) == [old]


def test_a_link_is_replaced_and_what_it_leads_to_stays(tmp_path: Path) -> None:
    target, draft, link = _run(tmp_path / "run"), _run(tmp_path / "draft"), tmp_path / "link"
    link.symlink_to(target)
    put_in_place(draft, link)
    assert not link.is_symlink() and (link / "training.json").is_file() and (target / "training.json").is_file()


@pytest.mark.parametrize("keep", [True, False])
def test_a_failure_brings_the_old_output_back_unless_the_new_is_worth_keeping(keep: bool, tmp_path: Path) -> None:
    run = _run(tmp_path / "run")
    with pytest.raises(ZeroDivisionError), replacing(run, keep=lambda path: keep):
        run.mkdir()
        (run / "new.txt").write_text("new")
        raise ZeroDivisionError
    assert (run / "new.txt").exists() == keep and (run / "training.json").exists() != keep
    assert list(tmp_path.iterdir()) == [run]
    with replacing(run, keep=lambda path: False):
        _file(run)
    assert run.read_text() == "mine" and list(tmp_path.iterdir()) == [run]
