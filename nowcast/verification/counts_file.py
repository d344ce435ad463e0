"""The CF netCDF file of contingency counts: integers (model, case, lead_time, threshold, contingency)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from nowcast.errors import DataError
from nowcast.verification.counts import CONTINGENCY, Case, ContingencyCounts, cells_of

FORMAT = "nowcast-counts-1"


def write_counts(counts: ContingencyCounts, path: Path) -> None:
    """The same counts give the same bytes."""
    import netCDF4

    with netCDF4.Dataset(path, "w", format="NETCDF4") as file:
        axes = dict(zip(("model", "case", "lead_time", "threshold"), counts.shape, strict=True))
        for axis, size in (*axes.items(), ("contingency", len(CONTINGENCY))):
            file.createDimension(axis, size)
        text = {
            "model": (counts.models, "model or baseline"),
            "source": (counts.sources, "archive of the case"),
            "contingency": (CONTINGENCY, "cell of the contingency table"),
        }
        for name, (words, long_name) in text.items():
            strings: Any = file.createVariable(name, str, ("case" if name == "source" else name,))
            strings.long_name = long_name
            for index, word in enumerate(words):
                strings[index] = word
        numbers: dict[str, tuple[tuple[str, ...], np.ndarray, dict[str, Any]]] = {
            "issue_time": (
                ("case",),
                counts.issue_times.astype(np.int64),
                {
                    "standard_name": "forecast_reference_time",
                    "units": "seconds since 1970-01-01 00:00:00",
                    "calendar": "standard",
                    "units_metadata": "leap_seconds: none",
                },
            ),
            "lead_time": (
                ("lead_time",),
                counts.lead_minutes,
                {"standard_name": "forecast_period", "units": "minutes"},
            ),
            "threshold": (("threshold",), counts.thresholds, {"long_name": "rain rate", "units": counts.units}),
            "pixels": (("case", "lead_time"), counts.pixels, {"long_name": "pixels of the field", "units": "1"}),
            "mask_digest": (("case", "lead_time"), counts.mask_digest, {"long_name": "digest of the common mask"}),
            "counts": (
                (*axes, "contingency"),
                counts.table(),
                {"long_name": "number of pixels", "units": "1", "coordinates": "source issue_time"},
            ),
        }
        for name, (dimensions, values, attributes) in numbers.items():
            variable: Any = file.createVariable(
                name, values.dtype, dimensions, zlib=len(dimensions) > 1, complevel=4, fill_value=False
            )
            variable.setncatts(attributes)
            variable[:] = values
        file.setncatts(
            {
                "Conventions": "CF-1.11",
                "title": "Contingency counts of rain forecasts",
                "format": FORMAT,
                "comparison": counts.comparison,
                "comment": "An event is a value that the comparison holds for; pixels count where all are valid.",
            }
        )


def read_counts(path: Path) -> ContingencyCounts:
    """What `write_counts` wrote.

    Raises:
        DataError: There is no such file, or it holds no counts.
    """
    import netCDF4

    if not path.is_file():
        raise DataError(f"there is no counts file {path}")
    try:
        with netCDF4.Dataset(path) as file:
            file.set_auto_mask(False)
            if getattr(file, "format", None) != FORMAT:
                raise DataError(f"{path} holds no contingency counts", "give a counts.nc that `nowcast evaluate` wrote")
            sources = [str(value) for value in file["source"][:]]
            times = file["issue_time"][:].astype("datetime64[s]")
            return ContingencyCounts(
                tuple(str(value) for value in file["model"][:]),
                tuple(Case(source, time) for source, time in zip(sources, times, strict=True)),
                np.round(file["lead_time"][:] * 60).astype("timedelta64[s]"),
                file["threshold"][:],
                **cells_of(file["counts"][:]),
                pixels=file["pixels"][:],
                mask_digest=file["mask_digest"][:],
                comparison=file.comparison,
                units=file["threshold"].units,
            )
    except (OSError, IndexError, KeyError, AttributeError, RuntimeError) as error:
        raise DataError(f"{path} cannot be read as a counts file: {error}", "evaluate again") from error
