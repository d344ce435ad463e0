"""Progress of long work on standard error: a bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import Any, TypeVar

import click

T = TypeVar("T")

SECONDS_BETWEEN_LINES = 5.0


def progress(items: Iterable[T], label: str, *, clock: Any = time.monotonic) -> Iterator[T]:
    """The items, each counted once the caller asks for the next one."""
    total = len(items) if isinstance(items, Sized) else None
    if sys.stderr.isatty():
        from tqdm import tqdm

        yield from tqdm(items, desc=label, total=total)
        return
    began = last = clock()
    for done, item in enumerate(items, start=1):
        yield item
        now = clock()
        if now - last >= SECONDS_BETWEEN_LINES and done != total:
            last = now
            click.echo(f"{label}: {_state(done, total, now - began)}", err=True)


def _state(done: int, total: int | None, seconds: float) -> str:
    rate = done / seconds
    if total is None:
        return f"{done}, {rate:.2g}/s"
    return f"{done} of {total}, {rate:.2g}/s, {(total - done) / rate:.0f} s left"
