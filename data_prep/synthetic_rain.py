"""Synthetic rain: sequences with the statistics of radar rain, from a seed and nothing else.

The embedded default archive, so that everything runs without anyone's data. The fields have the wet share, rates,
spectrum, motion and life times of real rain; they hold no weather, and
whatever is made from them is labelled synthetic.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import fft, ndimage, signal, special

from nowcast.data.archive_writer import write_archive
from nowcast.data.grid import Grid
from nowcast.data.units import ZRelation
from nowcast.errors import ConfigError

# Rates below this are dry; above the cap there is no rain.
WET_MM_H = 0.1
CAP_MM_H = 150.0
# Rates fall on the steps of an 8-bit radar product.
STEP_DBZ = 0.5
RELATION = ZRelation(223.0, 1.53)

# Power of the field by wavelength: the two slopes of a climate meet here, and a cut spares the interpolation.
BREAK_KM, CUT_KM = 20.0, 2.0
# Waves longer than this come from a field of coarse pixels that reaches beyond the window, up to the outer scale: a
# small window sees weather systems pass, not a patch of its own that starts and ends with it.
SYSTEM_KM, OUTER_KM = 64.0, 480.0
# Where it rains is decided by the systems more than by what is small: weight of the smaller waves in that.
EDGE_WEIGHT = 0.4
# Life time [min] of a wavelength L [km]: LIFE_MINUTES * L ** LIFE_EXPONENT.
LIFE_MINUTES, LIFE_EXPONENT = 3.4, 0.7

# Convective cells: excursions above a level of a field of these wavelengths, with a life time of their own.
CELL_KM = (10.0, 30.0)
CELL_LIFE_MINUTES = 24.0
CELL_LEVEL = 1.0

# Slow changes, all exp(-t / T) in time: wet share (sd of its logarithm), direction (sd), and deformation of the flow.
WET_SD, WET_HOURS = 0.15, 3.0
DIRECTION_SD_DEGREES, WIND_HOURS = 20.0, 6.0
DEFORMATION_KM, DEFORMATION_HOURS, DEFORMATION_WAVE_KM = 12.0, 5.0, 200.0
# On a small grid, whose waves are short, no more than this share of its period, or the flow would fold.
DEFORMATION_SHARE = 0.05

# Beyond this share of the half width, the radar sees nothing: the corners of a square are cut.
RANGE_SHARE = 1.15
FIRST_TIME = np.datetime64("2000-01-01T00:00:00", "s")
# Values of the whole sequence from which its distribution is read.
DISTRIBUTION_SAMPLE = 2_000_000


@dataclass(frozen=True)
class RainClimate:
    """How much it rains, and how.

    Attributes:
        wet_share: Mean share of pixels with 0.1 mm/h or more.
        median_mm_h: Median of the log-normal law of wet rates, before it is cut at 0.1 and 150 mm/h.
        sigma: Standard deviation of the logarithm of that law.
        cells: Weight of the convective cells against the slower field beneath.
        large_slope, small_slope: Exponents of the power density by wave number above and below 20 km.
    """

    wet_share: float
    median_mm_h: float
    sigma: float
    cells: float
    large_slope: float
    small_slope: float


# Stratiform is like autumn rain over Finland, convective like summer storms over Switzerland; mixed lies between
# and has the widest range of rates.
PRESETS = {
    "stratiform": RainClimate(0.42, 0.69, 0.95, 0.3, -2.4, -3.4),
    "convective": RainClimate(0.16, 1.6, 1.15, 0.6, -2.8, -5.0),
    "mixed": RainClimate(0.20, 0.55, 1.55, 0.5, -2.5, -4.2),
}


def synthetic_rain(
    num_frames: int,
    shape: tuple[int, int],
    *,
    seed: int,
    preset: str = "mixed",
    step_minutes: float = 5.0,
    pixel_km: float = 1.0,
    speed_km_h: tuple[float, float] = (30.0, 55.0),
    range_km: float | None = None,
    dropped_share: float = 0.0,
    speckle_share: float = 0.0,
) -> np.ndarray:
    """Rain rates (num_frames, H, W) float32 [mm/h] that move and change as rain does; the same for the same seed.

    A Gaussian field is renewed wave number by wave number in the moving frame, carried by a smooth flow, and mapped
    by rank to a log-normal law of rates, with convective cells on top.

    Args:
        shape: (H, W); rows run from north to south.
        preset: Rain climate: stratiform, convective or mixed.
        speed_km_h: Slowest and fastest mean motion; (0, 0) makes rain that stands still and only changes.
        range_km: NaN beyond this distance from the middle; 1.15 times the half of the shorter side unless given.
        dropped_share: Share of frames that are missing altogether: NaN.
        speckle_share: Share of pixels with clutter of 0.1 to 10 mm/h, anew in every frame.

    Raises:
        ConfigError: An unknown preset, an empty sequence, or a share outside [0, 1).
    """
    climate = _checked(num_frames, shape, preset, step_minutes, pixel_km, speed_km_h, dropped_share, speckle_share)
    # One stream for each part: a dropped frame or speckle must not change the rain.
    field_rng, cell_rng, flow_rng, slow_rng, fault_rng = np.random.default_rng(seed).spawn(5)
    waves = _Waves.of((_even(2 * shape[0]), _even(2 * shape[1])), pixel_km)
    systems, texture = _base_fields(waves, climate, step_minutes, field_rng)
    cell_power = np.where((waves.length_km >= CELL_KM[0]) & (waves.length_km <= CELL_KM[1]), 1.0, 0.0)
    cells = _EvolvingField(waves, waves.amplitude(cell_power), CELL_LIFE_MINUTES, step_minutes, cell_rng)
    flow = _Flow(waves, step_minutes, speed_km_h, num_frames, flow_rng)
    log_share = WET_SD * _slow(num_frames, WET_HOURS * 60 / step_minutes, slow_rng)
    # A wetter hour lifts the whole field above the level where rain begins.
    share = np.clip(climate.wet_share * np.exp(log_share - WET_SD**2 / 2), 1e-3, 0.999)
    lift = special.ndtri(share) - special.ndtri(climate.wet_share)

    where, how_much = (np.empty((num_frames, *shape), dtype=np.float32) for _ in range(2))
    for index in range(num_frames):
        position = flow.sources(index, shape)
        large, small = systems.step_at(position) + lift[index], texture.step_at(position)
        peaks = np.maximum(cells.step_at(position) - CELL_LEVEL, 0.0)
        where[index] = large + EDGE_WEIGHT * small
        how_much[index] = large + small + climate.cells * peaks
    rain_rate = _rates_by_rank(where, how_much, climate)
    return _as_measured(rain_rate, pixel_km, range_km, dropped_share, speckle_share, fault_rng)


def write_synthetic_archive(
    path: str | Path,
    num_frames: int = 480,
    shape: tuple[int, int] = (128, 128),
    *,
    seed: int = 1,
    preset: str = "mixed",
    step_minutes: float = 5.0,
    pixel_km: float = 1.0,
    range_km: float | None = None,
    dropped_share: float = 0.0,
    speckle_share: float = 0.0,
    first_time: np.datetime64 = FIRST_TIME,
) -> Path:
    """Write an archive of synthetic rain, labelled as such; its place on Earth and its dates mean nothing.

    Raises:
        ConfigError: As `synthetic_rain`.
        DataError: The path exists.
    """
    rain_rate = synthetic_rain(
        num_frames,
        shape,
        seed=seed,
        preset=preset,
        step_minutes=step_minutes,
        pixel_km=pixel_km,
        range_km=range_km,
        dropped_share=dropped_share,
        speckle_share=speckle_share,
    )
    size = pixel_km * 1000.0
    crs = "+proj=aeqd +lat_0=0 +lon_0=0 +datum=WGS84 +units=m"
    grid = Grid.from_corner(-shape[1] / 2 * size, shape[0] / 2 * size, size, size, shape, crs)
    return write_archive(
        path,
        rain_rate,
        first_time=first_time.astype("datetime64[s]"),
        step=np.timedelta64(round(step_minutes * 60), "s"),
        grid=grid,
        present=~np.isnan(rain_rate).all(axis=(1, 2)),
        attributes={
            "title": "Synthetic rain, not an observation",
            "institution": "none (generated)",
            "source": f"nowcast synthetic rain, preset {preset}, seed {seed}",
            "source_format": "synthetic",
            "synthetic": "true",
            "license": "CC0-1.0",
            "zr_a": RELATION.a,
            "zr_b": RELATION.b,
            "comment": "Generated rain: no place, no date, no weather. NaN is out of range, 0 is dry.",
        },
    )


def _checked(
    num_frames: int,
    shape: tuple[int, int],
    preset: str,
    step_minutes: float,
    pixel_km: float,
    speed_km_h: tuple[float, float],
    dropped_share: float,
    speckle_share: float,
) -> RainClimate:
    if preset not in PRESETS:
        raise ConfigError(f"the rain preset '{preset}' is not known", f"use one of: {', '.join(PRESETS)}")
    if num_frames < 1 or min(shape) < 2:
        raise ConfigError(f"synthetic rain needs a frame and 2x2 pixels, got {num_frames} frames of {shape}")
    if not (step_minutes > 0 and pixel_km > 0):
        raise ConfigError(f"step and pixel must be positive, got {step_minutes} min and {pixel_km} km")
    if not 0 <= speed_km_h[0] <= speed_km_h[1]:
        raise ConfigError(f"speeds must rise from 0 or more, got {speed_km_h} km/h")
    for name, share in (("dropped", dropped_share), ("speckle", speckle_share)):
        if not 0 <= share < 1:
            raise ConfigError(f"the {name} share must be 0 or more and below 1, got {share}")
    return PRESETS[preset]


def _even(size: int) -> int:
    """The next even length that transforms fast."""
    while (good := fft.next_fast_len(size, real=True)) % 2:
        size = good + 1
    return good


@dataclass(frozen=True, eq=False)
class _Waves:
    """The half plane of wave numbers of a doubly periodic grid.

    Attributes:
        shape: (rows, columns) of the grid.
        pixel_km: Pixel size.
        fy, fx: Frequencies [cycles per pixel], (rows, 1) and (1, columns // 2 + 1).
        length_km: Wavelength of each wave number, inf for the mean.
    """

    shape: tuple[int, int]
    pixel_km: float
    fy: np.ndarray
    fx: np.ndarray
    length_km: np.ndarray

    @classmethod
    def of(cls, shape: tuple[int, int], pixel_km: float) -> _Waves:
        fy, fx = fft.fftfreq(shape[0])[:, None], fft.rfftfreq(shape[1])[None]
        with np.errstate(divide="ignore"):
            length_km = pixel_km / np.hypot(fy, fx)
        return cls(shape, pixel_km, fy, fx, length_km)

    def amplitude(self, power: np.ndarray) -> np.ndarray:
        """Amplitudes (float32) that give unit-variance complex noise this power, and the field unit variance.

        The two columns that are their own mirror image lose half their variance to the symmetry of a real field.
        """
        power = np.where(np.isfinite(self.length_km), power, 0.0)
        mirrored = np.full(self.fx.shape, 2.0)
        mirrored[:, [0, -1]] = 1.0
        total = float(np.sum(mirrored * power))
        amplitude = np.sqrt(power / max(total, 1e-30)) * np.sqrt(2.0 / mirrored) * np.prod(self.shape)
        return amplitude.astype(np.float32)


def _rain_power(length_km: np.ndarray, climate: RainClimate) -> np.ndarray:
    """Power density of a wavelength: two slopes in wave number that meet at 20 km, cut smoothly below 2 km."""
    ratio = np.maximum(BREAK_KM / length_km, 1e-9)
    slope = np.where(ratio < 1, climate.large_slope, climate.small_slope)
    return ratio**slope * np.exp(-((CUT_KM / length_km) ** 4))


def _base_fields(
    waves: _Waves, climate: RainClimate, step_minutes: float, rng: np.random.Generator
) -> tuple[_EvolvingField, _EvolvingField]:
    """Weather systems (waves beyond 64 km) and texture (the rest), whose sum has variance 1 and the climate's power."""
    block = max(1, int(SYSTEM_KM / 8 / waves.pixel_km))
    coarse_km = block * waves.pixel_km
    rows, columns = (_even(max(size // block, int(OUTER_KM / coarse_km))) for size in waves.shape)
    wide = _Waves.of((rows, columns), coarse_km)
    number = np.geomspace(1 / OUTER_KM, 1 / CUT_KM, 2000)
    # The share of the variance beyond 64 km: the power density integrated over rings of wave number.
    rings = _rain_power(1 / number, climate) * number**2
    share = float(rings[number < 1 / SYSTEM_KM].sum() / rings.sum())
    fields = []
    for grid, part, chosen in (
        (wide, share, (wide.length_km > SYSTEM_KM) & (wide.length_km <= OUTER_KM)),
        (waves, 1 - share, waves.length_km <= SYSTEM_KM),
    ):
        amplitude = np.float32(np.sqrt(part)) * grid.amplitude(
            np.where(chosen, _rain_power(grid.length_km, climate), 0)
        )
        life = LIFE_MINUTES * grid.length_km**LIFE_EXPONENT
        fields.append(_EvolvingField(grid, amplitude, life, step_minutes, rng, waves.pixel_km))
    return fields[0], fields[1]


class _EvolvingWaves:
    """Complex noise of unit variance for every wave number, each renewed at its own pace.

    Every wave number follows a critically damped AR(2) process with the double root r = exp(-2 dt / life), so that its
    correlation is smooth at lag 0: an AR(1) process jumps from frame to frame.
    """

    def __init__(
        self, waves: _Waves, life_minutes: np.ndarray | float, step_minutes: float, rng: np.random.Generator
    ) -> None:
        self._shape, self._rng = waves.length_km.shape, rng
        root = np.exp(-2.0 * step_minutes / np.broadcast_to(life_minutes, self._shape))
        phi1, phi2 = 2.0 * root, -(root**2)
        innovation = (1 + phi2) * ((1 - phi2) ** 2 - phi1**2) / (1 - phi2)
        # The mean never changes and has no innovation; rounding must not make the others negative.
        self._noise = np.sqrt(np.maximum(innovation, 0.0)).astype(np.float32)
        self._phi1, self._phi2 = phi1.astype(np.float32), phi2.astype(np.float32)
        # Two states drawn from the stationary law: no warm-up.
        lag1 = (phi1 / (1 - phi2)).astype(np.float32)
        self._before = self._draw()
        self._now = lag1 * self._before + np.sqrt(np.maximum(1 - lag1**2, 0)) * self._draw()

    def _draw(self) -> np.ndarray:
        pairs = self._rng.standard_normal((*self._shape, 2), dtype=np.float32)
        return np.asarray(pairs.view(np.complex64)[..., 0] * np.float32(np.sqrt(0.5)))

    def step(self) -> np.ndarray:
        """The coefficients of this frame; the next call gives the next frame's."""
        current = self._before
        following = self._phi1 * self._now + self._phi2 * self._before + self._noise * self._draw()
        self._before, self._now = self._now, following
        return current


class _EvolvingField:
    """A Gaussian field of mean 0 in the moving frame, as the cubic B-spline that passes through it."""

    def __init__(
        self,
        waves: _Waves,
        amplitude: np.ndarray,
        life_minutes: np.ndarray | float,
        step_minutes: float,
        rng: np.random.Generator,
        window_pixel_km: float | None = None,
    ) -> None:
        self._shape = waves.shape
        self._scale = (window_pixel_km or waves.pixel_km) / waves.pixel_km
        self._waves = _EvolvingWaves(waves, life_minutes, step_minutes, rng)
        spline = (2 + np.cos(2 * np.pi * waves.fy)) / 3 * ((2 + np.cos(2 * np.pi * waves.fx)) / 3)
        self._amplitude = amplitude / spline.astype(np.float32)

    def step_at(self, position: np.ndarray) -> np.ndarray:
        """The field of the next frame at positions (2, H, W) [pixels of the window]."""
        spline = fft.irfft2(self._amplitude * self._waves.step(), s=self._shape)
        return ndimage.map_coordinates(spline, position * self._scale, order=3, mode="grid-wrap", prefilter=False)


class _Flow:
    """Where the rain of a pixel came from: a mean motion that turns slowly, and a slow, smooth deformation.

    The displacement since the start is accumulated, so that the field is looked up once and never blurred. The
    deformation is the curl of a stream function that lives in the moving frame: it stretches and turns the rain
    without making it converge. It is a bounded displacement, so that long sequences are not sheared to shreds.
    """

    def __init__(
        self,
        waves: _Waves,
        step_minutes: float,
        speed_km_h: tuple[float, float],
        num_frames: int,
        rng: np.random.Generator,
    ) -> None:
        self._grid = waves
        slowest, fastest = speed_km_h
        hours = step_minutes / 60.0
        speed = (slowest + fastest) / 2 + (fastest - slowest) / 2 * np.tanh(_slow(num_frames, WIND_HOURS / hours, rng))
        turn = np.deg2rad(DIRECTION_SD_DEGREES) * _slow(num_frames, WIND_HOURS / hours, rng)
        direction = rng.uniform(0, 2 * np.pi) + turn
        pixels = speed * hours / waves.pixel_km
        self.displacement = np.cumsum(
            pixels[:, None] * np.stack([np.sin(direction), np.cos(direction)], axis=1), axis=0
        )
        self._waves = _EvolvingWaves(waves, DEFORMATION_HOURS * 60, step_minutes, rng)
        self._curl = self._deformation(waves) * np.float32(fastest > 0)

    @staticmethod
    def _deformation(waves: _Waves) -> np.ndarray:
        """Amplitudes (2, rows, columns // 2 + 1) of the row and column displacement [pixels] of unit noise."""
        size_km = min(DEFORMATION_KM, DEFORMATION_SHARE * min(waves.shape) * waves.pixel_km)
        amplitude = size_km / waves.pixel_km * waves.amplitude(np.exp(-((DEFORMATION_WAVE_KM / waves.length_km) ** 2)))
        length = np.maximum(np.hypot(waves.fy, waves.fx), 1e-12)
        return np.stack([-1j * waves.fx / length, 1j * waves.fy / length]).astype(np.complex64) * amplitude

    def sources(self, index: int, shape: tuple[int, int]) -> np.ndarray:
        """Positions (2, H, W) [pixels] in the moving frame of the window's pixels."""
        shift = self.displacement[index]
        # The deformation travels along: shifted by phases, it needs no interpolation.
        phase = np.exp(-2j * np.pi * (self._grid.fy * shift[0] + self._grid.fx * shift[1])).astype(np.complex64)
        deformation = fft.irfft2(self._curl * (phase * self._waves.step()), s=self._grid.shape)
        pixels = np.stack(np.meshgrid(np.arange(shape[0]), np.arange(shape[1]), indexing="ij"))
        return pixels - shift[:, None, None] - deformation[:, : shape[0], : shape[1]]


def _slow(num_frames: int, frames: float, rng: np.random.Generator) -> np.ndarray:
    """(num_frames,) of an AR(1) process of mean 0, variance 1 and correlation exp(-lag / frames)."""
    keep = np.exp(-1.0 / frames)
    noise = rng.standard_normal(num_frames)
    noise[1:] *= np.sqrt(1 - keep**2)
    return signal.lfilter([1.0], [1.0, -keep], noise)


def _rates_by_rank(where: np.ndarray, how_much: np.ndarray, climate: RainClimate) -> np.ndarray:
    """Rain rates [mm/h]: dry below a level of `where`, elsewhere a log-normal law between 0.1 and 150 mm/h.

    Level and ranks are those of the whole sequence, so that its rates follow the law whatever the scores look like.
    """
    stride = max(1, where.size // DISTRIBUTION_SAMPLE)
    wet = where >= np.quantile(where.ravel()[::stride], 1 - climate.wet_share)
    scores = how_much[wet]
    ordered = np.sort(scores[:: max(1, scores.size // DISTRIBUTION_SAMPLE)])
    # Fine steps in the upper tail, where the peaks are.
    rank = np.union1d(np.linspace(0.0, 0.999, 2000), 1 - np.geomspace(1e-3, 1.0 / max(ordered.size, 1001), 500))
    low, high = (special.ndtr(np.log(rate / climate.median_mm_h) / climate.sigma) for rate in (WET_MM_H, CAP_MM_H))
    log_rate = np.log(climate.median_mm_h) + climate.sigma * special.ndtri(low + (high - low) * rank)
    rain_rate = np.zeros(where.shape, dtype=np.float32)
    rain_rate[wet] = np.exp(np.interp(scores, np.quantile(ordered, rank), log_rate))
    return rain_rate


def _as_measured(
    rain_rate: np.ndarray,
    pixel_km: float,
    range_km: float | None,
    dropped_share: float,
    speckle_share: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """What a radar product makes of the rain: speckle, steps of 0.5 dBZ, no data out of range, frames that are lost."""
    shape = rain_rate.shape[1:]
    lost = rng.random(len(rain_rate)) < dropped_share
    if speckle_share > 0:
        speckled = rng.random(rain_rate.shape, dtype=np.float32) < speckle_share
        clutter = 10.0 ** rng.uniform(-1.0, 1.0, np.count_nonzero(speckled))
        rain_rate[speckled] = np.maximum(rain_rate[speckled], clutter)
    steps = np.round(RELATION.reflectivity(rain_rate) / STEP_DBZ) * STEP_DBZ
    rain_rate = np.minimum(RELATION.rain_rate(steps), CAP_MM_H).astype(np.float32)
    rain_rate[rain_rate < WET_MM_H] = 0.0
    rows, columns = ((np.arange(size) - (size - 1) / 2) * pixel_km for size in shape)
    reach = RANGE_SHARE * min(shape) / 2 * pixel_km if range_km is None else range_km
    rain_rate[:, np.hypot(rows[:, None], columns[None]) > reach] = np.nan
    rain_rate[lost] = np.nan
    return rain_rate
