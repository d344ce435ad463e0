"""How long a classic netCDF file must be: its library reads beyond the end of one cut short, and makes up values there.

Format: netCDF classic format specification (CDF-1, CDF-2 and CDF-5), Unidata.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import BinaryIO

MAGIC = (b"CDF\x01", b"CDF\x02", b"CDF\x05")
_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 4, 6: 8, 7: 1, 8: 2, 9: 4, 10: 8, 11: 8}
_MAX_COUNT = 1_000_000


@dataclass(frozen=True)
class _Variable:
    dimensions: tuple[int, ...]
    item_bytes: int
    begin: int


def required_bytes(file: BinaryIO) -> int:
    """The bytes that the header accounts for.

    Raises:
        ValueError: The header is damaged or cut short.
    """
    reader = _Header(file)
    records = reader.count(limit=2**62)
    dimensions = [reader.dimension() for _ in range(reader.list_length(0x0A))]
    reader.attributes()
    variables = [reader.variable() for _ in range(reader.list_length(0x0B))]
    fixed = [
        (v, math.prod(dimensions[d] for d in v.dimensions) * v.item_bytes)
        for v in variables
        if not _grows(v, dimensions)
    ]
    growing = [
        (v, math.prod(dimensions[d] for d in v.dimensions[1:]) * v.item_bytes)
        for v in variables
        if _grows(v, dimensions)
    ]
    # Slabs of a record are padded to 4 bytes, unless there is but one variable to a record.
    record = growing[0][1] if len(growing) == 1 else sum(-(-size // 4) * 4 for _, size in growing)
    ends = [v.begin + size for v, size in fixed]
    if 0 < records < 2**32 - 1:
        ends += [v.begin + (records - 1) * record + size for v, size in growing]
    return max([file.tell(), *ends])


def _grows(variable: _Variable, dimensions: list[int]) -> bool:
    return bool(variable.dimensions) and dimensions[variable.dimensions[0]] == 0


class _Header:
    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        magic = self.bytes(4)
        if magic not in MAGIC:
            raise ValueError(f"begins with {magic!r}, wanted a classic netCDF header")
        self.count_bytes = 8 if magic == MAGIC[2] else 4
        self.offset_bytes = 4 if magic == MAGIC[0] else 8

    def bytes(self, number: int) -> bytes:
        found = self.file.read(number)
        if len(found) != number:
            raise ValueError("the netCDF header is cut short")
        return found

    def integer(self, number: int) -> int:
        return int.from_bytes(self.bytes(number), "big")

    def count(self, *, limit: int = _MAX_COUNT) -> int:
        value = self.integer(self.count_bytes)
        if value > limit:
            raise ValueError(f"the netCDF header counts {value} of something")
        return value

    def list_length(self, tag: int) -> int:
        found, length = self.integer(4), self.count()
        if length and found != tag:
            raise ValueError(f"the netCDF header has the tag {found} where {tag} was expected")
        return length

    def name(self) -> None:
        length = self.count()
        self.bytes(-(-length // 4) * 4)

    def dimension(self) -> int:
        self.name()
        return self.count(limit=2**40)

    def attributes(self) -> None:
        for _ in range(self.list_length(0x0C)):
            self.name()
            size = _type_bytes(self.integer(4)) * self.count(limit=2**28)
            self.bytes(-(-size // 4) * 4)

    def variable(self) -> _Variable:
        self.name()
        dimensions = tuple(self.count() for _ in range(self.count(limit=64)))
        self.attributes()
        item = _type_bytes(self.integer(4))
        self.bytes(self.count_bytes)
        return _Variable(dimensions, item, self.integer(self.offset_bytes))


def _type_bytes(code: int) -> int:
    if code not in _TYPE_BYTES:
        raise ValueError(f"the netCDF header names the type {code}")
    return _TYPE_BYTES[code]
