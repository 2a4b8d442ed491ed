"""A restored disk: a managed disk with the point's bytes, and nothing of what it was made of."""

import itertools
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest

from connectors.azure.operations import word
from connectors.azure.spec import Method
from connectors.azure.target import AzureTarget
from sandbox.azure.disks import Disk
from sandbox.azure.faults import FaultKind
from sealift.endpoints import Firmware, SourceVm, VmDisk
from sealift.errors import SealiftError, TargetError
from sealift.units import MiB
from tests.conftest import Evidence

from .conftest import DATA, ROOT, Subscription, block, joined, put, vm
from .killing import Blade, Mortal

pytestmark = pytest.mark.sandbox

BOOT = {0: block("a"), 7: block("h")}
OTHER = {1: block("b")}
NUMBERS = itertools.count(1)
IN_THE_END = (FaultKind.OPERATION_FAILS, FaultKind.OPERATION_FAILS_AFTER_EFFECT)


def named() -> str:
    return f"landing-{next(NUMBERS)}"


def restored(target: AzureTarget, blocks: Mapping[int, bytes], disk: VmDisk = ROOT) -> str:
    """As ``flows.restoring`` does it."""
    there = target.find_volume(1, disk)
    if there is not None:
        return there
    ref = target.begin_snapshot(1, disk, None)
    writer = target.writer(ref, None)
    if target.snapshot_state(ref.id).value == "pending":
        put(writer, blocks)
    writer.commit(())
    return target.make_volume(1, vm(), disk, ref)


def shown(subscription: Subscription, disk_id: str) -> tuple[bytes, str, str]:
    """Bytes, generation and state."""
    name = disk_id.rpartition("/")[2]
    disk = subscription.clients.compute.disks.get(subscription.spec.resource_group, name)
    properties: Any = disk.properties
    facts = (word(properties.hyper_v_generation), word(properties.disk_state))
    return (subscription.box.disk_bytes(disk_id), *facts)


@pytest.mark.parametrize("method", list(Method), ids=lambda m: m.value)
@pytest.mark.parametrize("firmware", list(Firmware), ids=lambda f: f.value)
def test_boot_disk_and_data_disk(
    subscription: Subscription, firmware: Firmware, method: Method
) -> None:
    target = subscription.target(named(), method=method)
    source: SourceVm = vm(firmware=firmware)
    least = 20 * MiB if method is Method.UPLOAD else 0
    found = {}
    for disk, blocks in ((ROOT, BOOT), (DATA, OTHER)):
        ref = target.begin_snapshot(1, disk, None)
        writer = target.writer(ref, None)
        put(writer, blocks)
        writer.commit(())
        found[disk.id] = target.make_volume(1, source, disk, ref)
        assert target.find_volume(1, disk) == found[disk.id]
    expected = "V1" if firmware is Firmware.BIOS else "V2"
    boot, data = (shown(subscription, found[disk.id]) for disk in (ROOT, DATA))
    assert boot[1:] == (expected, "Unattached")
    assert data[1:] == ("", "Unattached")
    assert boot[0] == joined(BOOT, size=max(3 * MiB, least))
    assert data[0] == joined(OTHER, size=max(3 * MiB, least))
    assert sorted(target.owned()) == sorted(found.values()), "point and copy are gone"
    made = subscription.clients.compute.disks.get(
        subscription.spec.resource_group, found["vda"].rpartition("/")[2]
    )
    tags = made.tags or {}
    assert tags["sealift-migration"] == target._owner.migration_id
    assert (tags["sealift-disk"], tags["Name"]) == ("vda", "web vda")
    target.sweep(frozenset())
    assert target.owned() == []


def test_a_disk_that_was_used_since_is_not_taken_for_the_point(subscription: Subscription) -> None:
    """Its bytes may be others by now, and whoever restores wants the point's."""
    target = subscription.target(named())
    disk_id = restored(target, BOOT)
    name = disk_id.rpartition("/")[2]
    with subscription.box.subscription.lock:
        disk = next(d for d in subscription.box.subscription.each(Disk) if d.id.name == name)
        disk.owned_at = subscription.clock.now()
    with pytest.raises(TargetError, match="was attached to a machine"):
        target.find_volume(1, ROOT)


def test_the_name_is_taken(subscription: Subscription) -> None:
    """Nothing of a stranger's is touched, and what was sent stays."""
    target = subscription.target(named())
    name = target._landings._name(1, ROOT)
    body: Any = {
        "location": subscription.box.location,
        "sku": {"name": "Premium_LRS"},
        "properties": {"creationData": {"createOption": "Empty"}, "diskSizeGB": 1},
    }
    group = subscription.spec.resource_group
    subscription.clients.compute.disks.begin_create_or_update(group, name, body).result()
    with pytest.raises(TargetError, match="is taken by a disk"):
        restored(target, BOOT)
    ref = subscription.snapshot(target, BOOT)
    with pytest.raises(TargetError, match="is taken by a disk"):
        target.make_volume(1, vm(), ROOT, ref)
    assert target.owned() == [ref.id]
    subscription.clients.compute.disks.begin_delete(group, name).result()
    assert shown(subscription, restored(target, BOOT))[0] == joined(BOOT)


def landed_alone(subscription: Subscription, name: str, disk_id: str) -> bool:
    """The point's bytes in one managed disk, and nothing else is left of the restore."""
    target = subscription.target(name)
    well = shown(subscription, disk_id)[0] == joined(BOOT) and target.owned() == [disk_id]
    target.sweep(frozenset())
    return well and target.owned() == []


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.fault(1)
def test_a_restore_killed_at_every_call(subscription: Subscription, evidence: Evidence) -> None:
    undisturbed = Blade()
    name = named()
    with Mortal(subscription, name, undisturbed) as mortal:
        disk_id = restored(mortal.target(), BOOT)
    assert landed_alone(subscription, name, disk_id)
    kills = [(n, False) for n in range(1, len(undisturbed.changes) + 1)]
    kills += [(n, True) for n, changes in enumerate(undisturbed.changes, 1) if changes]
    unequal = []
    for number, after in kills:
        name, blade = named(), Blade(number, after=after)
        disk_id = Mortal(subscription, name, blade).step(lambda t: restored(t, BOOT))
        assert blade.fell
        if not landed_alone(subscription, name, disk_id):
            unequal.append((number, after))
    evidence("azure restore kill points", f"{len(kills)}, unequal: {len(unequal)}")
    assert unequal == []


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.fault(19, 40)
def test_a_restore_refused_at_every_call(subscription: Subscription, evidence: Evidence) -> None:
    """What was sent stays for the next run; nothing else does, but for what must not be asked."""
    name = named()
    subscription.box.requests.clear()
    restored(subscription.target(name), BOOT)
    calls = [request.operation for request in subscription.box.requests.all()]
    subscription.target(name).sweep(frozenset())
    seen: Counter[str] = Counter()
    chosen: list[tuple[str, int, FaultKind]] = []
    for operation in calls:
        chosen.append((operation, seen[operation], FaultKind.ACCESS_DENIED))
        seen[operation] += 1
    chosen += [("Disks_CreateOrUpdate", 0, kind) for kind in IN_THE_END]
    refused = left = 0
    for operation, number, kind in chosen:
        name = named()
        subscription.fault(kind, operation, skip=number)
        try:
            disk_id = restored(subscription.target(name), BOOT)
        except SealiftError:
            refused += 1
            subscription.box.faults.clear()
            if kind in IN_THE_END:
                assert subscription.target(name).owned() == [f"{name}/vda.vhd@1"]
            disk_id = restored(subscription.target(name), BOOT)
        subscription.box.faults.clear()
        left += not landed_alone(subscription, name, disk_id)
    evidence("azure restores refused", f"{refused} of {len(chosen)} calls, left or unequal: {left}")
    assert left == 0
    assert refused > len(chosen) * 3 / 4
