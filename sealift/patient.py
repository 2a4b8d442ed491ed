"""A disk reader whose every call is under the retry layer."""

from collections.abc import Iterator
from functools import partial

from sealift.disk import DiskReader
from sealift.errors import TransientError
from sealift.extents import Extent
from sealift.retry import Retrier


class PatientReader:
    """Repeats reads and goes on with extents where a transient error cut them off.

    Args:
        reader: the real one; a point in time, so asking again gives the same answer (I1).
        retrier: how long and how often.
    """

    def __init__(self, reader: DiskReader, retrier: Retrier) -> None:
        self._reader = reader
        self._retrier = retrier
        self.size = reader.size
        self.identity = reader.identity
        self.incremental = reader.incremental

    def extents(self, start: int, length: int) -> Iterator[Extent]:
        """See ``DiskReader.extents``; what was yielded before an error is not yielded again."""
        position, end = start, start + length
        stream = self._reader.extents(position, length)
        while position < end:
            try:
                extent = next(stream, None)
            except TransientError:
                stream, extent = self._retrier.call(partial(self._from, position, end))
            if extent is None:
                return
            yield extent
            position = extent.end

    def _from(self, position: int, end: int) -> tuple[Iterator[Extent], Extent | None]:
        stream = self._reader.extents(position, end - position)
        return stream, next(stream, None)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """See ``DiskReader.read_into``."""
        self._retrier.call(lambda: self._reader.read_into(offset, buffer))

    def close(self) -> None:
        """See ``DiskReader.close``."""
        self._reader.close()
