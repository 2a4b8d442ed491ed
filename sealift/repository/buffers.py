"""Memory that packs are put together in, used again.

A new buffer costs a page fault for each of its pages, which for a pack of 32 MiB takes longer than
copying the chunks into it; and a store may hand memory that begins at a page to the disk as it is.
"""

import mmap
import threading
from collections.abc import Sequence
from contextlib import suppress

from sealift.memory import Pages
from sealift.objects import Bytes
from sealift.units import MiB

LARGE_BYTES = MiB
"""From here on a buffer of its own pays off."""
_KEPT = 2


class PageBuffers:
    """Buffers that begin at a page. Thread-safe.

    Memory: what is taken, and ``kept`` buffers of the largest sizes that were given back.

    Args:
        kept: see above.
    """

    def __init__(self, kept: int = _KEPT) -> None:
        self._lock = threading.Lock()
        self._kept = kept
        self._free: list[mmap.mmap] = []

    def joined(self, parts: Sequence[Bytes]) -> memoryview:
        """The parts, one behind the other; give it back when it is not needed any more."""
        view = self.taken(sum(map(len, parts)))
        at = 0
        for part in parts:
            view[at : at + len(part)] = part
            at += len(part)
        return view

    def give(self, data: Bytes) -> None:
        """Use the memory of what was ``taken`` or ``joined`` again; anything else is left alone.

        Nobody may look at it from now on: what is left of it is released.
        """
        if not isinstance(data, memoryview) or not isinstance(data.obj, mmap.mmap):
            return
        buffer = data.obj
        data.release()
        with self._lock:
            self._free.append(buffer)
            self._free.sort(key=len, reverse=True)
            del self._free[self._kept :]

    def clear(self) -> None:
        """Free what is not taken."""
        with self._lock:
            self._free.clear()

    def taken(self, size: int) -> memoryview:
        """Memory with undefined content; give it back when it is not needed any more."""
        with self._lock:
            fitting = [buffer for buffer in self._free if len(buffer) >= size]
            if fitting:
                self._free.remove(fitting[-1])
                return memoryview(fitting[-1])[:size]
        length = -(-size // LARGE_BYTES) * LARGE_BYTES
        buffer = Pages(length)
        with suppress(OSError):  # a kernel without huge pages
            buffer.madvise(mmap.MADV_HUGEPAGE)
        return memoryview(buffer)[:size]
