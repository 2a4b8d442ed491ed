"""Immutability policies, with the real client; pages as in ``sandbox.azure.blob_locks``."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from azure.core.exceptions import HttpResponseError
from azure.identity import DefaultAzureCredential
from azure.storage.blob import (
    BlobClient,
    BlobServiceClient,
    ContentSettings,
    ImmutabilityPolicy,
)

from sandbox.azure.server import AzureSandbox
from sealift.testing.clock import VirtualClock
from tests.sandbox_azure.conftest import use

pytestmark = pytest.mark.sandbox


@pytest.fixture(scope="module")
def locking(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[AzureSandbox, VirtualClock]]:
    directory: Path = tmp_path_factory.mktemp("locks")
    clock = VirtualClock()
    with AzureSandbox(directory, clock=clock) as sandbox:
        sandbox.enable_immutability(sandbox.container)
        yield sandbox, clock


@pytest.fixture
def service(
    locking: tuple[AzureSandbox, VirtualClock], monkeypatch: pytest.MonkeyPatch
) -> Iterator[BlobServiceClient]:
    use(locking[0], monkeypatch)
    with (
        DefaultAzureCredential() as credential,
        BlobServiceClient(locking[0].blob_endpoint, credential=credential, retry_total=0) as client,
    ):
        yield client


def policy(clock: VirtualClock, days: int, mode: str) -> ImmutabilityPolicy:
    return ImmutabilityPolicy(expiry_time=clock.now() + timedelta(days=days), policy_mode=mode)


def refused(code: str) -> "pytest.RaisesExc[HttpResponseError]":
    return pytest.raises(HttpResponseError, match=code)


def put(service: BlobServiceClient, name: str, kept: ImmutabilityPolicy) -> BlobClient:
    blob = service.get_blob_client("sealift", name)
    blob.upload_blob(b"kept", immutability_policy=kept)
    return blob


def test_a_locked_blob_stays(
    service: BlobServiceClient, locking: tuple[AzureSandbox, VirtualClock]
) -> None:
    clock = locking[1]
    blob = put(service, "locked", policy(clock, 2, "Locked"))
    shown = blob.get_blob_properties().immutability_policy
    assert (shown.policy_mode or "").lower() == "locked"
    with refused("BlobImmutableDueToPolicy"):
        blob.delete_blob()
    with refused("BlobImmutableDueToPolicy"):
        blob.upload_blob(b"other", overwrite=True)
    with refused("BlobImmutableDueToPolicy"):
        blob.set_blob_metadata({"a": "b"})
    with refused("BlobImmutableDueToPolicy"):
        blob.set_immutability_policy(policy(clock, 1, "Locked"))
    with refused("BlobImmutableDueToPolicy"):
        blob.set_immutability_policy(policy(clock, 3, "Unlocked"))
    with refused("BlobImmutableDueToPolicy"):
        blob.delete_immutability_policy()
    blob.set_immutability_policy(policy(clock, 4, "Locked"))
    clock.sleep(3 * 86_400)
    with refused("BlobImmutableDueToPolicy"):
        blob.delete_blob()
    assert blob.download_blob().readall() == b"kept"
    clock.sleep(2 * 86_400)
    blob.delete_blob()


def test_an_unlocked_policy_can_be_taken_back(
    service: BlobServiceClient, locking: tuple[AzureSandbox, VirtualClock]
) -> None:
    blob = put(service, "unlocked", policy(locking[1], 2, "Unlocked"))
    with refused("BlobImmutableDueToPolicy"):
        blob.delete_blob()
    blob.set_immutability_policy(policy(locking[1], 1, "Unlocked"))
    blob.delete_immutability_policy()
    blob.delete_blob()


def test_policies_need_a_container_for_them_and_a_future(
    service: BlobServiceClient, locking: tuple[AzureSandbox, VirtualClock]
) -> None:
    past = ImmutabilityPolicy(expiry_time=datetime(2001, 1, 1, tzinfo=UTC), policy_mode="Locked")
    with refused("InvalidHeaderValue"):
        put(service, "past", past)
    with service.create_container("plain") as plain, plain.get_blob_client("blob") as blob:
        kept = policy(locking[1], 1, "Locked")
        with refused("ImmutableStorageWithVersioningNotEnabled"):
            blob.upload_blob(b"x", immutability_policy=kept)
        blob.upload_blob(b"x", content_settings=ContentSettings(content_type="text/plain"))
        with refused("ImmutableStorageWithVersioningNotEnabled"):
            blob.set_immutability_policy(kept)
    with (
        service.get_blob_client("sealift", "none") as missing,
        refused("BlobNotFound"),
    ):
        missing.set_immutability_policy(policy(locking[1], 1, "Locked"))
