"""Answers of Azure that come byte by byte for ever end an attempt: Resource Manager's, a blob's,
a repository's, a vault's, and those of whoever gives out tokens.
"""

import ssl
from collections.abc import Callable
from pathlib import Path
from socket import SO_LINGER, SOL_SOCKET, socket
from struct import pack
from typing import Any

import pytest
from azure.core.credentials import AccessToken

from connectors import pace, paced_http
from connectors.azure.errors import azure_call
from connectors.azure.names import Owner
from connectors.azure.network import Cards
from connectors.azure.object_blob import BlobObjectStore, BlobSpec
from connectors.azure.operations import Operations
from connectors.azure.page_reader import PageBlobReader
from connectors.azure.session import AzureClients, make_credential, make_transport
from connectors.azure.spec import AzureSpec
from sealift.cancel import CancelToken
from sealift.clock import SystemClock
from sealift.errors import ConnectionLostError, CredentialsError, TransientError
from sealift.units import KiB, MiB
from sealift.wait import Waiter
from tests.connectors.peers import (
    Behave,
    Peer,
    request,
    silence_after_headers,
    takes_a_byte_at_a_time,
    trickle,
    trickled_body,
    trickled_headers,
)
from tests.nbd.test_tls import authority, folder

READ_SECONDS = 0.3
Call = Callable[[str], object]


class Credential:
    """A token that nobody looks at."""

    def get_token(self, *scopes: str, **_: Any) -> AccessToken:
        return AccessToken("token", int(SystemClock().now().timestamp()) + 3600)

    def close(self) -> None:
        """Nothing is held."""


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paced_http, "_SLACK_SECONDS", 0.3)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder(tmp_path_factory.mktemp("tls") / "s", authority(), "server", host="localhost")


@pytest.fixture
def tls(files: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(files / "ca-cert.pem"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files / "server-cert.pem", files / "server-key.pem")
    return context


def clients_of(endpoint: str) -> AzureClients:
    spec = AzureSpec(
        subscription_id="s",
        resource_group="g",
        storage_account="account",
        container="sealift",
        subnet_id="/subscriptions/s",
        endpoint=endpoint,
        blob_endpoint=f"{endpoint}/account",
        read_timeout_seconds=READ_SECONDS,
    )
    return AzureClients(spec, _made={"credential": Credential()})


def asked_of_resource_manager(endpoint: str) -> object:
    clients = clients_of(endpoint)
    operations = Operations(Waiter(SystemClock(), CancelToken()), 60.0)
    try:
        return Cards(clients, clients.spec, Owner("mig-1", {}), operations).find("card")
    finally:
        clients.close()


def polled(endpoint: str) -> object:
    clients = clients_of(endpoint)
    operations = Operations(Waiter(SystemClock(), CancelToken()), 60.0)
    try:
        return operations._asked(clients.network, "an operation", f"{endpoint}/operations/1")
    finally:
        clients.close()


def blob_listed(endpoint: str) -> object:
    clients = clients_of(endpoint)
    try:
        with azure_call("list"):
            return list(clients.container.list_blobs())
    finally:
        clients.close()


def object_stored(endpoint: str) -> object:
    spec = BlobSpec(
        "account", "points", endpoint=f"{endpoint}/account", read_timeout_seconds=READ_SECONDS
    )
    store = BlobObjectStore(spec, credential=Credential())
    try:
        return store.put("one", bytes(8 * MiB))
    finally:
        store.close()


def block_read(endpoint: str) -> None:
    clients = clients_of(endpoint)
    try:
        reader = PageBlobReader(clients.blob("mig-1/vda.vhd"), 4 * MiB, "mig-1/vda.vhd@1")
        reader.read_into(0, memoryview(bytearray(64 * KiB)))
    finally:
        clients.close()


def begun_block(peer: socket) -> None:
    """The headers of an honest answer; the SDK streams its body after the call."""
    request(peer)
    length = 64 * KiB
    lines = (
        "HTTP/1.1 206 Partial Content",
        f"Content-Length: {length}",
        f"Content-Range: bytes 0-{length - 1}/{4 * MiB}",
        'ETag: "1"',
        "x-ms-request-id: 1",
        "x-ms-blob-type: PageBlob",
        "Content-Type: application/octet-stream",
    )
    peer.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())


def trickled_block(peer: socket) -> None:
    begun_block(peer)
    trickle(peer, bytes(1000))


def reset_block(peer: socket) -> None:
    """Half of it, and then a reset instead of the end of the connection."""
    begun_block(peer)
    peer.sendall(bytes(32 * KiB))
    peer.setsockopt(SOL_SOCKET, SO_LINGER, pack("ii", 1, 0))


@pytest.mark.fault(14, 15)
@pytest.mark.timeout(60)
@pytest.mark.parametrize("behave", [trickled_headers, trickled_body, silence_after_headers])
@pytest.mark.parametrize("call", [asked_of_resource_manager, polled, blob_listed])
def test_an_answer_that_never_comes_to_an_end(
    tls: ssl.SSLContext, call: Call, behave: Behave
) -> None:
    with Peer(behave, tls) as peer, pytest.raises(TransientError) as caught:
        call(f"https://localhost:{peer.port}")
    assert isinstance(caught.value, ConnectionLostError)


@pytest.mark.fault(14, 15)
@pytest.mark.timeout(60)
@pytest.mark.parametrize("behave", [trickled_block, reset_block])
def test_a_streamed_block_that_breaks_off_is_read_again(
    tls: ssl.SSLContext, behave: Behave
) -> None:
    """The SDK's error of a broken stream has no status; it counted as a refusal for good."""
    with Peer(behave, tls) as peer, pytest.raises(ConnectionLostError):
        block_read(f"https://localhost:{peer.port}")


@pytest.mark.fault(15)
@pytest.mark.timeout(60)
def test_an_object_that_is_taken_byte_by_byte(
    tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "SLOWEST_BYTES_PER_SECOND", 16 * MiB)
    with Peer(takes_a_byte_at_a_time, tls) as peer, pytest.raises(ConnectionLostError):
        object_stored(f"https://localhost:{peer.port}")


@pytest.mark.fault(18)
@pytest.mark.timeout(60)
def test_an_endless_answer_does_not_fill_memory(
    tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("connectors.azure.session._LARGEST_ANSWER_BYTES", 4 * MiB)

    def flood(peer: socket) -> None:
        request(peer)
        peer.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            peer.sendall(bytes(64 * KiB))

    with Peer(flood, tls) as peer, pytest.raises(ConnectionLostError):
        asked_of_resource_manager(f"https://localhost:{peer.port}")


@pytest.mark.fault(15)
@pytest.mark.timeout(60)
def test_whoever_gives_out_tokens_is_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A managed identity answers in the clear, on this machine."""
    monkeypatch.setattr("connectors.azure.session._TOKEN_READ_SECONDS", READ_SECONDS)
    for name in ("AZURE_CLIENT_ID", "AZURE_TENANT_ID", "AZURE_CLIENT_SECRET"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "ManagedIdentityCredential")
    monkeypatch.setenv("IDENTITY_HEADER", "header")
    with Peer(trickled_body) as peer:
        monkeypatch.setenv("IDENTITY_ENDPOINT", f"http://localhost:{peer.port}/token")
        with pytest.raises(CredentialsError), azure_call("token"):
            make_credential().get_token("https://management.azure.com/.default")


def test_every_connection_keeps_the_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    transport = make_transport(4, 10.0, 60.0)
    for url in ("http://127.0.0.1:1", "https://127.0.0.1:1"):
        adapter: Any = transport.session.get_adapter(url)
        for manager in (
            adapter.poolmanager,
            adapter.proxy_manager_for("http://127.0.0.1:2"),
        ):
            connections: Any = manager.connection_from_url(url).ConnectionCls
            assert issubclass(connections, paced_http.Paced)
            assert connections.grace_seconds == 60.0
    transport.close()
