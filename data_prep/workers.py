"""A function over many files, results in the order of the files: here, in processes, or on a Dask cluster.

Only a few files are under way at a time, so that results do not pile up before the slowest.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from types import FrameType
from typing import Any

from data_prep.decode import DecodedFile, DecodeOptions, FileStamp, decode_file
from nowcast.errors import ConfigError, MissingPackageError

logger = logging.getLogger(__name__)

# Files under way for every worker.
AHEAD = 3
# A file that takes longer is given up.
TIME_LIMIT_S = 600
# What one worker may allocate beyond what it has when it starts.
MEMORY_LIMIT_BYTES = 6 << 30


def decode_files(
    paths: Iterable[str], options: DecodeOptions, *, workers: int = 1, scheduler: str | None = None
) -> Iterator[DecodedFile]:
    """Decode every file, in order.

    Args:
        workers: Processes on this machine; 1 decodes in this one.
        scheduler: Address of a Dask scheduler, "tcp://host:8786", to use its workers instead; they must see the files
            under the same paths.

    Raises:
        ConfigError: The scheduler does not answer.
        MissingPackageError: A scheduler is given, and distributed is not installed.
    """
    if scheduler is not None:
        return _on_cluster(paths, options, scheduler)
    if workers > 1:
        return _in_processes(paths, options, workers)
    return (decode_file(path, options) for path in paths)


def _in_processes(paths: Iterable[str], options: DecodeOptions, workers: int) -> Iterator[DecodedFile]:
    """A worker that dies takes the files under way with it: each is tried again alone, to find the one that kills."""
    waiting: deque[tuple[str, Future[DecodedFile]]] = deque()
    remaining = iter(paths)
    pool = _start_pool(workers)
    try:
        while True:
            while len(waiting) < AHEAD * workers and (path := next(remaining, None)) is not None:
                waiting.append((path, _submit(pool, path, options)))
            if not waiting:
                return
            path, future = waiting.popleft()
            try:
                result = future.result()
            except BrokenProcessPool:
                _abandon(pool)
                result = _decode_alone(path, options)
                pool = _start_pool(workers)
                waiting = deque((path, _submit(pool, path, options)) for path, _ in waiting)
            yield result
    finally:
        _stop(pool)


def _submit(pool: Executor, path: str, options: DecodeOptions) -> Future[DecodedFile]:
    try:
        return pool.submit(_decode_limited, path, options)
    except BrokenProcessPool as error:
        broken: Future[DecodedFile] = Future()
        broken.set_exception(error)
        return broken


def _decode_alone(path: str, options: DecodeOptions) -> DecodedFile:
    pool = _start_pool(1)
    try:
        result = pool.submit(_decode_limited, path, options).result()
    except BrokenProcessPool:
        logger.warning("%s kills the process that reads it; it is skipped", path)
        _abandon(pool)
        return DecodedFile(path, FileStamp(), reason="damaged: reading it kills the process")
    except BaseException:
        _abandon(pool)
        raise
    _stop(pool)
    return result


def _start_pool(workers: int) -> ProcessPoolExecutor:
    # Not fork: HDF5, GDAL and threads of this process would be copied in whatever state they are.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["data_prep.decode"])
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)


def _stop(pool: ProcessPoolExecutor) -> None:
    pool.shutdown(wait=True, cancel_futures=True)


def _abandon(pool: ProcessPoolExecutor) -> None:
    """Leave a broken pool: its processes are ended by hand, because waiting for them can last forever."""
    for process in list((pool._processes or {}).values()):
        process.kill()
    pool.shutdown(wait=False, cancel_futures=True)


def _start_worker() -> None:
    """Leave Ctrl-C to the parent, and keep a damaged file from taking all memory."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_LIMIT_BYTES, hard))


class _TooSlowError(BaseException):
    """Not an Exception, so that no reader takes it for damage and goes on."""


def _decode_limited(path: str, options: DecodeOptions) -> DecodedFile:
    def stop(signum: int, frame: FrameType | None) -> None:
        raise _TooSlowError

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(TIME_LIMIT_S)
    try:
        return decode_file(path, options)
    except _TooSlowError:
        return DecodedFile(path, FileStamp(), reason=f"reading it takes longer than {TIME_LIMIT_S} s")
    finally:
        signal.alarm(0)


def _on_cluster(paths: Iterable[str], options: DecodeOptions, scheduler: str) -> Iterator[DecodedFile]:
    try:
        from distributed import Client
        from distributed.scheduler import KilledWorker
    except ImportError as error:
        raise MissingPackageError("distributed", "dask", "--scheduler") from error
    try:
        client = Client(scheduler, timeout="10s", set_as_default=False)
    except (OSError, ValueError) as error:
        raise ConfigError(f"no Dask scheduler answers at {scheduler}: {error}") from error
    with client:
        remaining = iter(paths)
        waiting: deque[tuple[str, Any]] = deque()
        ahead = AHEAD * max(1, sum(client.nthreads().values()))
        submit: Callable[[str], Any] = lambda path: client.submit(decode_file, path, options, pure=False)  # noqa: E731
        while True:
            while len(waiting) < ahead and (path := next(remaining, None)) is not None:
                waiting.append((path, submit(path)))
            if not waiting:
                return
            path, future = waiting.popleft()
            try:
                yield future.result()
            except KilledWorker:
                yield DecodedFile(path, FileStamp(), reason="damaged: reading it kills the worker")
