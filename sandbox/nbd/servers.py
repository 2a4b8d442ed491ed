"""Real NBD servers on private Unix sockets: nbdkit, qemu-nbd and QEMU's own."""

import json
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from connectors.local.children import Child
from sealift.clock import SystemClock

_START_SECONDS = 60.0
_STOP_SECONDS = 20.0
_POLL_SECONDS = 0.01


class Process:
    """A child that dies with us; a context manager.

    Args:
        command: program and arguments.
        ready: Unix socket or TCP port that answers once it is up.
    """

    def __init__(self, command: Sequence[str], ready: Path | int) -> None:
        self._clock = SystemClock()
        self._ready = ready
        self._name = command[0]
        self._child = Child(command)
        try:
            self._wait_until_ready()
        except BaseException:
            self.kill()
            raise

    @property
    def pid(self) -> int:
        """Of the child."""
        return self._child.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._child.running

    def kill(self) -> None:
        """SIGKILL, and reap; idempotent."""
        self._child.kill()

    def stop(self) -> None:
        """SIGTERM until it ends, and reap; idempotent."""
        self._child.stop(_STOP_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _wait_until_ready(self) -> None:
        deadline = self._clock.monotonic() + _START_SECONDS
        while not self._answers():
            if not self._child.running:
                raise RuntimeError(f"{self._name} ended: {self._child.words}")
            if self._clock.monotonic() > deadline:
                raise RuntimeError(f"{self._name} did not start")
            self._clock.sleep(_POLL_SECONDS)

    def _answers(self) -> bool:
        family = socket.AF_UNIX if isinstance(self._ready, Path) else socket.AF_INET
        where = str(self._ready) if isinstance(self._ready, Path) else ("127.0.0.1", self._ready)
        with socket.socket(family) as probe:
            return probe.connect_ex(where) == 0


def nbdkit(path: Path, *arguments: str) -> Process:
    """Nbdkit with ``arguments`` (options, plugin, parameters) on the socket ``path``."""
    return Process(["nbdkit", "--foreground", "--unix", str(path), *arguments], path)


def qemu_nbd(path: Path, *arguments: str) -> Process:
    """A persistent, shared qemu-nbd with ``arguments`` on the socket ``path``."""
    command = ["qemu-nbd", "--persistent", "--shared=16", f"--socket={path}", *arguments]
    return Process(command, path)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


class Qemu(Process):
    """QEMU without a guest, driven by raw QMP; its NBD server listens on ``folder/nbd``.

    ``-machine none -S`` runs the block layer alone; guest writes are made by ``write``
    through the monitor's ``qemu-io``.

    Args:
        folder: private, for the sockets.
    """

    def __init__(self, folder: Path) -> None:
        monitor = folder / "qmp"
        super().__init__(
            [
                *("qemu-system-x86_64", "-machine", "none", "-nodefaults", "-S"),
                *("-display", "none", "-qmp", f"unix:{monitor},server=on,wait=off"),
            ],
            monitor,
        )
        self.nbd_path = folder / "nbd"
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(_START_SECONDS)
        self._socket.connect(str(monitor))
        self._lines = self._socket.makefile("rb")
        self._lines.readline()
        self.execute("qmp_capabilities")
        address = {"type": "unix", "data": {"path": str(self.nbd_path)}}
        self.execute("nbd-server-start", {"addr": address})

    def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> Any:  # noqa: ANN401, RUF100 - JSON
        """Result of one QMP command.

        Raises:
            RuntimeError: QEMU refused it.
        """
        message = {"execute": command, "arguments": dict(arguments or {})}
        self._socket.sendall(json.dumps(message).encode())
        while True:
            answer = json.loads(self._lines.readline())
            if "error" in answer:
                raise RuntimeError(f"{command}: {answer['error']}")
            if "return" in answer:
                return answer["return"]

    def add_disk(self, node: str, image: Path, driver: str) -> None:
        """Open an image as a block node."""
        file = {"driver": "file", "filename": str(image), "discard": "unmap"}
        options = {"driver": driver, "node-name": node, "discard": "unmap", "file": file}
        self.execute("blockdev-add", options)

    def add_bitmap(self, node: str, name: str) -> None:
        """Start to record what changes."""
        self.execute("block-dirty-bitmap-add", {"node": node, "name": name})

    def freeze_bitmap(self, node: str, name: str) -> None:
        """Stop recording."""
        self.execute("block-dirty-bitmap-disable", {"node": node, "name": name})

    def write(self, node: str, command: str) -> None:
        """A guest's I/O in the words of ``qemu-io``: ``"write -P 65 0 64k"``."""
        line = f'qemu-io {node} "{command}"'
        self.execute("human-monitor-command", {"command-line": line})

    def export(
        self, node: str, *, name: str, bitmaps: Sequence[str] = (), writable: bool = False
    ) -> None:
        """Serve a node, with bitmaps, as the export ``name``."""
        self.execute(
            "block-export-add",
            {
                "id": f"export-{name}",
                "type": "nbd",
                "node-name": node,
                "name": name,
                "writable": writable,
                "bitmaps": list(bitmaps),
            },
        )

    def stop(self) -> None:
        """End it and free the monitor; idempotent."""
        self._lines.close()
        self._socket.close()
        super().stop()
