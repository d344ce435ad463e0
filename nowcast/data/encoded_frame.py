"""One frame ready to be stored: compressed and measured, apart from the writer, so that other processes can do it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from nowcast.data.archive_store import chunk_digest, encode_chunk
from nowcast.data.frame_measures import CHANGES, measure_frame

# As numpy writes it; what lies above are negative numbers, -0 and other NaNs.
CANONICAL_NAN = np.uint32(0x7FC00000)


@dataclass(frozen=True)
class EncodedFrame:
    """One frame ready to be stored: compressed, with what the archive keeps beside it.

    Attributes:
        time: Valid time, datetime64[s].
        rain_rate: The chunk.
        digest: Eight bytes of the chunk's SHA-256, never 0.
        valid: Which pixels are valid, as packed bits, compressed.
        series: Its values in the per-frame series.
        quality: The chunk of the quality index, if there is one.
    """

    time: np.datetime64
    rain_rate: bytes
    digest: int
    valid: bytes
    series: Mapping[str, float]
    quality: bytes | None = None

    @property
    def size(self) -> int:
        """Bytes that it takes."""
        return len(self.rain_rate) + len(self.quality or b"")


def encode_frame(
    time: np.datetime64,
    rain_rate: np.ndarray,
    *,
    quality: np.ndarray | None = None,
    changes: Mapping[str, int] | None = None,
) -> EncodedFrame:
    """Compress one field and measure it; apart from the writer, so that other processes can do it.

    Args:
        rain_rate: (H, W) [mm/h], NaN where missing.
        quality: (H, W) in [0, 1], for an archive made with quality.
        changes: Pixels that quality steps changed, by the names of `CHANGES`.
    """
    rain_rate = _canonical(rain_rate)
    valid = ~np.isnan(rain_rate)
    chunk = encode_chunk(rain_rate)
    series = measure_frame(rain_rate, valid)
    series |= {f"n_{name}": int((changes or {}).get(name, 0)) for name in CHANGES}
    return EncodedFrame(
        time=time.astype("datetime64[s]"),
        rain_rate=chunk,
        digest=chunk_digest(chunk),
        valid=_packed_mask(np.packbits(valid).tobytes()),
        series=series,
        quality=None if quality is None else encode_chunk(np.asarray(quality, dtype=np.float32)),
    )


# Most frames of a radar are valid at the same pixels.
@lru_cache(maxsize=2)
def _packed_mask(bits: bytes) -> bytes:
    return encode_chunk(np.frombuffer(bits, dtype=np.uint8))


def _canonical(rain_rate: np.ndarray) -> np.ndarray:
    """A contiguous float32 field in which zero and NaN have one form each, so that equal fields have equal bytes."""
    field_ = np.ascontiguousarray(rain_rate, dtype=np.float32)
    bits = field_.view(np.uint32)
    if bits.max(initial=0) <= CANONICAL_NAN:
        return field_
    return np.minimum(bits & np.uint32(0x7FFFFFFF), CANONICAL_NAN).view(np.float32)
