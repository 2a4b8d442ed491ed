"""A throw-away layer over an NBD export: writable, bounded, gone at the end."""

import json
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from connectors.local.children import Child
from connectors.nbd.address import UnixAddress
from converters import qemu_img
from converters.formats import Container
from sealift.clock import Clock
from sealift.errors import ToolError, UsageError
from sealift.units import MiB, round_up

LEAST_LIMIT_BYTES = 4 * MiB
"""Of an overlay: less does not even hold its tables."""
_POLL_SECONDS = 0.005
_START_SECONDS = 30.0
_STOP_SECONDS = 10.0
_SECTOR = 512


class OverlayServer:
    """Serves an export with writes kept beside it; a context manager. What it reads from stays.

    Writes go to a file of at most ``limit_bytes``; who writes more is told that there is no space
    left, and nothing else of this host is used up. The file has no name for others and is removed
    at the end, whatever that is; the server dies with us.

    Args:
        base: where the export is served read only.
        export: its name.
        size: of it, bytes; rounded up to whole sectors.
        socket: where clients connect; the export's name is empty there.
        limit_bytes: of what may be written, tables included.
        folder: for the file; its file system has to have room.
        clock: time.

    Raises:
        UsageError: a limit that holds nothing, or the socket is there already.
        ToolError: qemu-nbd is missing or does not start.
    """

    def __init__(
        self,
        base: UnixAddress,
        export: str,
        size: int,
        socket: Path,
        limit_bytes: int,
        folder: Path,
        clock: Clock,
    ) -> None:
        if limit_bytes < LEAST_LIMIT_BYTES:
            raise UsageError(
                f"{limit_bytes} bytes hold no overlay", next_step="allow 4 MiB or more"
            )
        if socket.exists():
            raise UsageError(f"{socket} is there already", next_step="name another path")
        self._socket, self._clock = socket, clock
        self._folder = tempfile.TemporaryDirectory(prefix="sealift-overlay-", dir=folder)
        place = Path(self._folder.name)
        place.chmod(0o700)
        try:
            path = place / "overlay.qcow2"
            qemu_img.create(path, Container.QCOW2, round_up(size, _SECTOR))
            limit = round_up(limit_bytes, _SECTOR)
            with path.open("r+b") as file:
                file.truncate(max(limit, path.stat().st_size))
            locator = _locator(path, base, export, max(limit, path.stat().st_size))
            self._child = Child(
                [
                    *("qemu-nbd", "--persistent", "--shared=16", "--discard=unmap"),
                    *("--cache=unsafe", f"--socket={socket}", f"--pid-file={place / 'pid'}"),
                    *("--", locator),
                ]
            )
            self._wait(place / "pid")
        except BaseException:
            self.close()
            raise

    @property
    def address(self) -> UnixAddress:
        """Where clients connect."""
        return UnixAddress(self._socket)

    def close(self) -> None:
        """End the server; what was written is gone. Idempotent."""
        if hasattr(self, "_child"):
            self._child.stop(_STOP_SECONDS)
            self._socket.unlink(missing_ok=True)
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _wait(self, pid: Path) -> None:
        """The pid file is written once the socket listens."""
        deadline = self._clock.monotonic() + _START_SECONDS
        while not pid.exists():
            if not self._child.running or self._clock.monotonic() > deadline:
                raise ToolError(f"qemu-nbd did not start: {self._child.words}", program="qemu-nbd")
            self._clock.sleep(_POLL_SECONDS)


def _locator(path: Path, base: UnixAddress, export: str, limit: int) -> str:
    """The overlay as QEMU opens it: a file that ends at ``limit``, drivers all named."""
    server = {"type": "unix", "path": str(base.path)}
    value = {
        "driver": "qcow2",
        "file": {
            "driver": "raw",
            "size": limit,
            "file": {"driver": "file", "filename": str(path)},
        },
        "backing": {"driver": "nbd", "server": server, "export": export, "read-only": True},
    }
    return f"json:{json.dumps(value)}"
