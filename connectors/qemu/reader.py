"""One disk of an open point: bytes and extents that hold only as long as the instant does.

Two things that QEMU's export does not promise are added here.

The instant may break (scratch space full, a copy too slow): from then on the export
silently shows the live disk. So after every answer the probe export is asked, which fails
for ever once that has happened, and which QEMU marks before it lets the guest write. An
answer followed by a healthy probe is from the instant (I1).

A block status is not atomic: between "not copied, look below" and the look, the guest may
zero the range. Then the copy has been made, so a second question is answered from the
copy. So a range is ZERO only when two questions in a row say so.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from sealift.disk import DiskReader
from sealift.errors import (
    ConnectionLostError,
    PointLostError,
    ProtocolError,
    SourceError,
    SourceReadError,
)
from sealift.extents import Extent, Kind, checked_partition, coalesce
from sealift.units import MiB

STEP_BYTES = 256 * MiB
"""Asked at once; at most 4,096 granules of 64 KiB, and a bounded delay before the first."""
_PROBE_BYTES = 512


class PointReader:
    """See ``DiskReader``. Safe in any number of threads.

    Args:
        data: the exported bytes.
        probe: the export that fails once the instant is broken.
        still_open: asks QEMU whether the point is still there; only after a lost connection.
    """

    def __init__(self, data: DiskReader, probe: DiskReader, still_open: Callable[[], bool]) -> None:
        self._data = data
        self._probe = probe
        self._still_open = still_open

    @property
    def size(self) -> int:
        """See ``DiskReader.size``."""
        return self._data.size

    @property
    def identity(self) -> str:
        """See ``DiskReader.identity``."""
        return self._data.identity

    @property
    def incremental(self) -> bool:
        """See ``DiskReader.incremental``."""
        return self._data.incremental

    def extents(self, start: int, length: int) -> Iterator[Extent]:
        """See ``DiskReader.extents``."""
        if start < 0 or length < 0 or start + length > self.size:
            raise ValueError(f"{length} bytes at {start} do not lie within {self.size} bytes")
        return coalesce(self._steps(start, start + length))

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """See ``DiskReader.read_into``."""
        with self._instant():
            self._data.read_into(offset, buffer)

    def check(self) -> None:
        """Return if the instant holds.

        Raises:
            PointLostError: it does not.
        """
        with self._explained():
            size = min(_PROBE_BYTES, self.size)
            try:
                self._probe.read_into(0, memoryview(bytearray(size)))
            except SourceReadError as error:
                raise PointLostError(
                    "the point in time is broken: temporary space was full or too slow",
                    next_step="allow more temporary space, or faster; the next round tries again",
                ) from error

    def close(self) -> None:
        """See ``DiskReader.close``."""
        self._data.close()
        self._probe.close()

    def _steps(self, start: int, end: int) -> Iterator[Extent]:
        for at in range(start, end, STEP_BYTES):
            with self._instant():
                found = self._ask(at, min(STEP_BYTES, end - at))
            yield from found

    def _ask(self, start: int, length: int) -> Sequence[Extent]:
        first = list(self._data.extents(start, length))
        if all(extent.kind is not Kind.ZERO for extent in first):
            return first
        second = list(self._data.extents(start, length))
        return list(checked_partition(agreed(first, second), start, length))

    @contextmanager
    def _instant(self) -> Iterator[None]:
        """What happens inside was of the instant, or this raises."""
        with self._explained():
            try:
                yield
            except SourceReadError:
                self.check()
                raise
        self.check()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (PointLostError, SourceReadError, ProtocolError):
            raise
        except (ConnectionLostError, SourceError) as error:
            if self._still_open():
                raise
            raise PointLostError("the point in time was closed while it was read") from error


def agreed(first: Sequence[Extent], second: Sequence[Extent]) -> Iterator[Extent]:
    """What two answers about one range have in common; where they differ, DATA."""
    ends = sorted({extent.end for extent in (*first, *second)})
    one, two = iter(first), iter(second)
    a, b = next(one, None), next(two, None)
    for end in ends:
        if a is None or b is None:
            raise ProtocolError("two block status answers differ in length", offset=end)
        start = max(a.start, b.start)
        yield Extent(start, end - start, a.kind if a.kind is b.kind else Kind.DATA)
        a = next(one, None) if a.end == end else a
        b = next(two, None) if b.end == end else b
