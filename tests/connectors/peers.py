"""Servers that speak as a test wants them to: too slowly, without end, or not at all."""

import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass

from sealift.clock import SystemClock

Behave = Callable[[socket.socket], None]


def head(length: int) -> bytes:
    return f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n".encode()


def trickle(peer: socket.socket, data: bytes) -> None:
    for value in data:
        peer.sendall(bytes([value]))
        SystemClock().sleep(0.1)


def request(peer: socket.socket) -> None:
    while b"\r\n\r\n" not in peer.recv(65536):
        pass


def trickled_headers(peer: socket.socket) -> None:
    request(peer)
    trickle(peer, head(10) * 100)


def trickled_body(peer: socket.socket) -> None:
    request(peer)
    peer.sendall(head(1000))
    trickle(peer, bytes(1000))


def silence_after_headers(peer: socket.socket) -> None:
    request(peer)
    peer.sendall(head(1000))
    SystemClock().sleep(60)


def takes_a_byte_at_a_time(peer: socket.socket) -> None:
    while peer.recv(1):
        SystemClock().sleep(0.1)


@dataclass
class Peer:
    """A server that speaks as a test wants it to."""

    behave: Behave
    tls: ssl.SSLContext | None = None

    def __enter__(self) -> "Peer":
        self._listener = socket.socket()
        # small, so that what is not read blocks the sender soon
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(16)
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._one, args=(peer,), daemon=True).start()

    def _one(self, peer: socket.socket) -> None:
        try:
            if self.tls is not None:
                peer = self.tls.wrap_socket(peer, server_side=True)
            with peer:
                self.behave(peer)
        except OSError:
            pass
