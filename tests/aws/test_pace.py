"""A peer that trickles, floods or falls silent ends an attempt, in both directions and over TLS."""

import socket
import ssl
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from connectors import pace, paced_http
from connectors.aws import pace as sdk_pace
from connectors.aws.errors import aws_call
from connectors.aws.session import AwsClients
from connectors.aws.spec import AwsSpec
from sealift.errors import ConnectionLostError, TransientError
from sealift.testing.clock import VirtualClock
from sealift.units import KiB
from tests.connectors.peers import (
    Behave,
    Peer,
    request,
    silence_after_headers,
    takes_a_byte_at_a_time,
    trickled_body,
    trickled_headers,
)
from tests.nbd.test_tls import authority, folder

SPEC = AwsSpec("subnet-1", ("sg-1",), region="us-east-1", read_timeout_seconds=1.0)


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "example")
    monkeypatch.setattr(paced_http, "_SLACK_SECONDS", 0.5)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder(tmp_path_factory.mktemp("tls") / "s", authority(), "server", host="localhost")


@pytest.fixture(params=["http", "https"])
def scheme(
    request: pytest.FixtureRequest, certificates: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, ssl.SSLContext | None]]:
    if request.param == "http":
        yield "http", None
        return
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificates / "ca-cert.pem"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates / "server-cert.pem", certificates / "server-key.pem")
    yield "https", context


def call(endpoint: str, size: int = 0) -> None:
    clients = AwsClients(replace(SPEC, endpoint=endpoint))
    try:
        with aws_call("ebs:PutSnapshotBlock"):
            if not size:
                clients.ec2.describe_subnets()
                return
            clients.ebs.put_snapshot_block(
                SnapshotId="snap-0123456789abcdef0",
                BlockIndex=0,
                BlockData=bytes(size),
                DataLength=size,
                Checksum="x",
                ChecksumAlgorithm="SHA256",
            )
    finally:
        clients.close()


@pytest.mark.fault(14, 15)
@pytest.mark.timeout(120)
@pytest.mark.parametrize("behave", [trickled_headers, trickled_body, silence_after_headers])
def test_an_answer_that_never_comes_to_an_end(
    scheme: tuple[str, ssl.SSLContext | None], behave: Behave
) -> None:
    with Peer(behave, scheme[1]) as peer, pytest.raises(TransientError) as caught:
        call(f"{scheme[0]}://localhost:{peer.port}")
    assert isinstance(caught.value, ConnectionLostError)


@pytest.mark.fault(15)
@pytest.mark.timeout(60)
def test_a_request_that_is_taken_byte_by_byte(
    scheme: tuple[str, ssl.SSLContext | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "SLOWEST_BYTES_PER_SECOND", 16 * 1024 * KiB)
    with Peer(takes_a_byte_at_a_time, scheme[1]) as peer, pytest.raises(ConnectionLostError):
        call(f"{scheme[0]}://localhost:{peer.port}", size=8 * 1024 * KiB)


@pytest.mark.fault(15)
@pytest.mark.timeout(60)
def test_a_streamed_block_is_bounded_after_the_call_returned() -> None:
    with Peer(trickled_body) as peer:
        clients = AwsClients(replace(SPEC, endpoint=f"http://localhost:{peer.port}"))
        answer = clients.ebs.get_snapshot_block(
            SnapshotId="snap-0123456789abcdef0", BlockIndex=0, BlockToken="t"
        )
        with pytest.raises(ConnectionLostError), aws_call("ebs:GetSnapshotBlock"):
            answer["BlockData"].read()
        clients.close()


@pytest.mark.fault(18)
@pytest.mark.timeout(60)
def test_an_endless_answer_does_not_fill_memory() -> None:

    def flood(peer: socket.socket) -> None:
        request(peer)
        peer.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            peer.sendall(bytes(64 * KiB))

    with Peer(flood) as peer, pytest.raises(ConnectionLostError):
        call(f"http://localhost:{peer.port}")


def test_who_keeps_the_slowest_rate_is_never_cut_off() -> None:
    clock = VirtualClock()
    kept = pace.Pace(60.0, clock)
    for _ in range(1000):
        clock.sleep(1.0)
        kept.moved(pace.SLOWEST_BYTES_PER_SECOND)
        assert kept.left_seconds >= 60.0
    clock.sleep(61.0)
    assert kept.left_seconds < 0
    with socket.socket() as sock, pytest.raises(TimeoutError):
        kept.hold(sock)


def test_every_client_keeps_the_pace() -> None:
    clients = AwsClients(SPEC)
    made: list[Any] = [clients.ebs, clients.ec2, clients.sts, clients.kms, clients.quotas]
    for client in made:
        manager = client._endpoint.http_session._manager
        for url in ("http://127.0.0.1:1", "https://127.0.0.1:1"):
            connections = manager.connection_from_url(url)
            assert issubclass(connections.ConnectionCls, sdk_pace._Paced)
            assert connections.ConnectionCls.grace_seconds == SPEC.read_timeout_seconds
    clients.close()
