"""Attempts that end: HTTP connections of urllib3 with a slowest rate, beside its timeouts.

urllib3 bounds connecting and each silence. A peer that sends or takes one byte before every
silence is over is bounded by neither, and holds a worker for ever. Both SDKs, of AWS and of Azure,
stand on urllib3's connections.
"""

import io
import socket
from functools import partial
from http.client import HTTPResponse
from typing import TYPE_CHECKING, Any

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from connectors.pace import LARGEST_ANSWER_BYTES, Pace
from sealift.clock import SystemClock

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_SLACK_SECONDS = 10.0  # so that a quick call never touches the socket's own timeout


class _PacedFile(io.RawIOBase):
    """The receiving side of a socket, at a pace."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, pace: Pace) -> None:
        self._raw = raw
        self._sock = sock
        self._pace = pace
        self._received = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer", /) -> int | None:
        self._pace.hold(self._sock)
        count: int | None = self._raw.readinto(buffer)
        self._pace.moved(count or 0)
        self._received += count or 0
        if self._received > self._pace.largest_answer:
            raise OSError("an answer without end")
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _PacedResponse(HTTPResponse):
    """Reads headers and body at a pace; a streamed body too, after the call has returned."""

    def __init__(self, sock: socket.socket, *args: Any, pace: Pace, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        raw = self.fp.detach()
        self.fp = io.BufferedReader(_PacedFile(raw, sock, pace))


class Paced:
    """Mixed into a connection, before its class."""

    grace_seconds = 60.0
    largest_answer = LARGEST_ANSWER_BYTES
    sock: socket.socket | None
    _pace: Pace

    def connect(self) -> None:
        """See ``http.client.HTTPConnection``."""
        self._begin()
        super().connect()  # type: ignore[misc]

    def request(self, *args: Any, **options: Any) -> Any:
        """See ``http.client.HTTPConnection``."""
        self._begin()
        return super().request(*args, **options)  # type: ignore[misc]

    def getresponse(self) -> Any:
        """See ``http.client.HTTPConnection``."""
        self.response_class = partial(_PacedResponse, pace=self._pace)
        return super().getresponse()  # type: ignore[misc]

    def send(self, data: Any) -> Any:
        """See ``http.client.HTTPConnection``; bytes are sent here, at a pace."""
        if not isinstance(data, bytes | bytearray | memoryview) or not self._sends():
            return super().send(data)  # type: ignore[misc]
        if self.sock is None:
            self.connect()
        view = memoryview(data).cast("B")
        while view and self.sock is not None:
            self._pace.hold(self.sock)
            sent = self.sock.send(view)
            self._pace.moved(sent)
            view = view[sent:]
        return None

    def _sends(self) -> bool:
        """Whether the connection would send now."""
        return True

    def _begin(self) -> None:
        self._pace = Pace(self.grace_seconds + _SLACK_SECONDS, SystemClock(), self.largest_answer)
        self.response_class = partial(_PacedResponse, pace=self._pace)


def paced_pools(grace_seconds: float, largest_answer: int) -> dict[str, type]:
    """For ``PoolManager.pool_classes_by_scheme``: pools whose attempts end, whoever the peer is.

    Args:
        grace_seconds: longest silence that the client allows.
        largest_answer: bytes of one answer with its headers.
    """
    settings = {"grace_seconds": grace_seconds, "largest_answer": largest_answer}
    plain = type("_Plain", (Paced, HTTPConnection), settings)
    tls = type("_Tls", (Paced, HTTPSConnection), settings)
    return {
        "http": type("_PlainPool", (HTTPConnectionPool,), {"ConnectionCls": plain}),
        "https": type("_TlsPool", (HTTPSConnectionPool,), {"ConnectionCls": tls}),
    }
