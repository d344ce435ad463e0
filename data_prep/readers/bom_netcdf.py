"""BoM Rainfields: CF netCDF of accumulations, whose interval stands in a variable of its own."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from data_prep.readers.cf_dataset import CfDataset, open_dataset
from data_prep.readers.cf_netcdf import CF_OPTIONS, decode_times, frames
from data_prep.readers.frame import RadarFrame
from data_prep.readers.options import ReadOptions
from data_prep.readers.registry import Reader
from data_prep.readers.source import Source, text


def read(source: Source, options: ReadOptions) -> Iterator[RadarFrame]:
    with open_dataset(source, options) as dataset:
        yield from frames(
            source, dataset, options, source_format=READER.name, minutes=_interval_minutes(source, dataset)
        )


def _matches(source: Source) -> bool:
    if not {"start_time", "valid_time"} <= source.hdf5_names:
        return False
    with source.open_hdf5(ReadOptions()) as file:
        return "rainfields" in text(file.attrs.get("source", ""))


def _interval_minutes(source: Source, dataset: CfDataset) -> float:
    """6 min in some years, 10 in others: from start_time to valid_time."""
    start, end = (decode_times(source, dataset[name])[0] for name in ("start_time", "valid_time"))
    if not end > start:
        raise source.error(f"an accumulation from {start} to {end}", "the end must be after the start")
    return float((end - start) / np.timedelta64(60, "s"))


READER = Reader("bom_netcdf", "BoM Rainfields accumulations (netCDF)", _matches, read, uses=CF_OPTIONS)
