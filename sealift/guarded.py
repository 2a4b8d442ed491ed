"""A writer that asks before every call whether it is still wanted."""

from collections.abc import Iterable, Sequence

from sealift.disk import DiskWriter, WriterCaps
from sealift.leases import ErrandWatch


class GuardedWriter:
    """See ``DiskWriter``; for a disk that another process has sent.

    A write asks for a fresh answer, the commit for a new one.

    Args:
        writer: does the work.
        watch: knows whether it may.
    """

    def __init__(self, writer: DiskWriter, watch: ErrandWatch) -> None:
        self._writer, self._watch = writer, watch

    @property
    def caps(self) -> WriterCaps:
        """See ``DiskWriter.caps``."""
        return self._writer.caps

    @property
    def identity(self) -> str:
        """See ``DiskWriter.identity``."""
        return self._writer.identity

    def write(self, offset: int, data: memoryview, digests: Sequence[bytes]) -> None:
        """See ``DiskWriter.write``; ``StoppedError`` when nobody wants it any more."""
        self._watch.check()
        self._writer.write(offset, data, digests)

    def zero(self, offset: int, length: int) -> None:
        """See ``DiskWriter.zero`` and ``write``."""
        self._watch.check()
        self._writer.zero(offset, length)

    def flush(self) -> None:
        """See ``DiskWriter.flush`` and ``write``."""
        self._watch.check()
        self._writer.flush()

    def commit(self, blocks: Iterable[tuple[int, bytes]]) -> None:
        """See ``DiskWriter.commit``; asks anew."""
        self._watch.confirm()
        self._writer.commit(blocks)

    def abort(self) -> None:
        """See ``DiskWriter.abort``."""
        self._watch.confirm()
        self._writer.abort()

    def close(self) -> None:
        """See ``DiskWriter.close``."""
        self._writer.close()
