"""Deflated bytes: gzip files and zlib streams, at most as much of them as is asked for, each checked by its checksum.

By zlib-ng, which takes a third to a tenth of zlib's time over rain fields; unpacking them is most of reading them.
"""

from __future__ import annotations

from zlib_ng import zlib_ng

_GZIP, _ZLIB = 31, 15


class InflateError(ValueError):
    """A stream that is cut short, or damaged."""


def gunzip(packed: bytes, limit: int) -> bytes:
    """At most `limit` bytes of a gzip stream of one or more members.

    Raises:
        InflateError: It is cut short, or damaged, as far as it was read.
    """
    parts: list[bytes] = []
    while packed and limit > 0:
        contents, packed = _member(packed, _GZIP, limit)
        parts.append(contents)
        limit -= len(contents)
        # Zeros may fill up the last block.
        packed = packed.lstrip(b"\0")
    return parts[0] if len(parts) == 1 else b"".join(parts)


def inflate(packed: bytes, size: int) -> bytes:
    """The `size` bytes of a zlib stream.

    Raises:
        InflateError: It is cut short, damaged, or holds more or fewer.
    """
    # One byte more, so that the checksum behind the last is read, too.
    contents, _ = _member(packed, _ZLIB, size + 1)
    if len(contents) != size:
        raise InflateError(f"{'more than' if len(contents) > size else f'{len(contents)} of'} {size} bytes")
    return contents


def _member(packed: bytes, container: int, limit: int) -> tuple[bytes, bytes]:
    """At most `limit` bytes of one stream, and what lies behind it in `packed`."""
    stream = zlib_ng.decompressobj(wbits=container)
    try:
        contents = stream.decompress(packed, limit)
    except zlib_ng.error as error:  # type: ignore[misc]
        raise InflateError(str(error)) from error
    if len(contents) < limit and not stream.eof:
        raise InflateError("it ends before its end-of-stream marker")
    return contents, stream.unused_data
