"""PutSnapshotBlock without the SDK's client: the same request, the same errors, an end always."""

import base64
import datetime as dt
import hashlib
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from botocore.credentials import RefreshableCredentials

from connectors import http_sender
from connectors.aws.block_put import BlockSender, failure
from connectors.aws.errors import MissingError, aws_call
from connectors.aws.session import AwsClients
from connectors.aws.spec import AwsSpec
from connectors.http_sender import HttpSender, Route
from sealift.clock import SystemClock
from sealift.errors import (
    ConfigError,
    ConnectionLostError,
    CredentialsError,
    QuotaError,
    SealiftError,
    TargetDeniedError,
    TargetError,
    ThrottledError,
    TransientError,
)
from sealift.units import KiB, MiB
from tests.aws.test_pace import certificates
from tests.connectors.peers import Peer, head, trickle

__all__ = ["certificates"]
SPEC = AwsSpec("subnet-1", ("sg-1",), region="eu-west-1", read_timeout_seconds=2.0)
ID = "snap-0123456789abcdef0"
DATA = bytes(range(256)) * 2048
CHECKSUM = base64.b64encode(hashlib.sha256(DATA).digest()).decode()


class Recorder(ThreadingHTTPServer):
    """Keeps every request's line and headers, and confirms every block."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[tuple[str, dict[str, str], bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Recorder
    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.requests.append((self.requestline, headers, body))
        self.send_response(201)
        self.send_header("x-amz-Checksum", self.headers["x-amz-Checksum"])
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    with Recorder() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "example")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "a-token")
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)


def put(endpoint: str, spec: AwsSpec = SPEC) -> str | None:
    clients = AwsClients(replace(spec, endpoint=endpoint))
    try:
        with aws_call("ebs:PutSnapshotBlock"):
            return clients.blocks.put(ID, 7, DATA, CHECKSUM)
    finally:
        clients.close()


def split_authorization(headers: dict[str, str]) -> tuple[str, set[str]]:
    """Scope without the moment, and the names that are signed."""
    facts = dict(
        part.split("=", 1) for part in headers["authorization"].split(" ", 1)[1].split(", ")
    )
    return facts["Credential"], set(facts["SignedHeaders"].split(";"))


def test_the_request_is_the_sdks(recorder: Recorder) -> None:
    """Everything that the SDK's client sends for the same block, but its own book-keeping."""
    clients = AwsClients(replace(SPEC, endpoint=recorder.url, read_timeout_seconds=10.0))
    clients.ebs.put_snapshot_block(
        SnapshotId=ID,
        BlockIndex=7,
        BlockData=DATA,
        DataLength=len(DATA),
        Checksum=CHECKSUM,
        ChecksumAlgorithm="SHA256",
    )
    assert clients.blocks.put(ID, 7, DATA, CHECKSUM) == CHECKSUM
    clients.close()
    (line, theirs, their_body), (our_line, ours, our_body) = recorder.requests
    assert (our_line, our_body) == (line, their_body)
    scope, signed = split_authorization(theirs)
    our_scope, our_signed = split_authorization(ours)
    book_keeping = {"amz-sdk-invocation-id", "amz-sdk-request"}
    assert our_scope == scope
    assert our_signed == signed - book_keeping
    varying = {
        "authorization",
        "x-amz-date",
        "user-agent",
        "accept",
        "accept-encoding",
        *book_keeping,
    }
    assert {k: v for k, v in ours.items() if k not in varying} == {
        k: v for k, v in theirs.items() if k not in varying
    }
    assert ours["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD"
    assert ours["x-amz-security-token"] == "a-token"


def test_connections_are_kept(recorder: Recorder) -> None:
    clients = AwsClients(replace(SPEC, endpoint=recorder.url, read_timeout_seconds=10.0))
    ports = set()
    original = _Handler.do_PUT

    def noted(self: _Handler) -> None:
        ports.add(self.client_address[1])
        original(self)

    _Handler.do_PUT = noted  # type: ignore[method-assign]
    try:
        for index in range(5):
            clients.blocks.put(ID, index, DATA, CHECKSUM)
    finally:
        _Handler.do_PUT = original  # type: ignore[method-assign]
        clients.close()
    assert len(ports) == 1


def error(status: int, code: str, **members: object) -> bytes:
    body = json.dumps({"Message": "no", **members}).encode()
    return (
        f"HTTP/1.1 {status} X\r\nx-amzn-ErrorType: {code}\r\nx-amzn-RequestId: r-1\r\n"
        f"Retry-After: 3\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body


def answering(answer: bytes) -> Callable[[socket.socket], None]:
    def behave(peer: socket.socket) -> None:
        got = b""
        while b"\r\n\r\n" not in got:
            got += peer.recv(65536)
        left = len(DATA) - len(got.split(b"\r\n\r\n", 1)[1])
        while left > 0:
            left -= len(peer.recv(65536))
        peer.sendall(answer)

    return behave


@pytest.mark.fault(18, 23, 24)
@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (error(400, "ValidationException", Reason="INVALID_BLOCK"), TargetError),
        (error(400, "ValidationException", Reason="WRITE_REQUEST_TIMEOUT"), TransientError),
        (error(404, "ResourceNotFoundException"), MissingError),
        (error(403, "AccessDeniedException"), TargetDeniedError),
        (error(403, "ExpiredTokenException"), CredentialsError),
        (error(402, "ServiceQuotaExceededException"), QuotaError),
        (error(429, "RequestThrottledException", Reason="ACCOUNT_THROTTLED"), ThrottledError),
        (error(503, "ServiceUnavailable"), TransientError),
        (b"HTTP/1.1 502 X\r\nContent-Length: 15\r\n\r\n<html>no</html>", TransientError),
        (b"HTTP/1.1 302 X\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n", None),
        (b"HTTP/1.1 201 X\r\nContent-Length: 50\r\n\r\n{}", ConnectionLostError),
        (b"SSH-2.0-OpenSSH\r\n", ConnectionLostError),
        (b"", ConnectionLostError),
    ],
)
def test_an_answer_that_confirms_nothing(answer: bytes, kind: type[SealiftError] | None) -> None:
    with Peer(answering(answer)) as peer, pytest.raises(SealiftError) as caught:
        put(f"http://127.0.0.1:{peer.port}")
    assert type(caught.value) is (kind or TransientError)
    if isinstance(caught.value, ThrottledError):
        assert caught.value.retry_after_seconds == 3


@pytest.mark.fault(18)
@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n<html>ok</html>",
        b"HTTP/1.1 201 X\r\nx-amz-Check",
    ],
)
def test_a_success_status_alone_confirms_nothing(answer: bytes) -> None:
    with Peer(answering(answer)) as peer:
        assert put(f"http://127.0.0.1:{peer.port}") is None


def silent(peer: socket.socket) -> None:
    while peer.recv(65536):
        pass


def trickled_answer(peer: socket.socket) -> None:
    answering(b"")(peer)
    trickle(peer, head(10) * 1000)


def takes_one_piece(peer: socket.socket) -> None:
    peer.recv(10)
    threading.Event().wait(20)


@pytest.mark.fault(14, 15)
@pytest.mark.timeout(120)
@pytest.mark.parametrize("behave", [silent, trickled_answer, takes_one_piece])
def test_a_peer_that_does_not_come_to_an_end(
    behave: Callable[[socket.socket], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("connectors.pace.SLOWEST_BYTES_PER_SECOND", 16 * MiB)
    with Peer(behave) as peer, pytest.raises(ConnectionLostError):
        put(f"http://127.0.0.1:{peer.port}", replace(SPEC, connect_timeout_seconds=0.5))


@pytest.mark.fault(18)
@pytest.mark.parametrize("start", [b"HTTP/1.1 201 X\r\n\r\n", b"HTTP/1.1 201 X\r\na: "])
def test_an_answer_without_end_does_not_fill_memory(
    start: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_sender, "LARGEST_ANSWER_BYTES", 256 * KiB)

    def flood(peer: socket.socket) -> None:
        answering(start)(peer)
        while True:
            peer.sendall(b"x" * 64 * KiB)

    with Peer(flood) as peer, pytest.raises(ConnectionLostError):
        put(f"http://127.0.0.1:{peer.port}")


def test_nobody_there() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionLostError):
            put(f"http://127.0.0.1:{taken.getsockname()[1]}")


def tls_peer(certificates: Path) -> Peer:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates / "server-cert.pem", certificates / "server-key.pem")
    confirmed = f"HTTP/1.1 201 X\r\nx-amz-Checksum: {CHECKSUM}\r\nContent-Length: 0\r\n\r\n"
    return Peer(answering(confirmed.encode()), context)


def test_tls_by_the_named_authority(certificates: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificates / "ca-cert.pem"))
    with tls_peer(certificates) as peer:
        assert put(f"https://localhost:{peer.port}") == CHECKSUM


def test_tls_of_a_stranger_or_for_another_name(
    certificates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tls_peer(certificates) as peer, pytest.raises(TargetError, match="certificate"):
        put(f"https://localhost:{peer.port}")
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificates / "ca-cert.pem"))
    with tls_peer(certificates) as peer, pytest.raises(TargetError, match="certificate"):
        put(f"https://127.0.0.1:{peer.port}")


def test_authorities_that_cannot_be_read(tmp_path: Path, certificates: Path) -> None:
    route = Route(str(tmp_path / "none.pem"), "", 1.0, 1.0, "x")
    with tls_peer(certificates) as peer, pytest.raises(ConfigError, match=r"none\.pem"):
        HttpSender(route, failure).send("PUT", f"https://localhost:{peer.port}/", [], b"x")


def test_the_proxy_of_the_environment(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", recorder.url)
    monkeypatch.setenv("http_proxy", recorder.url)
    assert put("http://ebs.example.invalid") == CHECKSUM
    assert recorder.requests[0][0].startswith(f"PUT http://ebs.example.invalid/snapshots/{ID}/")
    monkeypatch.setenv("NO_PROXY", "localhost")
    monkeypatch.setenv("no_proxy", "localhost")
    assert put(f"http://localhost:{recorder.server_port}") == CHECKSUM
    assert recorder.requests[1][0].startswith("PUT /snapshots/")


def test_credentials_are_renewed_before_they_expire(recorder: Recorder) -> None:
    made = 0

    def renew() -> dict[str, str]:
        nonlocal made
        made += 1
        soon = SystemClock().now() + dt.timedelta(seconds=60)  # always about to expire
        return {
            "access_key": f"AKIA{made}",
            "secret_key": "s",
            "token": "t",
            "expiry_time": soon.isoformat(),
        }

    clients = AwsClients(replace(SPEC, endpoint=recorder.url, read_timeout_seconds=10.0))
    renewed = RefreshableCredentials.create_from_metadata(renew(), renew, "test")
    sender = HttpSender(Route("", "", 5.0, 5.0, "x"), failure)
    blocks = BlockSender(clients.ebs, renewed, sender)
    for index in range(3):
        blocks.put(ID, index, DATA, CHECKSUM)
    blocks.close()
    clients.close()
    used = [split_authorization(headers)[0].split("/")[0] for _, headers, _ in recorder.requests]
    assert used == ["AKIA2", "AKIA3", "AKIA4"]


def test_no_credentials(recorder: Recorder) -> None:
    clients = AwsClients(replace(SPEC, endpoint=recorder.url))
    blocks = BlockSender(clients.ebs, None, HttpSender(Route("", "", 5.0, 5.0, "x"), failure))
    with pytest.raises(CredentialsError), aws_call("ebs:PutSnapshotBlock"):
        blocks.put(ID, 0, DATA, CHECKSUM)
    clients.close()
    assert not recorder.requests
