"""The guest's serial console: all it says is kept, with the time of every acknowledgement."""

import contextlib
import re
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from sealift.clock import Clock
from sealift.errors import ToolError

_T = TypeVar("_T")
_ACK = re.compile(r"ack (\d+)")


@dataclass(frozen=True, slots=True)
class Ack:
    """Records 1..``number`` are durable on every disk, as read at ``seconds`` of the clock."""

    seconds: float
    number: int


class Console:
    """Reads a serial console on a Unix socket until the machine ends; safe in any thread.

    Args:
        path: QEMU's socket.
        log: gets every byte as it comes.
        clock: stamps the acknowledgements.
    """

    def __init__(self, path: Path, log: Path, clock: Clock) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self._log = log
        self._clock = clock
        self._changed = threading.Condition()
        self._text = ""
        self._rest = ""
        self._acks: list[Ack] = []
        self._ended = False
        # A daemon, because it ends when QEMU does and holds nothing that must be put away.
        self._reader = threading.Thread(target=self._read, name="guest-console", daemon=True)
        self._reader.start()

    @property
    def text(self) -> str:
        """All that was said so far, without carriage returns."""
        with self._changed:
            return self._text

    @property
    def acks(self) -> tuple[Ack, ...]:
        """Every acknowledgement seen, in order."""
        with self._changed:
            return tuple(self._acks)

    @property
    def acked(self) -> int:
        """The highest acknowledged record seen; 0 before the first."""
        with self._changed:
            return self._acks[-1].number if self._acks else 0

    @property
    def position(self) -> int:
        """Where the next text will be; for ``since``."""
        with self._changed:
            return len(self._text)

    def send(self, line: str) -> None:
        """Type one line."""
        try:
            self._socket.sendall(line.encode() + b"\n")
        except OSError as error:
            raise ToolError(f"cannot type {line!r}: the guest's console is closed") from error

    def wait_for(self, pattern: str, *, timeout_seconds: float, since: int = 0) -> re.Match[str]:
        """The first match of ``pattern`` (``^`` and ``$`` match at lines) after ``since``.

        Raises:
            ToolError: not within the time, or the machine ended first.
        """
        wanted = re.compile(pattern, re.MULTILINE)

        def find() -> re.Match[str] | None:
            # Whole lines only: of a line that is still coming a shorter one would match.
            return wanted.search(self._text, since, len(self._text) - len(self._rest))

        return self._wait(find, pattern, timeout_seconds)

    def wait_for_ack(self, number: int, *, timeout_seconds: float) -> int:
        """The highest acknowledged record, once it is at least ``number``.

        Raises:
            ToolError: as ``wait_for``.
        """

        def reached() -> int | None:
            last = self._acks[-1].number if self._acks else 0
            return last if last >= number else None

        return self._wait(reached, f"ack {number}", timeout_seconds)

    def join(self, timeout_seconds: float) -> None:
        """Wait until everything that the ended machine said has been read."""
        self._reader.join(timeout_seconds)

    def close(self) -> None:
        """Stop reading; idempotent."""
        with contextlib.suppress(OSError):  # QEMU may be gone already
            self._socket.shutdown(socket.SHUT_RDWR)
        self._reader.join(5)
        self._socket.close()

    def _wait(self, find: Callable[[], _T | None], what: str, timeout_seconds: float) -> _T:
        deadline = self._clock.monotonic() + timeout_seconds
        with self._changed:
            while (found := find()) is None:
                left = deadline - self._clock.monotonic()
                if self._ended or left <= 0:
                    reason = "the machine ended" if self._ended else f"{timeout_seconds:.0f} s"
                    raise ToolError(
                        f"the guest did not say {what!r} ({reason}); its last words:\n"
                        + self._text[-800:],
                        next_step=f"read {self._log}",
                    )
                self._changed.wait(left)
        return found

    def _read(self) -> None:
        with self._log.open("ab", buffering=0) as log:
            while data := self._receive():
                log.write(data)
                self._take(data.decode(errors="replace").replace("\r", ""))
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _receive(self) -> bytes:
        try:
            return self._socket.recv(65536)
        except OSError:
            return b""

    def _take(self, text: str) -> None:
        now = self._clock.monotonic()
        with self._changed:
            self._text += text
            *lines, self._rest = (self._rest + text).split("\n")
            for line in lines:
                if match := _ACK.fullmatch(line):
                    self._acks.append(Ack(now, int(match[1])))
            self._changed.notify_all()
