"""A forecaster's page: one offline HTML file with a player over lead times, layers, thresholds and a legend.

Frames are palette PNGs inside the page; it asks the network for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from nowcast.report.colours import (
    DIFFERENCE,
    EVENT_COLOURS,
    EVENT_LABELS,
    NO_DATA,
    PROBABILITY,
    RAIN,
    ColourScale,
    classify_events,
    data_uri,
    indexed_png,
    palette,
    shrink,
    shrink_factor,
)
from nowcast.report.frames import Frames
from nowcast.report.graticule import coarse_lat_lon, extent_km, graticule, scale_bar_km
from nowcast.report.html import render
from nowcast.report.words import utc

PLACE_SAMPLES = 21
# Where a probability comes from: the forecast itself, the share of its members, or the share of pixels near by.
Source = Literal["own", "members", "near"]


def view_page(
    frames: Frames, *, thresholds: Sequence[float], neighbourhood_km: float = 10.0, max_pixels: int = 720
) -> str:
    """The page as a string; the same frames give the same string.

    Layers: forecast; with observations, observed, difference and hits, misses and false alarms; and the probability of
    reaching each threshold: the forecast's own where it has one for every threshold, else the share of members, or for
    a single forecast the share of pixels near by, which is named so.

    Args:
        thresholds: [mm/h], ascending.
        neighbourhood_km: Half the side of the square that stands for "near by".
        max_pixels: Larger fields are shown as block means.
    """
    factor = shrink_factor(frames.forecast.shape, max_pixels)
    members, probability = frames.forecast.shape[0], _probability_layer(frames, thresholds, neighbourhood_km, factor)
    forecast = shrink(frames.forecast[0] if members == 1 else _mean(frames.forecast), factor)
    name = "Forecast" if members == 1 else "Ensemble mean"
    layers: dict[str, dict[str, Any]] = {}
    if frames.observed is not None:
        observed = shrink(frames.observed, factor)
        layers["observed"] = _layer("Observed", "Observed rain rate [mm/h]", RAIN, observed)
    layers["forecast"] = _layer(name, f"{name} of {frames.model}, rain rate [mm/h]", RAIN, forecast)
    if frames.observed is not None:
        layers["difference"] = _layer("Difference", f"{name} minus observed [mm/h]", DIFFERENCE, forecast - observed)
        layers["events"] = {
            "name": "Events",
            "title": "Hits, misses and false alarms of rain",
            "by_threshold": True,
            "labels": EVENT_LABELS,
            "colours": EVENT_COLOURS,
            "frames": [
                [_uri(classify_events(ours, seen, threshold), palette(EVENT_COLOURS))
                 for ours, seen in zip(forecast, observed, strict=True)]
                for threshold in thresholds
            ],
        }  # fmt: skip
    layers["probability"] = probability
    latitude, longitude = coarse_lat_lon(frames.grid, PLACE_SAMPLES)
    return render(
        "view.html.jinja",
        model=frames.model,
        issued=utc(frames.issue_time),
        synthetic=frames.synthetic,
        members=members,
        grid=frames.grid.describe(),
        factor=factor,
        labels=frames.lead_labels,
        thresholds=[f"{threshold:g}" for threshold in thresholds],
        layers=[{"key": key, "name": layer["name"]} for key, layer in layers.items()],
        panels=["forecast"] if frames.observed is None else ["observed", "forecast"],
        map=_map(frames),
        note=_note(frames, thresholds, neighbourhood_km),
        data={
            "labels": frames.lead_labels,
            "times": [utc(time) for time in frames.valid_times],
            "thresholds": [f"{threshold:g}" for threshold in thresholds],
            "threshold": len(thresholds) // 2,
            "layers": layers,
            "strip": [key for key in ("observed", "forecast", "probability") if key in layers],
            "latitude": np.round(latitude, 4).tolist(),
            "longitude": np.round(longitude, 4).tolist(),
        },
    )


def neighbourhood_probability(rain_rate: np.ndarray, threshold: float, half_width: tuple[int, int]) -> np.ndarray:
    """Share of the valid pixels of a window that reach a threshold, in [0, 1]; NaN where the pixel itself is.

    Args:
        rain_rate: (H, W) [mm/h]; NaN is missing.
        half_width: Rows and columns to each side of the centre; the window ends at the edge of the field.
    """
    from scipy.ndimage import uniform_filter

    size = tuple(2 * half + 1 for half in half_width)
    valid = ~np.isnan(rain_rate)
    reached = (rain_rate >= np.asarray(threshold, dtype=rain_rate.dtype)).astype(np.float64)
    near = uniform_filter(valid.astype(np.float64), size, mode="constant")
    share = uniform_filter(reached, size, mode="constant") / np.where(valid, near, 1.0)
    return np.where(valid, np.clip(share, 0.0, 1.0), np.nan)


def _probability_layer(
    frames: Frames, thresholds: Sequence[float], neighbourhood_km: float, factor: int
) -> dict[str, Any]:
    source = _source(frames, thresholds)
    dy, dx = frames.grid.pixel_size_km
    half_width = (round(neighbourhood_km / dy), round(neighbourhood_km / dx))

    def probability(lead: int, threshold: float) -> np.ndarray:
        if source == "own" and frames.chances is not None:
            return frames.chances[lead, frames.chance_thresholds.index(threshold)]
        fields = frames.forecast[:, lead]
        if source == "near":
            return neighbourhood_probability(fields[0], threshold, half_width)
        reached = (fields >= np.asarray(threshold, dtype=fields.dtype)).mean(axis=0)
        return np.where(np.isnan(fields).any(axis=0), np.nan, reached)

    leads = range(frames.lead_times.size)
    return {
        "name": "Share near by" if source == "near" else "Probability",
        "title": "Share of pixels near by [%] with rain" if source == "near" else "Probability [%] of rain",
        "by_threshold": True,
        **_legend(PROBABILITY),
        "frames": [
            [
                _uri(
                    PROBABILITY.classify(100.0 * shrink(probability(lead, threshold), factor)),
                    PROBABILITY.palette,
                )
                for lead in leads
            ]
            for threshold in thresholds
        ],
    }


def _source(frames: Frames, thresholds: Sequence[float]) -> Source:
    if frames.chances is not None and set(thresholds) <= set(frames.chance_thresholds):
        return "own"
    return "near" if frames.forecast.shape[0] == 1 else "members"


def _note(frames: Frames, thresholds: Sequence[float], neighbourhood_km: float) -> str:
    source = _source(frames, thresholds)
    if source == "own":
        return "Probability is the forecast's own, of rain at or above the threshold at the pixel."
    if source == "members":
        said = f"Probability is the share of the {frames.forecast.shape[0]} members at or above the threshold."
    else:
        said = (
            "“Near by” is the share of pixels of the forecast at or above the threshold in the square that reaches "
            f"{neighbourhood_km:g} km to each side: the spread of one forecast in space, not a probability."
        )
    if frames.chances is not None:
        held = ", ".join(f"{threshold:g}" for threshold in frames.chance_thresholds)
        said += f" The forecast's own probabilities are of {held} mm/h: choose among these thresholds to see them."
    return said


def _layer(name: str, title: str, scale: ColourScale, fields: np.ndarray) -> dict[str, Any]:
    uris = [_uri(scale.classify(field), scale.palette) for field in fields]
    return {"name": name, "title": title, "by_threshold": False, **_legend(scale), "frames": uris}


def _legend(scale: ColourScale) -> dict[str, Any]:
    marks = ("", "", *(f"{bound:g}" for bound in scale.bounds))
    unit = scale.title.partition("[")[2].rstrip("]")
    colours = (NO_DATA, *scale.colours)
    return {"labels": ("no data", *scale.labels), "unit": unit, "marks": marks, "colours": colours}


def _uri(classes: np.ndarray, colours: np.ndarray) -> str:
    return data_uri(indexed_png(classes, colours))


def _mean(members: np.ndarray) -> np.ndarray:
    return np.asarray(members.mean(axis=0, dtype=np.float64).astype(np.float32))


def _map(frames: Frames) -> dict[str, Any]:
    """Size, graticule, scale bar and the words on a map, in km from its north-west corner or percent of it."""
    height, width = extent_km(frames.grid)
    bar, lines = scale_bar_km(width), graticule(frames.grid)
    tags = [{"text": f"{bar} km", "style": f"right:{4 + 50 * bar / width:.2f}%;bottom:6.2%;transform:translateX(50%)"}]
    for label, (edge, at) in {line.label: (line.edge, line.at_km) for line in lines}.items():
        if at is None:
            continue
        style = (
            f"left:{100 * at / width:.2f}%;bottom:3px;transform:translateX(-50%)"
            if edge == "bottom"
            else f"left:3px;bottom:{100 * at / height:.2f}%;transform:translateY(50%)"
        )
        tags.append({"text": label, "style": style})
    return {
        "width": f"{width:.2f}",
        "height": f"{height:.2f}",
        "lines": [{"points": " ".join(f"{x:.1f},{height - y:.1f}" for x, y in line.points_km)} for line in lines],
        "bar": {"x1": f"{0.96 * width - bar:.2f}", "x2": f"{0.96 * width:.2f}", "y": f"{0.95 * height:.2f}"},
        "tags": tags,
    }
