"""Tokens and TLS, with the real azure-identity and the real blob client, unmodified."""

import contextlib
import http.client
import json
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from azure.core.exceptions import ServiceRequestError
from azure.identity import DefaultAzureCredential
from azure.storage.blob import BlobServiceClient

from sandbox.azure.identity import ARM_AUDIENCE, STORAGE_AUDIENCE, TokenError, TokenIssuer
from sandbox.azure.server import AzureSandbox
from sealift.clock import SystemClock

pytestmark = pytest.mark.sandbox


class Moved:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.at = datetime(2026, 1, 1, tzinfo=UTC)

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return self.at.timestamp()

    def sleep(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)


def test_real_credential_writes_and_reads_pages(sandbox: AzureSandbox) -> None:
    with (
        DefaultAzureCredential() as credential,
        BlobServiceClient(sandbox.blob_endpoint, credential=credential) as service,
        service.get_blob_client(sandbox.container, "disk.vhd") as blob,
    ):
        blob.create_page_blob(1 << 20)
        blob.upload_page(b"\x5a" * 4096, offset=8192, length=4096)
        assert blob.download_blob().readall() == bytes(8192) + b"\x5a" * 4096 + bytes(
            (1 << 20) - 12288
        )


def test_token_for_another_audience_is_refused_by_blobs(sandbox: AzureSandbox) -> None:
    token, _ = sandbox.issuer.issue(ARM_AUDIENCE)
    address = urlsplit(sandbox.blob_endpoint)
    connection = http.client.HTTPSConnection(
        address.netloc, context=sandbox.authority.client_context()
    )
    headers = {"Authorization": f"Bearer {token}", "x-ms-version": "2025-11-05"}
    path = f"{address.path}/{sandbox.container}?restype=container"
    with contextlib.closing(connection):
        connection.request("GET", path, headers=headers)
        assert connection.getresponse().status == 401


def test_certificate_is_verified(sandbox: AzureSandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    with (
        DefaultAzureCredential() as credential,
        BlobServiceClient(sandbox.blob_endpoint, credential=credential, retry_total=0) as service,
        pytest.raises(ServiceRequestError, match="CERTIFICATE_VERIFY_FAILED"),
    ):
        list(service.list_containers())


def test_identity_endpoint_needs_its_header(sandbox: AzureSandbox) -> None:
    address = urlsplit(sandbox.environment()["IDENTITY_ENDPOINT"])
    path = f"{address.path}?api-version=2019-08-01&resource={STORAGE_AUDIENCE}"
    connection = http.client.HTTPConnection(address.netloc)
    with contextlib.closing(connection):
        connection.request("GET", path, headers={"X-IDENTITY-HEADER": "another"})
        assert connection.getresponse().status == 401


def test_tokens_end() -> None:
    clock = Moved()
    issuer = TokenIssuer("tenant", life_seconds=60, clock=clock)
    header = f"Bearer {issuer.issue(ARM_AUDIENCE)[0]}"
    assert issuer.check(header, ARM_AUDIENCE)["tid"] == "tenant"
    clock.sleep(60)
    with pytest.raises(TokenError, match="expiry"):
        issuer.check(header, ARM_AUDIENCE)


def test_tokens_of_others_and_for_others_do_not_fit() -> None:
    issuer, other = TokenIssuer("tenant"), TokenIssuer("tenant")
    foreign = f"Bearer {other.issue(ARM_AUDIENCE)[0]}"
    with pytest.raises(TokenError, match="signature"):
        issuer.check(foreign, ARM_AUDIENCE)
    with pytest.raises(TokenError, match="is for"):
        issuer.check(f"Bearer {issuer.issue(STORAGE_AUDIENCE)[0]}", ARM_AUDIENCE)
    with pytest.raises(TokenError, match="missing"):
        issuer.check("", ARM_AUDIENCE)


_KILLED = """
import json, os, sys
from pathlib import Path
from urllib.parse import urlsplit
from sandbox.azure.server import AzureSandbox
sandbox = AzureSandbox(Path(sys.argv[1]))
sandbox.start()
print(json.dumps({"pid": sandbox._azurite.pid, "port": sandbox._azurite.port}), flush=True)
os.kill(os.getpid(), 9)
"""


def test_azurite_ends_with_its_killed_parent(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _KILLED, str(tmp_path / "state")]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    started = json.loads(run.stdout)
    assert run.returncode == -9
    for _ in range(1000):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", started["port"])):
                break
        SystemClock().sleep(0.02)
    else:
        pytest.fail("Azurite outlived its parent")
