"""What preflight says of names: free, this migration's already, or somebody else's."""

import itertools
from typing import Any

import pytest

from connectors.azure.names import Owner
from connectors.azure.target import AzureTarget
from sandbox.azure.faults import FaultKind
from sandbox.azure.machines import Machine
from sealift.endpoints import Check
from sealift.errors import TargetDeniedError, TargetError

from .conftest import DATA, ROOT, Subscription, block, vm

pytestmark = pytest.mark.sandbox

NUMBERS = itertools.count(1)
SOURCE = vm(disks=(ROOT,))


@pytest.fixture
def target(subscription: Subscription) -> AzureTarget:
    return subscription.target(f"names-{next(NUMBERS)}")


def names_row(target: AzureTarget) -> Check:
    return {row.name: row for row in target.preflight(vm(disks=(ROOT, DATA)))}["names"]


def foreign_disk(subscription: Subscription, name: str) -> None:
    """Somebody's empty disk, without a tag of ours."""
    body: Any = {
        "location": subscription.box.location,
        "sku": {"name": "Premium_LRS"},
        "properties": {"creationData": {"createOption": "Empty"}, "diskSizeGB": 1},
    }
    disks = subscription.clients.compute.disks
    disks.begin_create_or_update(subscription.spec.resource_group, name, body).result()


def foreign_card(subscription: Subscription, name: str) -> None:
    subnet = {"subnet": {"id": subscription.spec.subnet_id}}
    body: Any = {
        "location": subscription.box.location,
        "properties": {"ipConfigurations": [{"name": "primary", "properties": subnet}]},
    }
    cards = subscription.clients.network.network_interfaces
    cards.begin_create_or_update(subscription.spec.resource_group, name, body).result()


def test_what_is_ours_by_tag_is_fine(subscription: Subscription, target: AzureTarget) -> None:
    assert names_row(target).found == "free"
    image = target.publish(1, SOURCE, {"vda": subscription.snapshot(target, {0: block("a")})})
    target.launch(1, 1, image, SOURCE)
    row = names_row(target)
    assert (row.ok, row.found) == (True, "3 resources are this migration's already")
    assert names_row(subscription.target("another")).found == "free"
    target.sweep(frozenset())


def test_a_name_that_is_taken_is_refused_before_anything_is_made(
    subscription: Subscription, target: AzureTarget
) -> None:
    """Of any point and attempt, in any case: the service compares names without it."""
    owner: Owner = target._owner
    machine = owner.machine_name(12, 3)
    foreign_disk(subscription, f"{machine}-disk1".upper())
    foreign_card(subscription, f"{machine}-nic")
    foreign_disk(subscription, owner.restored_name(1, "vdb"))
    foreign_disk(subscription, owner.upload_name(1, "vda"))
    row = names_row(target)
    assert not row.ok
    assert row.error is TargetError
    assert f"network card {machine}-nic" in row.found
    assert "and 1 more: not made by this migration" in row.found
    assert "another name" in row.next_step
    assert target.owned() == []
    assert names_row(subscription.target("names")).ok, "names of a migration that is called alike"


def test_a_machine_by_our_name_is_refused(subscription: Subscription, target: AzureTarget) -> None:
    """Its tags are gone: nobody can say any more whose it is."""
    image = target.publish(1, SOURCE, {"vda": subscription.snapshot(target, {0: block("a")})})
    name = target.launch(1, 1, image, SOURCE).rpartition("/")[2]
    with subscription.box.subscription.lock:
        for resource in subscription.box.subscription.each(Machine):
            if resource.id.name == name:
                resource.tags = {}
    row = names_row(target)
    assert f"machine {name}: not made by this migration" in row.found
    with pytest.raises(TargetError, match="does not belong"):
        target.launch(1, 1, image, SOURCE)


def test_a_listing_that_is_denied_fails_its_own_row(
    subscription: Subscription, target: AzureTarget
) -> None:
    subscription.fault(FaultKind.ACCESS_DENIED, "Disks_ListByResourceGroup")
    row = names_row(target)
    assert not row.ok
    assert row.error is TargetDeniedError


@pytest.mark.parametrize("migration", ["web-01", "m" * 32, "a-1-1", "web-01-1-1-disk0"])
def test_every_name_that_is_made_is_known(migration: str) -> None:
    owner, disks = Owner(migration, {}), ["vda", "virtio-disk0", "x" * 40]
    made = [f"{owner.machine_name(7, 2)}{part}" for part in ("", "-nic", "-disk0", "-disk11")]
    made += [owner.restored_name(7, disk) for disk in disks]
    made += [owner.upload_name(7, disk) for disk in disks]
    assert [name for name in made if not owner.may_take(name, disks)] == []
    other = Owner(f"{migration}x", {})
    assert [name for name in made if other.may_take(name, disks)] == []
    strangers = ["", "web", f"{made[0]}-", f"x{made[0]}", made[0].replace("-7-2", "-07-2")]
    assert [name for name in strangers if owner.may_take(name, disks)] == []
