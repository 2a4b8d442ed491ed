"""What must fit together before a machine is made ("Virtual Machines - Create Or Update").

Machines here are specialized: an OS disk that exists is attached, so there is nobody who would
read an ``osProfile``, and Azure refuses one ("Create a Linux VM from a specialized disk").
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from sandbox.azure.arm_errors import ArmError, invalid, required, unchangeable
from sandbox.azure.disks import TYPE as DISK_TYPE
from sandbox.azure.disks import Disk
from sandbox.azure.machines import AttachedDisk, AttachedInterface, Machine, Power
from sandbox.azure.network import INTERFACE_TYPE, Interface
from sandbox.azure.resource_ids import ResourceId, parse_id
from sandbox.azure.sizes import SIZES, Size, find_size
from sandbox.azure.state import Subscription, parsed_tags

TYPE = "Microsoft.Compute/virtualMachines"
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9_-])?")
_MAX_LUN = 63
_MAX_OS_BYTES = 4095 << 30
"""Of an OS disk ("Introduction to Azure managed disks")."""


class MachineRules:
    """Checks creations of machines; used under the subscription's lock."""

    def __init__(self, subscription: Subscription) -> None:
        self._subscription = subscription

    def plan(self, machine_id: ResourceId, body: Mapping[str, Any]) -> Machine:
        """The machine that a PUT asks for, checked, not made.

        Raises:
            ArmError: a value does not do, something that is named does not exist or is in
                use, or the quota is used up.
        """
        if not _NAME.fullmatch(machine_id.name):
            raise invalid(f"Linux host name '{machine_id.name}' is not valid.", "vmName")
        location = self._subscription.check_location(body.get("location"), TYPE)
        given = _object(body, "properties")
        storage = _object(given, "storageProfile")
        size = self._size(_object(given, "hardwareProfile"), location)
        if given.get("osProfile") is not None:
            # "Create a VM from a specialized disk": credentials come with the disk.
            raise invalid("Parameter 'osProfile' is not allowed.", "osProfile")
        system = _object(storage, "osDisk")
        disks = self._disks(machine_id, system, storage.get("dataDisks") or [], size, location)
        os_disk = self._subscription.referenced(disks[0].disk, Disk)
        security = given.get("securityProfile") or {}
        uefi = security.get("uefiSettings") or {}
        machine = Machine(
            id=machine_id,
            location=location,
            tags=parsed_tags(body),
            provisioning_state="Creating",
            size=size.name,
            os_type=str(system.get("osType") or os_disk.os_type),
            generation=os_disk.generation or "V1",
            security_type=str(security.get("securityType") or "Standard"),
            secure_boot=bool(uefi.get("secureBootEnabled", False)),
            vtpm=bool(uefi.get("vTpmEnabled", False)),
            disks=disks,
            interfaces=self._interfaces(machine_id, given, location),
            diagnostics=_diagnostics(given),
            created=self._subscription.clock.now(),
            created_seconds=self._subscription.clock.monotonic(),
            zones=tuple(body.get("zones") or ()),
        )
        _check_security(machine, os_disk, size)
        _check_generation(machine, os_disk, size)
        self._check_zones(machine)
        self._check_quota(size, machine_id)
        return machine

    def check_same(self, machine: Machine, body: Mapping[str, Any]) -> None:
        """That a PUT to a machine that exists asks for no other one.

        Raises:
            ArmError: 409 PropertyChangeNotAllowed.
        """
        given = _object(body, "properties")
        storage = _object(given, "storageProfile")
        system = (_object(storage, "osDisk").get("managedDisk") or {}).get("id", "")
        if str(system).lower() != machine.disks[0].disk.key:
            raise unchangeable("osDisk.managedDisk.id")
        luns = {
            (one.get("lun"), str((one.get("managedDisk") or {}).get("id", "")).lower())
            for one in storage.get("dataDisks") or []
        }
        if luns != {(one.lun, one.disk.key) for one in machine.disks[1:]}:
            raise unchangeable("dataDisks")

    def _size(self, hardware: Mapping[str, Any], location: str) -> Size:
        name = hardware.get("vmSize")
        if not isinstance(name, str):
            raise required("hardwareProfile.vmSize")
        size = find_size(name)
        if size is None:
            known = ", ".join(one.name for one in SIZES)
            message = f"The value {name} provided for the VM size is not valid. Valid: {known}."
            raise ArmError(400, "InvalidParameter", message, target="vmSize")
        if size.name in self._subscription.rules.restricted_sizes:
            # "Resolve errors for SKU not available".
            raise ArmError(
                409,
                "SkuNotAvailable",
                f"The requested VM size for resource 'Following SKUs have failed for Capacity "
                f"Restrictions: {size.name}' is currently not available in location '{location}'.",
            )
        return size

    def _disks(
        self,
        machine_id: ResourceId,
        system: Mapping[str, Any],
        data: Sequence[Mapping[str, Any]],
        size: Size,
        location: str,
    ) -> tuple[AttachedDisk, ...]:
        if len(data) > size.data_disks:
            raise ArmError(
                409,
                "OperationNotAllowed",
                f"The maximum number of data disks allowed to be attached to a VM of this size "
                f"is {size.data_disks}.",
                target="dataDisks",
            )
        found = [self._disk(machine_id, system, -1, size, location)]
        if not system.get("osType"):
            raise required("osDisk.osType")
        disk = self._subscription.referenced(found[0].disk, Disk)
        if disk.os_type and disk.os_type != system["osType"]:
            raise invalid(f"Disk '{disk.id.name}' has osType {disk.os_type}.", "osDisk.osType")
        luns = [one.get("lun") for one in data]
        for lun in luns:
            if not isinstance(lun, int) or not 0 <= lun <= _MAX_LUN:
                raise invalid(f"The lun {lun} is not 0 to {_MAX_LUN}.", "dataDisks.lun")
        if len(set(luns)) < len(luns):
            raise invalid("A LUN cannot be used by two data disks.", "dataDisks.lun")
        data_disks = [self._disk(machine_id, one, one["lun"], size, location) for one in data]
        found += sorted(data_disks, key=lambda one: one.lun)
        if len({one.disk.key for one in found}) < len(found):
            raise invalid("A disk cannot be attached twice.", "dataDisks")
        return tuple(found)

    def _disk(
        self, machine_id: ResourceId, given: Mapping[str, Any], lun: int, size: Size, location: str
    ) -> AttachedDisk:
        where = "osDisk" if lun < 0 else "dataDisks"
        if given.get("createOption") != "Attach":
            raise invalid("Only createOption Attach is in the sandbox.", f"{where}.createOption")
        managed = _object(given, "managedDisk")
        disk_id = parse_id(managed.get("id"), DISK_TYPE, f"{where}.managedDisk.id")
        disk = self._subscription.referenced(disk_id, Disk)
        self._subscription.check_same_location(disk, location)
        _check_attachable(disk, machine_id)
        if disk.sku.startswith("Premium") and not size.premium:
            # "Select a disk type for Azure IaaS VMs": Premium needs a size that supports it.
            message = f"Requested operation cannot be performed because VM size {size.name} does "
            message += f"not support storage account type {disk.sku} of disk '{disk.id.name}'."
            raise ArmError(400, "InvalidParameter", message, target=f"{where}.managedDisk")
        delete = str(given.get("deleteOption", "Detach")) == "Delete"
        return AttachedDisk(lun, disk.id, delete, str(given.get("caching") or "None"))

    def _interfaces(
        self, machine_id: ResourceId, given: Mapping[str, Any], location: str
    ) -> tuple[AttachedInterface, ...]:
        listed = _object(given, "networkProfile").get("networkInterfaces") or []
        if not listed:
            raise ArmError(
                400,
                "VMMustHaveNetworkInterface",
                "At least one network interface must be given in the network profile.",
            )
        found = []
        for one in listed:
            nic_id = parse_id(one.get("id"), INTERFACE_TYPE, "networkInterfaces.id")
            nic = self._subscription.referenced(nic_id, Interface)
            self._subscription.check_same_location(nic, location)
            if nic.machine and nic.machine.lower() != machine_id.key:
                message = f"Network Interface {nic.id} is used by existing resource {nic.machine}."
                raise ArmError(400, "NicInUse", message)
            option = (one.get("properties") or {}).get("deleteOption", "Detach")
            found.append(AttachedInterface(nic.id, option == "Delete"))
        return tuple(found)

    def _check_zones(self, machine: Machine) -> None:
        for one in machine.disks:
            disk = self._subscription.referenced(one.disk, Disk)
            if disk.zones and disk.zones != machine.zones:
                # "Create a VM in an availability zone": disks are in the machine's zone.
                message = f"Disk {disk.id.name} is in zone {disk.zones}, not {machine.zones}."
                raise ArmError(400, "BadRequest", message)

    def _check_quota(self, size: Size, machine_id: ResourceId) -> None:
        # "Resolve errors for resource quotas": the code of a vCPU quota, and its words.
        for family in (size.family, "cores"):
            limit = self._subscription.rules.vcpu_quota.get(family)
            used = used_vcpus(self._subscription, family)
            if limit is not None and used + size.vcpus > limit:
                raise ArmError(
                    409,
                    "OperationNotAllowed",
                    "Operation could not be completed as it results in exceeding approved "
                    f"{family} Cores quota. Additional details - Deployment Model: Resource "
                    f"Manager, Location: {self._subscription.location}, Current Limit: {limit}, "
                    f"Current Usage: {used}, Additional Required: {size.vcpus}, (Minimum) New "
                    f"Limit Required: {used + size.vcpus}.",
                )


def used_vcpus(subscription: Subscription, family: str) -> int:
    """VCPUs of a family, or of all (``cores``), of machines that are not deallocated."""
    used = 0
    for machine in subscription.each(Machine):
        size = find_size(machine.size)
        if size and family in ("cores", size.family) and machine.power is not Power.DEALLOCATED:
            used += size.vcpus
    return used


def _check_attachable(disk: Disk, machine_id: ResourceId) -> None:
    if disk.provisioning_state == "Failed":
        message = f"Disk '{disk.id.name}' is in a failed provisioning state."
        raise ArmError(409, "OperationNotAllowed", message)
    if disk.managed_by and disk.managed_by.lower() != machine_id.key:
        message = f"Cannot attach data disk '{disk.id.name}' to VM '{machine_id.name}' because "
        message += f"the disk is currently owned by VM '{disk.managed_by}'."
        raise ArmError(409, "ConflictingUserInput", message)
    if disk.state not in ("Unattached", "Attached", "Reserved"):
        message = f"Disk '{disk.id.name}' cannot be attached to the VM because its state is "
        raise ArmError(409, "OperationNotAllowed", f"{message}{disk.state}.")
    if disk.provisioning_state != "Succeeded":
        message = f"Disk '{disk.id.name}' is being changed by another operation."
        raise ArmError(409, "Conflict", message)


def _check_generation(machine: Machine, disk: Disk, size: Size) -> None:
    if disk.size_bytes > _MAX_OS_BYTES:
        message = f"The size of OS disk '{disk.id.name}' exceeds 4095 GiB."
        raise invalid(message, "osDisk.diskSizeGB")
    # "Support for generation 2 VMs on Azure".
    if machine.generation not in size.generations:
        message = f"The selected VM size '{size.name}' cannot boot Hypervisor Generation "
        message += f"'{machine.generation.removeprefix('V')}'."
        raise ArmError(400, "BadRequest", message)


def _check_security(machine: Machine, disk: Disk, size: Size) -> None:
    # "Trusted launch for Azure virtual machines".
    wanted = machine.security_type
    if wanted not in ("Standard", "TrustedLaunch"):
        raise invalid(f"The security type '{wanted}' is invalid.", "securityProfile.securityType")
    if wanted != disk.security_type:
        message = f"The security type of the VM ({wanted}) and of disk '{disk.id.name}' "
        message += f"({disk.security_type}) differ."
        raise ArmError(400, "BadRequest", message)
    if wanted == "TrustedLaunch" and not size.trusted_launch:
        message = f"The VM size '{size.name}' is not supported with Trusted Launch."
        raise ArmError(400, "BadRequest", message)


def _diagnostics(given: Mapping[str, Any]) -> bool:
    profile = (given.get("diagnosticsProfile") or {}).get("bootDiagnostics") or {}
    return bool(profile.get("enabled", False))


def _object(body: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = body.get(name)
    if not isinstance(value, dict):
        raise required(name)
    return value
