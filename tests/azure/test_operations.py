"""Resource Manager on bad days: what is accepted and fails, what never ends, what is refused."""

import dataclasses
import itertools
from collections.abc import Callable
from contextlib import closing

import pytest

from connectors.azure.spec import SecurityType
from connectors.azure.target import AzureTarget
from sandbox.azure.faults import FaultKind
from sealift.endpoints import Check, Firmware, SourceVm, VmDisk
from sealift.errors import (
    CredentialsError,
    QuotaError,
    SealiftError,
    TargetDeniedError,
    TargetError,
    ThrottledError,
    TransientError,
)
from sealift.units import GiB, TiB

from .conftest import ROOT, Subscription, block, joined, vm

pytestmark = pytest.mark.sandbox

FIRST = {0: block("a")}
SOURCE = vm(disks=(ROOT,))
NUMBERS = itertools.count(1)


@pytest.fixture
def target(subscription: Subscription) -> AzureTarget:
    return subscription.target(f"lro-{next(NUMBERS)}")


def image_of(subscription: Subscription, target: AzureTarget, source: SourceVm = SOURCE) -> str:
    return target.publish(1, source, {"vda": subscription.snapshot(target, FIRST)})


def launched(subscription: Subscription, target: AzureTarget, image: str) -> None:
    """One machine, with the right bytes, and nothing left after its end."""
    retry = subscription.retrier()
    machine = retry.call(lambda: target.launch(1, 1, image, SOURCE))
    found = [m for m in subscription.box.machines() if m.id.lower() == machine.lower()]
    assert len(found) == 1
    assert subscription.box.disk_bytes(found[0].disks[0]) == joined(FIRST)
    retry.call(lambda: target.terminate(machine))
    left = [i for i in target.owned() if i.startswith("/subscriptions/")]
    assert left == []


@pytest.mark.fault(19)
@pytest.mark.parametrize("operation", ["Disks_CreateOrUpdate", "NetworkInterfaces_CreateOrUpdate"])
@pytest.mark.parametrize(
    "kind", [FaultKind.OPERATION_FAILS, FaultKind.OPERATION_FAILS_AFTER_EFFECT]
)
def test_a_part_that_was_accepted_and_failed_is_made_again(
    subscription: Subscription, target: AzureTarget, kind: FaultKind, operation: str
) -> None:
    image = image_of(subscription, target)
    subscription.fault(kind, operation, code="InternalServerError")
    launched(subscription, target, image)
    assert not subscription.box.faults.unexercised()


@pytest.mark.fault(19, 40)
def test_a_machine_that_was_accepted_and_failed_is_told_and_removed(
    subscription: Subscription, target: AzureTarget
) -> None:
    """A refusal of a launch means to the engine that there is no machine."""
    image = image_of(subscription, target)
    subscription.fault(
        FaultKind.OPERATION_FAILS_AFTER_EFFECT,
        "VirtualMachines_CreateOrUpdate",
        code="AllocationFailed",
    )
    with pytest.raises(TargetError, match="AllocationFailed") as caught:
        target.launch(1, 1, image, SOURCE)
    assert "vm_size" in caught.value.next_step
    assert target.find_launched(1, 1) is None
    target.sweep(frozenset())
    assert target.owned() == []


@pytest.mark.parametrize(
    ("operation", "work"),
    [
        ("Disks_CreateOrUpdate", "launch"),
        ("NetworkInterfaces_CreateOrUpdate", "launch"),
        ("VirtualMachines_CreateOrUpdate", "launch"),
        ("VirtualMachines_Delete", "terminate"),
        ("Disks_Delete", "sweep"),
    ],
)
def test_an_operation_that_never_ends_is_given_up_in_time(
    subscription: Subscription, target: AzureTarget, operation: str, work: str
) -> None:
    image = image_of(subscription, target)
    machine = target.launch(1, 1, image, SOURCE) if work == "terminate" else ""
    if work == "sweep":
        document = {"creationData": {"createOption": "Empty"}, "diskSizeGB": 1}
        tags = target._owner.tags({})
        target._disks.ensure(f"alone{next(NUMBERS)}", document, subscription.box.location, tags)
    works: dict[str, Callable[[], object]] = {
        "launch": lambda: target.launch(1, 1, image, SOURCE),
        "terminate": lambda: target.terminate(machine),
        "sweep": lambda: target.sweep(frozenset()),
    }
    subscription.fault(FaultKind.OPERATION_HANGS, operation)
    started = subscription.clock.monotonic()
    with pytest.raises(TransientError, match="took longer"):
        works[work]()
    assert subscription.clock.monotonic() - started < 3 * 1800


@pytest.mark.fault(25)
def test_a_quota_is_told_as_one(subscription: Subscription, target: AzureTarget) -> None:
    image = image_of(subscription, target)
    subscription.fault(
        FaultKind.API_ERROR,
        "VirtualMachines_CreateOrUpdate",
        status=409,
        code="OperationNotAllowed",
        message="Operation could not be completed as it results in exceeding approved Total "
        "Regional Cores quota.",
    )
    with pytest.raises(QuotaError):
        target.launch(1, 1, image, SOURCE)


@pytest.mark.fault(25, 40)
def test_parts_of_a_refused_machine_are_let_go(
    subscription: Subscription, target: AzureTarget
) -> None:
    """They cost money, and a listing a moment later may not show what was just made."""
    image = image_of(subscription, target)
    subscription.fault(
        FaultKind.API_ERROR, "VirtualMachines_CreateOrUpdate", status=409, code="SkuNotAvailable"
    )
    subscription.fault(FaultKind.API_ERROR, "NetworkInterfaces_Delete", status=409, code="Conflict")
    with pytest.raises(TargetError, match="SkuNotAvailable"):
        target.launch(1, 1, image, SOURCE)
    assert not subscription.box.faults.unexercised()
    subscription.clock.sleep(600.0)
    left = [i.rpartition("/")[2] for i in target.owned() if i.startswith("/subscriptions/")]
    assert left == [f"{target._owner.machine_name(1, 1)}-nic"], "what cannot go waits for a sweep"
    machine = target.launch(1, 2, image, SOURCE)
    assert target.health(machine).state == "ok"
    target.sweep(frozenset())
    assert target.owned() == []


def test_a_strangers_card_is_not_among_the_parts(
    subscription: Subscription, target: AzureTarget
) -> None:
    image = image_of(subscription, target)
    name = f"{target._owner.machine_name(1, 1)}-nic"
    stranger = subscription.target("stranger")
    stranger._cards.ensure(name, subscription.box.location, stranger._owner.tags({}))
    with pytest.raises(TargetError, match="taken by a network card"):
        target.launch(1, 1, image, SOURCE)
    subscription.clock.sleep(600.0)
    assert [i for i in target.owned() if i.startswith("/subscriptions/")] == []
    assert stranger._cards.find(name) is not None
    stranger.sweep(frozenset())


@pytest.mark.fault(23, 24)
@pytest.mark.parametrize(
    ("kind", "error"),
    [
        (FaultKind.THROTTLE, ThrottledError),
        (FaultKind.EXPIRED_TOKEN, CredentialsError),
        (FaultKind.ACCESS_DENIED, TargetDeniedError),
        (FaultKind.ERROR_AFTER, TransientError),
        (FaultKind.RESET_BEFORE, TransientError),
        (FaultKind.OK_WITH_PROXY_PAGE, TransientError),
        (FaultKind.EMPTY_BODY, TransientError),
    ],
)
def test_what_a_launch_is_refused_with(
    subscription: Subscription,
    target: AzureTarget,
    kind: FaultKind,
    error: type[SealiftError],
) -> None:
    image = image_of(subscription, target)
    subscription.fault(kind, "VirtualMachines_CreateOrUpdate")
    with pytest.raises(error, match=r"Microsoft\.Compute/virtualMachines/write"):
        target.launch(1, 1, image, SOURCE)


@pytest.mark.fault(41)
def test_a_machine_that_nobody_is_shown_may_run_all_the_same(
    subscription: Subscription, target: AzureTarget
) -> None:
    """It was started; that its document is refused then is no proof that there is none."""
    image = image_of(subscription, target)
    subscription.fault(
        FaultKind.API_ERROR, "VirtualMachines_Get", skip=1, status=409, code="Conflict"
    )
    with pytest.raises(TransientError, match="was started"):
        target.launch(1, 1, image, SOURCE)
    assert target.launch(1, 1, image, SOURCE) == target.find_launched(1, 1)


def test_a_disk_name_that_is_taken(subscription: Subscription, target: AzureTarget) -> None:
    image = image_of(subscription, target)
    name = f"{target._owner.machine_name(1, 1)}-disk0"
    stranger = subscription.target("stranger")
    document = {"creationData": {"createOption": "Empty"}, "diskSizeGB": 1}
    stranger._disks.ensure(name, document, subscription.box.location, stranger._owner.tags({}))
    with pytest.raises(TargetError, match="taken by a disk"):
        target.launch(1, 1, image, SOURCE)
    stranger.sweep(frozenset())


def test_a_strangers_machine_is_left_alone(subscription: Subscription, target: AzureTarget) -> None:
    image = image_of(subscription, target)
    machine = target.launch(1, 1, image, SOURCE)
    with pytest.raises(TargetError, match="does not belong"):
        subscription.target("stranger").terminate(machine)
    assert target.health(machine).state == "ok"
    elsewhere = machine.replace(subscription.spec.resource_group, "elsewhere")
    with pytest.raises(TargetError, match="no machine in resource group"):
        target.terminate(elsewhere)


def failing(target: AzureTarget, source: SourceVm) -> dict[str, str]:
    return {row.name: row.found for row in target.preflight(source) if not row.ok}


def test_preflight_finds_a_bios_disk_that_no_machine_boots(target: AzureTarget) -> None:
    huge = VmDisk("vda", 2 * TiB + GiB, "scsi-hd", boot_index=0)
    assert "cannot boot" in failing(target, vm(disks=(huge,)))["boot"]
    assert failing(target, vm(disks=(huge,), firmware=Firmware.UEFI)) == {}
    data = VmDisk("vdb", 3 * TiB, "scsi-hd")
    assert failing(target, vm(disks=(ROOT, data))) == {}, "only the boot disk is booted"


def test_preflight_says_what_a_bios_asks_of_a_gpt(target: AzureTarget) -> None:
    just = VmDisk("vda", 2 * TiB, "scsi-hd", boot_index=0)

    def boot(firmware: Firmware) -> Check:
        rows = target.preflight(vm(disks=(just,), firmware=firmware))
        return next(row for row in rows if row.name == "boot")

    bios, uefi = boot(Firmware.BIOS), boot(Firmware.UEFI)
    assert bios.ok
    assert "GPT with a BIOS boot partition" in bios.next_step
    assert "2.0 TiB" in bios.next_step
    assert (uefi.ok, uefi.next_step) == (True, "")


@pytest.mark.fault(25)
def test_preflight_finds_what_is_too_large(subscription: Subscription, target: AzureTarget) -> None:
    over = VmDisk("vdb", 8 * TiB, "scsi-hd")
    assert "vdb" in failing(target, vm(disks=(ROOT, over)))["disks"]
    assert "vCPU" in failing(target, vm(vcpus=1000))["size"]


def test_preflight_finds_a_wrong_plan(subscription: Subscription, target: AzureTarget) -> None:
    def found(**changes: object) -> dict[str, str]:
        spec = dataclasses.replace(subscription.spec, **changes)  # type: ignore[arg-type]
        with closing(AzureTarget(spec, "wrong", subscription.clock)) as wrong:
            return failing(wrong, SOURCE)

    assert set(found(vm_size="Standard_Nonsense")) == {"size", "vCPU quota"}
    assert set(found(subnet_id="/subscriptions/x")) == {"subnet"}
    assert set(found(subnet_id=f"{subscription.spec.subnet_id}x")) == {"subnet"}
    assert set(found(container="missing")) == {"container"}
    assert set(found(location="eastus")) >= {"storage account", "subnet"}
    assert set(found(security_type=SecurityType.TRUSTED_LAUNCH)) == {"boot"}
    assert set(found(resource_group="missing")) == {"resource group"}
