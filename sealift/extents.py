"""Extents: byte ranges of a disk in one state, and how they are merged.

An extent stream partitions its range (I2): ordered, no gap, no overlap, never an
empty extent.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

from sealift.errors import ProtocolError


class Kind(Enum):
    """What a range holds, relative to the base of the stream."""

    DATA = "data"
    """Must be read: may differ from the base, may be anything."""
    ZERO = "zero"
    """Reads as zeroes, and may differ from the base."""
    CLEAN = "clean"
    """Unchanged since the base; only a stream that has a base contains it."""


@dataclass(frozen=True, slots=True)
class Extent:
    """A half-open byte range ``[start, start + length)`` of one kind; ``length`` > 0."""

    start: int
    length: int
    kind: Kind

    @property
    def end(self) -> int:
        """First byte after the extent."""
        return self.start + self.length


@dataclass(frozen=True, slots=True)
class Flagged:
    """A byte range with one yes-or-no property, as one NBD meta context tells it."""

    start: int
    length: int
    flag: bool

    @property
    def end(self) -> int:
        """First byte after the range."""
        return self.start + self.length


def coalesce(extents: Iterable[Extent]) -> Iterator[Extent]:
    """Join neighbours of one kind; the input must be a partition."""
    held: Extent | None = None
    for extent in extents:
        if held is not None and held.kind is extent.kind and held.end == extent.start:
            held = Extent(held.start, held.length + extent.length, held.kind)
            continue
        if held is not None:
            yield held
        held = extent
    if held is not None:
        yield held


def checked_partition(extents: Iterable[Extent], start: int, length: int) -> Iterator[Extent]:
    """Pass a stream through while proving that it partitions ``[start, start + length)`` (I2).

    Raises:
        ProtocolError: a gap, an overlap, an empty extent, or an end in the wrong place.
    """
    position = start
    for extent in extents:
        if extent.start != position or extent.length <= 0:
            raise ProtocolError(
                f"extents are not a partition: expected one at {position}, got {extent}",
                offset=position,
            )
        position = extent.end
        yield extent
    if position != start + length:
        raise ProtocolError(f"extents end at {position}, not at {start + length}", offset=position)


def merge(zeroes: Iterable[Flagged], dirty: Iterable[Flagged] | None) -> Iterator[Extent]:
    """Merge allocation with change tracking into one extent stream.

    Both inputs partition the same range. Without change tracking nothing is CLEAN.
    A range that is dirty *and* reads as zeroes is ZERO, never CLEAN: QEMU reports a
    guest's zero-write with unmap exactly so, and dropping it would bring old data back.
    """
    if dirty is None:
        for part in zeroes:
            yield Extent(part.start, part.length, Kind.ZERO if part.flag else Kind.DATA)
        return
    zero_stream, dirty_stream = iter(zeroes), iter(dirty)
    z: Flagged | None = next(zero_stream, None)
    d: Flagged | None = next(dirty_stream, None)
    while z and d:
        start, end = max(z.start, d.start), min(z.end, d.end)
        if end <= start:
            raise ProtocolError(f"allocation {z} and change tracking {d} do not meet", offset=start)
        yield Extent(start, end - start, _merged_kind(zero=z.flag, dirty=d.flag))
        z, d = _after(z, end, zero_stream), _after(d, end, dirty_stream)
    if z or d:
        raise ProtocolError("allocation and change tracking differ in length")


def _after(part: Flagged, end: int, stream: Iterator[Flagged]) -> Flagged | None:
    return next(stream, None) if part.end == end else part


def _merged_kind(*, zero: bool, dirty: bool) -> Kind:
    if not dirty:
        return Kind.CLEAN
    return Kind.ZERO if zero else Kind.DATA
