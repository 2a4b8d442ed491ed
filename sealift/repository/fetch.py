"""Chunks out of packs, for a reader that goes through a disk or jumps about in it.

Neighbours on a disk lie shuffled in one or two packs. Who reads a stretch gets the packs
whole, once; who reads here and there gets ranges of them.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

from sealift.errors import IntegrityError, ObjectMissingError
from sealift.repository.blocks import TreeIds
from sealift.repository.index import Location
from sealift.repository.session import Repository
from sealift.repository.tree import ZERO_ID
from sealift.sealing.chunks import ChunkKind
from sealift.units import KiB, MiB

WINDOW_BYTES = 64 * MiB
"""What is planned at once: as much as fills one or two packs."""
WHOLE_PACKS = 6
"""Packs in memory, 192 MiB: two windows of two packs each, and what deduplication adds."""
CHUNKS_KEPT = 256
"""Opened chunks in memory, 16 MiB at 64 KiB: for reads that are smaller than a chunk."""
_WINDOWS_KEPT = 8
_STRETCH = 8
"""Chunks asked for in a window before it counts as read in a stretch: half a megabyte."""
_WHOLE_SHARE = 4
"""A pack is read whole when a quarter of it is wanted in a window."""
_GAP_BYTES = 256 * KiB
"""Ranges this close are one request: it costs more to ask twice."""


@dataclass
class _Window:
    """A stretch of the disk: where its chunks lie, and how much of each pack it wants."""

    places: dict[bytes, Location]
    wanted: dict[str, int]
    asked: int = 0


@dataclass
class _Whole:
    """A pack in memory; the lock is held by the one who reads it."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    data: bytes | None = None


class ChunkFetcher:
    """Reads the chunks of one disk. Thread-safe.

    Memory: ``WHOLE_PACKS`` packs, ``CHUNKS_KEPT`` chunks, and the places of 8 windows of
    1,024 chunks each.

    Args:
        repository: opened.
        ids: of the disk's chunks.
        chunks: how many it has.
        chunk_size: bytes of each.
    """

    def __init__(self, repository: Repository, ids: TreeIds, chunks: int, chunk_size: int) -> None:
        self._repository, self._ids = repository, ids
        self._chunks, self._chunk = chunks, chunk_size
        self._span = max(1, WINDOW_BYTES // chunk_size)
        self._lock = threading.Lock()
        self._windows: OrderedDict[int, _Window] = OrderedDict()
        self._packs: OrderedDict[str, _Whole] = OrderedDict()
        self._opened: OrderedDict[bytes, bytes] = OrderedDict()

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill the buffer; the range lies within the disk."""
        if not len(buffer):
            return
        chunk, end = self._chunk, offset + len(buffer)
        first, after = offset // chunk, -(-end // chunk)
        for start in range(first, after, self._span):
            self._read_run(start, min(start + self._span, after), offset, buffer)

    def _read_run(self, first: int, after: int, offset: int, buffer: memoryview) -> None:
        ids = [self._ids[index] for index in range(first, after)]
        wanted = {one for one in ids if one != ZERO_ID}
        opened = self._chunks_of(first, after, wanted)
        chunk, end = self._chunk, offset + len(buffer)
        for index, one in enumerate(ids, first):
            low, high = max(offset, index * chunk), min(end, (index + 1) * chunk)
            part = buffer[low - offset : high - offset]
            if one == ZERO_ID:
                part[:] = bytes(high - low)
            elif high - low == chunk:
                part[:] = opened[one]
            else:
                part[:] = opened[one][low - index * chunk : high - index * chunk]

    def _chunks_of(self, first: int, after: int, wanted: set[bytes]) -> dict[bytes, bytes]:
        found = self._kept(wanted)
        missing = wanted - found.keys()
        if missing:
            where: dict[bytes, Location] = {}
            whole: set[str] = set()
            for number in range(first // self._span, (after - 1) // self._span + 1):
                window = self._window(number, len(missing))
                where.update((one, window.places[one]) for one in missing & window.places.keys())
                whole |= self._whole_packs(window)
            lost = next(iter(missing - where.keys()), None)
            if lost is not None:
                raise IntegrityError(
                    f"chunk {lost.hex()} is in no pack of the index",
                    next_step="run repository check to see which points need it",
                )
            fresh = self._open_all(where, whole)
            if after - first <= 2:
                self._keep(fresh)
            found.update(fresh)
        return found

    def _window(self, number: int, asked: int) -> _Window:
        with self._lock:
            found = self._windows.get(number)
        if found is None:
            found = self._planned(number)
        with self._lock:
            self._windows[number] = found
            self._windows.move_to_end(number)
            found.asked += asked
            if len(self._windows) > _WINDOWS_KEPT:
                self._windows.popitem(last=False)
        return found

    def _planned(self, number: int) -> _Window:
        first = number * self._span
        indexes = range(first, min(first + self._span, self._chunks))
        ids = {self._ids[index] for index in indexes}
        ids.discard(ZERO_ID)
        places = self._repository.index.find(ChunkKind.DATA, ids)
        wanted: dict[str, int] = {}
        for where in places.values():
            wanted[where.pack] = wanted.get(where.pack, 0) + where.length
        return _Window(places, wanted)

    def _whole_packs(self, window: _Window) -> set[str]:
        if window.asked < _STRETCH:
            return set()
        size = self._repository.index.pack_size
        return {p for p, wanted in window.wanted.items() if wanted * _WHOLE_SHARE >= size(p)}

    def _open_all(self, where: dict[bytes, Location], whole: set[str]) -> dict[bytes, bytes]:
        by_pack: dict[str, list[tuple[bytes, Location]]] = {}
        for one, place in where.items():
            by_pack.setdefault(place.pack, []).append((one, place))
        opened: dict[bytes, bytes] = {}
        for pack, chunks in by_pack.items():
            try:
                if pack in whole:
                    self._from_bytes(chunks, 0, memoryview(self._whole(pack)), opened)
                else:
                    self._from_ranges(pack, chunks, opened)
            except ObjectMissingError as error:
                raise IntegrityError(
                    f"{pack} is missing, and with it chunk {chunks[0][0].hex()}",
                    next_step="run repository check to see which points need it",
                ) from error
        return opened

    def _from_ranges(
        self, pack: str, chunks: list[tuple[bytes, Location]], opened: dict[bytes, bytes]
    ) -> None:
        for start, end, part in _joined(chunks):
            data = self._repository.store.get(pack, start, end - start)
            self._from_bytes(part, start, memoryview(data), opened)

    def _from_bytes(
        self,
        chunks: Iterable[tuple[bytes, Location]],
        start: int,
        data: memoryview,
        opened: dict[bytes, bytes],
    ) -> None:
        for one, where in chunks:
            at = where.offset - start
            sealed = data[at : at + where.length]
            if where.plain != self._chunk:
                raise IntegrityError(f"chunk {one.hex()} of {where.plain} bytes")
            opened[one] = self._repository.opened(ChunkKind.DATA, one, where, sealed)

    def _whole(self, pack: str) -> bytes:
        with self._lock:
            held = self._packs.get(pack)
            if held is None:
                held = self._packs[pack] = _Whole()
                if len(self._packs) > WHOLE_PACKS:
                    self._packs.popitem(last=False)
            self._packs.move_to_end(pack)
        with held.lock:
            if held.data is None:
                held.data = self._repository.store.get(pack)
            return held.data

    def _kept(self, wanted: set[bytes]) -> dict[bytes, bytes]:
        with self._lock:
            found = {one: self._opened[one] for one in wanted if one in self._opened}
            for one in found:
                self._opened.move_to_end(one)
        return found

    def _keep(self, opened: dict[bytes, bytes]) -> None:
        with self._lock:
            self._opened.update(opened)
            while len(self._opened) > CHUNKS_KEPT:
                self._opened.popitem(last=False)

    def drop(self) -> None:
        """Forget what is kept."""
        with self._lock:
            self._windows.clear()
            self._packs.clear()
            self._opened.clear()


def _joined(
    chunks: list[tuple[bytes, Location]],
) -> list[tuple[int, int, list[tuple[bytes, Location]]]]:
    """(start, end, chunks in it) of ranges that are worth a request each."""
    ranges: list[tuple[int, int, list[tuple[bytes, Location]]]] = []
    for one, where in sorted(chunks, key=lambda chunk: chunk[1].offset):
        end = where.offset + where.length
        if ranges and where.offset - ranges[-1][1] <= _GAP_BYTES:
            start, _, part = ranges.pop()
            ranges.append((start, end, [*part, (one, where)]))
        else:
            ranges.append((where.offset, end, [(one, where)]))
    return ranges
