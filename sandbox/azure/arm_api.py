"""The operations of Microsoft.Compute and Microsoft.Network, as far as used."""

from collections.abc import Callable, Mapping
from typing import Any

from sandbox.azure import machines
from sandbox.azure.arm_call import ArmCall, Route, check_conditions, json_reply, route
from sandbox.azure.arm_errors import ArmError, resource_not_found
from sandbox.azure.disks import TYPE as DISK_TYPE
from sandbox.azure.disks import Disk, DiskRules
from sandbox.azure.https import Reply
from sandbox.azure.machine_rules import TYPE as MACHINE_TYPE
from sandbox.azure.machine_rules import MachineRules
from sandbox.azure.machines import Machine, Power
from sandbox.azure.network import INTERFACE_TYPE, Interface, InterfaceRules
from sandbox.azure.operations import Operation
from sandbox.azure.rules import Polling
from sandbox.azure.state import Resource, Subscription, parsed_tags

DISK_VERSIONS = ("2026-03-02", "2025-01-02", "2024-03-02", "2023-10-02", "2023-04-02")
MACHINE_VERSIONS = ("2026-04-01", "2025-04-01", "2024-11-01", "2024-07-01", "2024-03-01")
NETWORK_VERSIONS = ("2026-03-01", "2025-03-01", "2025-01-01", "2024-05-01", "2024-01-01")
_GROUP = "/subscriptions/{subscription}/resourceGroups/{group}/providers/"
_ALL = "/subscriptions/{subscription}/providers/"
_DIAGNOSTIC_MINUTES = "120"
Launch = Callable[[Machine], None]
Diagnostics = Callable[[Machine, int], Mapping[str, str]]


class ArmApi:
    """Answers calls under the subscription's lock.

    Args:
        subscription: what they are about.
        disks: the rules of disks.
        launch: told of every machine that starts.
        diagnostics: makes the addresses of a machine's boot diagnostics, for some minutes.
    """

    def __init__(
        self, subscription: Subscription, disks: DiskRules, launch: Launch, diagnostics: Diagnostics
    ) -> None:
        self._subscription = subscription
        self._disks = disks
        self._machines = MachineRules(subscription)
        self._interfaces = InterfaceRules(subscription)
        self._launch = launch
        self._diagnostics = diagnostics

    def routes(self) -> list[Route]:
        """Where calls go."""
        return [*self._disk_routes(), *self._machine_routes(), *self._interface_routes()]

    def _disk_routes(self) -> list[Route]:
        one, versions = f"{_GROUP}{DISK_TYPE}/{{name}}", DISK_VERSIONS
        return [
            route("PUT", one, "Disks_CreateOrUpdate", versions, self._put_disk),
            route("PATCH", one, "Disks_Update", versions, self._patch_disk),
            route("GET", one, "Disks_Get", versions, self._get(DISK_TYPE, Disk)),
            route("DELETE", one, "Disks_Delete", versions, self._delete_disk),
            route("POST", f"{one}/beginGetAccess", "Disks_GrantAccess", versions, self._grant),
            route("POST", f"{one}/endGetAccess", "Disks_RevokeAccess", versions, self._revoke),
            *_lists(DISK_TYPE, "Disks", versions, self._list(Disk)),
            *self._status_routes("Microsoft.Compute", "DiskOperations", versions),
        ]

    def _machine_routes(self) -> list[Route]:
        one, versions = f"{_GROUP}{MACHINE_TYPE}/{{name}}", MACHINE_VERSIONS
        name = "VirtualMachines"
        return [
            route("PUT", one, f"{name}_CreateOrUpdate", versions, self._put_machine),
            route("PATCH", one, f"{name}_Update", versions, self._patch_machine),
            route("GET", one, f"{name}_Get", versions, self._get_machine),
            route("DELETE", one, f"{name}_Delete", versions, self._delete_machine),
            route("GET", f"{one}/instanceView", f"{name}_InstanceView", versions, self._view),
            route(
                "POST", f"{one}/retrieveBootDiagnosticsData",
                f"{name}_RetrieveBootDiagnosticsData", versions, self._boot_diagnostics,
            ),
            route("POST", f"{one}/start", f"{name}_Start", versions, self._power(Power.RUNNING)),
            route("POST", f"{one}/powerOff", f"{name}_PowerOff", versions,
                  self._power(Power.STOPPED)),
            route("POST", f"{one}/deallocate", f"{name}_Deallocate", versions,
                  self._power(Power.DEALLOCATED)),
            *_lists(MACHINE_TYPE, name, versions, self._list(Machine)),
            *self._status_routes("Microsoft.Compute", "operations", versions),
        ]  # fmt: skip

    def _interface_routes(self) -> list[Route]:
        one, versions = f"{_GROUP}{INTERFACE_TYPE}/{{name}}", NETWORK_VERSIONS
        name = "NetworkInterfaces"
        return [
            route("PUT", one, f"{name}_CreateOrUpdate", versions, self._put_interface),
            route("GET", one, f"{name}_Get", versions, self._get(INTERFACE_TYPE, Interface)),
            route("DELETE", one, f"{name}_Delete", versions, self._delete_interface),
            *_lists(INTERFACE_TYPE, name, versions, self._list(Interface)),
            *self._status_routes("Microsoft.Network", "operations", versions),
        ]

    def _status_routes(self, namespace: str, kind: str, versions: tuple[str, ...]) -> list[Route]:
        template = f"{_ALL}{namespace}/locations/{{location}}/{kind}/{{operation}}"
        return [route("GET", template, f"{kind[0].upper()}{kind[1:]}_Get", versions, self._status)]

    # Disks

    def _put_disk(self, call: ArmCall) -> Reply:
        disk_id = call.resource(DISK_TYPE)
        known = self._subscription.find(disk_id, Disk)
        if known is not None and known.provisioning_state == "Failed":
            self._disks.delete(known)  # a PUT to what failed tries again
        elif known is not None:
            self._check_free(known)
            self._disks.check_same(known, call.body)
            self._disks.change(known, call.body)
            return json_reply(200, known.document())
        disk = self._disks.plan(disk_id, call.body)
        self._subscription.add(disk)

        def effect() -> Mapping[str, Any]:
            self._disks.make(disk)
            return disk.document()

        return self._accept(call, disk, effect, 202, "Microsoft.Compute", "DiskOperations")

    def _patch_disk(self, call: ArmCall) -> Reply:
        disk = self._subscription.get(call.resource(DISK_TYPE), Disk)
        self._check_free(disk)
        self._disks.change(disk, call.body)
        return json_reply(200, disk.document())

    def _delete_disk(self, call: ArmCall) -> Reply:
        disk = self._subscription.find(call.resource(DISK_TYPE), Disk)
        if disk is None:
            return Reply(204)
        self._disks.check_delete(disk)
        self._subscription.operations.forget(disk.id.key)
        return self._deleting(call, disk, lambda: self._disks.delete(disk), "DiskOperations")

    def _grant(self, call: ArmCall) -> Reply:
        disk = self._subscription.get(call.resource(DISK_TYPE), Disk)
        self._check_free(disk)
        write, seconds = self._disks.check_grant(disk, call.body)

        def effect() -> Mapping[str, Any]:
            return self._disks.grant(disk, write=write, seconds=seconds)

        return self._accept(
            call, disk, effect, 202, "Microsoft.Compute", "DiskOperations",
            polling=Polling.BOTH, changes=False, shown=False,
        )  # fmt: skip

    def _revoke(self, call: ArmCall) -> Reply:
        disk = self._subscription.get(call.resource(DISK_TYPE), Disk)
        self._check_free(disk)

        def effect() -> None:
            self._disks.revoke(disk)

        return self._accept(
            call, disk, effect, 202, "Microsoft.Compute", "DiskOperations",
            changes=False, shown=False,
        )  # fmt: skip

    # Machines

    def _put_machine(self, call: ArmCall) -> Reply:
        machine_id = call.resource(MACHINE_TYPE)
        known = self._subscription.find(machine_id, Machine)
        check_conditions(call, known)
        if known is not None and known.provisioning_state != "Failed":
            self._check_not_deleting(known)
            self._machines.check_same(known, call.body)
            known.tags = parsed_tags(call.body)
            known.touch()
            return json_reply(200, known.document())
        machine = self._machines.plan(machine_id, call.body)
        self._subscription.add(machine)
        machines.attach(self._subscription, machine)

        def effect() -> None:
            machine.provisioning_state = "Succeeded"
            machine.power = Power.RUNNING
            self._launch(machine)

        return self._accept(call, machine, effect, 201, "Microsoft.Compute", "operations")

    def _patch_machine(self, call: ArmCall) -> Reply:
        machine = self._subscription.get(call.resource(MACHINE_TYPE), Machine)
        self._check_free(machine)
        if "tags" in call.body:
            machine.tags = parsed_tags(call.body)
            machine.touch()
        return json_reply(200, machine.document())

    def _get_machine(self, call: ArmCall) -> Reply:
        machine = self._visible(call)
        document = machine.document()
        if call.query.get("$expand", "").lower() == "instanceview":
            document["properties"]["instanceView"] = machine.instance_view()
        return json_reply(200, document)

    def _view(self, call: ArmCall) -> Reply:
        return json_reply(200, self._visible(call).instance_view())

    def _visible(self, call: ArmCall) -> Machine:
        machine = self._subscription.get(call.resource(MACHINE_TYPE), Machine)
        age_seconds = self._subscription.clock.monotonic() - machine.created_seconds
        if age_seconds < self._subscription.rules.visibility_delay_seconds:
            raise resource_not_found(MACHINE_TYPE, machine.id.name, machine.id.group)
        return machine

    def _delete_machine(self, call: ArmCall) -> Reply:
        machine = self._subscription.find(call.resource(MACHINE_TYPE), Machine)
        if machine is None:
            return Reply(204)
        self._subscription.operations.forget(machine.id.key)

        def effect() -> None:
            machines.remove(self._subscription, self._disks, machine)

        return self._deleting(call, machine, effect, "operations")

    def _power(self, power: Power) -> Callable[[ArmCall], Reply]:
        def answer(call: ArmCall) -> Reply:
            machine = self._subscription.get(call.resource(MACHINE_TYPE), Machine)
            self._check_free(machine)

            def effect() -> None:
                before = machine.power
                machines.set_power(self._subscription, machine, power)
                if power is Power.RUNNING and before is not Power.RUNNING:
                    self._launch(machine)

            return self._accept(
                call,
                machine,
                effect,
                202,
                "Microsoft.Compute",
                "operations",
                changes=False,
                shown=False,
            )

        return answer

    def _boot_diagnostics(self, call: ArmCall) -> Reply:
        machine = self._subscription.get(call.resource(MACHINE_TYPE), Machine)
        if not machine.diagnostics:
            # "Azure boot diagnostics": nothing is kept unless they are enabled.
            message = f"Boot diagnostics are not enabled for VM '{machine.id.name}'."
            raise ArmError(409, "OperationNotAllowed", message)
        minutes = call.query.get("sasuriexpirationtimeinminutes", _DIAGNOSTIC_MINUTES)
        if not minutes.isdigit() or not 1 <= int(minutes) <= 1440:
            message = "sasUriExpirationTimeInMinutes must be 1 to 1440."
            raise ArmError(400, "InvalidParameter", message)
        return json_reply(200, self._diagnostics(machine, int(minutes)))

    # Network interfaces

    def _put_interface(self, call: ArmCall) -> Reply:
        interface = self._interfaces.plan(call.resource(INTERFACE_TYPE), call.body)
        known = self._subscription.find(interface.id, Interface)
        if known is not None:
            self._check_not_deleting(known)
            self._interfaces.replace(known, interface)
            return json_reply(200, known.document())
        self._subscription.add(interface)

        def effect() -> None:
            interface.provisioning_state = "Succeeded"

        return self._accept(call, interface, effect, 201, "Microsoft.Network", "operations")

    def _delete_interface(self, call: ArmCall) -> Reply:
        interface = self._subscription.find(call.resource(INTERFACE_TYPE), Interface)
        if interface is None:
            return Reply(204)
        self._interfaces.check_delete(interface)

        def effect() -> None:
            self._subscription.remove(interface)

        return self._deleting(call, interface, effect, "operations")

    # What all have in common

    def _get(self, type_name: str, kind: type[Resource]) -> Callable[[ArmCall], Reply]:
        def answer(call: ArmCall) -> Reply:
            found = self._subscription.get(call.resource(type_name), kind)
            return json_reply(200, found.document())

        return answer

    def _list(self, kind: type[Resource]) -> Callable[[ArmCall], Reply]:
        def answer(call: ArmCall) -> Reply:
            group = call.parts["group"].lower() if "group" in call.parts else None
            found = [one.document() for one in self._subscription.each(kind, group)]
            return json_reply(200, {"value": found})

        return answer

    def _check_free(self, resource: Resource) -> None:
        if self._subscription.operations.busy(resource.id.key):
            message = f"Another operation on '{resource.id.name}' is in progress."
            raise ArmError(409, "Conflict", message, retry_after_seconds=1)

    def _check_not_deleting(self, resource: Resource) -> None:
        if resource.provisioning_state == "Deleting":
            message = f"Resource '{resource.id.name}' is being deleted."
            raise ArmError(409, "OperationNotAllowed", message)

    def _deleting(
        self, call: ArmCall, resource: Resource, effect: Callable[[], None], kind: str
    ) -> Reply:
        resource.provisioning_state = "Deleting"
        namespace = resource.id.namespace
        return self._accept(call, resource, effect, 202, namespace, kind, shown=False)

    def _accept(
        self,
        call: ArmCall,
        resource: Resource,
        effect: Callable[[], Mapping[str, Any] | None],
        status: int,
        namespace: str,
        kind: str,
        *,
        polling: Polling | None = None,
        changes: bool = True,
        shown: bool = True,
    ) -> Reply:
        """Start an operation.

        Args:
            call: what asks for it.
            resource: what it works on.
            effect: what it does in the end.
            status: of the first answer.
            namespace: of the address to ask at.
            kind: of the address to ask at.
            polling: which headers, where it is not for the rules to say.
            changes: its failure is the resource's.
            shown: the first answer shows the resource.
        """
        rules = self._subscription.rules

        def failed(end: str) -> None:
            if changes:
                resource.provisioning_state = end

        operation = self._subscription.operations.start(
            resource.id.key, rules.operation_seconds, effect, failed,
            end=call.end, error=call.error,
        )  # fmt: skip
        headers = self._headers(call, operation, namespace, kind, polling or rules.polling)
        if not shown:
            return Reply(status, b"", headers)
        return json_reply(status, resource.document(), headers)

    def _headers(
        self, call: ArmCall, operation: Operation, namespace: str, kind: str, polling: Polling
    ) -> tuple[tuple[str, str], ...]:
        place = f"{call.endpoint}/subscriptions/{self._subscription.id}/providers/{namespace}"
        place += f"/locations/{self._subscription.location}/{kind}/{operation.id}"
        version = f"api-version={call.query['api-version']}"
        headers: tuple[tuple[str, str], ...] = ()
        if polling is not Polling.LOCATION:
            headers += (("Azure-AsyncOperation", f"{place}?{version}"),)
        if polling is not Polling.ASYNC_OPERATION:
            headers += (("Location", f"{place}?monitor=true&{version}"),)
        return headers + self._retry_after()

    def _retry_after(self) -> tuple[tuple[str, str], ...]:
        seconds = self._subscription.rules.retry_after_seconds
        if seconds >= 1:
            return (("Retry-After", str(int(seconds))),)
        return (("retry-after-ms", str(int(seconds * 1000))),)

    def _status(self, call: ArmCall) -> Reply:
        operation = self._subscription.operations.find(call.parts["operation"])
        if operation is None:
            message = f"The operation {call.parts['operation']} was not found."
            raise ArmError(404, "OperationNotFound", message)
        headers = self._retry_after() if operation.running else ()
        if not call.flag("monitor"):
            return json_reply(200, operation.document(), headers)
        if operation.running:
            return Reply(202, b"", headers)
        if operation.status != "Succeeded":
            return json_reply(operation.error.status, {"error": operation.error.document()})
        return json_reply(200, operation.output) if operation.output else Reply(200)


def _lists(
    type_name: str, name: str, versions: tuple[str, ...], answer: Callable[[ArmCall], Reply]
) -> list[Route]:
    by_group = "List" if name != "Disks" else "ListByResourceGroup"
    in_all = "ListAll" if name != "Disks" else "List"
    return [
        route("GET", f"{_GROUP}{type_name}", f"{name}_{by_group}", versions, answer),
        route("GET", f"{_ALL}{type_name}", f"{name}_{in_all}", versions, answer),
    ]
