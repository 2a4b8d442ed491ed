"""Connections to Azurite that carry requests on as they came, byte for byte."""

import contextlib
import http.client
import ssl
from collections.abc import Callable, Mapping

from sandbox.azure.https import Reply
from sealift.readiness import readable

_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length"})
_PIECE_BYTES = 1 << 20
_TIMEOUT_SECONDS = 300.0


class Upstream:
    """One connection; made at its first use, anew when Azurite closed it."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        self._port = port
        self._context = context
        self._connection: http.client.HTTPSConnection | None = None

    def send(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes,
        rest_bytes: int = 0,
        read: Callable[[int], bytes] | None = None,
    ) -> http.client.HTTPResponse:
        """Send a request; its answer's head, whose body is still to be read.

        Args:
            method: HTTP method.
            target: path and query as they came.
            headers: as they came.
            body: the body, or its beginning.
            rest_bytes: how much of the body is still to come.
            read: where that comes from.

        Raises:
            OSError: Azurite is gone.
            http.client.HTTPException: what it said is no HTTP.
        """
        if self._hung_up():
            self.close()
        connection = self._begin(method, target, headers)
        if body:
            connection.send(body)
        while read is not None and rest_bytes > 0:
            piece = read(min(_PIECE_BYTES, rest_bytes))
            if not piece:
                self.close()
                raise ConnectionAbortedError("the client gave up within its body")
            connection.send(piece)
            rest_bytes -= len(piece)
        return connection.getresponse()

    def reply(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes = b""
    ) -> Reply:
        """Send a request and read the whole answer."""
        with self.send(method, target, headers, body) as response:
            return Reply(response.status, response.read(), kept(response))

    def close(self) -> None:
        """Hang up; harmless when repeated."""
        if self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.close()
            self._connection = None

    def _hung_up(self) -> bool:
        """Whether Azurite closed the connection while it was idle: then it can be read."""
        connection = self._connection
        if connection is None or connection.sock is None:
            return False
        return readable(connection.sock.fileno(), 0)

    def _begin(
        self, method: str, target: str, headers: Mapping[str, str]
    ) -> http.client.HTTPSConnection:
        connection = self._connection
        if connection is None:
            connection = self._connection = http.client.HTTPSConnection(
                "127.0.0.1", self._port, context=self._context, timeout=_TIMEOUT_SECONDS
            )
        connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
        for name, value in headers.items():
            if name not in ("connection", "expect"):
                connection.putheader(name, value)
        connection.endheaders()
        return connection


def kept(response: http.client.HTTPResponse) -> tuple[tuple[str, str], ...]:
    """An answer's headers, without those of its connection."""
    return tuple((n, v) for n, v in response.getheaders() if n.lower() not in _HOP)
