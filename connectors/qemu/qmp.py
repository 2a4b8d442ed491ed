"""QMP, synchronous and bounded, on top of the ``qemu.qmp`` library.

A session is short: connect, a few commands, close. QEMU serves one client of a QMP
socket at a time, so between two calls of Sealift the socket is free for others, and a
killed Sealift frees it at once.
"""

import asyncio
import json
import logging
import socket
import struct
import threading
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from qemu.qmp import (
    ConnectError,
    ExecInterruptedError,
    ExecuteError,
    QMPClient,
    QMPError,
    StateError,
)
from qemu.qmp.error import ProtocolError as LibraryProtocolError
from qemu.qmp.message import Message

from connectors.qemu.answers import as_mapping, number, text
from sealift.errors import (
    ConnectionLostError,
    ProtocolError,
    SealiftError,
    SourceError,
    TransientError,
)

_log = logging.getLogger(__name__)

_MAX_MESSAGE_BYTES = 10 * 1024 * 1024  # what libvirt allows, too
_MAX_EVENTS = 256  # a flood of events must not fill our memory
_GRACE_SECONDS = 5.0  # for our own thread to report a deadline; never part of a healthy run
_KEPT_SOCKET = "sealift-burst"

_NONSENSE = (LibraryProtocolError, ValueError, TypeError, AttributeError, KeyError, RecursionError)
"""What the library raises when a message is not what it takes for granted."""
_LIBRARY_ERRORS = (QMPError, OSError, EOFError, TimeoutError, AssertionError, *_NONSENSE)
"""It asserts that the connection still stands, which is the peer's to decide."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Command:
    """One QMP command and its arguments."""

    name: str
    arguments: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """What QEMU said to one command of a burst: a value, or why it refused."""

    value: object = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """An event with QEMU's own time stamp, in seconds with microseconds."""

    name: str
    seconds: float


class CommandRefusedError(SourceError):
    """QEMU refused a command; the guest is untouched by it.

    Args:
        command: its name.
        error_class: QEMU's word, ``GenericError`` mostly.
        description: QEMU's own sentence.
    """

    def __init__(self, command: str, error_class: str, description: str) -> None:
        super().__init__(
            f"QEMU refused {command}: {description}", command=command, error_class=error_class
        )
        self.description = description


class QmpSession:
    """A connection to a QMP monitor; a context manager. One thread at a time.

    Args:
        path: of the Unix socket that QEMU listens on (``-qmp unix:PATH,server=on``).
        deadline_seconds: for connecting and for each command. QEMU answers most within a
            millisecond; draining a slow disk takes as long as the disk does.

    Raises:
        TransientError: the socket is busy: another client talks to QEMU.
        ConnectionLostError: nobody listens.
        ProtocolError: what answers is not QMP.
    """

    def __init__(self, path: Path, *, deadline_seconds: float = 30.0) -> None:
        self._path = path
        self._deadline_seconds = deadline_seconds
        self._client = _Client("sealift", _MAX_MESSAGE_BYTES)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="qmp", daemon=True)
        self._thread.start()
        try:
            self._connect()
        except BaseException:
            self._end_loop()
            raise

    def __enter__(self) -> "QmpSession":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def execute(self, name: str, /, **arguments: object) -> object:
        """Run one command; underscores in argument names stand for dashes.

        Raises:
            CommandRefusedError: QEMU said no.
            TransientError: no answer in time; whether it took effect is unknown.
            ConnectionLostError, ProtocolError: as for the constructor.
        """
        return self.run(Command(name, {k.replace("_", "-"): v for k, v in arguments.items()}))

    def run(self, command: Command) -> object:
        """Run one command; see ``execute``."""
        try:
            return self._await(
                self._client.execute(command.name, dict(command.arguments)), command.name
            )
        except ExecuteError as error:
            raise CommandRefusedError(command.name, error.error_class, str(error)) from error

    def burst(self, commands: Sequence[Command]) -> tuple[list[Answer], list[Event]]:
        """Run commands one after the other, all of them even if we are killed right now.

        See ``_Client.burst``. A command that is refused does not stop the ones after it.

        Raises:
            TransientError: no answer in time; QEMU still runs all of them.
        """
        answers = self._await(self._client.burst(commands), "a burst of commands")
        return answers, list(self._client.seen)

    def peer_arguments(self) -> list[str]:
        """QEMU's command line, by the kernel's word on who listens; empty if not to be seen."""
        try:
            raw = Path(f"/proc/{self._client.peer()[0]}/cmdline").read_bytes()
        except OSError:
            return []
        return [part.decode(errors="replace") for part in raw.split(b"\0")]

    def peer_uid(self) -> int:
        """The user that QEMU ran as when it opened its monitor, by the kernel's word."""
        return self._client.peer()[1]

    def close(self) -> None:
        """Free the monitor for others; idempotent."""
        if self._loop.is_closed():
            return
        try:
            self._await(self._client.disconnect(), "disconnect")
        except SealiftError:
            _log.debug("QMP session on %s ended with an error", self._path)
        finally:
            self._end_loop()

    def _connect(self) -> None:
        try:
            self._greet()
        except ProtocolError:
            # What QEMU still had to say to a client that was killed in a burst reaches the next
            # one, before its greeting: 2 of 200 connections made right after such a kill.
            self._greet()

    def _greet(self) -> None:
        try:
            self._await(self._client.connect(str(self._path)), "connect")
        except TransientError as error:
            if isinstance(error, ConnectionLostError):
                raise
            raise TransientError(
                f"the QMP socket {self._path} is busy: QEMU serves one client at a time",
                next_step="close the other client, or give QEMU a second -qmp socket",
                path=str(self._path),
            ) from error

    def _await(self, work: Coroutine[Any, Any, T], what: str) -> T:
        async def limited() -> T:
            async with asyncio.timeout(self._deadline_seconds):
                return await work

        future = asyncio.run_coroutine_threadsafe(limited(), self._loop)
        try:
            return future.result(self._deadline_seconds + _GRACE_SECONDS)
        except TimeoutError as error:
            future.cancel()
            raise TransientError(
                f"QEMU did not answer {what} within {self._deadline_seconds:g} s",
                next_step="see whether QEMU hangs on its storage",
            ) from error
        except ExecuteError:
            raise
        except ExecInterruptedError as error:
            raise self._why_interrupted() from error
        except _LIBRARY_ERRORS as error:
            raise _translated(error, self._path) from error

    def _why_interrupted(self) -> SealiftError:
        """The reader task of the library knows why the connection ended."""
        future = asyncio.run_coroutine_threadsafe(self._client.disconnect(), self._loop)
        try:
            future.result(_GRACE_SECONDS)
        except SealiftError as error:
            return error
        except _LIBRARY_ERRORS as error:
            return _translated(error, self._path)
        return ConnectionLostError(f"QEMU closed the QMP socket {self._path}")

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_GRACE_SECONDS)
        if not self._thread.is_alive():
            self._loop.close()


class _Client(QMPClient):
    """The library's client with a burst and a bounded memory for events."""

    def __init__(self, name: str, readbuflen: int) -> None:
        super().__init__(name, readbuflen)
        self.seen: list[Event] = []
        # Whatever the library would log as an error reaches our caller as an exception.
        self.logger.setLevel(logging.CRITICAL)

    async def _negotiate(self) -> None:
        # The library asks for out-of-band commands where QEMU has them. QEMU then reads on while
        # a command runs, and its reader walks the descriptors that getfd takes away at the same
        # time: a null pointer in QEMU 7.2, seen twice in some ten thousand bursts, and the guest
        # is gone (chardev/char-socket.c: tcp_chr_recv, tcp_get_msgfds). Without them QEMU reads
        # nothing more until a command is done (monitor/qmp.c: handle_qmp_command).
        if self._greeting is not None:
            self._greeting.QMP.capabilities = []
        await super()._negotiate()

    async def _event_dispatch(self, msg: Message) -> None:
        # Replaces the library's listeners: theirs queue every event without bound, for ever.
        if msg.get("event") not in ("STOP", "RESUME") or len(self.seen) >= _MAX_EVENTS:
            return
        stamp = as_mapping(msg.get("timestamp"), "timestamp")
        seconds = number(stamp, "seconds") + number(stamp, "microseconds") / 1e6
        self.seen.append(Event(text(msg, "event"), seconds))

    def peer(self) -> tuple[int, int]:
        """Process and user that opened the listening socket."""
        if self._writer is None:
            return 0, 0
        plain = self._writer.get_extra_info("socket")
        found = plain.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        pid, uid, _ = struct.unpack("3i", found)
        return pid, uid

    async def burst(self, commands: Sequence[Command]) -> list[Answer]:
        """Send all commands in one write that QEMU finishes without us.

        Pipelining alone is not enough: when a client dies, QEMU drops what it has not read
        yet, so a kill between ``stop`` and ``cont`` would leave the guest paused (12 of 30
        tries, QEMU 7.2). So the same write hands QEMU a duplicate of our end of the socket
        (``getfd``): the connection then outlives us until QEMU itself, as the last
        command, closes that duplicate (200 of 200 tries complete).
        """
        kept = [
            Command("getfd", {"fdname": _KEPT_SOCKET}),
            *commands,
            Command("closefd", {"fdname": _KEPT_SOCKET}),
        ]
        ids = [self._get_exec_id() for _ in kept]
        for exec_id in ids:
            self._pending[exec_id] = asyncio.Queue(maxsize=1)
        self._send_with_socket(b"".join(_line(c, i) for c, i in zip(kept, ids, strict=True)))
        replies = await asyncio.gather(*(self._reply(exec_id) for exec_id in ids))
        return [_answer(reply) for reply in replies[1:-1]]

    def _send_with_socket(self, payload: bytes) -> None:
        if self._writer is None:
            raise ConnectionLostError("not connected to QEMU")
        plain = self._writer.get_extra_info("socket").dup()
        try:
            sent = socket.send_fds(plain, [payload], [plain.fileno()])
        finally:
            plain.close()
        if sent != len(payload):
            raise ConnectionLostError("QEMU does not read its monitor")


def _line(command: Command, exec_id: str) -> bytes:
    message = {"execute": command.name, "arguments": dict(command.arguments), "id": exec_id}
    return json.dumps(message).encode() + b"\n"


def _answer(reply: Message) -> Answer:
    if "error" in reply:
        return Answer(error=text(as_mapping(reply["error"], "error"), "desc"))
    return Answer(value=reply.get("return"))


def _translated(error: BaseException, path: Path) -> SealiftError:
    cause = error.exc if isinstance(error, ConnectError) else error
    if isinstance(error, StateError) or isinstance(cause, OSError | EOFError):
        return ConnectionLostError(
            f"QEMU cannot be reached at {path}: {type(cause).__name__}",
            next_step="check that the VM runs and has this -qmp socket",
            path=str(path),
        )
    if isinstance(cause, _NONSENSE):
        return ProtocolError(f"what answers at {path} does not speak QMP", path=str(path))
    return ConnectionLostError(f"the QMP connection to {path} ended", path=str(path))
