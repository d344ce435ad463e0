"""The LZW stream of a GIF, compiled: pixels out of codes, and what is wrong with them.

Source: GIF89a specification, appendix F.
"""

from __future__ import annotations

import numba
import numpy as np

_MAX_CODES = 4096
# What may become of a compressed stream.
WHOLE, NOT_IN_TABLE, TOO_MANY, BREAKS_OFF, NOT_LONGEST = range(5)
# Above this share of codes that are not the longest, the encoder did not look for it; below, a code was changed.
_CARELESS_SHARE = 0.1


@numba.njit(cache=True, nogil=True)
def decompress_into(data: np.ndarray, minimum: int, pixels: np.ndarray) -> tuple[int, int]:
    """Fill `pixels`; returns what went wrong, and the number of pixels or the code where it did.

    An entry of the table is a run of pixels that is already in the image: where it starts, and how long it is.
    """
    clear, end = 1 << minimum, (1 << minimum) + 1
    start, length = np.zeros(_MAX_CODES, np.int64), np.zeros(_MAX_CODES, np.int64)
    # By which pixels the table lengthens each code: a bit for each, so that it stays in the processor's cache.
    longer = np.zeros((_MAX_CODES, 32), np.uint8)
    codes, short, first_short = 0, 0, 0
    entries, size = end + 1, minimum + 1
    previous, previous_length, previous_code = -1, 0, -1
    total, accumulator, bits = 0, 0, 0
    for byte in data:
        accumulator |= int(byte) << bits
        bits += 8
        while bits >= size:
            code = accumulator & ((1 << size) - 1)
            accumulator >>= size
            bits -= size
            if code == clear:
                longer[:] = 0
                entries, size, previous = end + 1, minimum + 1, -1
                continue
            if code == end:
                if 0 < short <= _CARELESS_SHARE * codes:
                    return NOT_LONGEST, first_short
                return WHOLE, total
            known = code < clear or (end < code < entries)
            if not known and not (code == entries and previous >= 0 and entries < _MAX_CODES):
                return NOT_IN_TABLE, code
            codes += 1
            if previous >= 0:
                following = code if code < clear else pixels[previous if code == entries else start[code]]
                bit = np.uint8(1 << (following & 7))
                if longer[previous_code, following >> 3] & bit:
                    short += 1
                    first_short = total if short == 1 else first_short
            if previous >= 0 and entries < _MAX_CODES:
                # The new entry is the previous run and the pixel after it, which is the first of this run.
                start[entries], length[entries] = previous, previous_length + 1
                longer[previous_code, following >> 3] |= bit
                entries += 1
                if entries == 1 << size and size < 12:
                    size += 1
            run = 1 if code < clear else length[code]
            if total + run > pixels.size:
                return TOO_MANY, total
            if code < clear:
                pixels[total] = code
            else:
                # Forward, one by one: the run may reach into the pixels that it is writing.
                for offset in range(run):
                    pixels[total + offset] = pixels[start[code] + offset]
            previous, previous_length, previous_code = total, run, code
            total += run
    return BREAKS_OFF, total
