"""Any image file as ``DiskReader``."""

import logging
from collections.abc import Iterator
from pathlib import Path

from connectors.local.identity import FileIdentity
from connectors.local.qemu_nbd import QemuNbdServer
from connectors.local.raw_reader import RawFileReader
from connectors.nbd import NbdReader
from converters.image import Image, ImageFormat, absolute
from sealift.cancel import CancelToken
from sealift.clock import Clock
from sealift.disk import DiskReader
from sealift.errors import (
    ConnectionLostError,
    ImageError,
    SealiftError,
    SourceError,
    ToolError,
)
from sealift.extents import Extent

_log = logging.getLogger(__name__)


def open_image_reader(
    path: Path,
    image_format: ImageFormat,
    *,
    connections: int = 4,
    deadline_seconds: float = 60.0,
    clock: Clock | None = None,
    cancel: CancelToken | None = None,
    backing: Image | None = None,
) -> DiskReader:
    """A reader of ``path``, which is read as ``image_format`` whatever it looks like.

    Args:
        path: a regular file or a block device.
        image_format: always stated.
        connections: requests in flight.
        deadline_seconds: see ``NbdReader``.
        clock: time.
        cancel: a stop ends requests in flight.
        backing: the base that an overlay may read from; no other file is ever opened.

    Raises:
        ImageError: it cannot be opened, or refers to other files.
        ToolError: qemu-nbd is missing or does not start.
    """
    if image_format is ImageFormat.RAW:
        return RawFileReader(path)
    return ImageReader(
        Image(absolute(path), image_format, backing),
        connections=connections,
        deadline_seconds=deadline_seconds,
        clock=clock,
        cancel=cancel,
    )


class ImageReader:
    """An image through a qemu-nbd of our own; see ``DiskReader``.

    A file that changes while it is read is noticed after each read and each extent, and
    raises ``PointLostError`` (I1). Of files that the image refers to only QEMU's own
    lock against other QEMUs is known.

    Args:
        image: what to open.
        connections: requests in flight.
        deadline_seconds: see ``NbdReader``.
        clock: time.
        cancel: a stop ends requests in flight.

    Raises:
        ImageError, ToolError: see ``QemuNbdServer``.
    """

    def __init__(
        self,
        image: Image,
        *,
        connections: int = 4,
        deadline_seconds: float = 60.0,
        clock: Clock | None = None,
        cancel: CancelToken | None = None,
    ) -> None:
        self._file = _identity(image.path)
        self._format = image.format
        self._server = QemuNbdServer(image, clock=clock)
        try:
            self._nbd = NbdReader(
                self._server.address,
                identity=f"{image.format.value}:{self._file}",
                connections=connections,
                deadline_seconds=deadline_seconds,
                clock=clock,
                cancel=cancel,
                on_read_error=self._explain,
            )
        except BaseException:
            self._server.kill()
            raise

    @property
    def size(self) -> int:
        """See ``DiskReader.size``."""
        return self._nbd.size

    @property
    def identity(self) -> str:
        """See ``DiskReader.identity``: format, path, inode, size and times of the file."""
        return self._nbd.identity

    @property
    def incremental(self) -> bool:
        """See ``DiskReader.incremental``."""
        return False

    @property
    def server(self) -> QemuNbdServer:
        """The server behind it."""
        return self._server

    def extents(self, start: int, length: int) -> Iterator[Extent]:
        """See ``DiskReader.extents``."""
        walk = self._nbd.extents(start, length)
        return self._checked(walk)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """See ``DiskReader.read_into``."""
        self._nbd.read_into(offset, buffer)
        self._file.check()

    def close(self) -> None:
        """See ``DiskReader.close``; the server ends too."""
        self._nbd.close()
        try:
            self._server.stop()
        except ToolError as error:
            _log.warning("%s", error.message)

    def _checked(self, walk: Iterator[Extent]) -> Iterator[Extent]:
        for extent in walk:
            self._file.check()
            yield extent

    def _explain(self, error: SealiftError) -> SealiftError:
        """A server that ended does not come back: waiting for it would be in vain."""
        lost = isinstance(error, ConnectionLostError | SourceError)
        if lost and not self._server.running:
            return SourceError(
                f"the server of {self._file.path} ended: {self._server.words}",
                next_step="run again; look for what ended it (memory, signals)",
            )
        return error


def _identity(path: Path) -> FileIdentity:
    try:
        return FileIdentity.of(path)
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror}", path=str(path)) from error
