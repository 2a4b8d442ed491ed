"""Chunks out of packs, for a reader that goes through a disk or jumps about in it.

Neighbours on a disk lie shuffled in one or two packs. Who reads a stretch gets the packs
whole, once; who reads here and there gets ranges of them.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice

from sealift.errors import IntegrityError, ObjectMissingError, SealiftError
from sealift.repository.blocks import TreeIds
from sealift.repository.index import Location
from sealift.repository.session import Repository
from sealift.repository.tree import ZERO_ID
from sealift.repository.whole import WholePacks
from sealift.sealing.chunks import ChunkKind, stored_chunk
from sealift.sealing.xaes import Data
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
_AHEAD_SHARE = 8
"""Parts of the next window's packs are read ahead once an eighth of a window was asked for."""
_OPENED_BYTES = MiB
"""Opened at once: what stays in a near cache until it is put where it belongs."""
_GAP_BYTES = 256 * KiB
"""Ranges this close are one request: it costs more to ask twice."""


_ByPack = dict[str, list[tuple[bytes, Location]]]
"""Chunks by the name of the pack that they are in."""


@dataclass
class _Window:
    """A stretch of the disk: where its chunks lie, and how much of each pack it wants.

    ``ahead`` is whether the packs of the next one are read with it.
    """

    places: dict[bytes, Location]
    wanted: dict[str, int]
    asked: int = 0
    ahead: bool = True


@dataclass
class _Target:
    """A buffer that chunks are put into, a few as soon as they are opened.

    Attributes:
        chunk: bytes of each.
        offset: of the buffer on the disk.
        buffer: to fill.
        places: indexes of each chunk id on the disk.
        kept: collects what is put, if anybody wants that.
    """

    chunk: int
    offset: int
    buffer: memoryview
    places: dict[bytes, list[int]] = field(default_factory=dict)
    kept: dict[bytes, bytes] | None = None

    def put(self, one: bytes, data: Data) -> None:
        """Put a chunk wherever it belongs."""
        if self.kept is not None:
            self.kept[one] = bytes(data)
        for index in self.places[one]:
            at = index * self.chunk - self.offset
            if 0 <= at <= len(self.buffer) - self.chunk:
                self.buffer[at : at + self.chunk] = data
            else:
                low, high = max(at, 0), min(at + self.chunk, len(self.buffer))
                self.buffer[low:high] = data[low - at : high - at]

    def put_zeroes(self, indexes: list[int]) -> None:
        """Put zeroes there."""
        for index in indexes:
            at = index * self.chunk - self.offset
            low, high = max(at, 0), min(at + self.chunk, len(self.buffer))
            self.buffer[low:high] = bytes(high - low)


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
        self._last = (chunks - 1) // self._span
        self._lock = threading.Lock()
        self._windows: OrderedDict[int, _Window] = OrderedDict()
        self._packs = WholePacks(repository.store, WHOLE_PACKS)
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
        target = _Target(self._chunk, offset, buffer)
        for index in range(first, after):
            target.places.setdefault(self._ids[index], []).append(index)
        target.put_zeroes(target.places.pop(ZERO_ID, []))
        missing = target.places.keys() - self._put_kept(target)
        if missing:
            target.kept = {} if after - first <= 2 else None
            self._put_stored(first, after, missing, target)
            self._keep(target.kept or {})

    def _put_stored(self, first: int, after: int, missing: set[bytes], target: "_Target") -> None:
        where: dict[bytes, Location] = {}
        whole: set[str] = set()
        for number in range(first // self._span, (after - 1) // self._span + 1):
            window = self._window(number, len(missing))
            where.update((one, window.places[one]) for one in missing & window.places.keys())
            if window.asked >= _STRETCH:
                whole |= self._whole_packs(number, window)
                self._read_ahead(number, window, whole)
        lost = next(iter(missing - where.keys()), None)
        if lost is not None:
            raise IntegrityError(
                f"chunk {lost.hex()} is in no pack of the index",
                next_step="run repository check to see which points need it",
            )
        self._open_all(where, whole, target)

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

    def _whole_packs(self, number: int, window: _Window) -> set[str]:
        """Those that are worth it for this window and the ones beside it.

        A pack does not begin where a window does: what is a tenth here is the rest of what is
        read next, or of what is in memory already.
        """
        near = [self._window(n, 0) for n in (number - 1, number + 1) if 0 <= n <= self._last]
        size, found = self._repository.index.pack_size, set()
        for pack, wanted in window.wanted.items():
            wanted += sum(beside.wanted.get(pack, 0) for beside in near)
            if 0 < size(pack) <= wanted * _WHOLE_SHARE:
                found.add(pack)
        return found

    def _read_ahead(self, number: int, window: _Window, there: set[str]) -> None:
        """Read a part of what the window behind this one wants, while others open what they have.

        Without it all who read come to the end of their packs at once, and wait for the next
        ones with nothing to open. What cannot be read is told to whoever needs it, and not
        tried again from here: a store that does not answer would be waited for at every call.
        """
        soon = window.asked * _AHEAD_SHARE >= len(window.places)
        if not (soon and window.ahead and number < self._last):
            return
        size = self._repository.index.pack_size
        ahead = self._whole_packs(number + 1, self._window(number + 1, 0)) - there
        if len(ahead) + len(there) > WHOLE_PACKS:  # they would push each other out
            return
        try:
            for pack in sorted(ahead):
                if self._packs.read_ahead(pack, size(pack)):
                    return
        except SealiftError:
            window.ahead = False

    def _open_all(self, where: dict[bytes, Location], whole: set[str], target: "_Target") -> None:
        by_pack: _ByPack = {}
        for one, place in where.items():
            by_pack.setdefault(place.pack, []).append((one, place))
        at_once = {pack: by_pack[pack] for pack in by_pack.keys() & whole}
        if not at_once or not self._from_several(at_once, target):
            at_once = {}
        for pack in by_pack.keys() - at_once.keys():
            self._from_pack(pack, by_pack[pack], pack in whole, target)

    def _from_several(self, by_pack: "_ByPack", target: "_Target") -> bool:
        """Out of whole packs; False when something is wrong, and nobody knows where."""
        size = self._repository.index.pack_size
        sealed: list[tuple[bytes, Location, memoryview]] = []
        try:
            with ExitStack() as stack:
                for pack, chunks in by_pack.items():
                    data = stack.enter_context(self._packs.held(pack, size(pack)))
                    sealed += _cut(chunks, 0, data)
                self._open(sealed, target)
        except (IntegrityError, ObjectMissingError):
            return False
        return True

    def _from_pack(
        self, pack: str, chunks: list[tuple[bytes, Location]], whole: bool, target: "_Target"
    ) -> None:
        try:
            if not whole or not self._from_several({pack: chunks}, target):
                self._from_ranges(pack, chunks, target)
        except ObjectMissingError as error:
            raise IntegrityError(
                f"{pack} is missing, and with it chunk {chunks[0][0].hex()}",
                next_step="run repository check to see which points need it",
            ) from error

    def _from_ranges(
        self, pack: str, chunks: list[tuple[bytes, Location]], target: "_Target"
    ) -> None:
        for start, end, part in _joined(chunks):
            data = self._repository.store.get(pack, start, end - start)
            self._open(_cut(part, start, memoryview(data)), target)

    def _open(
        self, sealed: Iterable[tuple[bytes, Location, memoryview]], target: "_Target"
    ) -> None:
        left, at_once = iter(sealed), max(1, _OPENED_BYTES // self._chunk)
        while part := list(islice(left, at_once)):
            stored = []
            for one, where, data in part:
                if where.plain != self._chunk:
                    raise IntegrityError(f"chunk {one.hex()} of {where.plain} bytes")
                told = (ChunkKind.DATA, one, where.codec, where.plain, where.epoch)
                stored.append(stored_chunk(*told, data))
            for chunk, plain in zip(stored, self._repository.sealer.open_all(stored), strict=True):
                target.put(chunk.id, plain)

    def _put_kept(self, target: "_Target") -> set[bytes]:
        with self._lock:
            found = {one: self._opened[one] for one in target.places if one in self._opened}
            for one in found:
                self._opened.move_to_end(one)
        for one, data in found.items():
            target.put(one, data)
        return set(found)

    def _keep(self, opened: dict[bytes, bytes]) -> None:
        with self._lock:
            self._opened.update(opened)
            while len(self._opened) > CHUNKS_KEPT:
                self._opened.popitem(last=False)

    def drop(self) -> None:
        """Forget what is kept."""
        with self._lock:
            self._windows.clear()
            self._opened.clear()
        self._packs.drop()


def _cut(
    chunks: Iterable[tuple[bytes, Location]], start: int, data: memoryview
) -> list[tuple[bytes, Location, memoryview]]:
    """Sealed chunks out of the bytes of a pack from ``start`` on."""
    return [
        (one, where, data[where.offset - start : where.offset - start + where.length])
        for one, where in chunks
    ]


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
