"""The one-shot way: states of an upload, addresses that are refused, what is left behind."""

import itertools
import logging

import pytest

from connectors.azure.spec import Method
from connectors.azure.target import AzureTarget
from connectors.azure.uploads import GRANT_SECONDS
from converters.vhd import DiskType, parse_footer
from sandbox.azure.faults import FaultKind
from sealift.disk import DiskWriter
from sealift.endpoints import Firmware, SnapshotRef, SnapshotState
from sealift.errors import (
    CredentialsError,
    TargetDeniedError,
    TargetError,
    TransientError,
)
from sealift.testing.contracts import WriterCase, WriterContract, read
from sealift.units import MiB

from .conftest import DATA, ROOT, Subscription, block, joined, put, vm

pytestmark = pytest.mark.sandbox

FIRST = {0: block("a"), 5: block("f")}
SIZE = 20 * MiB
TOLD = 512 * 1024  # so that whole-disk tests of the suite stay quick
NUMBERS = itertools.count(1)


@pytest.fixture
def target(subscription: Subscription) -> AzureTarget:
    return subscription.target(f"up-{next(NUMBERS)}", method=Method.UPLOAD)


def uploaded(target: AzureTarget) -> SnapshotRef:
    ref = target.begin_snapshot(1, ROOT, None)
    writer = target.writer(ref, None)
    put(writer, FIRST)
    writer.commit(())
    return ref


class TestUploadWriter(WriterContract):
    @pytest.fixture
    def writer_case(self, subscription: Subscription, target: AzureTarget) -> WriterCase:
        ref = target.begin_snapshot(1, ROOT, None)
        name = target._owner.migration_id

        def open_writer() -> DiskWriter:
            again = subscription.target(name, method=Method.UPLOAD)
            return again.writer(SnapshotRef(ref.id, TOLD), None)

        return WriterCase(
            open_writer,
            lambda: subscription.box.disk_bytes(ref.id, 0, TOLD),
            visible=lambda: target.snapshot_state(ref.id) is SnapshotState.COMPLETED,
        )


def test_an_upload_becomes_a_machine(subscription: Subscription, target: AzureTarget) -> None:
    ref = uploaded(target)
    assert ref.size == SIZE == target.volume_size(ROOT.size)
    footer = parse_footer(subscription.box.disk_footer(ref.id))
    assert (footer.disk_type, footer.current_size) == (DiskType.FIXED, SIZE)
    reader = target.reader(ref)
    assert read(reader, 0, SIZE) == joined(FIRST, size=SIZE)
    reader.close()
    source = vm(disks=(ROOT,), firmware=Firmware.UEFI)
    image = target.publish(1, source, {"vda": ref})
    machine = target.launch(1, 1, image, source)
    found = subscription.machine(machine)
    assert found.generation == "V2"
    assert ref.id.lower() not in [disk.lower() for disk in found.disks]  # a copy (I7)
    assert subscription.box.disk_bytes(found.disks[0]) == joined(FIRST, size=SIZE)
    target.terminate(machine)
    target.unpublish(image)
    assert target.owned() == [ref.id]
    target.sweep(frozenset())
    assert target.owned() == []


def test_there_is_one_round(target: AzureTarget) -> None:
    ref = uploaded(target)
    with pytest.raises(TargetError, match="another round"):
        target.begin_snapshot(2, ROOT, ref)


def test_an_upload_that_is_stuck_is_taken_back_and_removed(target: AzureTarget) -> None:
    """A disk in ActiveUpload can neither be deleted nor used until its address is taken back."""
    ref = target.begin_snapshot(1, ROOT, None)
    put(target.writer(ref, None), FIRST)
    assert target.snapshot_state(ref.id) is SnapshotState.PENDING
    with pytest.raises(TargetError, match="not complete"):
        target.publish(1, vm(disks=(ROOT,)), {"vda": ref})
    target.sweep(frozenset())
    assert target.owned() == []


def test_an_upload_that_somebody_ended_is_never_complete(
    subscription: Subscription, target: AzureTarget
) -> None:
    ref = target.begin_snapshot(1, ROOT, None)
    writer = target.writer(ref, None)
    put(writer, {0: block("a")})
    target._uploads.revoke(ref.id)
    with pytest.raises(TargetError, match="ended before it was complete"):
        put(writer, {5: block("f")})
    with pytest.raises(TargetError, match="ended before it was complete"):
        writer.commit(())
    assert target.snapshot_state(ref.id) is SnapshotState.FAILED
    target.delete_snapshot(ref.id)
    assert target.snapshot_state(ref.id) is SnapshotState.MISSING


@pytest.mark.fault(23)
def test_an_address_that_is_refused_in_mid_stream_is_renewed(
    subscription: Subscription, target: AzureTarget, caplog: pytest.LogCaptureFixture
) -> None:
    """It has expired, while the disk is still in upload."""
    caplog.set_level(logging.DEBUG, "connectors")
    ref = target.begin_snapshot(1, ROOT, None)
    writer = target.writer(ref, None)
    put(writer, {0: block("a")})
    subscription.box._contents.revoke(subscription.box._disk(ref.id).place)
    with pytest.raises(TransientError, match="renewed") as caught:
        put(writer, {5: block("f")})
    assert "sig=" not in f"{caught.value!r} {caught.value.operands} {caplog.text}"
    put(writer, {5: block("f")})
    writer.commit(())
    assert subscription.box.disk_bytes(ref.id) == joined(FIRST, size=SIZE)


@pytest.mark.fault(23)
def test_an_address_that_is_refused_for_ever_is_told(
    subscription: Subscription, target: AzureTarget
) -> None:
    """Renewing is tried some times, not for ever; the address is in no error."""
    ref = target.begin_snapshot(1, ROOT, None)
    writer = target.writer(ref, None)
    address = target._uploads.grant(ref.id, write=True)
    subscription.box._contents.revoke(subscription.box._disk(ref.id).place)
    writer._address._grant = lambda: address  # type: ignore[attr-defined]
    retry = subscription.retrier()
    with pytest.raises((CredentialsError, TargetDeniedError)) as caught:
        retry.call(lambda: put(writer, FIRST))
    assert retry.retries == 5
    assert "sig=" not in f"{caught.value!r} {caught.value.operands}"


def test_a_lost_connection_does_not_tell_the_address(target: AzureTarget) -> None:
    ref = target.begin_snapshot(1, ROOT, None)
    writer = target.writer(ref, None)
    writer._address._grant = lambda: "https://127.0.0.1:1/x?sig=secret"  # type: ignore[attr-defined]
    with pytest.raises(TransientError) as caught:
        put(writer, FIRST)
    assert "secret" not in f"{caught.value!r} {caught.value.operands}"


def test_addresses_are_renewed_long_before_they_expire(
    subscription: Subscription, target: AzureTarget
) -> None:
    ref = target.begin_snapshot(1, ROOT, None)
    writer = target.writer(ref, None)

    def grants() -> int:
        return len(subscription.box.requests.of("Disks_GrantAccess"))

    subscription.box.requests.clear()
    put(writer, FIRST)
    put(writer, FIRST)
    assert grants() == 1
    subscription.clock.sleep(GRANT_SECONDS / 2)
    put(writer, FIRST)
    assert grants() == 2


@pytest.mark.fault(1, 19)
def test_answers_that_are_lost(subscription: Subscription, target: AzureTarget) -> None:
    """Of every call that makes something the answer is lost once."""
    for operation in ("Disks_CreateOrUpdate", "Disks_GrantAccess", "Disks_Update",
                      "Disks_RevokeAccess"):  # fmt: skip
        subscription.fault(FaultKind.RESET_AFTER, operation)
    retry = subscription.retrier()
    ref = retry.call(lambda: target.begin_snapshot(1, DATA, None))
    writer = target.writer(ref, None)
    retry.call(lambda: put(writer, FIRST))
    retry.call(lambda: writer.commit(()))
    assert not subscription.box.faults.unexercised()
    assert target.snapshot_state(ref.id) is SnapshotState.COMPLETED
    assert subscription.box.disk_bytes(ref.id) == joined(FIRST, size=SIZE)
