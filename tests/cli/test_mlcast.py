"""MLCast data sets: trained on and forecast from as they are, like an archive."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from nowcast.data.archive import open_archive
from nowcast.data.mlcast import export_mlcast
from tests.cli.conftest import TINY, Run


@pytest.mark.slow
def test_a_data_set_trains_and_forecasts_like_the_archive_that_it_was_made_from(
    nowcast: Run, archive: Path, run_folder: Path, tmp_path: Path
) -> None:
    data_set = tmp_path / "mlcast.zarr"
    export_mlcast(archive, data_set, attributes={"mlcast_dataset_identifier": "XX-example-precipitation"})
    nowcast("train", data_set, "-o", tmp_path / "run", "--cache", tmp_path / "cache", *TINY)
    last = open_archive(data_set).times[-1]
    made = []
    for source, run in ((archive, run_folder), (data_set, tmp_path / "run")):
        target = tmp_path / f"{run.parent.name}.nc"
        nowcast("predict", run, source, "--at", f"{last}Z", "-o", target)
        with xr.open_dataset(target) as forecast:
            made.append(forecast["rainfall_rate"].values)
    np.testing.assert_array_equal(made[0], made[1])
