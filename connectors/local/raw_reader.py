"""A raw disk image or block device as ``DiskReader``."""

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from connectors.local.identity import FileIdentity
from sealift.errors import ImageError, SourceReadError
from sealift.extents import Extent, Kind, coalesce


class RawFileReader:
    """A raw file, read directly; see ``DiskReader``.

    A file that changes while it is read is noticed after each read and each extent, and
    raises ``PointLostError`` (I1).

    Args:
        path: regular file or block device.
        holes: whether to ask the file system for holes; without, everything is DATA.

    Raises:
        ImageError: it cannot be opened, or is something else.
    """

    def __init__(self, path: Path, *, holes: bool = True) -> None:
        try:
            self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            self._identity = FileIdentity.of(path)
        except OSError as error:
            raise ImageError(f"{path}: {error.strerror}", path=str(path)) from error
        self._path = path
        mode = os.fstat(self._file).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
            self.close()
            raise ImageError(f"{path} is neither a file nor a block device", path=str(path))
        self._size = os.lseek(self._file, 0, os.SEEK_END)
        self._holes = holes and stat.S_ISREG(mode)

    @property
    def size(self) -> int:
        """See ``DiskReader.size``."""
        return self._size

    @property
    def identity(self) -> str:
        """See ``DiskReader.identity``; a block device has another one each time."""
        return str(self._identity)

    @property
    def incremental(self) -> bool:
        """See ``DiskReader.incremental``."""
        return False

    def extents(self, start: int, length: int) -> Iterator[Extent]:
        """See ``DiskReader.extents``; holes as the file system tells them."""
        self._check_range(start, length)
        return coalesce(self._extents(start, start + length))

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """See ``DiskReader.read_into``."""
        self._check_range(offset, buffer.nbytes)
        with buffer.cast("B") as view:
            position = 0
            while position < len(view):
                position += self._read_some(offset + position, view[position:])
        self._identity.check()

    def close(self) -> None:
        """See ``DiskReader.close``."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _read_some(self, offset: int, view: memoryview) -> int:
        try:
            count = os.preadv(self._file, [view], offset)
        except OSError as error:
            raise SourceReadError(
                f"{self._path}: {error.strerror} for {len(view)} bytes at {offset}",
                offset=offset,
                length=len(view),
                errno=error.errno,
            ) from error
        if count == 0:  # it became shorter
            self._identity.check()
            raise SourceReadError(f"{self._path} ends at {offset}", offset=offset, length=len(view))
        return count

    def _extents(self, start: int, end: int) -> Iterator[Extent]:
        position = start
        while position < end:
            data = min(self._seek(position, os.SEEK_DATA), end)
            if data > position:
                yield Extent(position, data - position, Kind.ZERO)
            hole = end if data == end else min(self._seek(data, os.SEEK_HOLE), end)
            if hole <= data < end:  # no progress: the file system contradicts itself
                hole = end
            if hole > data:
                yield Extent(data, hole - data, Kind.DATA)
            self._identity.check()
            position = hole

    def _seek(self, position: int, whence: int) -> int:
        """Where the next data or hole begins; the end of the disk when there is none."""
        if not self._holes:
            return position if whence == os.SEEK_DATA else self._size
        try:
            return os.lseek(self._file, position, whence)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return self._size
            if error.errno in (errno.EINVAL, errno.ENOTSUP):  # the file system cannot tell
                return position if whence == os.SEEK_DATA else self._size
            raise SourceReadError(f"{self._path}: {error.strerror}", offset=position) from error

    def _check_range(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self._size:
            raise ValueError(f"{length} bytes at {offset} do not lie within {self._size} bytes")
