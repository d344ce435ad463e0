"""What a new archive will be like, told from its first frames: grid, kind, start and step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from data_prep.cadence import infer_step
from data_prep.decode import DecodedFrame
from data_prep.fit import fits

# Frames that are read before the archive is made: its grid and step are those of most of them.
FRAMES_TO_PLAN = 24
# Groups of neighbouring files spread over the rest, read for their times alone: the step may change later on.
GROUPS_TO_PLAN, GROUP_SIZE, FILES_PER_GROUP = 6, 3, 60


@dataclass(frozen=True)
class Plan:
    """What a new archive will be like."""

    file: str
    model: DecodedFrame
    first_time: np.datetime64
    step: np.timedelta64


def spread_groups(paths: Sequence[str]) -> Iterator[Sequence[str]]:
    """Groups of neighbouring files spread over many; none where they are few."""
    groups = min(GROUPS_TO_PLAN, len(paths) // FILES_PER_GROUP)
    for start in np.linspace(0, len(paths), groups, endpoint=False, dtype=int):
        yield paths[start : start + GROUP_SIZE]


def most_common(frames: Sequence[tuple[str, DecodedFrame]]) -> tuple[str, DecodedFrame]:
    """The first frame of the largest group of frames that fit together."""
    groups: list[list[tuple[str, DecodedFrame]]] = []
    for item in frames:
        group = next((group for group in groups if fits(group[0][1], item[1])), None)
        if group is None:
            groups.append([item])
        else:
            group.append(item)
    return max(groups, key=len)[0]


def together(times: Sequence[np.datetime64], longest_gap: np.timedelta64) -> list[np.datetime64]:
    """The times of the largest group without a gap that is too long: one wrong date must not set the axis."""
    ordered = np.sort(np.array(times, dtype="datetime64[s]"))
    groups = np.split(ordered, np.flatnonzero(np.diff(ordered) > longest_gap) + 1)
    return list(groups[int(np.argmax([group.size for group in groups]))])


def step_of(model: DecodedFrame, blocks: Sequence[np.ndarray]) -> np.timedelta64:
    """The step of the frames; where there is one time alone, the interval that its rate is the mean of."""
    if np.unique(np.concatenate(blocks)).size == 1 and model.interval_minutes is not None:
        return np.timedelta64(round(model.interval_minutes * 60), "s")
    return infer_step(blocks)
