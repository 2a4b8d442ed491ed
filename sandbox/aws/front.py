"""The HTTP/1.1 server: loopback only, keep-alive, one thread per connection."""

import contextlib
import logging
import secrets
import socket
import struct
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import cast

from sandbox.aws.control import ControlApi
from sandbox.aws.router import Delivery, Router, identify
from sandbox.aws.wire import Reply

_log = logging.getLogger(__name__)
_MAX_BODY_BYTES = 64 * 1024 * 1024
_IDLE_SECONDS = 300


class FrontServer(ThreadingHTTPServer):
    """Listens on 127.0.0.1 and hands every request to the router or the control API."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, port: int, router: Router, control: ControlApi) -> None:
        self.router = router
        self.control = control
        super().__init__(("127.0.0.1", port), _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is not an error of the server."""
        _log.debug("connection of %s ended early", client_address, exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = _IDLE_SECONDS

    def do_GET(self) -> None:
        """All methods go the same way."""
        self._serve()

    do_POST = do_PUT = do_DELETE = do_HEAD = do_PATCH = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Requests are noted by the router."""

    def _serve(self) -> None:
        server = cast(FrontServer, self.server)
        headers = {name.lower(): value for name, value in self.headers.items()}
        length = headers.get("content-length", "0")
        if "transfer-encoding" in headers or not length.isdigit():
            self._refuse(411)
        elif int(length) > _MAX_BODY_BYTES:
            self._refuse(413)
        else:
            body = self.rfile.read(int(length))
            if len(body) < int(length):
                self.close_connection = True  # the client gave up: nothing is done
            elif self.path.startswith("/sandbox-api/"):
                self._send(server.control.handle(self.command, self.path, headers, body))
            else:
                call = identify(self.command, self.path, headers, body)
                self._deliver(server.router, server.router.handle(call))

    def _refuse(self, status: int) -> None:
        self._send(Reply(status))
        self.close_connection = True

    def _deliver(self, router: Router, delivery: Delivery) -> None:
        if delivery.reply is None:
            self._reset()
        elif delivery.cut or delivery.stall_seconds:
            half = len(delivery.reply.body) // 2
            self._send(delivery.reply, until=half)
            router.stall(delivery.stall_seconds)
            if delivery.cut:
                self.close_connection = True
            else:
                self.wfile.write(delivery.reply.body[half:])
        else:
            self._send(delivery.reply)

    def _send(self, reply: Reply, until: int | None = None) -> None:
        lines = [f"HTTP/1.1 {reply.status} {self.responses.get(reply.status, ('',))[0]}"]
        lines += [f"{name}: {value}" for name, value in reply.headers]
        lines += [f"x-amzn-RequestId: {secrets.token_hex(16)}"]
        length = len(reply.body) if reply.head_length is None else reply.head_length
        lines += [f"Content-Length: {length}", "Server: sealift-sandbox", "", ""]
        body = reply.body[:until] if self.command != "HEAD" else b""
        self._write("\r\n".join(lines).encode("latin-1"), body)

    def _write(self, head: bytes, body: bytes) -> None:
        sent = self.connection.sendmsg([head, body])
        if sent < len(head) + len(body):
            self.connection.sendall(memoryview(head + body)[sent:])

    def _reset(self) -> None:
        with contextlib.suppress(OSError):
            linger = struct.pack("ii", 1, 0)  # close() now sends RST instead of FIN
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.connection.close()
        self.close_connection = True
