"""Packs in memory, each read in parts by all who wait for it."""

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from sealift.objects import ObjectStore
from sealift.repository.buffers import PageBuffers
from sealift.units import MiB

PART_BYTES = 8 * MiB
"""Of one request: four of them are a pack, so that as many readers wait a quarter of the time."""


@dataclass
class _Whole:
    """A pack; its buffer is given back when it is not kept any more and nobody looks at it."""

    data: memoryview
    left: list[int] = field(default_factory=list)
    under_way: int = 0
    readers: int = 0
    kept: bool = True


class WholePacks:
    """The packs that were read last. Thread-safe.

    Memory: ``limit`` packs, and those that threads look at meanwhile; their buffers are used
    again, since new memory costs more processor time than what is read into it.

    Args:
        store: where they are.
        limit: how many are kept.
    """

    def __init__(self, store: ObjectStore, limit: int) -> None:
        self._store, self._limit = store, limit
        self._buffers = PageBuffers(limit)
        self._changed = threading.Condition()
        self._packs: OrderedDict[str, _Whole] = OrderedDict()

    @contextmanager
    def held(self, pack: str, size: int) -> Iterator[memoryview]:
        """The first ``size`` bytes of a pack, for as long as the block runs.

        Raises:
            ObjectMissingError: it is gone.
            IntegrityError: it is shorter.
        """
        whole = self._entered(pack, size)
        try:
            while (start := self._next(whole)) is not None:
                self._read(pack, whole, start)
            yield whole.data
        finally:
            self._leave(whole)

    def read_ahead(self, pack: str, size: int) -> bool:
        """Read a part of a pack that is wanted soon; False if there is none that nobody reads.

        Raises:
            SealiftError: it cannot be read, and is left to whoever wants the pack.
        """
        whole = self._entered(pack, size)
        try:
            start = self._taken(whole)
            if start is not None:
                self._read(pack, whole, start)
            return start is not None
        finally:
            self._leave(whole)

    def drop(self) -> None:
        """Keep none."""
        with self._changed:
            while self._packs:
                self._let_go()
        self._buffers.clear()

    def _entered(self, pack: str, size: int) -> _Whole:
        with self._changed:
            whole = self._packs.get(pack)
            if whole is None:
                parts = list(range(0, size, PART_BYTES))
                whole = self._packs[pack] = _Whole(self._buffers.taken(size), parts[::-1])
            self._packs.move_to_end(pack)
            whole.readers += 1
            while len(self._packs) > self._limit:
                self._let_go()
            return whole

    def _let_go(self) -> None:
        _, whole = self._packs.popitem(last=False)
        whole.kept = False
        self._free(whole)

    def _free(self, whole: _Whole) -> None:
        if not whole.kept and not whole.readers:
            self._buffers.give(whole.data)

    def _leave(self, whole: _Whole) -> None:
        with self._changed:
            whole.readers -= 1
            self._free(whole)

    def _next(self, whole: _Whole) -> int | None:
        """A part that nobody reads yet; None once all are there."""
        with self._changed:
            while not whole.left and whole.under_way:
                self._changed.wait()
            return self._taken(whole)

    def _taken(self, whole: _Whole) -> int | None:
        """A part that nobody reads yet; None if there is none now."""
        with self._changed:
            if not whole.left:
                return None
            whole.under_way += 1
            return whole.left.pop()

    def _read(self, pack: str, whole: _Whole, start: int) -> None:
        done = False
        try:
            self._store.get_into(pack, start, whole.data[start : start + PART_BYTES])
            done = True
        finally:
            with self._changed:
                whole.under_way -= 1
                if not done:  # whoever waits tries it himself
                    whole.left.append(start)
                self._changed.notify_all()
