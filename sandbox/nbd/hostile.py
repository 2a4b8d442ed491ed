"""An NBD server that does what a script says: for everything a real one never does."""

import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

GREETING = struct.pack(">QQH", 0x4E42444D41474943, 0x49484156454F5054, 3)
FLAGS_READ_ONLY = 1 | 2 | 256
FLAGS_WRITABLE = 1 | 4 | 64 | 256


class Peer:
    """The server's side of one connection, in the words of the protocol; calls can be chained."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.closing = threading.Event()

    def send(self, *parts: bytes) -> Self:
        """Raw bytes."""
        self.sock.sendall(b"".join(parts))
        return self

    def receive(self, count: int) -> bytes:
        """Exactly ``count`` bytes, or ``EOFError``."""
        data = b""
        while len(data) < count:
            part = self.sock.recv(count - len(data))
            if not part:
                raise EOFError
            data += part
        return data

    def stall(self) -> None:
        """Say nothing until the test ends."""
        self.closing.wait()

    def trickle(self, data: bytes, seconds: float) -> None:
        """One byte every ``seconds``."""
        for byte in data:
            self.send(bytes([byte]))
            if self.closing.wait(seconds):
                return

    def receive_option(self) -> tuple[int, bytes]:
        """(option, payload) that the client sent."""
        _, option, length = struct.unpack(">QLL", self.receive(16))
        return option, self.receive(length)

    def option_reply(
        self, option: int, kind: int, payload: bytes = b"", length: int | None = None
    ) -> Self:
        """An option reply; ``length`` may lie."""
        said = len(payload) if length is None else length
        return self.send(struct.pack(">QLLL", 0x3E889045565A9, option, kind, said), payload)

    def greet(self) -> None:
        """An honest greeting; the client's flags are read."""
        self.send(GREETING)
        self.receive(4)

    def haggle(self, size: int, flags: int = FLAGS_READ_ONLY, dirty: bool = False) -> None:
        """An honest negotiation up to the transmission phase; contexts 1 and 2."""
        self.greet()
        while True:
            option, payload = self.receive_option()
            if option == 10:
                self.option_reply(option, 4, struct.pack(">L", 1) + b"base:allocation")
                if dirty:
                    start = payload.index(b"qemu:dirty-bitmap:")
                    self.option_reply(option, 4, struct.pack(">L", 2) + payload[start:])
            if option == 7:
                self.option_reply(option, 3, struct.pack(">HQH", 0, size, flags))
            self.option_reply(option, 1)
            if option == 7:
                return

    def receive_request(self) -> "Request":
        """The client's next request, without its payload."""
        _, flags, command, cookie, offset, length = struct.unpack(">LHHQQL", self.receive(28))
        return Request(command, cookie, offset, length, flags)

    def chunk(
        self, cookie: int, kind: int, payload: bytes = b"", *, done: bool = True, length: int = -1
    ) -> Self:
        """A structured reply chunk; ``length`` may lie."""
        said = len(payload) if length < 0 else length
        return self.send(struct.pack(">LHHQL", 0x668E33EF, int(done), kind, cookie, said), payload)

    def status(self, cookie: int, context: int, *extents: tuple[int, int], done: bool) -> Self:
        """A block status chunk."""
        payload = struct.pack(">L", context) + b"".join(struct.pack(">LL", *e) for e in extents)
        return self.chunk(cookie, 5, payload, done=done)


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asked for; ``command`` 0 reads, 1 writes, 7 asks for block status."""

    command: int
    cookie: int
    offset: int
    length: int
    flags: int


Script = Callable[[Peer], object]


class HostileServer:
    """Runs ``script`` for every connection, in threads; a context manager.

    Args:
        path: socket to listen on.
        script: what to do with a connection; a closed client ends it silently.
    """

    def __init__(self, path: Path, script: Script) -> None:
        self._script = script
        self._peers: list[Peer] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    @property
    def connections(self) -> int:
        """How many clients came."""
        return len(self._peers)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._accepting.join()
        for peer in self._peers:
            peer.closing.set()
            _shut_down(peer.sock)
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            peer = Peer(sock)
            self._peers.append(peer)
            thread = threading.Thread(target=self._serve, args=(peer,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, peer: Peer) -> None:
        with peer.sock:
            try:
                self._script(peer)
            except (OSError, EOFError):
                return


def _shut_down(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        return
