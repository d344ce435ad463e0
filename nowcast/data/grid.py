"""Where the pixels are: the Grid, its coordinate system, and its CF form.

A grid knows centres, not corners; rows run from north to south. It holds no data.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import Any

import numpy as np
import pyproj

from nowcast.data.lat_lon import lon_lat_of_pixels
from nowcast.errors import DataError

# A degree of latitude on a sphere of the Earth's mean radius (6371 km).
KM_PER_DEGREE = 111.195


@dataclass(frozen=True, eq=False)
class Grid:
    """A regular grid of pixel centres, north first.

    Attributes:
        x: Centres along a row, ascending, float64 [m], or degrees east for a geographic grid.
        y: Centres down a column, descending, float64 [m], or degrees north.
        crs_wkt: The coordinate reference system as WKT (anything that pyproj understands is accepted).

    Raises:
        DataError: Fewer than two pixels along an axis, an axis that is not regular, or one that runs the wrong way.
    """

    x: np.ndarray
    y: np.ndarray
    crs_wkt: str

    def __post_init__(self) -> None:
        x, y = (np.ascontiguousarray(axis, dtype=np.float64) for axis in (self.x, self.y))
        for name, axis, sign in (("x", x, 1.0), ("y", y, -1.0)):
            if axis.ndim != 1 or axis.size < 2:
                raise DataError(f"grid axis {name} has shape {axis.shape}, expected one dimension of 2 pixels or more")
            steps = np.diff(axis)
            if not np.all(np.isfinite(axis)) or np.ptp(steps) > 0.01 * abs(steps.mean()):
                raise DataError(f"grid axis {name} is not regularly spaced", "regrid the source first")
            if steps.mean() * sign <= 0:
                order = "ascending" if sign > 0 else "descending (north first)"
                raise DataError(f"grid axis {name} must be {order}, got {axis[0]:g} ... {axis[-1]:g}")
            axis.setflags(write=False)
        object.__setattr__(self, "x", x)
        object.__setattr__(self, "y", y)
        object.__setattr__(self, "crs_wkt", _wkt(self.crs_wkt))

    @classmethod
    def from_corner(
        cls, left: float, top: float, dx: float, dy: float, shape: tuple[int, int], crs: str | pyproj.CRS
    ) -> Grid:
        """The grid of `shape` (H, W) whose outer north-west corner is (`left`, `top`), pixels `dx` by `dy`."""
        rows, columns = shape
        return cls(left + (np.arange(columns) + 0.5) * dx, top - (np.arange(rows) + 0.5) * dy, _wkt(crs))

    def __reduce__(self) -> tuple[Any, ...]:
        # Thousands of frames come from workers with the same grid: it is sent by its contents and made once.
        return _rebuilt, (self.x.tobytes(), self.y.tobytes(), self.crs_wkt)

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W)."""
        return self.y.size, self.x.size

    @cached_property
    def crs(self) -> pyproj.CRS:
        return pyproj.CRS.from_wkt(self.crs_wkt)

    @property
    def is_geographic(self) -> bool:
        return bool(self.crs.is_geographic)

    @property
    def spacing(self) -> tuple[float, float]:
        """(dy, dx) in the unit of the axes, both positive."""
        return float(-np.diff(self.y).mean()), float(np.diff(self.x).mean())

    @property
    def pixel_size_km(self) -> tuple[float, float]:
        """(dy, dx) in km; for a geographic grid at its middle latitude."""
        dy, dx = self.spacing
        if not self.is_geographic:
            return dy / 1000.0, dx / 1000.0
        middle = np.deg2rad(self.y[self.y.size // 2])
        return dy * KM_PER_DEGREE, dx * KM_PER_DEGREE * float(np.cos(middle))

    def matches(self, other: Grid, *, tolerance_pixels: float = 0.1) -> bool:
        """Whether both grids have the same pixels.

        Corners of one product differ by metres between files, so positions are compared within a share of a pixel.
        """
        if self.shape != other.shape or self.is_geographic != other.is_geographic:
            return False
        dy, dx = self.spacing
        near_x = np.max(np.abs(self.x - other.x)) <= tolerance_pixels * dx
        near_y = np.max(np.abs(self.y - other.y)) <= tolerance_pixels * dy
        return bool(near_x and near_y) and self._same_place(other, tolerance_pixels)

    def _same_place(self, other: Grid, tolerance_pixels: float) -> bool:
        """Whether the corners fall on the same longitude and latitude: two datums may share all axis values."""
        if self.crs_wkt == other.crs_wkt:
            return True
        corners_x, corners_y = self.x[[0, -1, 0, -1]], self.y[[0, 0, -1, -1]]
        mine = np.array(_to_lon_lat(self.crs, corners_x, corners_y))
        theirs = np.array(_to_lon_lat(other.crs, corners_x, corners_y))
        apart_km = np.hypot((mine[0] - theirs[0]) * np.cos(np.deg2rad(mine[1])), mine[1] - theirs[1]) * KM_PER_DEGREE
        return bool(np.all(apart_km <= tolerance_pixels * min(self.pixel_size_km)))

    def crop(self, rows: slice, columns: slice) -> Grid:
        """The grid of a window of this one."""
        return Grid(self.x[columns], self.y[rows], self.crs_wkt)

    def lat_lon(self) -> tuple[np.ndarray, np.ndarray]:
        """Latitude and longitude [degrees] of every pixel centre, each (H, W) float64."""
        if self.is_geographic:
            longitude, latitude = np.meshgrid(self.x, self.y)
        else:
            longitude, latitude = lon_lat_of_pixels(self.x, self.y, partial(_to_lon_lat, self.crs))
        return latitude, longitude

    def cf_grid_mapping(self) -> dict[str, Any]:
        """Attributes of a CF grid-mapping variable, with `crs_wkt`, `spatial_ref` and GDAL's `GeoTransform`."""
        with warnings.catch_warnings():
            # CF has no word for the skew angle of the Swiss oblique Mercator; `crs_wkt` carries it.
            warnings.filterwarnings("ignore", "angle from rectified to skew grid", UserWarning)
            attributes = {key: value for key, value in self.crs.to_cf().items() if value is not None}
        if attributes.get("grid_mapping_name") == "polar_stereographic":
            # CF wants the pole itself; pyproj leaves it out when the standard parallel is given.
            parallel = attributes.get("standard_parallel", 90.0)
            attributes.setdefault("latitude_of_projection_origin", 90.0 if parallel >= 0 else -90.0)
        if attributes.get("grid_mapping_name") == "oblique_mercator":
            # CF's appendix F says azimuth_of_central_line, the IOOS checker of CF 1.11 asks for azimuth.
            attributes.setdefault("azimuth", attributes["azimuth_of_central_line"])
        dy, dx = self.spacing
        attributes["spatial_ref"] = self.crs_wkt
        left, top = float(self.x[0]) - dx / 2, float(self.y[0]) + dy / 2
        attributes["GeoTransform"] = f"{left!r} {dx!r} 0 {top!r} 0 {-dy!r}"
        return attributes

    def to_dict(self) -> dict[str, Any]:
        """Shape, spacing, first centre and CRS as JSON values; `from_dict` brings it back."""
        return {
            "shape": list(self.shape),
            "spacing": list(self.spacing),
            "first_centre": [float(self.y[0]), float(self.x[0])],
            "crs_wkt": self.crs_wkt,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Grid:
        (rows, columns), (dy, dx), (y0, x0) = values["shape"], values["spacing"], values["first_centre"]
        return cls(x0 + np.arange(columns) * dx, y0 - np.arange(rows) * dy, values["crs_wkt"])

    def describe(self) -> str:
        """One line for people: shape, pixel size, projection."""
        rows, columns = self.shape
        dy, dx = self.pixel_size_km
        return f"{rows}x{columns} pixels of {dy:.4g}x{dx:.4g} km, {self.projection_name}"

    @property
    def projection_name(self) -> str:
        """The coordinate system's name, or its projection's method where it has none: "polar stereographic"."""
        name, operation = self.crs.name, self.crs.coordinate_operation
        if name not in ("unknown", "undefined", "unnamed", ""):
            return str(name)
        if operation is None:
            return "longitude and latitude" if self.is_geographic else "an unnamed projection"
        return str(operation.method_name).split(" (")[0].lower()

    def describe_place(self) -> str:
        """`describe` with what tells two grids of one shape apart: the projection's method and the outer corner."""
        dy, dx = self.spacing
        operation = self.crs.coordinate_operation
        method = "longitude and latitude" if operation is None else operation.method_name
        return f"{self.describe()} ({method}), corner at ({self.x[0] - dx / 2:.9g}, {self.y[0] + dy / 2:.9g})"


@lru_cache(maxsize=64)
def _rebuilt(x: bytes, y: bytes, crs_wkt: str) -> Grid:
    return Grid(np.frombuffer(x, dtype=np.float64), np.frombuffer(y, dtype=np.float64), crs_wkt)


# One file after the other names the same system, and parsing it costs as much as decoding a small frame.
@lru_cache(maxsize=64)
def _wkt(crs: str | pyproj.CRS) -> str:
    try:
        return pyproj.CRS.from_user_input(crs).to_wkt()
    except pyproj.exceptions.CRSError as error:
        raise DataError(f"the coordinate reference system {crs!r} is not understood: {error}") from error


def _to_lon_lat(crs: pyproj.CRS, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    geographic = crs if crs.is_geographic else crs.geodetic_crs
    if crs.is_geographic or geographic is None:
        return x, y
    longitude, latitude = pyproj.Transformer.from_crs(crs, geographic, always_xy=True).transform(x, y)
    return np.asarray(longitude), np.asarray(latitude)
