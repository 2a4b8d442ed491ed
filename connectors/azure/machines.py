"""Machines of a migration: launched once per attempt, watched, ended for certain."""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from connectors.azure import names
from connectors.azure.disks import Disks, boot_document, check_os_disk
from connectors.azure.errors import MissingError, azure_call
from connectors.azure.network import Cards
from connectors.azure.operations import Operations, found
from connectors.azure.session import AzureClients
from connectors.azure.sizes import Sizes
from connectors.azure.spec import AzureSpec, SecurityType
from sealift.endpoints import Health, SourceVm
from sealift.errors import (
    CredentialsError,
    SealiftError,
    TargetDeniedError,
    TargetError,
    TransientError,
)

if TYPE_CHECKING:
    from azure.mgmt.compute.models import VirtualMachine

log = logging.getLogger(__name__)

READ = "Microsoft.Compute/virtualMachines/read"
WRITE = "Microsoft.Compute/virtualMachines/write"
DELETE = "Microsoft.Compute/virtualMachines/delete"
GROUP_READ = "Microsoft.Resources/subscriptions/resourceGroups/read"

VISIBLE_SECONDS = 120.0
"""How long a resource that was just accepted may be unknown. "Troubleshoot resource not found
errors" says that Resource Manager may answer 404 until a new resource has reached all its
regions; the rest is for a request whose answer was lost and that is still on its way."""


@dataclass(frozen=True, slots=True)
class Machines:
    """The machines of one migration.

    Args:
        clients: SDK clients.
        spec: the plan.
        owner: whose they are.
        operations: starts and waits.
        disks: makes and removes theirs.
        cards: makes and removes theirs.
        creations: ``creationData`` of each disk, in device order, of an image and a source.
        sizes: chooses the size.
    """

    clients: AzureClients
    spec: AzureSpec
    owner: names.Owner
    operations: Operations
    disks: Disks
    cards: Cards
    creations: Callable[[str, SourceVm], list[dict[str, Any]]]
    sizes: Sizes

    def location(self) -> str:
        """The plan's region, or the resource group's."""
        if self.spec.location:
            return self.spec.location
        with azure_call(GROUP_READ):
            group = self.clients.resources.resource_groups.get(self.spec.resource_group)
        return str(group.location)

    def launch(self, seq: int, attempt: int, image_id: str, vm: SourceVm) -> str:
        """Start (or find) the one machine of this attempt; returns once it was started.

        Its name follows from migration, point and attempt alone, and so do those of its card
        and disks: whoever repeats this, in whatever process, makes the same ones (I10).

        Raises:
            TargetError: Azure refuses; there is no machine of this attempt.
            QuotaError: a quota of the subscription is reached.
            TransientError: unknown whether it started; repeat it.
        """
        name = self.owner.machine_name(seq, attempt)
        machine = self.find(name)
        if machine is None:
            check_os_disk(vm)
            self._launch(name, seq, attempt, image_id, vm)
            machine = self._started(name)
        return str(machine.id)

    def _launch(self, name: str, seq: int, attempt: int, image_id: str, vm: SourceVm) -> None:
        """Make its parts and start it; of a refused one the parts are let go at once.

        Not waited for, as the source stands still meanwhile; and by their names, as a list of
        Resource Manager may not show yet what was just made.
        """
        parts: list[Callable[[], None]] = []
        try:
            self._create(name, seq, attempt, image_id, vm, parts)
        except (CredentialsError, TargetDeniedError):
            raise
        except TargetError:
            for let_go in parts:
                try:
                    let_go()
                except SealiftError as error:
                    log.info("a part of %s stays for now: %s", name, error.message)
            raise

    def _started(self, name: str) -> "VirtualMachine":
        """The machine that was just started; whatever refuses to show it, there is one (I10)."""
        waiter = self.operations.waiter
        try:
            return waiter.until(lambda: self.find(name), VISIBLE_SECONDS, f"machine {name}")
        except (CredentialsError, TargetDeniedError):
            raise
        except TargetError as error:
            raise TransientError(
                f"machine {name} was started and is not shown: {error.message}", machine=name
            ) from None

    def _create(
        self,
        name: str,
        seq: int,
        attempt: int,
        image_id: str,
        vm: SourceVm,
        parts: list[Callable[[], None]],
    ) -> None:
        location = self.location()
        own = _own_tags(seq, attempt)
        size = self.sizes.pick(vm, location)
        disks = []
        for disk, document, tags in self._disks(name, image_id, vm, own):
            disks.append(self.disks.ensure(disk, document, location, tags))
            parts.append(partial(self.disks.let_go, disk))
        card = self.cards.ensure(f"{name}-nic", location, self.owner.tags(own))
        parts.append(partial(self.cards.let_go, f"{name}-nic"))
        body: dict[str, Any] = {
            "location": location,
            "tags": self.owner.tags({**own, "Name": vm.name[:100]}),
            "properties": self._document(size, disks, card),
        }
        if self.spec.zone:
            body["zones"] = [self.spec.zone]
        compute = self.clients.compute
        begin = partial(
            compute.virtual_machines.begin_create_or_update,
            self.spec.resource_group,
            name,
            cast(Any, body),
        )
        self._start(name, begin)

    def _start(self, name: str, begin: Callable[..., Any]) -> None:
        """Start it, or make sure that nothing of it is left.

        An accepted operation that fails later leaves a machine, which may even run. A refusal
        of a launch has to mean that there is none, so that one is ended first (I10).
        """
        accepted = False

        def start(**named: Any) -> None:
            nonlocal accepted
            begin(**named)
            accepted = True

        try:
            self.operations.run(self.clients.compute, WRITE, start, f"starting machine {name}")
        except (CredentialsError, TargetDeniedError):
            raise
        except TargetError as error:
            if accepted:
                self._end_failed(name, error.message)
            raise

    def _end_failed(self, name: str, failure: str) -> None:
        log.warning("machine %s did not start and is removed: %s", name, failure)
        try:
            self._await_gone(name, seen=self._end(name))
            self._remove_parts(name)
        except (CredentialsError, TargetDeniedError):
            raise
        except TargetError as error:
            raise TransientError(
                f"machine {name} did not start ({failure}) and cannot be removed yet: "
                f"{error.message}",
                machine=name,
            ) from error

    def _disks(
        self, name: str, image_id: str, vm: SourceVm, own: Mapping[str, str]
    ) -> Iterator[tuple[str, dict[str, Any], dict[str, str]]]:
        """Name, document and tags of each disk, boot disk first: copies of what the image has."""
        creations = self.creations(image_id, vm)
        for number, (disk, creation) in enumerate(zip(vm.disks, creations, strict=True)):
            boot = boot_document(self.spec, vm, boots=number == 0)
            document = {**boot, "creationData": creation}
            tags = self.owner.tags({**own, names.DISK: disk.id})
            yield disk_name(name, number), document, tags

    def _document(self, size: str, disks: list[str], card: str) -> dict[str, Any]:
        """A specialized machine: no ``osProfile``, its boot disk attached as it is.

        "Create a VM from a specialized disk": with an osProfile the service would wait for a
        provisioning agent that the guest does not have, and restart it for ever.
        """
        document: dict[str, Any] = {
            "hardwareProfile": {"vmSize": size},
            "storageProfile": {
                "osDisk": {
                    "osType": self.spec.os_type.value,
                    "createOption": "Attach",
                    "managedDisk": {"id": disks[0]},
                    "deleteOption": "Delete",
                },
                "dataDisks": [
                    {
                        "lun": lun,
                        "createOption": "Attach",
                        "managedDisk": {"id": disk},
                        "deleteOption": "Delete",
                    }
                    for lun, disk in enumerate(disks[1:])
                ],
            },
            "networkProfile": {
                "networkInterfaces": [
                    {"id": card, "properties": {"primary": True, "deleteOption": "Delete"}}
                ]
            },
            "diagnosticsProfile": {"bootDiagnostics": {"enabled": True}},
        }
        if self.spec.security_type is not SecurityType.STANDARD:
            document["securityProfile"] = {
                "securityType": self.spec.security_type.value,
                "uefiSettings": {
                    "secureBootEnabled": self.spec.security_type is SecurityType.TRUSTED_LAUNCH,
                    "vTpmEnabled": True,
                },
            }
        return document

    def find(self, name: str) -> "VirtualMachine | None":
        """A machine of ours.

        Raises:
            TargetError: there is one, and it is not ours.
        """
        get = partial(self.clients.compute.virtual_machines.get, self.spec.resource_group, name)
        machine = found(READ, get)
        if machine is not None and not self.owner.owns(machine.tags):
            raise TargetError(
                f"machine {name} does not belong to {self.owner.migration_id}", machine=name
            )
        return cast("VirtualMachine | None", machine)

    def find_launched(self, seq: int, attempt: int) -> str | None:
        """The machine of this attempt; None once one would have to be visible.

        For when nothing may be started, because the source may be running (I10).
        """
        name = self.owner.machine_name(seq, attempt)
        clock = self.operations.waiter.clock
        until = clock.monotonic() + VISIBLE_SECONDS

        def looked() -> tuple[str | None] | None:
            machine = self.find(name)
            late = clock.monotonic() >= until
            if machine is not None:
                return (str(machine.id),)
            return (None,) if late else None

        waiter = self.operations.waiter
        (answer,) = waiter.until(looked, 2 * VISIBLE_SECONDS, "the search for a machine")
        return answer

    def health(self, instance_id: str) -> Health:
        """What the instance view says: Azure looks at the machine, never into the guest."""
        name = self.name_of(instance_id)
        try:
            with azure_call(READ):
                view = self.clients.compute.virtual_machines.instance_view(
                    self.spec.resource_group, name
                )
        except MissingError:
            return Health("failed", "the machine is gone")
        codes = [str(status.code) for status in view.statuses or ()]
        return _health(codes)

    def terminate(self, instance_id: str) -> None:
        """End it, wait until it is gone, and remove its card and disks.

        An unknown name may also be one that is too new to be seen, so a machine counts as
        gone only when it stays unknown for as long as a new one may take to appear (I10).

        Raises:
            TransientError: it is not known to be gone yet.
            TargetError: it is not this migration's.
        """
        name = self.name_of(instance_id)
        self._await_gone(name, seen=self._end(name))
        self._remove_parts(name)
        log.info("machine %s is gone", name)

    def _end(self, name: str) -> bool:
        """Ask for the end, and say whether there was anything to end.

        By force, as nothing that the guest does on the way out counts.
        """
        if self.find(name) is None:
            return False
        compute = self.clients.compute
        begin = partial(
            compute.virtual_machines.begin_delete,
            self.spec.resource_group,
            name,
            force_deletion=True,
        )
        try:
            self.operations.run(compute, DELETE, begin, f"deleting machine {name}")
        except MissingError:
            log.debug("machine %s is gone already", name)
        return True

    def _await_gone(self, name: str, *, seen: bool) -> None:
        """One that was seen is gone when it is unknown; any other may just be too new."""
        clock = self.operations.waiter.clock
        until = clock.monotonic() + VISIBLE_SECONDS

        def gone() -> bool | None:
            nonlocal seen
            if self._end(name):
                seen = True
                return None
            return True if seen or clock.monotonic() >= until else None

        timeout = max(self.operations.timeout_seconds, 2 * VISIBLE_SECONDS)
        self.operations.waiter.until(gone, timeout, f"deleting machine {name}")

    def _remove_parts(self, name: str) -> None:
        """Its card and disks, which the service removes by itself only when all goes well."""
        for card in self.cards.owned({}):
            if str(card.name) == f"{name}-nic":
                self.cards.delete(str(card.name))
        for disk in self.disks.owned({}):
            if str(disk.name).startswith(f"{name}-disk"):
                self.disks.delete(str(disk.name))

    def listed(self) -> "list[VirtualMachine]":
        """Every machine of the resource group, whoever's it is."""
        with azure_call(READ):
            return list(self.clients.compute.virtual_machines.list(self.spec.resource_group))

    def owned(self) -> Iterator[str]:
        """Ids of every machine of the migration."""
        for machine in self.listed():
            if self.owner.owns(machine.tags):
                yield str(machine.id)

    def name_of(self, instance_id: str) -> str:
        """The name in a machine's id.

        Raises:
            TargetError: it is in another resource group, or no machine.
        """
        prefix, _, name = instance_id.rpartition("/")
        wanted = f"{self.spec.group_id}/providers/Microsoft.Compute/virtualMachines"
        if prefix.lower() != wanted.lower():  # ids are compared without case, as ARM does
            raise TargetError(
                f"{instance_id} is no machine in resource group {self.spec.resource_group}",
                instance_id=instance_id,
            )
        return name


def disk_name(machine: str, number: int) -> str:
    """Name of a machine's disk, by its place in device order."""
    return f"{machine}-disk{number}"


def _own_tags(seq: int, attempt: int) -> dict[str, str]:
    return {names.POINT: str(seq), names.ATTEMPT: str(attempt)}


def _health(codes: list[str]) -> Health:
    detail = ", ".join(codes) or "no answer"
    power = next((c.partition("/")[2] for c in codes if c.startswith("PowerState/")), "")
    failed = any(c.startswith("ProvisioningState/failed") for c in codes)
    if failed or power in ("stopped", "stopping", "deallocated", "deallocating"):
        return Health("failed", detail)
    done = "ProvisioningState/succeeded" in codes
    return Health("ok" if done and power == "running" else "pending", detail)
