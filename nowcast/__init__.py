"""Precipitation nowcasting: from radar files to rain forecasts with known skill.

The public names are imported when first asked for, so that `import nowcast` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nowcast.data.archive import RadarArchive as RadarArchive
    from nowcast.data.archive import open_archive as open_archive
    from nowcast.data.forecast import Forecast as Forecast
    from nowcast.data.forecast import load_forecast as load_forecast
    from nowcast.data.grid import Grid as Grid
    from nowcast.data.normalize import Normalizer as Normalizer
    from nowcast.data.units import ZRelation as ZRelation
    from nowcast.models.encoder_forecaster import EncoderForecaster as EncoderForecaster
    from nowcast.prediction.nowcaster import Nowcaster as Nowcaster
    from nowcast.prediction.predict import forecast_at as forecast_at
    from nowcast.report.report import SkillReport as SkillReport
    from nowcast.training.dataset import SequenceDataset as SequenceDataset
    from nowcast.training.fit import fit as fit
    from nowcast.verification.counting import count_events as count_events
    from nowcast.verification.counts import ContingencyCounts as ContingencyCounts
    from nowcast.verification.scores import csi as csi

_HOMES = {
    "ContingencyCounts": "nowcast.verification.counts",
    "EncoderForecaster": "nowcast.models.encoder_forecaster",
    "Forecast": "nowcast.data.forecast",
    "Grid": "nowcast.data.grid",
    "Normalizer": "nowcast.data.normalize",
    "Nowcaster": "nowcast.prediction.nowcaster",
    "RadarArchive": "nowcast.data.archive",
    "SequenceDataset": "nowcast.training.dataset",
    "SkillReport": "nowcast.report.report",
    "ZRelation": "nowcast.data.units",
    "count_events": "nowcast.verification.counting",
    "csi": "nowcast.verification.scores",
    "fit": "nowcast.training.fit",
    "forecast_at": "nowcast.prediction.predict",
    "load_forecast": "nowcast.data.forecast",
    "open_archive": "nowcast.data.archive",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'nowcast' has no attribute '{name}'")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
