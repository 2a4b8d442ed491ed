"""From points to a machine, and everything away again."""

import itertools

import pytest

from connectors.azure.target import AzureTarget
from sandbox.azure.faults import FaultKind
from sealift.endpoints import Firmware, SnapshotRef
from sealift.errors import TargetError

from .conftest import DATA, ROOT, Subscription, block, joined, vm

pytestmark = pytest.mark.sandbox

FIRST = {0: block("a"), 1: block("b")}
SECOND = {1: block("c"), 5: block("d")}
OTHER = {0: block("z")}
NUMBERS = itertools.count(1)


@pytest.fixture
def target(subscription: Subscription) -> AzureTarget:
    return subscription.target(f"target-{next(NUMBERS)}")


def points(subscription: Subscription, target: AzureTarget) -> dict[str, SnapshotRef]:
    """Two rounds of a system disk and one of a data disk."""
    parent = subscription.snapshot(target, FIRST)
    return {
        "vda": subscription.snapshot(target, SECOND, seq=2, parent=parent),
        "vdb": subscription.snapshot(target, OTHER, seq=2, disk=DATA),
    }


def test_a_point_becomes_a_machine(subscription: Subscription, target: AzureTarget) -> None:
    image = target.publish(2, vm(), points(subscription, target))
    assert target.publish(2, vm(), points_again(target)) == image
    machine_id = target.launch(2, 1, image, vm())
    assert target.launch(2, 1, image, vm()) == machine_id
    assert target.find_launched(2, 1) == machine_id
    assert target.find_launched(2, 2) is None
    machine = subscription.machine(machine_id)
    assert machine.generation == "V1"
    disks = [subscription.box.disk_bytes(disk) for disk in machine.disks]
    assert disks == [joined(FIRST, SECOND), joined(OTHER, size=3 << 20)]
    assert target.health(machine_id).state == "ok"
    target.terminate(machine_id)
    target.terminate(machine_id)
    assert target.find_launched(2, 1) is None
    target.unpublish(image)
    target.unpublish(image)
    assert sorted(target.owned()) == [
        f"{target._owner.migration_id}/vda.vhd@1",
        f"{target._owner.migration_id}/vda.vhd@2",
        f"{target._owner.migration_id}/vdb.vhd@2",
    ]


def points_again(target: AzureTarget) -> dict[str, SnapshotRef]:
    name = target._owner.migration_id
    return {
        "vda": SnapshotRef(f"{name}/vda.vhd@2", 3 << 20),
        "vdb": SnapshotRef(f"{name}/vdb.vhd@2", 3 << 20),
    }


def test_an_image_that_is_refused_leaves_no_copies(
    subscription: Subscription, target: AzureTarget
) -> None:
    """A snapshot deleted while the second disk is copied: nobody knows an id to remove by."""
    refs = points(subscription, target)
    subscription.fault(
        FaultKind.API_ERROR, "CopyBlob", skip=1, status=404, code="CannotVerifyCopySource"
    )
    with pytest.raises(TargetError, match="CannotVerifyCopySource"):
        target.publish(2, vm(), refs)
    assert [owned for owned in target.owned() if "/images/" in owned] == []
    assert target.publish(2, vm(), refs) in target.owned()


def test_uefi_is_generation_2(subscription: Subscription, target: AzureTarget) -> None:
    ref = subscription.snapshot(target, FIRST)
    source = vm(disks=(ROOT,), firmware=Firmware.UEFI)
    machine_id = target.launch(1, 1, target.publish(1, source, {"vda": ref}), source)
    assert subscription.machine(machine_id).generation == "V2"


def test_sweep_keeps_what_is_asked_for(subscription: Subscription, target: AzureTarget) -> None:
    refs = points(subscription, target)
    image = target.publish(2, vm(), refs)
    machine_id = target.launch(2, 1, image, vm())
    removed = target.sweep(frozenset({machine_id, refs["vda"].id}))
    assert image in removed
    kept = target.owned()
    assert machine_id in kept
    assert len([i for i in kept if "/disks/" in i]) == 2
    assert len([i for i in kept if "/networkInterfaces/" in i]) == 1
    assert [i for i in kept if "@" in i] == [refs["vda"].id]
    assert subscription.content(target, refs["vda"]) == joined(FIRST, SECOND)
    target.sweep(frozenset())
    assert target.owned() == []


def test_preflight(target: AzureTarget) -> None:
    rows = target.preflight(vm())
    assert [row for row in rows if not row.ok] == []
    assert len(rows) == 10
