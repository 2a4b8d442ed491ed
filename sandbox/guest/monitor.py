"""A line client for the harness's own QMP socket, so that it never meets Sealift's."""

import json
import socket
from pathlib import Path
from typing import Any

from sealift.clock import Clock
from sealift.errors import ToolError


class Monitor:
    """One QMP connection, used from one thread at a time.

    Args:
        path: QEMU's socket.
        clock: for the deadlines of events.
        timeout_seconds: longest wait for an answer.
    """

    def __init__(self, path: Path, clock: Clock, *, timeout_seconds: float = 60.0) -> None:
        self._clock = clock
        self._timeout_seconds = timeout_seconds
        self._events: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self._file = self._socket.makefile("rwb")
        self._message(timeout_seconds)  # the greeting
        self.execute("qmp_capabilities")

    def execute(self, command: str, **arguments: object) -> Any:
        """The answer's ``return``; events that come in between are kept.

        Raises:
            ToolError: QEMU refused, ended or did not answer in time.
        """
        request = {"execute": command, "arguments": arguments}
        try:
            self._file.write(json.dumps(request).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise ToolError(f"{command}: QEMU is gone") from error
        while True:
            message = self._message(self._timeout_seconds)
            if "return" in message:
                return message["return"]
            if "error" in message:
                raise ToolError(f"{command}: {message['error'].get('desc')}")

    def wait_event(self, name: str, *, timeout_seconds: float) -> None:
        """Return once the event came, also when it came before; each counts once.

        Raises:
            ToolError: not in time, or QEMU ended.
        """
        deadline = self._clock.monotonic() + timeout_seconds
        while name not in self._events:
            self._message(max(0.001, deadline - self._clock.monotonic()))
        self._events.remove(name)

    def close(self) -> None:
        """Hang up; the machine goes on."""
        self._file.close()
        self._socket.close()

    def _message(self, timeout_seconds: float) -> dict[str, Any]:
        self._socket.settimeout(timeout_seconds)
        try:
            line = self._file.readline()
        except TimeoutError as error:
            raise ToolError(f"QEMU said nothing for {timeout_seconds:.0f} s") from error
        except OSError as error:
            raise ToolError("QEMU is gone") from error
        if not line:
            raise ToolError("QEMU closed its monitor")
        message: dict[str, Any] = json.loads(line)
        if "event" in message:
            self._events.append(str(message["event"]))
        return message
