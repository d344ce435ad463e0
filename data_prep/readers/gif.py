"""A strict GIF decoder: one 8-bit image that fills its screen, wholly there, or an error.

A radar GIF carries class numbers as palette indices and no checksum, so the structure is the only witness that a file
is whole: every block must be closed, the compressed stream must give each pixel exactly once and then end, and each of
its codes must be the one that an encoder would have chosen: the longest run that the table held. A flipped bit that
exchanges one run of pixels for another of its length is betrayed by that.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_EXTENSION, _IMAGE, _TRAILER, _COMMENT = 0x21, 0x2C, 0x3B, 0xFE


class GifError(ValueError):
    """Bytes that are not a whole GIF of one image."""


@dataclass(frozen=True)
class Gif:
    """Width and height, the comments joined, and the image still compressed."""

    width: int
    height: int
    comment: str
    interlaced: bool
    minimum_code_size: int
    compressed: bytes

    def indices(self) -> np.ndarray:
        """(height, width) uint8 palette indices.

        Raises:
            GifError: The stream does not give each pixel exactly once.
        """
        pixels = _decompress(self.compressed, self.minimum_code_size, self.width * self.height)
        image = pixels.reshape(self.height, self.width)
        if not self.interlaced:
            return image
        order = [row for start, step in ((0, 8), (4, 8), (2, 4), (1, 2)) for row in range(start, self.height, step)]
        woven = np.empty_like(image)
        woven[order] = image
        return woven


def comment_of(head: bytes) -> str:
    """The comments among the first bytes of a GIF, as far as they reach; for telling formats apart."""
    try:
        return parse_gif(head, whole=False).comment
    except GifError:
        return ""


def parse_gif(contents: bytes, *, whole: bool = True) -> Gif:
    """The structure of a GIF; with `whole` off, its comments are read as far as the bytes reach."""
    if contents[:6] not in (b"GIF87a", b"GIF89a") or len(contents) < 13:
        raise GifError("no GIF header")
    width, height = int.from_bytes(contents[6:8], "little"), int.from_bytes(contents[8:10], "little")
    position = 13 + _color_table_bytes(contents[10])
    comments: list[bytes] = []
    image: tuple[bool, int, bytes] | None = None
    while position < len(contents):
        kind = contents[position]
        if kind == _TRAILER:
            break
        if kind == _EXTENSION:
            label = _byte(contents, position + 1)
            block, position = _blocks(contents, position + 2, whole)
            if label == _COMMENT:
                comments.append(block)
        elif kind == _IMAGE and not whole:
            break
        elif kind == _IMAGE:
            if image is not None:
                raise GifError("more than one image")
            corner_and_size = tuple(
                int.from_bytes(contents[position + at : position + at + 2], "little") for at in (1, 3, 5, 7)
            )
            if corner_and_size != (0, 0, width, height):
                raise GifError(
                    f"an image at {corner_and_size[:2]} of {corner_and_size[2:]} on a screen of {width, height}"
                )
            flags = _byte(contents, position + 9)
            position += 10 + _color_table_bytes(flags)
            minimum = _byte(contents, position)
            data, position = _blocks(contents, position + 1, whole)
            image = (bool(flags & 0x40), minimum, data)
        else:
            raise GifError(f"byte {position} is {kind:#04x} where a block should begin")
    else:
        if whole:
            raise GifError("cut short: the closing byte is missing")
    comment = b"\n".join(comments).decode("latin-1")
    if not whole:
        return Gif(width, height, comment, False, 0, b"")
    if image is None:
        raise GifError("no image")
    return Gif(width, height, comment, *image)


def _color_table_bytes(flags: int) -> int:
    return 3 * 2 ** ((flags & 0x07) + 1) if flags & 0x80 else 0


def _byte(contents: bytes, position: int) -> int:
    if position >= len(contents):
        raise GifError("cut short")
    return contents[position]


def _blocks(contents: bytes, position: int, whole: bool) -> tuple[bytes, int]:
    """A chain of sub-blocks joined, and the position behind its closing zero."""
    parts: list[bytes] = []
    while True:
        if position >= len(contents):
            if whole:
                raise GifError("cut short within a block")
            return b"".join(parts), position
        length = contents[position]
        if length == 0:
            return b"".join(parts), position + 1
        parts.append(contents[position + 1 : position + 1 + length])
        position += 1 + length


def _decompress(data: bytes, minimum: int, wanted: int) -> np.ndarray:
    """LZW as in the GIF89a specification, appendix F, for exactly `wanted` pixels."""
    # Numba is slow to load, and other formats do without.
    from data_prep.readers import gif_lzw

    if not 2 <= minimum <= 8:
        raise GifError(f"a minimum code size of {minimum}")
    pixels = np.empty(wanted, dtype=np.uint8)
    problem, where = gif_lzw.decompress_into(np.frombuffer(data, dtype=np.uint8), minimum, pixels)
    if problem == gif_lzw.NOT_IN_TABLE:
        raise GifError(f"code {where} is not in the table")
    if problem == gif_lzw.TOO_MANY:
        raise GifError(f"the image holds more than its {wanted} pixels")
    if problem == gif_lzw.BREAKS_OFF:
        raise GifError(f"the image breaks off after {where} of {wanted} pixels")
    if problem == gif_lzw.NOT_LONGEST:
        raise GifError(f"a code near pixel {where} is not the one that was written: the table held a longer run")
    if where != wanted:
        raise GifError(f"the image ends after {where} of {wanted} pixels")
    return pixels
