"""One image file served by a qemu-nbd of our own, on a private Unix socket."""

import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from connectors.local.children import Child
from connectors.nbd import UnixAddress
from converters.image import Image
from converters.untrusted import inspect
from sealift.clock import Clock, SystemClock
from sealift.errors import ImageError, ToolError

_POLL_SECONDS = 0.005
_STOP_SECONDS = 60.0  # a clean close writes back metadata; on a slow disk that takes time


class QemuNbdServer:
    """Serves one image until ``stop``; a context manager.

    Nobody else can connect: the socket lies in a folder that only we can enter. The
    server dies with us, however we die.

    The image is inspected first (``converters.untrusted``), and QEMU is told driver and
    base of everything it opens, so nothing that a header names is ever followed.

    Args:
        image: what to serve; the base of an overlay is opened only if stated here.
        writable: read-only otherwise, also for QEMU itself.
        connections: how many clients at once.
        clock: time.
        start_seconds: patience with the start; QEMU repairs some images while opening.

    Raises:
        ImageError: QEMU cannot open the image, or it refers to other files.
        ToolError: qemu-nbd is missing or does not start.
    """

    def __init__(
        self,
        image: Image,
        *,
        writable: bool = False,
        connections: int = 16,
        clock: Clock | None = None,
        start_seconds: float = 60.0,
    ) -> None:
        bases = [image.backing] if image.backing else []
        self._image = inspect(image.path, image.format, allow_backing=bases).image
        self._clock = clock or SystemClock()
        self._folder = Path(tempfile.mkdtemp(prefix="sealift-nbd-"))
        self._folder.chmod(0o700)  # the umask may have taken even this
        try:
            self._child = Child(self._command(connections, writable=writable))
            self._wait_until_ready(start_seconds)
        except BaseException:
            self.kill()
            raise

    @property
    def address(self) -> UnixAddress:
        """Where it listens; the export is the default one, ``""``."""
        return UnixAddress(self._folder / "nbd")

    @property
    def pid(self) -> int:
        """Process id of qemu-nbd."""
        return self._child.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._child.running

    @property
    def words(self) -> str:
        """The end of what qemu-nbd said."""
        return self._child.words

    def stop(self) -> None:
        """Close the image cleanly and end; idempotent.

        Raises:
            ToolError: it did not end cleanly; what was flushed is in the image.
        """
        code = self._child.stop(_STOP_SECONDS)
        self._clean_up()
        if code != 0:
            raise ToolError(
                f"qemu-nbd ended with {code} on {self._image.path}: {self.words}",
                program="qemu-nbd",
                exit_code=code,
            )

    def kill(self) -> None:
        """End it at once, without closing the image; idempotent."""
        if hasattr(self, "_child"):
            self._child.kill()
        self._clean_up()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.stop()
        else:
            self.kill()

    def _command(self, connections: int, *, writable: bool) -> list[str]:
        mode = ["--discard=unmap"] if writable else ["--read-only"]
        return [
            *("qemu-nbd", "--persistent", f"--shared={connections}", *mode),
            *(f"--socket={self._folder / 'nbd'}", f"--pid-file={self._folder / 'pid'}"),
            *("--", self._image.locator(writable=writable)),
        ]

    def _wait_until_ready(self, seconds: float) -> None:
        """The pid file is written once the socket listens (qemu-nbd.c, main)."""
        deadline = self._clock.monotonic() + seconds
        while not (self._folder / "pid").exists():
            if not self._child.running:
                raise ImageError(
                    f"QEMU cannot open {self._image.path} as {self._image.format.value}: "
                    f"{self.words}",
                    path=str(self._image.path),
                )
            if self._clock.monotonic() > deadline:
                raise ToolError(f"qemu-nbd did not start within {seconds:g} s", program="qemu-nbd")
            self._clock.sleep(_POLL_SECONDS)

    def _clean_up(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
