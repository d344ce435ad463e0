"""Decoding many files, results in the order of the files: here, in processes, or on a Dask cluster.

Only a few files are under way at a time, so that results do not pile up before the slowest. A file that hangs, or that
ends the process that reads it, is skipped alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import multiprocessing
import os
import signal
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from types import FrameType, TracebackType
from typing import Any

from data_prep.decode import DecodedFile, DecodeOptions, FileStamp, decode_file, decode_range, stream_frames, with_hint
from data_prep.readers.registry import BUILT_IN
from nowcast.errors import ConfigError, MissingPackageError, NowcastError

logger = logging.getLogger(__name__)

# Tasks under way for every worker.
AHEAD = 3
# A task is so many files, unless they are large: a message costs as much as a small file.
FILES_PER_TASK, BYTES_PER_TASK = 8, 2 << 20
# Positions of a long file that are one task.
FRAMES_PER_TASK = 16
# A file that takes longer is given up, unless a limit is given.
TIME_LIMIT_S = 600.0
# So much later a process that does not heed its own alarm is ended: a C library hangs.
GRACE_S = 10.0
# What one worker may allocate beyond what it has when it starts.
MEMORY_LIMIT_BYTES = 6 << 30
# Memory that a worker keeps from file to file: to get the pages of a field anew takes a fifth of its decoding.
KEPT_BYTES = 256 << 20
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def file_decoder(
    options: DecodeOptions, *, workers: int = 1, scheduler: str | None = None, time_limit_s: float | None = None
) -> FileDecoder:
    """What decodes files, as a context manager.

    Args:
        workers: Processes on this machine; 1 decodes in this one, unless a time limit is given.
        scheduler: Address of a Dask scheduler, "tcp://host:8786", to use its workers instead; they must see the files
            under the same paths.
        time_limit_s: A file that takes longer is skipped. None is ten minutes; then one worker, which is this process,
            stops a reader written in Python but not a C library that hangs, and nothing outside of the main thread.

    Raises:
        ConfigError: The scheduler does not answer, or the limit is not positive.
        MissingPackageError: A scheduler is given, and distributed is not installed.
    """
    if time_limit_s is not None and time_limit_s <= 0:
        raise ConfigError(f"a time limit must be positive, got {time_limit_s:g} s")
    limit_s = TIME_LIMIT_S if time_limit_s is None else time_limit_s
    if scheduler is not None:
        return _OnCluster(options, limit_s, scheduler)
    if workers > 1 or time_limit_s is not None:
        return _InProcesses(options, limit_s, workers)
    return _Here(options, limit_s)


class FileDecoder(ABC):
    """Files in, decoded files out."""

    def __init__(self, options: DecodeOptions, limit_s: float) -> None:
        self._options, self._limit_s = options, limit_s

    def __enter__(self) -> FileDecoder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()

    @abstractmethod
    def files(self, paths: Sequence[str]) -> Iterator[DecodedFile]:
        """Every file, in order."""

    def parts(self, file: DecodedFile) -> Iterator[DecodedFile]:
        """The frames of a long file, part by part; one with a reason is the last."""
        if file.positions is None:
            yield from self._streamed(file)
            return
        ends = range(FRAMES_PER_TASK, file.positions + FRAMES_PER_TASK, FRAMES_PER_TASK)
        ranges = [(end - FRAMES_PER_TASK, min(end, file.positions)) for end in ends]
        with contextlib.closing(self._ranges(file.path, ranges)) as parts:
            for part in parts:
                yield part
                if part.reason:
                    return

    def close(self) -> None:  # noqa: B027 - here there is nothing to end
        """End what runs."""

    def abandon(self) -> None:
        """End what runs without waiting for it: nobody wants the results."""
        self.close()

    @abstractmethod
    def _ranges(self, path: str, ranges: Sequence[tuple[int, int]]) -> Generator[DecodedFile, None, None]:
        """The frames at each range of positions, in order."""

    def _streamed(self, file: DecodedFile) -> Iterator[DecodedFile]:
        """One frame after the other, here: its reader knows no ranges."""
        frames = stream_frames(file.path, self._options)
        while True:
            try:
                with _alarm(self._limit_s):
                    frame = next(frames, None)
            except _TooSlowError:
                yield _too_slow(file.path, self._limit_s)
                return
            except NowcastError as error:
                yield DecodedFile(file.path, FileStamp(), reason=with_hint(error, file.path))
                return
            if frame is None:
                return
            yield DecodedFile(file.path, FileStamp(), frames=(frame,))


@dataclass(frozen=True)
class _Task:
    """Files that one message asks for, or the positions of one long file."""

    paths: tuple[str, ...]
    positions: tuple[int, int] | None = None

    def alone(self) -> Iterator[_Task]:
        """A task for each of its files."""
        return (_Task((path,), self.positions) for path in self.paths)


def _run(task: _Task, options: DecodeOptions, limit_s: float) -> list[DecodedFile]:
    """A task, in whatever process."""
    return [_decode_limited(path, task.positions, options, limit_s) for path in task.paths]


def _decode_limited(
    path: str, positions: tuple[int, int] | None, options: DecodeOptions, limit_s: float
) -> DecodedFile:
    try:
        with _alarm(limit_s):
            return decode_file(path, options) if positions is None else decode_range(path, options, positions)
    except _TooSlowError:
        return _too_slow(path, limit_s)


def _too_slow(path: str, limit_s: float) -> DecodedFile:
    return DecodedFile(path, FileStamp(), reason=f"reading it takes longer than {limit_s:g} s")


class _TooSlowError(BaseException):
    """Not an Exception, so that no reader takes it for damage and goes on."""


@contextlib.contextmanager
def _alarm(limit_s: float) -> Iterator[None]:
    """Raise `_TooSlowError` in what takes too long; nothing where somebody else uses the alarm, or in a thread."""
    if threading.current_thread() is not threading.main_thread() or signal.getitimer(signal.ITIMER_REAL)[0] > 0:
        yield
        return

    def stop(signum: int, frame: FrameType | None) -> None:
        raise _TooSlowError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class _Here(FileDecoder):
    """In this process."""

    def files(self, paths: Sequence[str]) -> Iterator[DecodedFile]:
        for path in paths:
            yield _decode_limited(path, None, self._options, self._limit_s)

    def _ranges(self, path: str, ranges: Sequence[tuple[int, int]]) -> Generator[DecodedFile, None, None]:
        for positions in ranges:
            yield _decode_limited(path, positions, self._options, self._limit_s)


@dataclass(eq=False)
class _Job:
    """A task under way."""

    task: _Task
    future: Any


class _Elsewhere(FileDecoder):
    """Tasks sent away, a few ahead of the one that is waited for."""

    files_per_task = FILES_PER_TASK

    def files(self, paths: Sequence[str]) -> Iterator[DecodedFile]:
        # Few files are dealt out one by one, so that every worker gets some.
        most = min(self.files_per_task, max(1, len(paths) // self._ahead()))
        return self._in_order(_grouped(paths, most))

    def _ranges(self, path: str, ranges: Sequence[tuple[int, int]]) -> Generator[DecodedFile, None, None]:
        return self._in_order(_Task((path,), positions) for positions in ranges)

    def _in_order(self, tasks: Iterator[_Task]) -> Generator[DecodedFile, None, None]:
        waiting: deque[_Job] = deque()
        try:
            while True:
                while len(waiting) < self._ahead() and (task := next(tasks, None)) is not None:
                    waiting.append(self._start(task))
                if not waiting:
                    return
                yield from self._finish(waiting.popleft())
        finally:
            for job in waiting:
                self._drop(job)

    @abstractmethod
    def _ahead(self) -> int:
        """Tasks that may be under way."""

    @abstractmethod
    def _start(self, task: _Task) -> _Job: ...

    @abstractmethod
    def _finish(self, job: _Job) -> list[DecodedFile]: ...

    @abstractmethod
    def _drop(self, job: _Job) -> None: ...


def _grouped(paths: Sequence[str], most: int) -> Iterator[_Task]:
    """Neighbouring files as tasks of at most so many, fewer where they are large."""
    group: list[str] = []
    size = 0
    for path in paths:
        group.append(path)
        with contextlib.suppress(OSError):
            size += os.stat(path).st_size
        if len(group) >= most or size >= BYTES_PER_TASK:
            yield _Task(tuple(group))
            group, size = [], 0
    if group:
        yield _Task(tuple(group))


class _InProcesses(_Elsewhere):
    """In processes of this machine.

    A worker that dies or hangs takes the tasks under way with it: each file of the one that was waited for is tried
    again alone, to find the one that kills, and the other tasks are sent again.
    """

    def __init__(self, options: DecodeOptions, limit_s: float, workers: int) -> None:
        super().__init__(options, limit_s)
        self._workers = workers
        self._pool = _start_pool(workers)
        self._jobs: list[_Job] = []

    def close(self) -> None:
        _stop(self._pool)

    def abandon(self) -> None:
        # A reader that hangs would keep who pressed Ctrl-C waiting.
        _abandon(self._pool)

    def _ahead(self) -> int:
        return AHEAD * self._workers

    def _start(self, task: _Task) -> _Job:
        job = _Job(task, self._submit(self._pool, task))
        self._jobs.append(job)
        return job

    def _drop(self, job: _Job) -> None:
        job.future.cancel()
        self._jobs.remove(job)

    def _finish(self, job: _Job) -> list[DecodedFile]:
        # All tasks before it have ended, so it has run since then at the latest.
        self._jobs.remove(job)
        try:
            results: list[DecodedFile] = job.future.result(self._patience_s(job.task))
            return results
        except (BrokenProcessPool, TimeoutError):
            _abandon(self._pool)
        results = [self._decode_alone(task) for task in job.task.alone()]
        self._pool = _start_pool(self._workers)
        for other in self._jobs:
            other.future = self._submit(self._pool, other.task)
        return results

    def _submit(self, pool: ProcessPoolExecutor, task: _Task) -> Future[list[DecodedFile]]:
        try:
            return pool.submit(_run, task, self._options, self._limit_s)
        except BrokenProcessPool as error:
            broken: Future[list[DecodedFile]] = Future()
            broken.set_exception(error)
            return broken

    def _patience_s(self, task: _Task) -> float:
        return len(task.paths) * self._limit_s + GRACE_S

    def _decode_alone(self, task: _Task) -> DecodedFile:
        (path,) = task.paths
        pool = _start_pool(1)
        try:
            (result,) = self._submit(pool, task).result(self._patience_s(task))
        except BrokenProcessPool:
            logger.warning("%s kills the process that reads it; it is skipped", path)
            _abandon(pool)
            return DecodedFile(path, FileStamp(), reason="damaged: reading it kills the process")
        except TimeoutError:
            logger.warning("%s hangs the process that reads it; it is skipped", path)
            _abandon(pool)
            return _too_slow(path, self._limit_s)
        except BaseException:
            _abandon(pool)
            raise
        _stop(pool)
        return result


def _start_pool(workers: int) -> ProcessPoolExecutor:
    # Not fork: HDF5, GDAL and threads of this process would be copied in whatever state they are.
    context = multiprocessing.get_context("forkserver")
    # Imported once, where the workers are copied from.
    context.set_forkserver_preload(["data_prep.decode", *(f"data_prep.readers.{name}" for name in BUILT_IN)])
    # Ctrl-C is for this process: in the server, while it imports, it would end in a traceback. The tracker first, since
    # its start unblocks signals.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)


def _stop(pool: ProcessPoolExecutor) -> None:
    pool.shutdown(wait=True, cancel_futures=True)


def _abandon(pool: ProcessPoolExecutor) -> None:
    """Leave a broken pool: its processes are ended by hand, because waiting for them can last forever."""
    for process in list((pool._processes or {}).values()):
        process.kill()
    pool.shutdown(wait=False, cancel_futures=True)


def _start_worker() -> None:
    """Leave Ctrl-C to the parent, keep memory for the next file, and keep a damaged one from taking all of it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(OSError, AttributeError, TypeError):
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_THRESHOLD, 32 << 20)
        library.mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_LIMIT_BYTES, hard))


class _OnCluster(_Elsewhere):
    """On the workers of a Dask cluster; one that hangs is restarted, and the cluster sends its other tasks again."""

    # Its scheduler deals out tasks as it sees fit.
    files_per_task = 1

    def __init__(self, options: DecodeOptions, limit_s: float, scheduler: str) -> None:
        super().__init__(options, limit_s)
        try:
            from distributed import Client
            from distributed.scheduler import KilledWorker
        except ImportError as error:
            raise MissingPackageError("distributed", "dask", "--scheduler") from error
        self._killed = KilledWorker
        try:
            self._client = Client(scheduler, timeout="10s", set_as_default=False)
        except (OSError, ValueError, MemoryError) as error:
            raise ConfigError(
                f"no Dask scheduler answers at {scheduler}: {error}",
                "give the address that `dask scheduler` tells, such as tcp://host:8786, or leave --scheduler out",
            ) from error

    def close(self) -> None:
        self._client.close()

    def _ahead(self) -> int:
        return AHEAD * max(1, sum(self._client.nthreads().values()))

    def _start(self, task: _Task) -> _Job:
        return _Job(task, self._client.submit(_run, task, self._options, self._limit_s, pure=False))

    def _drop(self, job: _Job) -> None:
        job.future.cancel()

    def _finish(self, job: _Job) -> list[DecodedFile]:
        (path,) = job.task.paths
        try:
            results: list[DecodedFile] = job.future.result(self._limit_s + GRACE_S)
            return results
        except self._killed:
            return [DecodedFile(path, FileStamp(), reason="damaged: reading it kills the worker")]
        except TimeoutError:
            self._restart_worker_of(job)
            return [_too_slow(path, self._limit_s)]

    def _restart_worker_of(self, job: _Job) -> None:
        running = self._client.processing()
        workers = [worker for worker, keys in running.items() if job.future.key in keys]
        job.future.cancel(force=True)
        try:
            self._client.restart_workers(workers, timeout=60)
        except (TimeoutError, ValueError, KeyError) as error:
            logger.warning("the worker %s hangs and cannot be restarted: %s", ", ".join(workers), error)
