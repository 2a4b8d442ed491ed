"""From extents to operations: what to copy, what to zero, what to skip. Pure.

=================  ====================  ===================  =======================
extent / unwritten UNDEFINED             ZERO                 BASE
=================  ====================  ===================  =======================
DATA               copy                  copy                 copy
ZERO               zero                  skip                 **zero, never skip**
CLEAN              refuse                refuse               skip
=================  ====================  ===================  =======================

The table is asked per block of the writer's grid. A block that mixes kinds is copied
whole from the reader, which is a point in time (I1).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from itertools import chain

from sealift.disk import DiskReader, Unwritten, WriterCaps
from sealift.errors import TrackingLostError
from sealift.extents import Extent, Kind, checked_partition, coalesce
from sealift.units import MiB, round_down, round_up

MAX_NATIVE_ZERO_BYTES = 128 * MiB
"""Longest native zero request: longer ones time out on SCSI targets (ovirt-imageio, ops.py)."""


class Action(Enum):
    """What to do with a block."""

    COPY = "copy"
    ZERO = "zero"
    SKIP = "skip"


@dataclass(frozen=True, slots=True)
class Op:
    """One operation on the writer's grid; ``start`` is aligned, ``length`` may end at its size."""

    action: Action
    start: int
    length: int

    @property
    def end(self) -> int:
        """First byte after the operation."""
        return self.start + self.length


_TABLE = {
    (Kind.DATA, Unwritten.UNDEFINED): Action.COPY,
    (Kind.DATA, Unwritten.ZERO): Action.COPY,
    (Kind.DATA, Unwritten.BASE): Action.COPY,
    (Kind.ZERO, Unwritten.UNDEFINED): Action.ZERO,
    (Kind.ZERO, Unwritten.ZERO): Action.SKIP,
    (Kind.ZERO, Unwritten.BASE): Action.ZERO,
    (Kind.CLEAN, Unwritten.BASE): Action.SKIP,
}


def plan(reader: DiskReader, caps: WriterCaps) -> Iterator[Op]:
    """COPY and ZERO operations that make the writer equal to the reader, ascending.

    Lazy: memory does not grow with the disk. What lies between the reader's size and
    ``caps.size`` ends as zeroes.

    Raises:
        TrackingLostError: the reader leaves ranges out as unchanged and the writer has no base.
        ValueError: the writer is smaller than the reader.
    """
    if caps.size < reader.size:
        raise ValueError(f"target of {caps.size} bytes is smaller than source of {reader.size}")
    extents = chain(reader.extents(0, reader.size), _tail(reader, caps))
    whole = checked_partition(coalesce(extents), 0, caps.size)
    for op in _joined(_blocks(whole, caps), caps):
        if op.action is not Action.SKIP:
            yield from _cut(op, caps)


def _tail(reader: DiskReader, caps: WriterCaps) -> Iterator[Extent]:
    """What lies beyond the reader: zeroes, and already so when the base was made by us."""
    if caps.size > reader.size:
        kind = Kind.CLEAN if reader.incremental else Kind.ZERO
        yield Extent(reader.size, caps.size - reader.size, kind)


def _blocks(extents: Iterable[Extent], caps: WriterCaps) -> Iterator[Op]:
    """Runs of whole blocks with their action; the last may be cut by the disk's end."""
    block = caps.block_size
    mixed: set[Kind] = set()
    mixed_start = 0
    for extent in extents:
        start = extent.start
        if mixed:
            boundary = min(mixed_start + block, caps.size)
            mixed.add(extent.kind)
            start = min(extent.end, boundary)
            if start == boundary:
                yield Op(_action(mixed, caps), mixed_start, boundary - mixed_start)
                mixed = set()
        full_end = round_down(extent.end, block)
        if full_end > start:
            yield Op(_action({extent.kind}, caps), start, full_end - start)
            start = full_end
        if extent.end > start and not mixed:
            mixed, mixed_start = {extent.kind}, start
    if mixed:
        yield Op(_action(mixed, caps), mixed_start, caps.size - mixed_start)


def _action(kinds: set[Kind], caps: WriterCaps) -> Action:
    if Kind.CLEAN in kinds and caps.unwritten is not Unwritten.BASE:
        raise TrackingLostError(
            f"unchanged ranges cannot be left out: unwritten ranges of the target are "
            f"{caps.unwritten.value}",
            next_step="copy in full",
        )
    if len(kinds) > 1:
        return Action.COPY
    (kind,) = kinds
    return _TABLE[kind, caps.unwritten]


def _joined(ops: Iterable[Op], caps: WriterCaps) -> Iterator[Op]:
    held: Op | None = None
    for op in ops:
        if held is not None and held.action is op.action:
            held = Op(held.action, held.start, held.length + op.length)
            continue
        if held is not None:
            yield held
        held = op
    if held is not None:
        yield held


def _cut(op: Op, caps: WriterCaps) -> Iterator[Op]:
    longest = caps.max_op_bytes
    if op.action is Action.ZERO and caps.native_zero:
        longest = max(longest, round_up(MAX_NATIVE_ZERO_BYTES, caps.block_size))
    for start in range(op.start, op.end, longest):
        yield Op(op.action, start, min(longest, op.end - start))
