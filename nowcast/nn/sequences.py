"""The forms in which a sequence may come, and the one form in which the layers see it.

Time-major or batch-first, batched or not, packed or not: inside, a sequence is its frames one after the other,
(N, C, *S): all frames of step 0, then all of step 1, and so on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from nowcast.nn.checks import State


@dataclass(frozen=True)
class Layout:
    """How a sequence came, so that what is returned can take the same form.

    Attributes:
        num_steps: T.
        batch: Sequences.
        counts: Sequences still running at each step, of a packed sequence; None where all are of one length.
        packed: The packed sequence, for its order.
        batch_first: Whether the batch axis stands before the time axis.
        unbatched: Whether there is no batch axis.
    """

    num_steps: int
    batch: int
    counts: tuple[int, ...] | None = None
    packed: PackedSequence | None = None
    batch_first: bool = False
    unbatched: bool = False

    def frames(self, input: Any) -> Tensor:
        """(N, C, *S) of an input in this layout."""
        if self.packed is not None:
            return self.packed.data
        if self.unbatched:
            return input
        return (input.transpose(0, 1) if self.batch_first else input).flatten(0, 1)

    def steps(self, frames: Tensor) -> Sequence[Tensor]:
        """The frames of each step."""
        if self.counts is not None:
            return frames.split(list(self.counts))
        return frames.unflatten(0, (self.num_steps, -1)).unbind(0)

    def restore(self, frames: Tensor) -> Any:
        """`frames` in the form in which the input came."""
        if self.packed is not None:
            _, batch_sizes, sorted_indices, unsorted_indices = self.packed
            return PackedSequence(frames, batch_sizes, sorted_indices, unsorted_indices)
        if self.unbatched:
            return frames
        sequence = frames.unflatten(0, (self.num_steps, -1))
        return sequence.transpose(0, 1) if self.batch_first else sequence

    def state_in(self, state: State) -> State:
        """A user's state, batched and in the order of the frames."""
        if self.unbatched:
            return tuple(tensor.unsqueeze(0) for tensor in state)
        if self.packed is not None and self.packed.sorted_indices is not None:
            order = self.packed.sorted_indices
            return tuple(tensor.index_select(0, order) for tensor in state)
        return state

    def state_out(self, state: State) -> State:
        """The reverse of `state_in`."""
        if self.unbatched:
            return tuple(tensor.squeeze(0) for tensor in state)
        if self.packed is not None and self.packed.unsorted_indices is not None:
            order = self.packed.unsorted_indices
            return tuple(tensor.index_select(0, order) for tensor in state)
        return state
