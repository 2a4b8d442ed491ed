"""An image file of any writable format under construction as ``DiskWriter``."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from connectors.local.image_reader import ImageReader
from connectors.local.partial import PartialFile
from connectors.local.qemu_nbd import QemuNbdServer
from connectors.nbd import NbdWriter
from converters import qemu_img
from converters.formats import Container
from converters.image import Image, ImageFormat
from sealift.cancel import CancelToken
from sealift.clock import Clock
from sealift.disk import Unwritten, WriterCaps
from sealift.errors import TargetError, ToolError, UsageError
from sealift.units import KiB

_log = logging.getLogger(__name__)

_CONTAINERS = {
    ImageFormat.QCOW2: Container.QCOW2,
    ImageFormat.VMDK: Container.VMDK,
    ImageFormat.VHDX: Container.VHDX,
    ImageFormat.VHD: Container.VHD_DYNAMIC,
    ImageFormat.VDI: Container.VDI,
}
WRITABLE = tuple(_CONTAINERS)


@dataclass(frozen=True, slots=True)
class WriterSettings:
    """How to write through a server.

    Attributes:
        block_size: grid in bytes; 64 KiB is qcow2's cluster.
        connections: requests in flight; QEMU may want only one.
        clock: time.
        cancel: a stop ends requests in flight.
    """

    block_size: int = 64 * KiB
    connections: int = 4
    clock: Clock | None = None
    cancel: CancelToken | None = None


class ImageWriter:
    """A new image, visible under its name once it is whole (I6); see ``DiskWriter``.

    Written through a qemu-nbd of our own, whose lock keeps other QEMUs away. The size is
    what QEMU makes of it: some formats round up, and what is beyond reads as zeroes.
    Make one with ``create`` or ``reopen``.
    """

    def __init__(
        self, partial: PartialFile, image_format: ImageFormat, settings: WriterSettings
    ) -> None:
        self._partial = partial
        self._served: _Served | None = None
        self._sealed = False
        image = Image.at(partial.path, image_format)
        if partial.published:
            self._caps = _published_caps(image, settings)
        else:
            self._served = _Served(image, partial.identity, settings)
            self._caps = self._served.nbd.caps

    @classmethod
    def create(
        cls,
        path: Path,
        image_format: ImageFormat,
        size: int,
        settings: WriterSettings = WriterSettings(),
    ) -> "ImageWriter":
        """Begin a new image of at least ``size`` bytes that reads as zeroes.

        Raises:
            UsageError: a format that is read only, or RAW, which ``RawFileWriter`` writes
                without a server.
            TargetError: ``path`` exists, or the image cannot be made there.
            ToolError: qemu-img or qemu-nbd is missing or failed.
        """
        if image_format not in WRITABLE:
            raise UsageError(f"{image_format.name.lower()} images are not written through QEMU")
        partial = PartialFile.create(path)
        try:
            qemu_img.create(partial.path, _CONTAINERS[image_format], size)
            partial.sync()  # who knows the identity may rely on the image
            writer = cls(partial, image_format, settings)
        except BaseException:
            partial.remove()
            raise
        if writer.caps.size < size:
            writer.abort()
            raise TargetError(f"{image_format.value} made {writer.caps.size} bytes of {size}")
        return writer

    @classmethod
    def reopen(
        cls,
        identity: str,
        image_format: ImageFormat,
        settings: WriterSettings = WriterSettings(),
    ) -> "ImageWriter":
        """Go on with what another process began; only ``commit`` is left if it committed.

        Raises:
            TargetError: it is gone.
            ImageError: another QEMU has it open, or the image is damaged.
        """
        return cls(PartialFile.reopen(identity), image_format, settings)

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
        self._open().nbd.write(offset, data, digests)

    def zero(self, offset: int, length: int) -> None:
        """See ``DiskWriter.zero``."""
        self._open().nbd.zero(offset, length)

    def flush(self) -> None:
        """See ``DiskWriter.flush``."""
        self._open().nbd.flush()

    def commit(self, blocks: Iterable[tuple[int, bytes]]) -> None:
        """See ``DiskWriter.commit``: flushed, closed by QEMU, renamed.

        Raises:
            ToolError: QEMU did not close the image cleanly; it stays under construction.
        """
        if any(True for _ in blocks):
            raise ValueError("digests were not asked for")
        if self._partial.published:
            return
        if not self._sealed:
            served = self._open()
            served.nbd.flush()
            served.stop()
            self._sealed = True
        self._partial.publish()

    def abort(self) -> None:
        """See ``DiskWriter.abort``; a committed image stays."""
        if self._served is not None:
            self._served.kill()
        self._partial.remove()

    def kill_server(self) -> None:
        """End the server at once, as a crash does; what was flushed is in the image."""
        if self._served is not None:
            self._served.kill()

    def close(self) -> None:
        """See ``DiskWriter.close``; the server ends too."""
        if self._served is None:
            return
        try:
            self._served.stop()
        except ToolError as error:
            _log.warning("%s", error.message)

    def _open(self) -> "_Served":
        if self._served is None or self._served.ended:
            raise TargetError(f"{self._partial.path} is committed or closed; open it again")
        return self._served


class _Served:
    """An image open for writing."""

    def __init__(self, image: Image, identity: str, settings: WriterSettings) -> None:
        self._server = QemuNbdServer(image, writable=True, clock=settings.clock)
        try:
            self.nbd = NbdWriter(
                self._server.address,
                identity=identity,
                unwritten=Unwritten.ZERO,
                block_size=settings.block_size,
                connections=settings.connections,
                clock=settings.clock,
                cancel=settings.cancel,
            )
        except BaseException:
            self._server.kill()
            raise
        self.ended = False

    def stop(self) -> None:
        self.ended = True
        self.nbd.close()
        self._server.stop()

    def kill(self) -> None:
        self.ended = True
        self.nbd.close()
        self._server.kill()


def _published_caps(image: Image, settings: WriterSettings) -> WriterCaps:
    """As they were while it was written; nobody writes with them any more."""
    reader = ImageReader(image, connections=1, clock=settings.clock)
    reader.close()
    return WriterCaps(
        size=reader.size,
        block_size=settings.block_size,
        unwritten=Unwritten.ZERO,
        max_op_bytes=settings.block_size,
        native_zero=True,
        concurrency=1,
    )
