"""An archive read back: what has rotted is found and named, and comes in again with the ingest that made it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from cli.inspect import command as inspect_command
from data_prep.ingest import ingest
from nowcast.data.archive import ManifestEntry, open_archive
from nowcast.data.archive_check import ArchiveCheck, Finding, check_manifest
from nowcast.data.archive_store import encode_chunk
from nowcast.data.archive_writer import ArchiveWriter
from nowcast.data.encoded_frame import encode_frame
from nowcast.data.mlcast import export_mlcast
from nowcast.errors import DataError
from tests.data_prep.radar_files import at, field, write_series


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    write_series(tmp_path / "in", [0, 1, 2, 4])
    ingest([tmp_path / "in"], tmp_path / "a.zarr")
    return tmp_path / "a.zarr"


def check(path: Path, **options: object) -> list[Finding]:
    archive = open_archive(path)
    reading = ArchiveCheck(archive, **options)  # type: ignore[arg-type]
    return check_manifest(archive) + reading.confirmed([finding for finding in reading if finding is not None])


def chunk(path: Path, index: int) -> Path:
    return path / "rainfall_rate" / f"c.{index}.0.0"


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


def another_field(file: Path) -> None:
    """Whole and readable, and not what was written."""
    file.write_bytes(encode_chunk(field(7)))


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-9])


def test_what_was_written_is_whole(archive: Path) -> None:
    assert check(archive) == [] and len(ArchiveCheck(open_archive(archive))) == 4


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (flip, "cannot be decoded"),
        (cut_short, "cannot be decoded"),
        (another_field, "its digest differs from the recorded one"),
        (lambda file: file.write_bytes(encode_chunk(field(2)[:4])), "has 48 pixels, the grid 10x12"),
        (Path.unlink, "is gone"),
    ],
)
def test_each_damage_is_found_at_its_frame_and_mended_by_the_same_ingest(
    archive: Path, damage: Callable[[Path], object], reason: str
) -> None:
    damage(chunk(archive, 2))
    (finding,) = check(archive, workers=2)
    assert finding.time == str(at(2)) and reason in finding.reason
    if finding.file:
        assert Path(finding.file) == chunk(archive, 2)
        Path(finding.file).unlink()
    ingest([archive.parent / "in"], archive)
    assert check(archive) == []
    np.testing.assert_array_equal(open_archive(archive).frame(at(2)), field(2))


def test_a_check_goes_on_from_a_time(archive: Path) -> None:
    flip(chunk(archive, 1))
    assert len(check(archive)) == 1
    reading = ArchiveCheck(open_archive(archive), since=at(2))
    assert reading.times.tolist() == [at(2).item(), at(4).item()] and list(reading) == [None, None]


def test_a_frame_that_was_replaced_meanwhile_is_no_finding(archive: Path) -> None:
    flip(chunk(archive, 1))
    flip(chunk(archive, 2))
    reading = ArchiveCheck(open_archive(archive))
    found = [finding for finding in reading if finding is not None]
    with ArchiveWriter.append(archive) as writer:
        chunk(archive, 1).unlink()
        writer.write(at(1), field(7))
    assert [finding.time for finding in found] == [str(at(1)), str(at(2))]
    assert [finding.time for finding in reading.confirmed(found)] == [str(at(2))]


def test_a_quality_index_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    write_series(tmp_path / "in", [0, 1])
    ingest([tmp_path / "in"], tmp_path / "model.zarr")
    grid = open_archive(tmp_path / "model.zarr").grid
    with ArchiveWriter.create(path, grid, first_time=at(0), step=np.timedelta64(300, "s"), quality=True) as writer:
        writer.put(encode_frame(at(0), field(0), quality=np.ones((10, 12))))
    assert check(path) == []
    flip(path / "quality" / "c.0.0.0")
    (finding,) = check(path)
    assert "quality index cannot be decoded" in finding.reason and finding.file.endswith("quality/c.0.0.0")


def test_the_manifest_is_compared_with_its_digest_and_its_frames(archive: Path) -> None:
    with ArchiveWriter.append(archive) as writer:
        writer.note(ManifestEntry("lost.nc", "stored", "ab", times=(str(at(3)), "2031-01-01T00:00:00")))
        writer.write(at(5), field(5))
    reasons = [(finding.time, finding.reason) for finding in check(archive)]
    assert reasons == [
        (str(at(3)), "the manifest has it from a file, its status is missing"),
        ("2031-01-01T00:00:00", "the manifest has it from a file, its status is that of no slot"),
        (str(at(5)), "no source file is recorded for it"),
    ]
    lines = archive / "manifest" / "lines" / "c.0"
    content = encode_chunk(
        np.frombuffer(json.dumps({"file": "x", "status": "stored"}).encode() + b"\n", dtype=np.uint8)
    )
    lines.write_bytes(content)
    assert any("manifest" in finding.reason for finding in check_manifest(open_archive(archive)))


def test_another_data_set_is_read_for_what_cannot_be_decoded(archive: Path, tmp_path: Path) -> None:
    export_mlcast(archive, tmp_path / "m.zarr", attributes={"mlcast_dataset_identifier": "XX-a-b"})
    assert check(tmp_path / "m.zarr") == []
    damaged = tmp_path / "m.zarr" / "rainfall_flux" / "c.1.0.0"
    content = damaged.read_bytes()
    damaged.unlink()  # linked to the archive's own
    damaged.write_bytes(content[:-5] + b"xxxxx")
    (finding,) = check(tmp_path / "m.zarr")
    assert finding.time == str(at(1)) and "cannot be decoded" in finding.reason


def test_the_command_names_the_damage_and_leaves_with_the_code_of_unusable_data(archive: Path) -> None:
    def inspect(*options: object) -> Result:
        return CliRunner().invoke(inspect_command, [str(archive), *map(str, options)])

    assert "4 frames read, each as it was written" in inspect("--check").stdout
    flip(chunk(archive, 1))
    result = inspect("--check", "--json")
    assert isinstance(result.exception, DataError) and "1 findings in 4 frames" in str(result.exception)
    assert "remove the files that are named" in str(result.exception)
    said = json.loads(result.stdout)["check"]
    assert said["frames"] == 4 and said["findings"][0]["file"] == str(chunk(archive, 1))
    assert inspect("--check-from", at(2)).exit_code == 0


def test_a_stopped_check_says_where_to_go_on(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop_at_the_third(self: ArchiveCheck) -> Iterator[None]:
        yield from (None, None)
        raise KeyboardInterrupt

    monkeypatch.setattr(ArchiveCheck, "__iter__", stop_at_the_third)
    result = CliRunner().invoke(inspect_command, [str(archive), "--check"])
    assert f"checked 2 of 4 frames; go on with --check-from {at(2)}" in result.stderr
    assert result.exit_code != 0
