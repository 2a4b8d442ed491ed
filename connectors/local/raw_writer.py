"""A raw disk image under construction as ``DiskWriter``."""

import ctypes
import errno
import fcntl
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from connectors.local.direct import DirectFile
from connectors.local.partial import PartialFile, failure
from sealift.disk import Unwritten, WriterCaps
from sealift.errors import LockedError, TargetError
from sealift.units import KiB, MiB, round_down

_OPERATION_BYTES = 8 * MiB
"""Each costs some turns of the interpreter's lock: in operations of 1 MiB a restore took a fifth
more time (docs/adr/0027)."""

_FALLOC_KEEP_SIZE, _FALLOC_PUNCH_HOLE = 1, 2  # linux/falloc.h
_ZEROES = bytes(MiB)

_fallocate = ctypes.CDLL(None, use_errno=True).fallocate
_fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
_fallocate.restype = ctypes.c_int


class RawFileWriter:
    """A sparse raw file, visible under its name once it is whole (I6); see ``DiskWriter``.

    Holds a lock on the file: two writers of one construction are refused.
    Make one with ``create`` or ``reopen``.
    """

    def __init__(self, partial: PartialFile, caps: WriterCaps) -> None:
        self._partial = partial
        self._caps = caps
        self._file = -1
        self._direct: DirectFile | None = None
        self._flush_failed = False
        if not partial.published:
            self._file = _open_locked(partial.path)
            self._direct = DirectFile(partial.path)

    @classmethod
    def create(
        cls,
        path: Path,
        size: int,
        *,
        block_size: int = 64 * KiB,
        max_op_bytes: int = _OPERATION_BYTES,
    ) -> "RawFileWriter":
        """Begin a new file of ``size`` bytes that reads as zeroes.

        Raises:
            TargetError: ``path`` exists, or nothing can be made there.
            OutOfSpaceError: no room.
        """
        partial = PartialFile.create(path)
        try:
            os.truncate(partial.path, size)
            partial.sync()  # who knows the identity may rely on the size
        except OSError as error:
            partial.remove()
            raise failure(error, str(path)) from error
        return cls(partial, _caps(size, block_size, max_op_bytes))

    @classmethod
    def reopen(
        cls, identity: str, *, block_size: int = 64 * KiB, max_op_bytes: int = _OPERATION_BYTES
    ) -> "RawFileWriter":
        """Go on with what another process began; only ``commit`` is left if it committed.

        Raises:
            TargetError: it is gone.
            LockedError: another writer has it open.
        """
        partial = PartialFile.reopen(identity)
        size = partial.path.stat().st_size
        return cls(partial, _caps(size, block_size, max_op_bytes))

    @property
    def caps(self) -> WriterCaps:
        """See ``DiskWriter.caps``."""
        return self._caps

    @property
    def identity(self) -> str:
        """See ``DiskWriter.identity``; what ``reopen`` takes."""
        return self._partial.identity

    def write(self, offset: int, data: memoryview, digests: Sequence[bytes]) -> None:
        """See ``DiskWriter.write``."""
        self._check(offset, data.nbytes)
        if digests or data.nbytes > self._caps.max_op_bytes:
            raise ValueError("digests were not asked for, or the write is too long")
        with data.cast("B") as view:
            self._put(offset, view)

    def zero(self, offset: int, length: int) -> None:
        """See ``DiskWriter.zero``: a hole, or written zeroes where holes cannot be."""
        self._check(offset, length)
        if length == 0:
            return
        mode = _FALLOC_KEEP_SIZE | _FALLOC_PUNCH_HOLE
        if _fallocate(self._file, mode, offset, length) == 0:
            return
        number = ctypes.get_errno()
        if number not in (errno.EOPNOTSUPP, errno.ENOSYS):
            raise self._failure(OSError(number, os.strerror(number)))
        for at in range(offset, offset + length, len(_ZEROES)):
            with memoryview(_ZEROES)[: offset + length - at] as part:
                self._put(at, part)

    def flush(self) -> None:
        """See ``DiskWriter.flush``.

        A failed flush is final: the kernel reports lost pages once, and then calls them
        clean.
        """
        if self._partial.published:
            return
        self._check(0, 0)
        try:
            os.fdatasync(self._file)
        except OSError as error:
            self._flush_failed = True
            raise self._failure(error) from error

    def commit(self, blocks: Iterable[tuple[int, bytes]]) -> None:
        """See ``DiskWriter.commit``: flushed, renamed, and the name made durable."""
        if any(True for _ in blocks):
            raise ValueError("digests were not asked for")
        if self._partial.published:
            return
        self.flush()
        self._partial.publish()

    def abort(self) -> None:
        """See ``DiskWriter.abort``; a committed file stays."""
        self.close()
        self._partial.remove()

    def close(self) -> None:
        """See ``DiskWriter.close``."""
        if self._direct is not None:
            self._direct.close()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _put(self, offset: int, view: memoryview) -> None:
        try:
            position = self._direct.write(view, offset) if self._direct is not None else 0
            while position < len(view):
                position += os.pwrite(self._file, view[position:], offset + position)
        except OSError as error:
            raise self._failure(error) from error

    def _check(self, offset: int, length: int) -> None:
        if self._partial.published or self._flush_failed:
            raise TargetError(
                f"{self._partial.path} takes no more writes: it is committed, or a flush failed"
            )
        if self._file < 0:
            raise ValueError("the writer is closed")
        block, size = self._caps.block_size, self._caps.size
        if offset < 0 or length < 0 or offset + length > size:
            raise ValueError(f"{length} bytes at {offset} do not lie within {size} bytes")
        if offset % block or (length % block and offset + length != size):
            raise ValueError(f"{length} bytes at {offset} are not on the grid of {block}")

    def _failure(self, error: OSError) -> Exception:
        return failure(error, str(self._partial.path))


def _caps(size: int, block_size: int, max_op_bytes: int) -> WriterCaps:
    return WriterCaps(
        size=size,
        block_size=block_size,
        unwritten=Unwritten.ZERO,
        max_op_bytes=max(block_size, round_down(max_op_bytes, block_size)),
        native_zero=True,
    )


def _open_locked(path: Path) -> int:
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise failure(error, str(path)) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(file)
        raise LockedError(f"{path} is being written by another process") from error
    return file
