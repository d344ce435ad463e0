"""The command group: quick help, nearest names, exit codes, one sentence and a hint for every mistake."""

from __future__ import annotations

import subprocess
import sys

import pytest
from click.testing import CliRunner

from cli.main import COMMANDS, exit_code, group, main
from nowcast.errors import ConfigError, DataError, MismatchError, MissingPackageError


def nowcast(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "cli.main", *arguments], capture_output=True, text=True, timeout=60)


def test_help_lists_every_command_and_imports_neither_torch_nor_numpy() -> None:
    code = (
        "import sys; from cli.main import group\n"
        "try: group(['--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'numpy', 'xarray', 'zarr'} & set(sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert all(name in result.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str) -> None:
    result = CliRunner().invoke(group, [name, "--help"])
    assert result.exit_code == 0, result.output
    assert "Usage: " in result.output and len(result.output.splitlines()) > 5


def test_a_misspelt_command_gets_the_nearest_name() -> None:
    result = nowcast("predcit")
    assert result.returncode == 2 and "did you mean 'predict'?" in result.stderr


def test_a_mistake_is_one_sentence_and_a_hint_without_a_traceback() -> None:
    result = nowcast("predict", "persistence", "nowhere.zarr", "-o", "out.nc")
    assert result.returncode == 3
    assert result.stderr.splitlines() == [
        "Error: there is no archive nowhere.zarr",
        "Hint: make one with: nowcast ingest FILES... -o nowhere.zarr",
    ]


def test_ctrl_c_promises_to_go_on_only_where_the_command_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(**options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(group, "main", interrupt)
    monkeypatch.setattr("signal.signal", lambda *arguments: None)
    for name, sentence in (("report", "Interrupted.\n"), ("ingest", "Interrupted. What was finished is kept; ")):
        with pytest.raises(SystemExit) as leave:
            main([name])
        assert leave.value.code == 130 and capsys.readouterr().err.startswith(sentence)


def test_debug_shows_the_traceback() -> None:
    assert "Traceback" in nowcast("--debug", "predict", "persistence", "nowhere.zarr", "-o", "out.nc").stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("x"), 2),
        (DataError("x"), 3),
        (MissingPackageError("rasterio", "geotiff", "GeoTIFF"), 4),
        (MismatchError("x"), 6),
        (RuntimeError("x"), 1),
    ],
)
def test_exit_codes_tell_whose_turn_it_is(error: Exception, code: int) -> None:
    assert exit_code(error) == code


def test_a_missing_package_names_the_install_command() -> None:
    error = MissingPackageError("rasterio", "geotiff", "reading GeoTIFF")
    assert error.hint == "pip install 'nowcast-pipeline[geotiff]'"


@pytest.mark.parametrize(
    ("thresholds", "message"),
    [
        ("-1,5", "cannot be negative"),
        ("5,1", "must ascend"),
        ("1,1", "must ascend"),
        (",", "no number given"),
        ("a", "is not a list of numbers"),
    ],
)
def test_thresholds_that_make_no_sense_are_refused(thresholds: str, message: str) -> None:
    result = nowcast("evaluate", "f.nc", "--against", "a.zarr", "-o", "skill", "--threshold", thresholds)
    assert result.returncode == 2 and message in result.stderr


@pytest.mark.parametrize("line", ["ingest SRC", "resample ARCHIVE --pixel-km 2", "export MODEL"])
def test_a_command_without_a_place_for_its_output_says_so(line: str) -> None:
    result = CliRunner().invoke(group, line.split())
    assert result.exit_code == 2 and "Missing option '-o'" in result.output


@pytest.mark.slow
def test_an_interrupted_command_ends_though_a_thread_waits_forever() -> None:
    code = (
        "import sys, threading\n"
        "import cli.main as m\n"
        "def interrupted(**given):\n"
        "    threading.Thread(target=threading.Event().wait).start()\n"
        "    raise KeyboardInterrupt\n"
        "m.group.main = interrupted\n"
        "sys.argv = ['nowcast', 'ingest', 'x']\n"
        "m.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 130
    assert done.stderr == "Interrupted. What was finished is kept; the same command continues it.\n"
