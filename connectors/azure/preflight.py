"""What would stop a machine from arriving, looked up before anything is made."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from connectors.azure.actions import READ, WRITE
from connectors.azure.disks import MAX_GENERATION_1_OS_BYTES, check_os_disk, generation
from connectors.azure.errors import azure_call
from connectors.azure.machines import GROUP_READ, Machines
from connectors.azure.session import AzureClients
from connectors.azure.sizes import Need, Size, Sizes, unsuitable
from connectors.azure.spec import AzureSpec, Method, SecurityType
from connectors.azure.staging import MAX_PAGE_BLOB_BYTES, Staging, disk_bytes
from converters.vhd import FOOTER_BYTES
from sealift.endpoints import Check, Firmware, SourceVm
from sealift.errors import ConfigError, QuotaError, TargetError
from sealift.units import format_size

_STORAGE_API = "2023-05-01"
_MAX_DISK_BYTES = 32_767 * 1024**3
""""Scalability targets for managed disks": largest disk of every kind that is offered here."""


@dataclass(frozen=True, slots=True)
class Preflight:
    """Checks of one plan. Makes nothing that stays in the subscription.

    Args:
        clients: SDK clients.
        spec: the plan.
        machines: says where they go, and whether names are free.
        sizes: chooses the size, and remembers it for the launch.
        staging: removes what was tried.
    """

    clients: AzureClients
    spec: AzureSpec
    machines: Machines
    sizes: Sizes
    staging: Staging

    def run(self, vm: SourceVm) -> Sequence[Check]:
        """One row per check; without usable credentials or group only that row.

        Raises:
            TransientError: Azure could not be asked; repeat it.
        """
        group = self._row("resource group", self._group)
        if not group.ok:
            return [group]
        location = self.machines.location()
        checks: list[tuple[str, Callable[[], Check]]] = [
            ("storage account", partial(self._account, location)),
            ("container", self._container),
            ("subnet", partial(self._subnet, location)),
            ("network security group", partial(self._security_group, location)),
            ("size", lambda: self._size(vm, location)),
            ("vCPU quota", lambda: self._quota(vm, location)),
            ("disks", lambda: self._disks(vm)),
            ("boot", lambda: self._boot(vm)),
            ("names", lambda: self._names(vm)),
        ]
        return [group, *(self._row(name, check) for name, check in checks)]

    def _row(self, name: str, check: Callable[[], Check]) -> Check:
        """A refusal becomes a failed row, so that all problems are told at once."""
        try:
            return check()
        except (TargetError, ConfigError) as error:
            step = error.next_step or f"correct the plan's {name}"
            return Check(name, ok=False, found=error.message, next_step=step, error=type(error))

    def _group(self) -> Check:
        with azure_call(GROUP_READ):
            group = self.clients.resources.resource_groups.get(self.spec.resource_group)
        return Check("resource group", ok=True, found=f"{group.name} in {group.location}")

    def _account(self, location: str) -> Check:
        """Disks are imported only from an account in their own region ("Disks": sourceUri)."""
        with azure_call("Microsoft.Storage/storageAccounts/read"):
            account: Any = self.clients.resources.resources.get_by_id(
                self.spec.account_id, _STORAGE_API
            )
        found = f"{self.spec.account_name} in {account.location}"
        if not _same_region(str(account.location), location):
            step = f"name a storage account in {location}, or set location to {account.location}"
            return Check("storage account", ok=False, found=found, next_step=step)
        return Check("storage account", ok=True, found=found)

    def _container(self) -> Check:
        """Written to and read from, with a blob that is removed at once."""
        name = f"{self.machines.owner.migration_id}/preflight"
        blob = self.clients.blob(name)
        with azure_call(WRITE):
            blob.create_page_blob(512)
        with azure_call(READ):
            blob.get_blob_properties()
        self.staging.remove(name)
        return Check("container", ok=True, found=f"{self.spec.container}: read, written, removed")

    def _subnet(self, location: str) -> Check:
        network, parts = self.clients.network, self.spec.subnet_id.strip("/").split("/")
        if len(parts) != 10 or parts[-2].lower() != "subnets":
            return Check(
                "subnet",
                ok=False,
                found=f"{self.spec.subnet_id!r} is no subnet's id",
                next_step="give the full id: /subscriptions/.../virtualNetworks/NET/subnets/NAME",
            )
        with azure_call("Microsoft.Network/virtualNetworks/subnets/read"):
            subnet = network.subnets.get(parts[3], parts[7], parts[9])
        with azure_call("Microsoft.Network/virtualNetworks/read"):
            net = network.virtual_networks.get(parts[3], parts[7])
        found = f"{subnet.name} of {net.name} in {net.location}"
        if not _same_region(str(net.location), location):
            step = f"name a subnet in {location}"
            return Check("subnet", ok=False, found=found, next_step=step)
        return Check("subnet", ok=True, found=found)

    def _security_group(self, location: str) -> Check:
        wanted = self.spec.network_security_group_id
        if not wanted:
            step = "the subnet's own rules apply; name one to be explicit"
            return Check("network security group", ok=True, found="none", next_step=step)
        parts = wanted.strip("/").split("/")
        with azure_call("Microsoft.Network/networkSecurityGroups/read"):
            group = self.clients.network.network_security_groups.get(parts[3], parts[-1])
        found = f"{group.name} in {group.location}"
        if not _same_region(str(group.location), location):
            step = f"name a network security group in {location}"
            return Check("network security group", ok=False, found=found, next_step=step)
        return Check("network security group", ok=True, found=found)

    def _machine(self, vm: SourceVm, location: str) -> Size:
        name = self.sizes.pick(vm, location)
        size = self.sizes.named(name, location)
        if size is None:
            raise TargetError(
                f"{name} is not offered in {location}",
                next_step="name another vm_size or leave it out",
            )
        return size

    def _size(self, vm: SourceVm, location: str) -> Check:
        size = self._machine(vm, location)
        reason = unsuitable(size, Need.of(vm, self.spec))
        if reason:
            step = "name another vm_size or leave it out"
            return Check("size", ok=False, found=f"{size.name} {reason}", next_step=step)
        memory = format_size(size.memory_bytes)
        found = f"{size.name}: {size.vcpus} vCPU, {memory}, generation {generation(vm.firmware)}"
        return Check("size", ok=True, found=found)

    def _quota(self, vm: SourceVm, location: str) -> Check:
        size = self._machine(vm, location)
        with azure_call("Microsoft.Compute/locations/usages/read"):
            usages = list(self.clients.compute.usage.list(location))
        rows = {str(u.name.value).lower(): u for u in usages if u.name is not None}
        texts = []
        for name in ("cores", size.family.lower()):
            usage = rows.get(name)
            if usage is None:
                continue
            texts.append(f"{name}: {usage.current_value} of {usage.limit} in use")
            if int(usage.current_value) + size.vcpus > int(usage.limit):
                return Check(
                    "vCPU quota",
                    ok=False,
                    found=f"{texts[-1]}, {size.vcpus} more needed",
                    next_step=f"raise the quota {name} in {location}, or free some",
                    error=QuotaError,
                )
        return Check("vCPU quota", ok=True, found="; ".join(texts) or "not told")

    def _disks(self, vm: SourceVm) -> Check:
        staged = self.spec.method is Method.STAGING
        most = MAX_PAGE_BLOB_BYTES - FOOTER_BYTES if staged else _MAX_DISK_BYTES
        for disk in vm.disks:
            if disk_bytes(disk.size) > most:
                text = f"disk {disk.id} of {format_size(disk.size)} is over {format_size(most)}"
                step = "make the disk smaller"
                if staged and disk_bytes(disk.size) <= _MAX_DISK_BYTES:
                    step += "; or keep points and restore one, with method: upload"
                return Check("disks", ok=False, found=text, next_step=step)
        total = format_size(sum(disk_bytes(disk.size) for disk in vm.disks))
        rounded = [disk.id for disk in vm.disks if disk_bytes(disk.size) != disk.size]
        note = f"{', '.join(rounded)} grow to whole MiB" if rounded else ""
        found = f"{len(vm.disks)} {self.spec.disk_sku.value}, {total}"
        return Check("disks", ok=True, found=found, next_step=note)

    def _boot(self, vm: SourceVm) -> Check:
        check_os_disk(vm)
        if self.spec.security_type is not SecurityType.STANDARD and vm.firmware is Firmware.BIOS:
            return Check(
                "boot",
                ok=False,
                found=f"{self.spec.security_type.value} needs generation 2, the source boots BIOS",
                next_step="set security_type to standard",
            )
        found = f"generation {generation(vm.firmware)[1:]}, {self.spec.security_type.value}"
        return Check("boot", ok=True, found=found, next_step=_partition_note(vm))

    def _names(self, vm: SourceVm) -> Check:
        """Whether any point and attempt finds the names of what it makes free, or its own."""
        machines, owner = self.machines, self.machines.owner
        disk_ids = [disk.id for disk in vm.disks]
        ours, taken = 0, []
        for kind, listed in (
            ("machine", machines.listed),
            ("network card", machines.cards.listed),
            ("disk", machines.disks.listed),
        ):
            for one in listed():
                if owner.owns(one.tags):
                    ours += 1
                elif owner.may_take(str(one.name), disk_ids):
                    taken.append(f"{kind} {one.name}")
        if taken:
            more = f" and {len(taken) - 3} more" if len(taken) > 3 else ""
            return Check(
                "names",
                ok=False,
                found=f"{', '.join(taken[:3])}{more}: not made by this migration",
                next_step="remove it, or give the migration another name in the plan",
            )
        found = f"{ours} resources are this migration's already" if ours else "free"
        return Check("names", ok=True, found=found)


def _partition_note(vm: SourceVm) -> str:
    """What a BIOS asks of a GPT; which of the two a disk has is not looked at here."""
    if vm.firmware is not Firmware.BIOS:
        return ""
    most = format_size(MAX_GENERATION_1_OS_BYTES)
    return (
        f"generation 1 boots {vm.disks[0].id} from an MBR, or from a GPT with a BIOS boot "
        f"partition; either of at most {most}"
    )


def _same_region(one: str, other: str) -> bool:
    """Region names come as ``West Europe`` and ``westeurope``."""
    return one.replace(" ", "").lower() == other.replace(" ", "").lower()
