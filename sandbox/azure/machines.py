"""Microsoft.Compute/virtualMachines: their state and their ends.

"States and billing status of Azure Virtual Machines"; "Delete a VM and attached resources"
for what goes with a machine. The rules of their creation are in ``machine_rules``.
"""

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any

from sandbox.azure.disks import Disk, DiskRules
from sandbox.azure.network import Interface
from sandbox.azure.resource_ids import ResourceId
from sandbox.azure.state import Resource, Subscription
from sandbox.reports import BootReport


class Power(Enum):
    """A machine's power state, as instance views show it."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPED = "stopped"
    DEALLOCATED = "deallocated"


_SHOWN = {
    Power.STARTING: "VM starting",
    Power.RUNNING: "VM running",
    Power.STOPPED: "VM stopped",
    Power.DEALLOCATED: "VM deallocated",
}


@dataclass(frozen=True, slots=True)
class AttachedDisk:
    """A disk of a machine; ``lun`` is -1 for the OS disk."""

    lun: int
    disk: ResourceId
    delete: bool
    caching: str = "None"


@dataclass(frozen=True, slots=True)
class AttachedInterface:
    """A network interface of a machine."""

    interface: ResourceId
    delete: bool


@dataclass(frozen=True, slots=True)
class LaunchedMachine:
    """A machine as a boot hook sees it.

    Attributes:
        id: full ARM id.
        name: its name.
        size: such as ``Standard_D2s_v5``.
        generation: ``V1`` (BIOS) or ``V2`` (UEFI).
        disks: full ARM ids, OS disk first, then by LUN.
        interfaces: full ARM ids.
    """

    id: str
    name: str
    size: str
    generation: str
    disks: tuple[str, ...]
    interfaces: tuple[str, ...]


BootHook = Callable[[LaunchedMachine], BootReport]


@dataclass(slots=True, kw_only=True)
class Machine(Resource):
    """A virtual machine.

    Attributes:
        size: name of its size.
        os_type: ``Linux`` or ``Windows``.
        generation: of its OS disk.
        security_type: ``Standard`` or ``TrustedLaunch``.
        disks: OS disk first, then by LUN.
        diagnostics: boot diagnostics are on.
        place: container of its boot diagnostics, when it has one.
        given: ``properties`` as they were given, to compare with.
    """

    size: str
    os_type: str
    generation: str
    security_type: str
    secure_boot: bool
    vtpm: bool
    disks: tuple[AttachedDisk, ...]
    interfaces: tuple[AttachedInterface, ...]
    diagnostics: bool
    created: datetime
    created_seconds: float
    zones: tuple[str, ...] = ()
    power: Power = Power.STARTING
    place: str = ""
    report: BootReport | None = None
    vm_id: str = field(default_factory=lambda: str(uuid.uuid4()))

    def extra(self) -> dict[str, Any]:
        """See ``Resource.extra``."""
        shown: dict[str, Any] = {"etag": self.etag}
        return {**shown, "zones": list(self.zones)} if self.zones else shown

    def properties(self) -> dict[str, Any]:
        """See ``Resource.properties``."""
        shown: dict[str, Any] = {
            "vmId": self.vm_id,
            "hardwareProfile": {"vmSize": self.size},
            "storageProfile": self._storage(),
            "networkProfile": {
                "networkInterfaces": [
                    {
                        "id": str(one.interface),
                        "properties": {"primary": index == 0, "deleteOption": _option(one.delete)},
                    }
                    for index, one in enumerate(self.interfaces)
                ]
            },
            "diagnosticsProfile": {"bootDiagnostics": {"enabled": self.diagnostics}},
            "timeCreated": self.created.isoformat(),
        }
        if self.security_type != "Standard":
            uefi = {"secureBootEnabled": self.secure_boot, "vTpmEnabled": self.vtpm}
            shown["securityProfile"] = {"securityType": self.security_type, "uefiSettings": uefi}
        return shown

    def instance_view(self) -> dict[str, Any]:
        """What "Virtual Machines - Instance View" answers.

        A machine without an agent shows its provisioning and power states, no more.
        """
        states = {"Creating": "creating", "Updating": "updating", "Succeeded": "succeeded"}
        state = states.get(self.provisioning_state, self.provisioning_state.lower())
        statuses = [
            {
                "code": f"ProvisioningState/{state}",
                "level": "Error" if state == "failed" else "Info",
                "displayStatus": f"Provisioning {state}",
            }
        ]
        if state != "creating":
            power = self.power
            shown = {"level": "Info", "displayStatus": _SHOWN[power]}
            statuses.append({"code": f"PowerState/{power.value}", **shown})
        return {
            "hyperVGeneration": self.generation,
            "disks": [{"name": one.disk.name} for one in self.disks],
            "statuses": statuses,
        }

    def launched(self) -> LaunchedMachine:
        """The machine as a boot hook sees it."""
        return LaunchedMachine(
            id=str(self.id),
            name=self.id.name,
            size=self.size,
            generation=self.generation,
            disks=tuple(str(one.disk) for one in self.disks),
            interfaces=tuple(str(one.interface) for one in self.interfaces),
        )

    def _storage(self) -> dict[str, Any]:
        system = self.disks[0]
        return {
            "osDisk": {
                "osType": self.os_type,
                "name": system.disk.name,
                "createOption": "Attach",
                "caching": system.caching,
                "managedDisk": {"id": str(system.disk)},
                "deleteOption": _option(system.delete),
            },
            "dataDisks": [
                {
                    "lun": one.lun,
                    "name": one.disk.name,
                    "createOption": "Attach",
                    "caching": one.caching,
                    "managedDisk": {"id": str(one.disk)},
                    "deleteOption": _option(one.delete),
                }
                for one in self.disks[1:]
            ],
        }


def attach(subscription: Subscription, machine: Machine) -> None:
    """Take the disks and interfaces of a machine, as soon as its creation is accepted."""
    for one in machine.disks:
        disk = subscription.referenced(one.disk, Disk)
        disk.managed_by, disk.state = str(machine.id), "Attached"
        disk.owned_at = subscription.clock.now()
    for nic in machine.interfaces:
        subscription.referenced(nic.interface, Interface).machine = str(machine.id)


def set_power(subscription: Subscription, machine: Machine, power: Power) -> None:
    """Start, stop or deallocate; disks of a deallocated machine are Reserved."""
    machine.power = power
    for one in machine.disks:
        disk = subscription.find(one.disk, Disk)
        if disk is not None and disk.state in ("Attached", "Reserved"):
            disk.state = "Reserved" if power is Power.DEALLOCATED else "Attached"


def remove(subscription: Subscription, disks: DiskRules, machine: Machine) -> None:
    """Remove a machine, with it what has deleteOption Delete; let the rest go."""
    subscription.remove(machine)
    for one in machine.disks:
        disk = subscription.find(one.disk, Disk)
        if disk is not None:
            disk.managed_by, disk.state = "", "Unattached"
            disk.owned_at = subscription.clock.now()
            if one.delete:
                disks.delete(disk)
    for nic in machine.interfaces:
        interface = subscription.find(nic.interface, Interface)
        if interface is not None:
            interface.machine = ""
            if nic.delete:
                subscription.remove(interface)


def _option(delete: bool) -> str:
    return "Delete" if delete else "Detach"
