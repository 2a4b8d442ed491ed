"""Blobs through the sandbox's front: the rules that Azurite lacks, faults, the log."""

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from azure.core.exceptions import HttpResponseError, ServiceResponseError
from azure.identity import DefaultAzureCredential
from azure.storage.blob import BlobClient, BlobServiceClient

from connectors.azure.page_put import crc64_of
from sandbox.azure.faults import Fault, FaultKind
from sandbox.azure.rules import Rules
from sandbox.azure.server import AzureSandbox
from sealift.testing.clock import VirtualClock
from tests.sandbox_azure.conftest import MIB, use

pytestmark = pytest.mark.sandbox


@pytest.fixture
def service(sandbox: AzureSandbox) -> Iterator[BlobServiceClient]:
    with (
        DefaultAzureCredential() as credential,
        BlobServiceClient(sandbox.blob_endpoint, credential=credential, retry_total=0) as client,
    ):
        yield client


def page_blob(service: BlobServiceClient, name: str, size: int = 4 * MIB) -> BlobClient:
    blob = service.get_blob_client("sealift", name)
    blob.create_page_blob(size)
    return blob


def ranges(blob: BlobClient, before: str) -> list[tuple[int, int, bool]]:
    found = blob.list_page_ranges(previous_snapshot=before)
    return [(one.start or 0, (one.end or 0) + 1, bool(one.cleared)) for one in found]


def test_a_connection_is_used_again_in_a_process_with_many_files_open(
    service: BlobServiceClient,
) -> None:
    """A long run of tests, or a demonstration, holds more than select() can look at."""
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        for name in ("first", "second", "third"):
            page_blob(service, name)
    finally:
        for descriptor in held:
            os.close(descriptor)


def test_put_page_of_more_than_4_mib_is_refused(service: BlobServiceClient) -> None:
    """ "Put Page": the page range can be up to 4 MiB, else 413 RequestBodyTooLarge."""
    blob = page_blob(service, "large", 16 * MIB)
    blob.upload_page(bytes(4 * MIB), 0, 4 * MIB)
    for size in (4 * MIB + 512, 12 * MIB):
        with pytest.raises(HttpResponseError) as refused:
            blob.upload_page(bytes(size), 0, size)
        assert refused.value.status_code == 413


def test_digests_of_uploads_are_checked(service: BlobServiceClient, sandbox: AzureSandbox) -> None:
    """ "Put Page", Content-MD5: 400 Md5Mismatch, nothing written; without it damage goes in.

    The same of x-ms-content-crc64: 400 Crc64Mismatch.
    """
    blob = page_blob(service, "digests")
    sandbox.faults.add(Fault(FaultKind.DAMAGED_UPLOAD, "PutPage", times=2))
    with pytest.raises(HttpResponseError, match="Md5Mismatch"):
        blob.upload_page(b"\x07" * 512, 0, 512, validate_content=True)
    assert blob.download_blob(0, 512).readall() == bytes(512)
    blob.upload_page(b"\x07" * 512, 0, 512)
    held = blob.download_blob(0, 512).readall()
    assert held != b"\x07" * 512
    assert held.count(b"\x07") == 511
    blob.upload_page(b"\x07" * 512, 0, 512, validate_content=True)
    assert blob.download_blob(0, 512).readall() == b"\x07" * 512
    crc = {"x-ms-content-crc64": crc64_of(b"\x08" * 512)}
    blob.upload_page(b"\x08" * 512, 512, 512, headers=crc)
    with pytest.raises(HttpResponseError, match="Crc64Mismatch"):
        blob.upload_page(b"\x09" * 512, 512, 512, headers=crc)
    assert blob.download_blob(512, 512).readall() == b"\x08" * 512


def test_ranges_since_a_snapshot(service: BlobServiceClient) -> None:
    """ "Get Page Ranges": changed and cleared ranges since ``prevsnapshot``."""
    blob = page_blob(service, "changed")
    blob.upload_page(b"\x01" * 8192, 0, 8192)
    blob.upload_page(b"\x02" * 4096, MIB, 4096)
    before = str(blob.create_snapshot()["snapshot"])
    blob.upload_page(b"\x01" * 512 + b"\x09" * 512, 0, 1024)
    blob.upload_page(b"\x03" * 512, 2 * MIB, 512)
    blob.clear_page(MIB, 4096)
    expected = [(512, 1024, False), (MIB, MIB + 4096, True), (2 * MIB, 2 * MIB + 512, False)]
    assert ranges(blob, before) == expected
    after = str(blob.create_snapshot()["snapshot"])
    blob.upload_page(b"\x04" * 512, 3 * MIB, 512)
    with service.get_blob_client("sealift", "changed", snapshot=after) as frozen:
        assert ranges(frozen, before) == expected


def test_ranges_since_a_snapshot_of_random_writes(service: BlobServiceClient) -> None:
    """Applying the difference to the snapshot gives the blob, for any writes and clears."""
    chance = random.Random(7)
    size = 256 * 1024
    blob = page_blob(service, "random", size)
    model = bytearray(size)
    for _ in range(3):
        before, base = str(blob.create_snapshot()["snapshot"]), bytes(model)
        for _ in range(12):
            start = chance.randrange(size // 512) * 512
            length = min(chance.randrange(1, 17) * 512, size - start)
            if chance.random() < 0.4:
                blob.clear_page(start, length)
                model[start : start + length] = bytes(length)
            else:
                data = bytes([chance.randrange(1, 4)]) * length
                blob.upload_page(data, start, length)
                model[start : start + length] = data
        patched = bytearray(base)
        for start, end, cleared in ranges(blob, before):
            patched[start:end] = bytes(end - start) if cleared else model[start:end]
        assert patched == model
        assert blob.download_blob().readall() == model


def test_bodies_come_through_whole(service: BlobServiceClient) -> None:
    data = random.Random(3).randbytes(20 * MIB)
    with service.get_blob_client("sealift", "whole") as blob:
        blob.upload_blob(data, overwrite=True)
        assert blob.download_blob().readall() == data
        assert blob.download_blob(5, 100).readall() == data[5:105]


def test_faults_and_the_log(service: BlobServiceClient, sandbox: AzureSandbox) -> None:
    blob = page_blob(service, "faults")
    sandbox.requests.clear()
    cases: list[tuple[FaultKind, type[Exception], bool]] = [
        (FaultKind.ERROR_BEFORE, HttpResponseError, False),
        (FaultKind.ERROR_AFTER, HttpResponseError, True),
        (FaultKind.RESET_BEFORE, ServiceResponseError, False),
        (FaultKind.RESET_AFTER, ServiceResponseError, True),
        (FaultKind.THROTTLE, HttpResponseError, False),
        (FaultKind.ACCESS_DENIED, HttpResponseError, False),
    ]
    for index, (kind, error, done) in enumerate(cases):
        sandbox.faults.add(Fault(kind, "PutPage", target="/faults"))
        with pytest.raises(error):
            blob.upload_page(b"\x05" * 512, index * 512, 512)
        held = blob.download_blob(index * 512, 512).readall()
        assert (held == b"\x05" * 512) is done, kind
    assert sandbox.requests.count("PutPage", "/faults") == len(cases)
    assert sandbox.requests.count("GetBlob") >= len(cases)


def test_denied_and_api_errors_carry_their_code(
    service: BlobServiceClient, sandbox: AzureSandbox
) -> None:
    blob = page_blob(service, "codes")
    code = "LeaseIdMismatchWithBlobOperation"
    sandbox.faults.add(Fault(FaultKind.API_ERROR, "SnapshotBlob", status=412, code=code))
    with pytest.raises(HttpResponseError) as refused:
        blob.create_snapshot()
    shown: Any = refused.value
    assert (shown.status_code, shown.error_code) == (412, code)


def test_a_copy_that_fails(service: BlobServiceClient, sandbox: AzureSandbox) -> None:
    """ "Copy Blob": the state of a copy is in ``x-ms-copy-status``."""
    source = page_blob(service, "source")
    source.upload_page(b"\x06" * 512, 0, 512)
    with service.get_blob_client("sealift", "destination") as blob:
        sandbox.faults.add(Fault(FaultKind.COPY_FAILS, "CopyBlob"))
        blob.start_copy_from_url(source.url)
        assert blob.get_blob_properties().copy.status == "failed"
        assert blob.download_blob().readall() == bytes(4 * MIB)
        blob.start_copy_from_url(source.url)
        assert blob.get_blob_properties().copy.status == "success"
        assert blob.download_blob(0, 512).readall() == b"\x06" * 512


def test_writes_after_a_copy_do_not_show_on_the_other_side(service: BlobServiceClient) -> None:
    """ "Copy Blob", "Snapshot Blob": a copy is a blob of its own, a snapshot never changes."""
    source = page_blob(service, "shared")
    source.upload_page(b"\x01" * 1024, 0, 1024)
    point = str(source.create_snapshot()["snapshot"])
    with (
        service.get_blob_client("sealift", "other") as other,
        service.get_blob_client("sealift", "shared", snapshot=point) as frozen,
    ):
        other.start_copy_from_url(source.url)
        source.upload_page(b"\x02" * 512, 0, 512)
        other.upload_page(b"\x03" * 512, 512, 512)
        assert source.download_blob(0, 1024).readall() == b"\x02" * 512 + b"\x01" * 512
        assert other.download_blob(0, 1024).readall() == b"\x01" * 512 + b"\x03" * 512
        source.start_copy_from_url(frozen.url)
        source.upload_page(b"\x04" * 512, 512, 512)
        assert frozen.download_blob(0, 1024).readall() == b"\x01" * 1024
        assert source.download_blob(0, 1024).readall() == b"\x01" * 512 + b"\x04" * 512


def test_a_copy_takes_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ "Copy Blob": until it ends it is pending, and the destination refuses changes."""
    clock = VirtualClock()
    with AzureSandbox(tmp_path, clock=clock, rules=Rules(copy_seconds=30)) as sandbox:
        use(sandbox, monkeypatch)
        with (
            DefaultAzureCredential() as credential,
            BlobServiceClient(
                sandbox.blob_endpoint, credential=credential, retry_total=0
            ) as service,
            service.get_blob_client("sealift", "destination") as blob,
        ):
            blob.start_copy_from_url(page_blob(service, "source").url)
            assert blob.get_blob_properties().copy.status == "pending"
            listed = service.get_container_client("sealift").list_blobs(include=["copy"])
            states = {one.name: one.copy.status for one in listed}
            assert states == {"destination": "pending", "source": None}
            with pytest.raises(HttpResponseError, match="PendingCopyOperation"):
                blob.upload_page(bytes(512), 0, 512)
            clock.sleep(31)
            assert blob.get_blob_properties().copy.status == "success"
            blob.upload_page(bytes(512), 0, 512)


def test_direct_is_azurite_itself(tmp_path: Path) -> None:
    with AzureSandbox(tmp_path, direct=True) as sandbox:
        assert sandbox.blob_endpoint == sandbox.direct_blob_endpoint
