"""A TCP proxy between Sealift and the offline cloud that cuts, stalls, trickles and swallows."""

import itertools
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum

from sealift.clock import SystemClock

_PIECE = 16384


class Manner(Enum):
    """How a connection goes wrong."""

    CUT = "closed"
    RESET = "reset"
    STALL = "silent from then on, but open"
    TRICKLE = "ten bytes a second from then on"


class Way(Enum):
    """Whose bytes are counted."""

    REQUEST = "request"
    ANSWER = "answer"


@dataclass(frozen=True)
class Trouble:
    """What happens to one connection once so many bytes went one way."""

    manner: Manner
    way: Way
    after: int


Choose = Callable[[int], Trouble | None]


class Proxy:
    """Listens on 127.0.0.1 until the block ends.

    Args:
        port: of the server behind it, on 127.0.0.1.
        choose: trouble for a connection by its number, from 0; None for an honest one.
    """

    def __init__(self, port: int, choose: Choose) -> None:
        self._behind = port
        self.choose = choose
        self._numbers = itertools.count()
        self._open: list[socket.socket] = []
        self.troubled = 0
        self.stopped = threading.Event()

    def __enter__(self) -> "Proxy":
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        self._listener.close()
        self.hang_up()

    def hang_up(self) -> None:
        """End every connection; the next call opens a new one."""
        for one in self._open:
            _close(one)
        self._open = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def _accept(self) -> None:
        while not self.stopped.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            trouble = self.choose(next(self._numbers))
            try:
                server = socket.create_connection(("127.0.0.1", self._behind))
            except OSError:
                _close(client)
                continue
            self._open += [client, server]
            for way, source, sink in (
                (Way.REQUEST, client, server),
                (Way.ANSWER, server, client),
            ):
                mine = trouble if trouble is not None and trouble.way is way else None
                pump = threading.Thread(target=self._pump, args=(source, sink, mine), daemon=True)
                pump.start()

    def _pump(self, source: socket.socket, sink: socket.socket, trouble: Trouble | None) -> None:
        left = trouble.after if trouble else None
        try:
            while left != 0:
                data = source.recv(_PIECE if left is None else min(_PIECE, left))
                if not data:
                    break
                sink.sendall(data)
                left = None if left is None else left - len(data)
            else:
                assert trouble is not None
                self.troubled += 1
                self._misbehave(trouble.manner, source, sink)
        except OSError:
            pass
        finally:
            _close(source)
            _close(sink)

    def _misbehave(self, manner: Manner, source: socket.socket, sink: socket.socket) -> None:
        if manner is Manner.RESET:
            for one in (source, sink):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                one.shutdown(socket.SHUT_RD)  # wakes the other pump, and sends nothing
        elif manner is Manner.STALL:
            self.stopped.wait()
        elif manner is Manner.TRICKLE:
            while not self.stopped.is_set() and (byte := source.recv(1)):
                sink.sendall(byte)
                SystemClock().sleep(0.1)


def _close(one: socket.socket) -> None:
    with suppress(OSError):
        abrupt = one.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER)
        # with this set, closing resets; a shutdown before it would say goodbye in order
        if not abrupt:
            one.shutdown(socket.SHUT_RDWR)
    one.close()
