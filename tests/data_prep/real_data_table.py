"""Every folder of real radar files, ingested, beside what is known of it: `python -m tests.data_prep.real_data_table`.

The known figures were read from the files by other means: rows and columns, cadence, frames, share without data,
maximum [mm/h], and the shares of valid pixels above 0.1, 1 and 5 mm/h (strictly), as means over frames.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep.ingest import IngestOptions, ingest
from data_prep.quality import QualityOptions
from data_prep.readers.options import ReadOptions
from nowcast.data.archive import RadarArchive, open_archive

AS_IT_IS = ReadOptions()
# Half a unit of the last digit that is known, relative for the maximum.
SHARE_TOLERANCE, MAXIMUM_TOLERANCE = {"nodata": 6e-4, "wet": 6e-4, "over_1": 6e-4, "over_5": 6e-5}, 0.006


@dataclass(frozen=True)
class Known:
    """One folder and its figures; `nodata` is the mean over frames, or its range.

    `step` is given where a single frame has none.
    """

    name: str
    sources: str
    shape: tuple[int, int]
    step_minutes: int
    frames: int
    nodata: tuple[float, float]
    maximum: float
    wet: float
    over_1: float
    over_5: float
    give_step: bool = False
    read: ReadOptions = AS_IT_IS


FOLDERS = (
    Known("fmi pgm", "radar/fmi/pgm/20160928", (1226, 760), 5, 40, (0.2435, 0.2435), 167, 0.303, 0.078, 0.0025),
    Known("fmi geotiff", "radar/fmi/geotiff/20160928", (7316, 4963), 5, 2, (0.6795, 0.6795), 85, 0.286, 0.078, 0.0033),
    Known("bom", "radar/bom", (512, 512), 6, 61, (0.0, 0.0), 53, 0.311, 0.192, 0.0349),
    Known("knmi", "radar/KNMI", (765, 700), 5, 63, (0.7437, 0.7437), 20.5, 0.516, 0.104, 0.0034),
    Known("mch 2015", "radar/mch/20150515", (640, 710), 5, 40, (0.308, 0.336), 115.5, 0.171, 0.084, 0.0129),
    Known("mch 2016", "radar/mch/20160711", (640, 710), 5, 40, (0.296, 0.296), 115.5, 0.133, 0.083, 0.0199),
    Known("opera 2018", "radar/OPERA/20180824", (2200, 1900), 15, 6, (0.499, 0.499), 1205, 0.126, 0.031, 0.0042),
    Known(
        "opera nimbus rate", "radar/OPERA/20241126/NIMBUS/T_PAAH22*", (2200, 1900), 15, 2, (0.485, 0.485), 205, 0.092,
        0.020, 0.0018,
    ),
    Known(
        "opera nimbus 60 min", "radar/OPERA/20241126/NIMBUS/T_PASH22*", (2200, 1900), 15, 1, (0.486, 0.486), 51.3,
        0.109, 0.020, 0.0015, give_step=True,
    ),
    Known(
        "opera cirrus", "radar/OPERA/20241126/CIRRUS", (4400, 3800), 5, 1, (0.491, 0.491), 2734, 0.163, 0.046, 0.0074,
        give_step=True,
    ),
    Known("mrms", "mrms", (3500, 7000), 2, 6, (0.358, 0.358), 151, 0.062, 0.029, 0.0041),
    Known("saf crr", "saf", (1019, 2200), 15, 4, (0.169, 0.169), 34, 0.021, 0.011, 0.0029),
    # The flag "no data" alone covers 0.384; pixels flagged as clutter are missing too.
    Known("radolan yw", "radolan/yw", (1100, 900), 5, 12, (0.3887, 0.3887), 143, 0.146, 0.079, 0.0240),
    Known("radolan rw", "radolan/rw", (900, 900), 60, 24, (0.186, 0.186), 3.0, 0.0015, 0.0, 0.0),
    Known(
        "meteonet", "meteonet/rainfall_NW_2016_08.3.npz", (565, 784), 5, 45, (0.125, 0.125), 30.5, 0.007, 0.0011,
        0.0001, read=ReadOptions(pickled_dates=True),
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Found:
    """The same figures, of an archive."""

    shape: tuple[int, int]
    step_minutes: float
    frames: int
    nodata: tuple[float, float]
    mean_nodata: float
    maximum: float
    wet: float
    over_1: float
    over_5: float
    skipped: int
    seconds: float


def measure(known: Known, data: Path, folder: Path) -> Found:
    """Ingest one folder with every quality step off, and read the archive back."""
    step = np.timedelta64(known.step_minutes * 60, "s") if known.give_step else None
    options = IngestOptions(read=known.read, step=step, quality=QualityOptions(rate_cap_mm_h=None))
    started = time.monotonic()
    report = ingest([str(data / known.sources)], folder / f"{known.name}.zarr", options=options)
    return figures(open_archive(report.archive), len(report.skipped), time.monotonic() - started)


def figures(archive: RadarArchive, skipped: int, seconds: float) -> Found:
    """The figures of an archive, frame by frame from its fields."""
    nodata, maxima, shares = [], [], []
    for index in np.flatnonzero(archive.present):
        field = archive.rain_rate(int(index), int(index) + 1)[0]
        valid = field[~np.isnan(field)]
        nodata.append(1 - valid.size / field.size)
        maxima.append(valid.max())
        shares.append([(valid > np.float32(threshold)).mean() for threshold in (0.1, 1.0, 5.0)])
    wet, over_1, over_5 = np.mean(shares, axis=0)
    return Found(
        archive.grid.shape,
        archive.step_minutes,
        int(archive.present.sum()),
        (min(nodata), max(nodata)),
        float(np.mean(nodata)),
        float(max(maxima)),
        float(wet),
        float(over_1),
        float(over_5),
        skipped,
        seconds,
    )


def differences(known: Known, found: Found) -> list[str]:
    """What does not agree, beyond the digits that are known."""
    exact = ("shape", "step_minutes", "frames")
    wrong = [name for name in exact if getattr(known, name) != getattr(found, name)]
    if known.nodata[0] == known.nodata[1]:
        apart = abs(known.nodata[0] - found.mean_nodata)
    else:
        apart = max(abs(a - b) for a, b in zip(known.nodata, found.nodata, strict=True))
    if apart > SHARE_TOLERANCE["nodata"]:
        wrong.append("nodata")
    if abs(found.maximum - known.maximum) > MAXIMUM_TOLERANCE * known.maximum:
        wrong.append("maximum")
    wrong += [
        name
        for name in ("wet", "over_1", "over_5")
        if abs(getattr(known, name) - getattr(found, name)) > SHARE_TOLERANCE[name]
    ]
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("NOWCAST_TEST_DATA", "../shared/data")))
    parser.add_argument("--only", help="Folders whose name holds this.")
    arguments = parser.parse_args()
    print("| folder | frames | grid | step | no data | max | wet | >1 | >5 | differs | s |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for known in FOLDERS:
        if arguments.only and arguments.only not in known.name:
            continue
        with tempfile.TemporaryDirectory(prefix="real_data_") as folder:
            try:
                found = measure(known, arguments.data, Path(folder))
            except Exception as error:
                print(f"| {known.name} | FAILED: {error} |")
                continue
        print(_row(known, found), flush=True)


def _row(known: Known, found: Found) -> str:
    def pair(name: str, form: str) -> str:
        return f"{getattr(found, name):{form}} ({getattr(known, name):{form}})"

    cells = [
        known.name,
        pair("frames", "d"),
        f"{found.shape[0]}x{found.shape[1]}",
        f"{found.step_minutes:g}",
        f"{found.mean_nodata:.4f} ({known.nodata[0]:g}-{known.nodata[1]:g})",
        pair("maximum", ".1f"),
        pair("wet", ".4f"),
        pair("over_1", ".4f"),
        pair("over_5", ".4f"),
        ", ".join(differences(known, found)) or "-",
        f"{found.seconds:.1f}",
    ]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
