"""Managed disks of a migration: made of image blobs, found again, removed."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from connectors.azure import names
from connectors.azure.errors import MissingError, azure_call
from connectors.azure.operations import Operations, found, provisioning_state
from connectors.azure.session import AzureClients
from connectors.azure.spec import AzureSpec, SecurityType
from sealift.endpoints import Firmware, SourceVm
from sealift.errors import TargetError
from sealift.units import TiB, format_size

if TYPE_CHECKING:
    from azure.mgmt.compute.models import Disk

READ = "Microsoft.Compute/disks/read"
WRITE = "Microsoft.Compute/disks/write"
DELETE = "Microsoft.Compute/disks/delete"

MAX_GENERATION_1_OS_BYTES = 2 * TiB
"""A BIOS disk boots by MBR, whose 32-bit sector numbers end here ("Support for generation 2 VMs
on Azure": OS disks over 2 TiB need generation 2)."""

_GENERATIONS: Mapping[Firmware, str] = {Firmware.BIOS: "V1", Firmware.UEFI: "V2"}
_ARCHITECTURES: Mapping[str, str] = {"x86_64": "x64", "arm64": "Arm64"}


def generation(firmware: Firmware) -> str:
    """Azure's word for how a machine boots: V1 is BIOS, V2 is UEFI."""
    return _GENERATIONS[firmware]


def architecture(vm: SourceVm) -> str:
    """Azure's word for the source's processor.

    Raises:
        TargetError: Azure has no machines for it.
    """
    known = _ARCHITECTURES.get(vm.architecture)
    if known is None:
        raise TargetError(f"Azure has no machines of architecture {vm.architecture}", vm=vm.name)
    return known


def check_os_disk(vm: SourceVm) -> None:
    """Refuse a boot disk that Azure would take and never boot.

    Raises:
        TargetError: over 2 TiB on generation 1, partitioned by GPT or not.
    """
    boot = vm.disks[0]
    if vm.firmware is Firmware.BIOS and boot.size > MAX_GENERATION_1_OS_BYTES:
        raise TargetError(
            f"boot disk {boot.id} of {format_size(boot.size)} is over "
            f"{format_size(MAX_GENERATION_1_OS_BYTES)}: a BIOS machine (generation 1) cannot boot "
            "it, also with GPT",
            next_step="make the boot disk smaller, or convert the source to UEFI",
            disk=boot.id,
        )


@dataclass(frozen=True, slots=True)
class Disks:
    """The managed disks of one migration.

    Args:
        clients: SDK clients.
        spec: the plan.
        owner: whose they are.
        operations: starts and waits.
    """

    clients: AzureClients
    spec: AzureSpec
    owner: names.Owner
    operations: Operations

    def ensure(
        self, name: str, document: Mapping[str, Any], location: str, tags: Mapping[str, str]
    ) -> str:
        """Make (or find) a disk and wait until it is there; its id.

        Args:
            name: of the disk.
            document: its ``properties``, with where the bytes come from.
            location: region.
            tags: all of them.

        Raises:
            TargetError: the name is taken by somebody else's disk, or the service refuses.
            TransientError: not there yet; repeat it.
        """
        disk = self.find(name)
        if disk is not None and provisioning_state(disk) == "failed":
            self.delete(name)
            disk = None
        if disk is None:
            self._create(name, document, location, tags)
        return str(self._await(name).id)

    def find(self, name: str) -> "Disk | None":
        """A disk of ours.

        Raises:
            TargetError: there is one, and it is not ours.
        """
        get = partial(self.clients.compute.disks.get, self.spec.resource_group, name)
        disk = found(READ, get)
        if disk is not None and not self.owner.owns(disk.tags):
            raise TargetError(
                f"the disk name {name} is taken by a disk that this migration did not make",
                next_step="remove that disk, or give the migration another name in the plan",
                disk=name,
            )
        return cast("Disk | None", disk)

    def _create(
        self, name: str, document: Mapping[str, Any], location: str, tags: Mapping[str, str]
    ) -> None:
        body: dict[str, Any] = {
            "location": location,
            "sku": {"name": self.spec.disk_sku.value},
            "tags": dict(tags),
            "properties": dict(document),
        }
        if self.spec.zone:
            body["zones"] = [self.spec.zone]
        compute = self.clients.compute
        begin = partial(
            compute.disks.begin_create_or_update,
            self.spec.resource_group,
            name,
            cast(Any, body),
        )
        self.operations.run(compute, WRITE, begin, f"making disk {name}")

    def _await(self, name: str) -> "Disk":
        def ready() -> "Disk | None":
            disk = self.find(name)
            if disk is None:
                return None
            state = provisioning_state(disk)
            if state in ("failed", "canceled"):
                raise TargetError(f"disk {name} ended as {state}", disk=name)
            return disk if state == "succeeded" else None

        timeout = self.operations.timeout_seconds
        return self.operations.waiter.until(ready, timeout, f"making disk {name}")

    def delete(self, name: str) -> None:
        """Remove a disk of ours and wait until it is gone; fine when it is.

        Raises:
            TargetError: it is not ours, or attached to something.
        """
        if self.find(name) is None:
            return
        compute = self.clients.compute
        begin = partial(compute.disks.begin_delete, self.spec.resource_group, name)
        try:
            self.operations.run(compute, DELETE, begin, f"deleting disk {name}")
        except MissingError:
            return
        self.operations.until_gone(lambda: self.find(name), f"disk {name}")

    def let_go(self, name: str) -> None:
        """Ask for the end of a disk that ``ensure`` just gave; waits for nothing."""
        begin = self.clients.compute.disks.begin_delete
        self.operations.begin(DELETE, partial(begin, self.spec.resource_group, name))

    def listed(self) -> "list[Disk]":
        """Every disk of the resource group, whoever's it is."""
        with azure_call(READ):
            return list(self.clients.compute.disks.list_by_resource_group(self.spec.resource_group))

    def owned(self, own: Mapping[str, str]) -> "Iterator[Disk]":
        """Every disk of the migration that also has the tags ``own``."""
        for disk in self.listed():
            tags = disk.tags or {}
            if self.owner.owns(tags) and own.items() <= tags.items():
                yield disk


def boot_document(spec: AzureSpec, vm: SourceVm, *, boots: bool) -> dict[str, Any]:
    """What only the boot disk has to say, as it cannot be said later."""
    if not boots:
        return {}
    check_os_disk(vm)
    document: dict[str, Any] = {
        "osType": spec.os_type.value,
        "hyperVGeneration": generation(vm.firmware),
        "supportedCapabilities": {"architecture": architecture(vm)},
    }
    if spec.security_type is not SecurityType.STANDARD:
        document["securityProfile"] = {"securityType": spec.security_type.value}
    return document
