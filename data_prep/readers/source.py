"""Source: a file as the readers see it. Its bytes, ungzipped where its first bytes say so, never more than asked."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np

from data_prep.readers.inflate import InflateError, gunzip
from data_prep.readers.options import ReadOptions
from nowcast.errors import DataError

GZIP = b"\x1f\x8b"
HDF5 = b"\x89HDF\r\n\x1a\n"
# As much of a file as any format needs to be known.
HEAD_BYTES = 4096
# They hardly take more of a gzip stream.
PACKED_HEAD_BYTES = 1 << 17
# A larger file is read piece by piece.
HELD_BYTES = 16 << 20


class Source:
    """One file, or one Zarr folder, as a context manager.

    A file of usual size is read from the disk once, whoever asks: for its digest, its format, its frames.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._hdf5: h5py.File | None = None

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close what `open_hdf5` keeps open."""
        if self._hdf5 is not None:
            self._hdf5.close()
            self._hdf5 = None

    def __str__(self) -> str:
        return str(self.path)

    @cached_property
    def is_folder(self) -> bool:
        return self.path.is_dir()

    @cached_property
    def contents(self) -> bytes | None:
        """All of its bytes as they lie on the disk; None of a folder, and of a file that is too large to be held."""
        if self.is_folder:
            return None
        with self.path.open("rb", buffering=0) as file:
            # Not read(limit): that takes and gives back memory for as many bytes.
            return file.readall() if os.fstat(file.fileno()).st_size <= HELD_BYTES else None

    @cached_property
    def is_gzip(self) -> bool:
        if self.is_folder:
            return False
        return self._packed(len(GZIP)) == GZIP

    @cached_property
    def head(self) -> bytes:
        """The first bytes of the contents, empty for a folder.

        Raises:
            InflateError: A gzip stream that is cut short or damaged there.
        """
        if self.is_folder:
            return b""
        if not self.is_gzip:
            return self._packed(HEAD_BYTES)
        try:
            return gunzip(self._packed(PACKED_HEAD_BYTES), HEAD_BYTES)
        except InflateError:
            # Names and comments of the packer may come first, at any length.
            return gunzip(self._packed(HELD_BYTES), HEAD_BYTES)

    @cached_property
    def hdf5_names(self) -> frozenset[str]:
        """The names at the root of an HDF5 file, for telling formats apart; none of other files."""
        if not self.head.startswith(HDF5):
            return frozenset()
        with self.open_hdf5(ReadOptions()) as file:
            return frozenset(file)

    def read(self, limit: int) -> bytes:
        """The whole contents.

        Raises:
            DataError: More than `limit` bytes, or a gzip stream that is cut short or fails its checksum.
        """
        # No more than a stream of `limit` bytes can take when it does not compress at all.
        contents = self._packed(limit + limit // 1000 + HEAD_BYTES if self.is_gzip else limit + 1)
        try:
            if self.is_gzip:
                contents = gunzip(contents, limit + 1)
        except InflateError as error:
            raise self.error(f"the gzip stream is damaged: {error}", "fetch the file again") from error
        if len(contents) > limit:
            raise self.error(
                f"holds more than the {limit} bytes that its header accounts for or that are allowed",
                "it is not what it says, or raise max_pixels (--max-pixels)",
            )
        return contents

    def error(self, finding: str, hint: str | None = None) -> DataError:
        """A DataError that names this file."""
        return DataError(f"{self.path}: {finding}", hint)

    def interval_minutes(self, declared: float | None, options: ReadOptions, *, lacking: str) -> float:
        """The interval of an accumulation: what the file declares, or `accumulation_minutes` where it does not.

        Raises:
            DataError: Neither says it (`lacking`), or they differ.
        """
        given = options.accumulation_minutes
        if declared is None and given is None:
            raise self.error(lacking, "pass accumulation_minutes (--accumulation-minutes)")
        if declared is not None and given is not None and declared != given:
            raise self.error(
                f"declares accumulations over {declared:g} min, but accumulation_minutes is {given:g}",
                "leave --accumulation-minutes out: it is for files that do not say it",
            )
        return float(given if declared is None else declared)  # type: ignore[arg-type]

    def check_declared(self, options: ReadOptions, kind: str) -> None:
        """Refuse what is declared of another kind of data than is here, rather than ignore it.

        Args:
            kind: What the file holds: "reflectivity", "accumulation", or another quantity.

        Raises:
            DataError: A Z-R relation for what is no reflectivity, an interval for what is no accumulation.
        """
        for given, wanted, option in (
            (options.z_relation, "reflectivity", "--z-relation"),
            (options.accumulation_minutes, "accumulation", "--accumulation-minutes"),
        ):
            if given is not None and kind != wanted:
                raise self.error(
                    f"holds {kind}, which {option} says nothing of", f"leave {option} out: it is for {wanted}"
                )

    def check_size(self, shape: tuple[int, ...], options: ReadOptions) -> None:
        """Refuse a grid that is empty or absurdly large, before anything is allocated for it."""
        pixels = 1
        for length in shape:
            pixels *= int(length)
        if pixels <= 0:
            raise self.error(f"a grid of {'x'.join(map(str, shape))} pixels holds nothing")
        if pixels > options.max_pixels:
            raise self.error(
                f"claims a grid of {'x'.join(map(str, shape))} pixels, more than the {options.max_pixels} allowed",
                "if that is right, raise max_pixels (--max-pixels)",
            )

    @contextmanager
    def open_hdf5(self, options: ReadOptions) -> Iterator[h5py.File]:
        """The file as HDF5, from memory where it came gzipped.

        Several formats are HDF5, and each asks: the file stays open for the next, until `close`.
        """
        if self._hdf5 is None:
            where: Any = self.path
            if self.is_gzip:
                where = io.BytesIO(self.read(8 * options.max_pixels + (1 << 20)))
            self._hdf5 = h5py.File(where, "r")
        yield self._hdf5

    def _packed(self, limit: int) -> bytes:
        """So many bytes from the start, as they lie on the disk."""
        if self.contents is not None:
            return self.contents[:limit]
        with self.path.open("rb") as file:
            return file.read(limit)


def text(value: Any) -> str:
    """An attribute as text, whether it is stored as bytes, as str or as an array of one."""
    if isinstance(value, np.ndarray):
        value = value.reshape(-1)[0] if value.size else ""
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError:
            value = value.decode("latin-1")
    return str(value).strip().strip("\0")


def number(value: Any) -> float:
    """An attribute as a number, whether it is stored as one, as text or as an array of one."""
    return float(text(value)) if isinstance(value, bytes | str) else float(np.asarray(value).reshape(-1)[0])
