"""From block status replies to one extent stream, in bounded and advancing steps.

A reply may describe less than asked, and its last extent may reach past what was asked
for. Two contexts of one reply may end in different places. So each step uses what both
contexts cover, cut to the request, and the next step asks from there.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from connectors.nbd import protocol
from connectors.nbd.protocol import Status
from sealift.errors import ProtocolError, SourceReadError
from sealift.extents import Extent, Flagged, Kind, merge
from sealift.units import GiB, round_down, round_up

_log = logging.getLogger(__name__)

STEP_BYTES = GiB
"""Longest request; far below 2^32 - 1, and 16,384 descriptors at QEMU's 64 KiB granularity."""
_REQUEST_COST = 128
_FREE_COST = 1 << 20
_COST_GRAIN_BYTES = 512

StatusRequest = Callable[[int, int], dict[str, Status]]


@dataclass(frozen=True, slots=True)
class StatusSource:
    """Where block status comes from.

    Attributes:
        ask: one request: (offset, length) to status by context name.
        size: bytes of the disk.
        minimum: alignment of requests in bytes.
        dirty: name of the change-tracking context, None for a full stream.
        allocation: whether ``base:allocation`` is there; without it nothing is ZERO.
    """

    ask: StatusRequest
    size: int
    minimum: int
    dirty: str | None
    allocation: bool


def walk(source: StatusSource, start: int, length: int) -> Iterator[Extent]:
    """Extents of ``[start, start + length)``, not coalesced.

    Memory: one reply, 8 MiB at most. Time: a server that answers in crumbs (on average
    below 512 bytes an extent or 64 KiB a request, after a generous start) is no longer
    asked and the rest is DATA, which is never wrong.

    Raises:
        ProtocolError: a reply that makes no progress.
        SourceReadError: change tracking cannot be read; without it, what cannot be told
            is DATA.
    """
    end = start + length
    if not source.allocation and source.dirty is None:
        yield from _data(start, end)
        return
    position = start
    budget = _FREE_COST + length // _COST_GRAIN_BYTES
    while position < end:
        if budget <= 0:
            _log.warning("block status comes in crumbs; the rest from %d on is data", position)
            yield from _data(position, end)
            return
        piece = _step(source, position, end)
        yield from piece.extents(source)
        budget -= piece.cost
        position = piece.end


@dataclass(frozen=True, slots=True)
class _Piece:
    """What one reply tells: ``[start, end)`` is covered by every context."""

    asked: int
    start: int
    end: int
    statuses: dict[str, Status]

    @property
    def cost(self) -> int:
        """Price of the reply in descriptors."""
        return _REQUEST_COST + sum(len(s.descriptors) // 8 for s in self.statuses.values())

    def extents(self, source: StatusSource) -> Iterator[Extent]:
        """The reply's extents."""
        dirty = None if source.dirty is None else self._flags(source.dirty, protocol.STATE_DIRTY)
        return merge(self._flags(protocol.BASE_ALLOCATION, protocol.STATE_ZERO), dirty)

    def _flags(self, name: str, bit: int) -> Iterator[Flagged]:
        status = self.statuses.get(name)
        if status is None:
            yield Flagged(self.start, self.end - self.start, flag=False)
            return
        position = self.asked
        for length, flags in status.runs():
            first, last = max(position, self.start), min(position + length, self.end)
            if last > first:
                yield Flagged(first, last - first, flag=bool(flags & bit))
            position += length
            if position >= self.end:
                return


def _step(source: StatusSource, position: int, end: int) -> _Piece:
    asked = round_down(position, source.minimum)
    until = min(round_up(end, source.minimum), source.size, asked + STEP_BYTES)
    try:
        statuses = source.ask(asked, until - asked)
    except SourceReadError:
        if source.dirty is not None:
            raise
        _log.warning("block status at %d refused; taken for data", asked)
        return _Piece(asked, position, min(until, end), {})
    covered = min([until, *(asked + status.covered for status in statuses.values())])
    if covered < until:
        covered = round_down(covered, source.minimum)
    if covered <= position:
        raise ProtocolError("block status that makes no progress", offset=position)
    return _Piece(asked, position, min(covered, end), statuses)


def _data(start: int, end: int) -> Iterator[Extent]:
    if end > start:
        yield Extent(start, end - start, Kind.DATA)
