"""Stored integers to physical values, exactly; see `nowcast.data.scaling`."""

from __future__ import annotations

from nowcast.data.scaling import exact, per_hour, rescale

__all__ = ["exact", "per_hour", "rescale"]
