"""Immutability policies as locks of objects, and the sandbox's rules for them."""

import random
from contextlib import nullcontext, suppress
from datetime import datetime, timedelta
from typing import cast

import pytest
from azure.core.exceptions import HttpResponseError
from azure.storage.blob import ImmutabilityPolicy

from connectors.azure.object_blob import LockMode
from sealift.clock import SystemClock
from sealift.errors import ObjectExistsError, ObjectMissingError, TargetDeniedError, TargetError
from sealift.repository.check import Checker
from sealift.repository.session import RepositoryOptions
from sealift.testing.clock import VirtualClock
from sealift.testing.source import SimulatedHypervisor
from sealift.units import KiB
from tests.conftest import Evidence
from tests.objects.containers import Container, OpenContainer
from tests.objects.test_repository_over_blob import replicated
from tests.repository.conftest import CHUNK, World

pytestmark = pytest.mark.sandbox
KEEP = 30 * 86_400.0


def now() -> datetime:
    return SystemClock().now()


@pytest.fixture(params=LockMode, ids=lambda m: m.value)
def locked(request: pytest.FixtureRequest, open_container: OpenContainer) -> Container:
    return open_container(lock_mode=request.param)


def test_a_locked_blob_stays_until_its_time(locked: Container) -> None:
    """A delete is refused before it is asked: the service would hide the blob."""
    store, until = locked.store(), now() + timedelta(days=30)
    store.put("a", b"kept", lock_until=until.timestamp())
    later = until + timedelta(days=10)
    store.extend_lock("a", later.timestamp())
    store.extend_lock("a", until.timestamp())  # shorter: left as it is
    policy = locked.intruder.get_blob_client("a").get_blob_properties().immutability_policy
    assert policy.expiry_time is not None
    assert locked.spec.lock_mode is not None
    assert str(policy.policy_mode).lower() == locked.spec.lock_mode.value.lower()
    assert abs((policy.expiry_time - later).total_seconds()) < 2
    with pytest.raises(TargetDeniedError, match="locked until"):
        store.delete("a")
    assert store.get("a") == b"kept"


def test_a_lock_that_ended_keeps_nothing(locked: Container) -> None:
    store = locked.store()
    store.put("a", b"1", lock_until=(now() + timedelta(seconds=2)).timestamp())
    SystemClock().sleep(3.1)
    store.delete("a")
    assert store.head("a") is None


def test_what_an_intruder_deletes_or_replaces_is_kept(locked: Container) -> None:
    """With all our credentials, past our own look at the lock."""
    store, until = locked.store(), (now() + timedelta(days=2)).timestamp()
    store.put("a", b"kept", lock_until=until)
    with pytest.raises(HttpResponseError, match="immutable"):
        locked.intruder.delete_blob("a")
    with pytest.raises(TargetDeniedError, match="BlobImmutableDueToPolicy"):
        store.put("a", b"other")
    assert store.get("a") == b"kept"


def test_a_locked_blob_exists_for_whoever_puts_if_absent(locked: Container) -> None:
    """Whatever the service looks at first: init proves with it that nobody can put another."""
    store, until = locked.store(), (now() + timedelta(days=2)).timestamp()
    store.put("a", b"ours", if_absent=True, lock_until=until)
    with pytest.raises(ObjectExistsError):
        store.put("a", b"theirs", if_absent=True, lock_until=until)
    assert store.get("a") == b"ours"


def test_a_container_without_policies_says_so(container: Container) -> None:
    store = container.store(lock_mode=LockMode.LOCKED)
    with pytest.raises(TargetError) as caught:
        store.put("a", b"1", lock_until=(now() + timedelta(days=1)).timestamp())
    assert "version-level immutability" in caught.value.next_step
    assert store.head("a") is None
    with pytest.raises(ObjectMissingError):
        store.extend_lock("a", (now() + timedelta(days=1)).timestamp())


def test_the_sandbox_keeps_the_rules_of_policies(locked: Container) -> None:
    """ "Set Blob Immutability Policy": the future only, and a locked one is never shortened."""
    store, until = locked.store(), now() + timedelta(days=5)
    store.put("a", b"1", lock_until=until.timestamp())
    blob = locked.intruder.get_blob_client("a")
    kept = locked.spec.lock_mode is LockMode.LOCKED
    shorter = ImmutabilityPolicy(expiry_time=until - timedelta(days=2), policy_mode="Unlocked")
    for change in (lambda: blob.set_immutability_policy(shorter), blob.delete_immutability_policy):
        with pytest.raises(HttpResponseError) if kept else nullcontext():
            change()
    assert (blob.get_blob_properties().immutability_policy.expiry_time is not None) is kept
    with pytest.raises(TargetError, match="InvalidHeaderValue"):
        store.put("b", b"1", lock_until=(now() - timedelta(days=1)).timestamp())


def ransack(locked: Container) -> int:
    """Replace and delete every blob, and its policy before; how many blobs resisted."""
    container, resisted = locked.intruder, 0
    for name in [str(name) for name in container.list_blob_names()]:
        blob, stays = container.get_blob_client(name), 0
        with suppress(HttpResponseError):
            blob.delete_immutability_policy()
        for attack in (lambda b=blob: b.upload_blob(b"pay", overwrite=True), blob.delete_blob):
            try:
                attack()
            except HttpResponseError as error:
                stays += "BlobImmutableDueToPolicy" in str(error)
        resisted += stays == 2
    return resisted


@pytest.mark.fault(58)
def test_what_points_in_azure_need_survives_every_credential(
    open_container: OpenContainer, evidence: Evidence
) -> None:
    """With locked policies nothing that a point needs can be replaced or deleted."""
    locked = open_container(lock_mode=LockMode.LOCKED)
    options = RepositoryOptions(chunk_bytes=CHUNK, pack_bytes=64 * KiB, lock_seconds=KEEP)
    clock = cast(VirtualClock, SystemClock())
    world = World(locked.store(), clock=clock, options=options)
    world.init().close()
    hypervisor = SimulatedHypervisor({"vda": random.Random(1).randbytes(30 * CHUNK)}, granule=1024)
    for turn in range(3):
        hypervisor.guest_write("vda", turn * CHUNK, bytes([turn + 1]) * CHUNK)
        replicated(world, hypervisor)
    resisted = ransack(locked)
    repository = world.open()
    try:
        report = Checker(repository, read_share=1.0).run()
        assert report.points == 3
        assert report.damage == ()
        assert report.read_packs >= 3
    finally:
        repository.close()
    assert resisted >= report.packs + 3
    evidence("blobs that resisted an intruder", f"{resisted}, damaged points: 0")
