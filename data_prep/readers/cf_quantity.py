"""What a CF variable is: a rate, a depth or a reflectivity, by its units and standard name. Nothing is guessed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

from data_prep.readers.source import text

_RATES = {
    "mm h-1": Fraction(1),
    "kg m-2 h-1": Fraction(1),
    "mm s-1": Fraction(3600),
    "kg m-2 s-1": Fraction(3600),
    "m s-1": Fraction(3_600_000),
    "m h-1": Fraction(1000),
    "mm min-1": Fraction(60),
    "mm d-1": Fraction(1, 24),
    "kg m-2 d-1": Fraction(1, 24),
}
_DEPTHS = {"mm": Fraction(1), "kg m-2": Fraction(1), "cm": Fraction(10), "m": Fraction(1000)}
_REFLECTIVITIES = ("dbz",)

# The names of the CF table, and of EUMETSAT's NWC SAF, for liquid or all precipitation at the surface.
STANDARD_NAMES = {
    "rainfall_rate": "rate",
    "rainfall_flux": "rate",
    "precipitation_flux": "rate",
    "lwe_precipitation_rate": "rate",
    "precipitation_rate": "rate",
    "convective_precipitation_rate": "rate",
    "convective_rainfall_rate": "rate",
    "rainfall_amount": "depth",
    "precipitation_amount": "depth",
    "thickness_of_rainfall_amount": "depth",
    "lwe_thickness_of_precipitation_amount": "depth",
    "equivalent_reflectivity_factor": "reflectivity",
    "radar_equivalent_reflectivity_factor": "reflectivity",
}

Kind = Literal["rate", "depth", "reflectivity"]


@dataclass(frozen=True)
class Quantity:
    """A kind, and the exact factor to mm/h or mm (1 for dBZ)."""

    kind: Kind
    factor: Fraction
    units: str


def quantity_of(attributes: Mapping[str, Any]) -> Quantity | None:
    """The quantity of a variable by its `units`; None where they are not those of rain."""
    units = text(attributes.get("units", ""))
    plain = _plain(units)
    if plain in _REFLECTIVITIES:
        return Quantity("reflectivity", Fraction(1), units)
    if plain in _RATES:
        return Quantity("rate", _RATES[plain], units)
    if plain in _DEPTHS:
        return Quantity("depth", _DEPTHS[plain], units)
    return None


def standard_kind(attributes: Mapping[str, Any]) -> str | None:
    """What the standard name says the variable is; None where it is not one of rain."""
    return STANDARD_NAMES.get(text(attributes.get("standard_name", "")).lower())


def _plain(units: str) -> str:
    """`mm/hr`, `mm hr**-1`, `mm.h^-1` and the like as `mm h-1`."""
    words = units.strip().lower().replace("**", "").replace("^", "").replace(".", " ").replace("*", " ")
    words = re.sub(r"/\s*([a-z]+)(\d?)", lambda found: f" {found[1]}-{found[2] or 1}", words)
    words = re.sub(r"\b(hours?|hr)(?=[-\s]|$)", "h", words)
    words = re.sub(r"\b(seconds?|sec)(?=[-\s]|$)", "s", words)
    words = re.sub(r"\b(days?)(?=[-\s]|$)", "d", words)
    return " ".join(words.split())
