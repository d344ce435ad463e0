"""Options and small habits that several commands share: times, thresholds, JSON."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    import numpy as np

F = TypeVar("F", bound=Callable[..., Any])

DURATION = re.compile(r"^(\d+(?:\.\d+)?)\s*(s|min|m|h|d)$")
SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


class TimeType(click.ParamType):
    """A UTC time such as 2016-07-11T21:00."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        import numpy as np

        try:
            return np.datetime64(str(value).removesuffix("Z"), "s")
        except ValueError:
            self.fail(f"'{value}' is not a UTC time; write 2016-07-11T21:00", param, ctx)


class DurationType(click.ParamType):
    """A length of time such as 5min or 1h."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        import numpy as np

        match = DURATION.match(str(value).strip())
        if match is None or float(match[1]) <= 0:
            self.fail(f"'{value}' is not a length of time; write 300s, 5min, 1h or 1d", param, ctx)
        return np.timedelta64(round(float(match[1]) * SECONDS[match[2]]), "s")


class NumbersType(click.ParamType):
    """Numbers separated by commas, ascending."""

    name = "a,b,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(float(part) for part in str(value).split(",") if part.strip())
        except ValueError:
            self.fail(f"'{value}' is not a list of numbers such as 0.1,1,5", param, ctx)
        if not numbers:
            self.fail("no number given; write for example 0.1,1,5", param, ctx)
        if any(number < 0 for number in numbers):
            self.fail(f"{value}: a rain rate threshold cannot be negative (0 is allowed)", param, ctx)
        if list(numbers) != sorted(set(numbers)):
            self.fail(f"{value}: thresholds must ascend, each once", param, ctx)
        return numbers


TIME, DURATION_TYPE, NUMBERS = TimeType(), DurationType(), NumbersType()

overwrite_option = click.option("--overwrite", is_flag=True, help="Replace what exists at the output.")
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
threshold_option = click.option(
    "--threshold",
    "thresholds",
    type=NUMBERS,
    default="0.1,0.5,1,5,10",
    show_default=True,
    help="Rain rates [mm/h]; an event is at or above.",
)


def output_option(help_text: str, *, required: bool = True, default: str | None = None) -> Callable[[F], F]:
    """`-o`, the same on every command."""
    # To some versions of click a default of None is one, and the option no longer required.
    given: dict[str, Any] = {} if default is None else {"default": default, "show_default": True}
    return click.option(
        "-o",
        "--output",
        type=click.Path(path_type=Path),
        required=required and default is None,
        help=help_text,
        **given,
    )


def echo_json(values: Any) -> None:
    """Print one JSON object; NaN and infinities, which JSON has no word for, become null."""
    click.echo(json.dumps(_plain(values), indent=2, allow_nan=False))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        return _plain(value.item())
    return str(value)


def load_forecaster(name: str) -> Any:
    """The forecaster a command names: persistence, extrapolation, scale-decay, pretrained, a run or a bundle."""
    from nowcast.prediction import baseline

    known = baseline(name)
    if known is not None:
        return known
    from nowcast.prediction.nowcaster import Nowcaster

    return Nowcaster.load(name)


def leads_until(minutes: float | None, step: np.timedelta64, default: int) -> int:
    """Number of lead times that reach `minutes` ahead, or the default."""
    import numpy as np

    if minutes is None:
        return default
    from nowcast.errors import ConfigError

    if not np.isfinite(minutes):
        raise ConfigError(f"--minutes {minutes:g} is no length of time", "give for example --minutes 60")
    count = minutes / float(step / np.timedelta64(60, "s"))
    if count < 1:
        raise ConfigError(f"--minutes {minutes:g} is less than one step of {step / np.timedelta64(60, 's'):g} min")
    return int(count)
