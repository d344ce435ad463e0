"""Unpacking as zlib does, to the byte, and refusing as it does."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest

from data_prep.readers.inflate import InflateError, gunzip, inflate
from data_prep.readers.source import HEAD_BYTES, Source

CONTENTS = np.random.default_rng(3).poisson(0.4, 50_000).astype(np.uint8).tobytes()


@pytest.mark.parametrize("level", [0, 1, 6, 9])
def test_what_zlib_packed_comes_back(level: int) -> None:
    assert inflate(zlib.compress(CONTENTS, level), len(CONTENTS)) == CONTENTS
    assert gunzip(gzip.compress(CONTENTS, level), 1 << 20) == CONTENTS


def test_members_follow_one_another_and_zeros_may_come_last() -> None:
    packed = gzip.compress(CONTENTS[:100]) + gzip.compress(CONTENTS[100:300]) + bytes(512)
    assert gunzip(packed, 1 << 20) == CONTENTS[:300]


def test_no_more_is_unpacked_than_asked_for() -> None:
    packed = gzip.compress(bytes(200_000_000), 1)
    tracemalloc.start()
    assert gunzip(packed, 5000) == bytes(5000)
    with pytest.raises(InflateError, match="more than 5000 bytes"):
        inflate(zlib.compress(bytes(50_000_000), 1), 5000)
    assert tracemalloc.get_traced_memory()[1] < 90_000_000
    tracemalloc.stop()


def test_a_head_needs_no_end() -> None:
    assert gunzip(gzip.compress(CONTENTS)[:5000], 1000) == CONTENTS[:1000]


@pytest.mark.parametrize("kept", [0.2, 0.9, 0.9999])
def test_a_cut_stream_is_refused(kept: float) -> None:
    for packed, unpack in ((gzip.compress(CONTENTS), gunzip), (zlib.compress(CONTENTS), inflate)):
        with pytest.raises(InflateError):
            unpack(packed[: int(kept * len(packed))], len(CONTENTS) if unpack is inflate else 1 << 20)


def test_a_wrong_checksum_is_refused() -> None:
    for packed, unpack in ((gzip.compress(CONTENTS), gunzip), (zlib.compress(CONTENTS), inflate)):
        at = -6 if unpack is gunzip else -2
        damaged = packed[:at] + bytes([packed[at] ^ 1]) + packed[at + 1 :]
        with pytest.raises(InflateError):
            unpack(damaged, len(CONTENTS) if unpack is inflate else 1 << 20)


def test_too_few_bytes_are_refused() -> None:
    with pytest.raises(InflateError, match=f"{len(CONTENTS)} of {len(CONTENTS) + 1} bytes"):
        inflate(zlib.compress(CONTENTS), len(CONTENTS) + 1)


def test_a_head_may_stand_behind_a_long_name(tmp_path: Path) -> None:
    path = tmp_path / "long.gz"
    packed = gzip.compress(CONTENTS)
    # FLG of RFC 1952: a file name, which ends with a zero.
    path.write_bytes(packed[:3] + b"\x08" + packed[4:10] + b"n" * 200_000 + b"\0" + packed[10:])
    with Source(path) as source:
        assert source.head == CONTENTS[:HEAD_BYTES]
        assert source.read(1 << 20) == CONTENTS
