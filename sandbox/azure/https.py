"""An HTTP/1.1 server over TLS on 127.0.0.1: keep-alive, one thread per connection."""

import contextlib
import logging
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import cast

_log = logging.getLogger(__name__)
_MAX_BODY_BYTES = 64 << 20
_IDLE_SECONDS = 300


@dataclass(frozen=True, slots=True)
class Request:
    """One request, read completely.

    Attributes:
        method: HTTP method.
        target: path and query as sent.
        headers: names in lower case.
        body: the whole body.
    """

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer; ``Content-Length`` is added when it is sent.

    Attributes:
        status: HTTP status.
        body: none is sent to a HEAD.
        headers: all others.
    """

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Delivery:
    """How a reply is to be put on the connection.

    Attributes:
        reply: what to send; ``None`` resets the connection instead.
        cut: announce the whole length, send half of the body, then close.
        stall_seconds: how long to be silent after half of the body.
    """

    reply: Reply | None
    cut: bool = False
    stall_seconds: float = 0.0


Answer = Callable[[Request], Delivery]


class TlsServer(ThreadingHTTPServer):
    """Listens on a free port of 127.0.0.1; every connection shakes hands in its own thread."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, context: ssl.SSLContext, handler: type[BaseHTTPRequestHandler]) -> None:
        self._context = context
        self.stopping = threading.Event()
        super().__init__(("127.0.0.1", 0), handler)

    @property
    def endpoint(self) -> str:
        """``https://127.0.0.1:PORT``."""
        return f"https://127.0.0.1:{self.server_address[1]}"

    def get_request(self) -> tuple[socket.socket, object]:
        """A connection whose handshake is still to come."""
        connection, address = super().get_request()
        connection.settimeout(_IDLE_SECONDS)
        wrapped = self._context.wrap_socket(
            connection, server_side=True, do_handshake_on_connect=False
        )
        return wrapped, address

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is not an error of the server."""
        _log.debug("connection of %s ended early", client_address, exc_info=True)

    def start(self, name: str) -> None:
        """Serve from a thread of this name."""
        self._thread = threading.Thread(
            target=self.serve_forever, args=(0.05,), name=name, daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """End all stalls and stop listening."""
        self.stopping.set()
        self.shutdown()
        self._thread.join()
        self.server_close()


class HttpsServer(TlsServer):
    """Hands every request to ``answer``; starts when it is made.

    Args:
        context: the server's certificate.
        name: of its thread.
        answer: called from one thread per connection.
    """

    def __init__(self, context: ssl.SSLContext, name: str, answer: Answer) -> None:
        self.answer = answer
        super().__init__(context, _Handler)
        self.start(name)


class TlsHandler(BaseHTTPRequestHandler):
    """What the handlers of these servers have in common."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16
    timeout = _IDLE_SECONDS

    def log_message(self, format: str, *args: object) -> None:
        """Requests are noted elsewhere, without their secrets."""

    def lower_headers(self) -> dict[str, str]:
        """The request's headers, names in lower case."""
        return {name.lower(): value for name, value in self.headers.items()}

    def read_body(self, headers: Mapping[str, str]) -> bytes | None:
        """The whole body; ``None`` when it was refused or its sender gave up."""
        if "chunked" in headers.get("transfer-encoding", "").lower():
            return self._read_chunks()
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > _MAX_BODY_BYTES:
            self.send_reply(Reply(413))
            self.close_connection = True
            return None
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            self.close_connection = True  # the client gave up: nothing is done
            return None
        return body

    def _read_chunks(self) -> bytes | None:
        body = bytearray()
        while True:
            size = int(self.rfile.readline(64).split(b";")[0], 16)
            body += self.rfile.read(size)
            self.rfile.readline(8)
            if size == 0:
                return bytes(body)
            if len(body) > _MAX_BODY_BYTES:
                self.send_reply(Reply(413))
                self.close_connection = True
                return None

    def send_reply(self, reply: Reply, until: int | None = None) -> None:
        """Send a reply, or the first ``until`` bytes of its body."""
        self.send_response_only(reply.status)
        for name, value in reply.headers:
            self.send_header(name, value)
        told = any(name.lower() == "content-length" for name, _ in reply.headers)
        if reply.status != 204 and not told:  # a HEAD's answer tells the length of a GET's
            self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body[:until])
        self.wfile.flush()

    def reset(self) -> None:
        """End the connection with RST."""
        with contextlib.suppress(OSError):
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.connection.close()
        self.close_connection = True

    def deliver(self, delivery: Delivery) -> None:
        """Send a reply the way that was decided."""
        reply = delivery.reply
        if reply is None:
            self.reset()
        elif delivery.cut or delivery.stall_seconds:
            half = len(reply.body) // 2
            self.send_reply(reply, until=half)
            cast(TlsServer, self.server).stopping.wait(delivery.stall_seconds)
            if delivery.cut:
                self.close_connection = True
            else:
                self.wfile.write(reply.body[half:])
                self.wfile.flush()
        else:
            self.send_reply(reply)


class _Handler(TlsHandler):
    def do_GET(self) -> None:
        """All methods go the same way."""
        headers = self.lower_headers()
        body = self.read_body(headers)
        if body is not None:
            request = Request(self.command, self.path, headers, body)
            self.deliver(cast(HttpsServer, self.server).answer(request))

    do_POST = do_PUT = do_DELETE = do_HEAD = do_PATCH = do_GET
