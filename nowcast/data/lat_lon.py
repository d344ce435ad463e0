"""Latitude and longitude of every pixel of a grid, from those of a few.

A projection that is smooth over a grid is there a polynomial of two variables to the last digits: 32 x 32 points say
as much as PROJ's millions, in a thirtieth of the time. Where it is not smooth (a pole, the 180th meridian, the edge
of the Earth's disk), PROJ is asked for every pixel.

Source: L. N. Trefethen, Approximation Theory and Approximation Practice, SIAM 2013, chapters 2 and 8 (Chebyshev
points; the error falls geometrically with their number).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.polynomial import chebyshev

Transform = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]

# Points along each axis, and a grid that has too few pixels for them to be worth it.
NODES, FEWEST_PIXELS = 32, 16 * 32**2
# Points along each axis at which the polynomials are compared with the projection, and how far off they may be: a
# tenth of a millimetre.
CHECKS, TOLERANCE_DEGREES = 41, 1e-9


def lon_lat_of_pixels(x: np.ndarray, y: np.ndarray, to_lon_lat: Transform) -> tuple[np.ndarray, np.ndarray]:
    """(longitude, latitude), each (H, W) float64 [degrees], of the pixels at x (W,) and y (H,).

    Args:
        to_lon_lat: From arrays of x and y to longitude and latitude.
    """
    if x.size * y.size >= FEWEST_PIXELS:
        found = _by_polynomials(x, y, to_lon_lat)
        if found is not None:
            return found
    return to_lon_lat(*np.meshgrid(x, y))


def _by_polynomials(x: np.ndarray, y: np.ndarray, to_lon_lat: Transform) -> tuple[np.ndarray, np.ndarray] | None:
    """None where the projection is no polynomial of the degree."""
    (x_nodes, from_x), (y_nodes, from_y) = _nodes(x), _nodes(y)
    at_nodes = to_lon_lat(*np.meshgrid(x_nodes, y_nodes))
    if not np.all(np.isfinite(at_nodes)):
        return None
    rows, columns = (np.linspace(0, axis.size - 1, CHECKS).astype(int) for axis in (y, x))
    wanted = to_lon_lat(*np.meshgrid(x[columns], y[rows]))
    for values, right in zip(at_nodes, wanted, strict=True):
        # Not "greater than": what is NaN is not near.
        if not np.max(np.abs(from_y[rows] @ values @ from_x[columns].T - right)) <= TOLERANCE_DEGREES:
            return None
    longitude, latitude = (from_y @ values @ from_x.T for values in at_nodes)
    return longitude, latitude


def _nodes(axis: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Chebyshev points (n,) between the ends of an axis (N,), and the weights (N, n) that bring values back to it."""
    points = chebyshev.chebpts1(NODES)
    middle, half = (axis[0] + axis[-1]) / 2, (axis[-1] - axis[0]) / 2
    vander = chebyshev.chebvander(points, NODES - 1)
    weights = np.linalg.solve(vander.T, chebyshev.chebvander((axis - middle) / half, NODES - 1).T).T
    return middle + half * points, weights
