"""The door of the blob service: faults, the log, and the rules that Azurite does not keep.

Requests go on to Azurite as they came; answers come back in pieces. Bodies longer than
8 MiB are carried on without being kept.
"""

import http.client
import logging
import ssl
import uuid
from email.utils import format_datetime
from typing import cast

from azure.storage.blob import BlobClient, BlobServiceClient

from sandbox.azure import blob_rules
from sandbox.azure.blob_calls import BlobRequest, identify
from sandbox.azure.blob_lies import lied
from sandbox.azure.blob_locks import LockBook
from sandbox.azure.faults import (
    Call,
    Codes,
    Fault,
    FaultBook,
    FaultKind,
    RequestLog,
    flipped,
    refusal,
    spoiled,
)  # fmt: skip
from sandbox.azure.https import Delivery, Reply, TlsHandler, TlsServer
from sandbox.azure.identity import STORAGE_AUDIENCE, TokenError, TokenIssuer
from sandbox.azure.upstream import Upstream, kept
from sealift.clock import SystemClock

_log = logging.getLogger(__name__)
_VERSION = "2025-11-05"
_KEPT_BYTES = 8 << 20
_PIECE_BYTES = 1 << 20
_SPOILED_BYTES = 64 << 20
_CODES = Codes(
    throttle=(503, "ServerBusy"),
    server="InternalError",
    expired=(401, "InvalidAuthenticationInfo"),
    denied=(403, "AuthorizationPermissionMismatch"),
)
_KNOWN = frozenset(
    {
        "CopyBlob", "DeleteBlob", "GetBlob", "GetBlobProperties", "GetContainerProperties",
        "PutBlob",
    }
)  # fmt: skip
"""Whose answers show, or change, what is known here."""


class BlobFront(TlsServer):
    """Stands before Azurite; starts when it is made.

    Args:
        context: the certificate that it shows.
        client_context: verifies Azurite's.
        port: Azurite's.
        issuer: whose tokens let in.
        faults: what is to go wrong.
        log: where calls are noted.
        copies: copies that are under way.
        locks: immutability policies.
        service: Azurite with the account's key, for the differences between snapshots.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        client_context: ssl.SSLContext,
        port: int,
        issuer: TokenIssuer,
        faults: FaultBook,
        log: RequestLog,
        copies: blob_rules.CopyBook,
        locks: LockBook,
        service: BlobServiceClient,
    ) -> None:
        self.issuer = issuer
        self.faults = faults
        self.request_log = log
        self.copies = copies
        self.locks = locks
        self.service = service
        self._port = port
        self._client_context = client_context
        super().__init__(context, _Handler)
        self.start("azure-blobs")

    def upstream(self) -> Upstream:
        """A connection to Azurite."""
        return Upstream(self._port, self._client_context)

    def blob(self, request: BlobRequest, snapshot: str) -> BlobClient:
        """The blob of a request, at a snapshot."""
        return self.service.get_blob_client(
            request.container, request.blob, snapshot=snapshot or None
        )


class _Handler(TlsHandler):
    def setup(self) -> None:
        """One connection to Azurite per connection of a client."""
        super().setup()
        self._front = cast(BlobFront, self.server)
        self._upstream = self._front.upstream()

    def finish(self) -> None:
        """Hang up on both sides."""
        self._upstream.close()
        super().finish()

    def do_GET(self) -> None:
        """All methods go the same way."""
        headers = self.lower_headers()
        request = identify(self.command, self.path, headers)
        length = headers.get("content-length", "0")
        self._left = int(length) if length.isdigit() else 0
        self._body = b"" if self._left > _KEPT_BYTES else self.rfile.read(self._left)
        if self._left <= _KEPT_BYTES:
            if len(self._body) < self._left:
                self.close_connection = True  # the client gave up: nothing is done
                return
            self._left = 0
        received = int(length) if length.isdigit() else 0
        call = Call(request.operation, request.path)
        fault = self._front.faults.strike(call)
        if fault is not None and fault.kind is FaultKind.DAMAGED_UPLOAD:
            self._body = flipped(self._body)
        status, sent = self._serve(request, received, fault)
        self._front.request_log.add(
            call, self.command, status, fault, sent_bytes=sent, received_bytes=received
        )

    do_POST = do_PUT = do_DELETE = do_HEAD = do_PATCH = do_GET

    def _serve(self, request: BlobRequest, length: int, fault: Fault | None) -> tuple[int, int]:
        """Answer; the status and how many bytes of body were sent."""
        refused = self._refused(request, length)
        if refused is None and fault is not None:
            refused = refusal(fault, _CODES, _refuse)
        if refused is not None:
            self._drain()
            return self._sent(refused)
        if fault is not None and fault.kind is FaultKind.STALL:
            self._front.stopping.wait(fault.seconds)
        answered = self._front.locks.answer(request)
        if answered is not None:
            reply = answered if isinstance(answered, Reply) else _refuse(*answered)
            return self._sent(spoiled(fault, _CODES, _refuse, reply) if fault else Delivery(reply))
        try:
            headers = self._front.locks.carried_on(request.headers)
            response = self._upstream.send(
                self.command, self.path, headers, self._body, self._left, self.rfile.read
            )
            with response:
                return self._answer(request, fault, response)
        except (OSError, http.client.HTTPException):
            _log.debug("%s was cut off", request.operation, exc_info=True)
            self._upstream.close()
            self.close_connection = True
            return 0, 0

    def _refused(self, request: BlobRequest, length: int) -> Delivery | None:
        authorization = request.headers.get("authorization", "")
        if authorization.lower().startswith("bearer "):
            try:
                self._front.issuer.check(authorization, STORAGE_AUDIENCE)
            except TokenError as error:
                return Delivery(_refuse(401, "InvalidAuthenticationInfo", str(error)))
        found = blob_rules.refused(request, length, self._body, self._front.copies)
        found = found or self._front.locks.refused(request)
        return Delivery(_refuse(*found)) if found else None

    def _drain(self) -> None:
        while self._left > 0:
            piece = self.rfile.read(min(_PIECE_BYTES, self._left))
            if not piece:
                self.close_connection = True
                return
            self._left -= len(piece)

    def _answer(
        self, request: BlobRequest, fault: Fault | None, response: http.client.HTTPResponse
    ) -> tuple[int, int]:
        whole = fault is not None or request.operation in ("ListBlobs", "GetPageRangesDiff")
        if not whole and request.operation not in _KNOWN:
            return self._stream(response, Reply(response.status, b"", kept(response)))
        if not whole and request.operation == "GetBlob":
            head = self._front.copies.shown(request, Reply(response.status, b"", kept(response)))
            return self._stream(response, self._front.locks.done(request, head))
        reply = Reply(response.status, response.read(_SPOILED_BYTES), kept(response))
        if response.length:
            self._upstream.close()  # the rest would be taken for the next answer
        reply = self._finished(request, fault, reply, response.getheader("content-length"))
        if fault is None:
            return self._sent(Delivery(reply))
        return self._sent(spoiled(fault, _CODES, _refuse, lied(fault, reply)))

    def _finished(
        self, request: BlobRequest, fault: Fault | None, reply: Reply, length: str | None
    ) -> Reply:
        """What the rules make of an answer."""
        if request.operation == "GetPageRangesDiff" and reply.status == 200:
            before = self._front.blob(request, request.query["prevsnapshot"])
            now = self._front.blob(request, request.snapshot)
            return blob_rules.diff_reply(request, now, before, reply)
        if request.operation == "CopyBlob" and reply.status == 202:
            fails = fault is not None and fault.kind is FaultKind.COPY_FAILS
            if fails:
                self._spoil_copy(request)
            self._front.copies.began(request, fails=fails)
        if request.operation in ("DeleteBlob", "PutBlob") and reply.status < 300:
            self._front.copies.forget(request)
        reply = self._front.locks.done(request, self._front.copies.shown(request, reply))
        if self.command == "HEAD" and length is not None:
            return Reply(reply.status, b"", (*reply.headers, ("Content-Length", length)))
        return reply

    def _spoil_copy(self, request: BlobRequest) -> None:
        """A copy that failed leaves nothing behind that anybody could use ("Copy Blob")."""
        blob = self._front.blob(request, "")
        size = blob.get_blob_properties().size
        if size:
            blob.clear_page(0, size, lease=request.headers.get("x-ms-lease-id"))

    def _stream(self, response: http.client.HTTPResponse, head: Reply) -> tuple[int, int]:
        self.send_response_only(head.status)
        for name, value in head.headers:
            self.send_header(name, value)
        length = response.getheader("content-length")
        chunked = length is None and self.command != "HEAD" and head.status not in (204, 304)
        body = response.read() if chunked else b""
        if chunked or length is not None:
            self.send_header("Content-Length", str(len(body)) if chunked else str(length))
        self.end_headers()
        self.wfile.write(body)
        sent = len(body)
        while not chunked and (piece := response.read(_PIECE_BYTES)):
            self.wfile.write(piece)
            sent += len(piece)
        self.wfile.flush()
        return head.status, sent

    def _sent(self, delivery: Delivery) -> tuple[int, int]:
        self.deliver(delivery)
        reply = delivery.reply
        return (reply.status, len(reply.body)) if reply else (0, 0)


def _refuse(status: int, code: str, message: str) -> Reply:
    body = blob_rules.error_body(code, message)
    kind = (("Content-Type", "application/xml"), ("x-ms-error-code", code))
    return Reply(status, body, (*kind, *_service_headers()))


def _service_headers() -> tuple[tuple[str, str], ...]:
    """What every answer of the service has."""
    now = format_datetime(SystemClock().now(), usegmt=True)
    return (("x-ms-request-id", str(uuid.uuid4())), ("x-ms-version", _VERSION), ("Date", now))
