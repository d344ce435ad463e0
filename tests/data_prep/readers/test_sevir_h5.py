"""SEVIR: VIL is not rain, so it is read only with a declared conversion; times and places come from the catalogue."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from data_prep.readers.options import ReadOptions
from data_prep.readers.registry import detect_format, read_frames
from data_prep.readers.sevir_h5 import vil_kg_m2
from nowcast.errors import DataError

PLACE = "+proj=laea +lat_0=38 +lon_0=-98 +units=m +a=6370997.0 +ellps=sphere "
CATALOG = (
    "id,file_name,img_type,time_utc,minute_offsets,proj,llcrnrlat,llcrnrlon,width_m,height_m\n"
    "R1,a.h5,vis,2018-06-01 12:00:00,-5:0,+proj=none,0,0,1,1\n"
    f"R1,a.h5,vil,2018-06-01 12:00:00,-5:0,{PLACE},38,-98,3000,2000\n"
    f"S2,a.h5,vil,2018-07-01 12:00:00,-5:0,{PLACE},40,-90,3000,2000\n"
)


def write(folder: Path, *, catalog: str = CATALOG) -> Path:
    path = folder / "SEVIR_VIL.h5"
    values = np.zeros((2, 2, 3, 2), dtype=np.uint8)
    values[0, :, :, 0] = [[5, 6, 18], [19, 254, 255]]
    with h5py.File(path, "w") as file:
        file["vil"] = values
        file["id"] = np.array([b"R1", b"S2"])
    (folder / "CATALOG.csv").write_text(catalog)
    return path


def read_all(path: Path, **options: Any) -> list[Any]:
    given = {"vil_rain_rate": (2.0, 1.5), "catalog": path.with_name("CATALOG.csv"), **options}
    return list(read_frames(path, options=ReadOptions(**given)))


def test_vil_is_refused_as_rain_unless_a_conversion_is_declared(tmp_path: Path) -> None:
    path = write(tmp_path)
    assert detect_format(path) == "sevir_h5"
    with pytest.raises(DataError, match=r"holds VIL, .* which is not rain at the ground.*vil_rain_rate=\(a, b\)"):
        read_all(path, vil_rain_rate=None)


def test_a_declared_conversion_is_used_and_recorded(tmp_path: Path) -> None:
    frame = read_all(write(tmp_path))[0]
    vil = np.array([[(19 - 83.9) / 38.9, (254 - 83.9) / 38.9]])
    # Stored from the south: the file's last row comes first.
    np.testing.assert_allclose(frame.rain_rate[0, :2], (2 * np.exp(vil) ** 1.5)[0], rtol=1e-6)
    assert np.isnan(frame.rain_rate[0, 2])
    np.testing.assert_allclose(frame.rain_rate[1], 2 * np.array([0, 4 / 90.66, 16 / 90.66]) ** 1.5, rtol=1e-6)
    assert frame.attributes["quantity"] == "rain rate derived from VIL"
    assert frame.attributes["conversion"] == "R = 2 VIL^1.5"


def test_the_byte_scale_rises_throughout() -> None:
    vil = vil_kg_m2()
    assert (np.diff(vil[5:255]) > 0).all() and vil[5] == 0 and np.isnan(vil[255])


def test_every_event_has_its_own_times_and_grid(tmp_path: Path) -> None:
    frames = read_all(write(tmp_path))
    assert [str(frame.valid_time)[:16] for frame in frames] == [
        "2018-06-01T11:55",
        "2018-06-01T12:00",
        "2018-07-01T11:55",
        "2018-07-01T12:00",
    ]
    latitude, longitude = frames[0].grid.lat_lon()
    # The corner of R1 is the centre of its projection: half a kilometre in, to the north and east.
    assert latitude[-1, 0] == pytest.approx(38 + 0.0045, abs=1e-4)
    assert longitude[-1, 0] == pytest.approx(-98 + 0.0057, abs=1e-4)
    assert not frames[0].grid.matches(frames[2].grid)
    assert len(read_all(write(tmp_path), event="S2")) == 2


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("S2,", "T3,", "event S2 is not in the catalogue"),
        ("-5:0", "-5:0:5", "holds 2 frames an event, but the catalogue gives 3 offsets"),
        ("2018-06-01 12", "2018-16-01 12", "'2018-16-01 12:00:00' is not read"),
        ("llcrnrlat", "latitude", "no column 'llcrnrlat'"),
        (",38,-98,", ",north,-98,", "place of event R1 is not read"),
    ],
)
def test_a_catalogue_that_does_not_fit_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_all(write(tmp_path, catalog=CATALOG.replace(old, new)))


def test_the_catalogue_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no times and places.*CATALOG.csv"):
        read_all(write(tmp_path), catalog=None)
