"""Microsoft.Network: networks, subnets, security groups and interfaces, as far as used."""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sandbox.azure.arm_errors import ArmError, required
from sandbox.azure.resource_ids import ResourceId, parse_id
from sandbox.azure.state import Resource, Subscription, parsed_tags

NETWORK_TYPE = "Microsoft.Network/virtualNetworks"
SUBNET_TYPE = "Microsoft.Network/virtualNetworks/subnets"
GROUP_TYPE = "Microsoft.Network/networkSecurityGroups"
INTERFACE_TYPE = "Microsoft.Network/networkInterfaces"
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,78}[A-Za-z0-9_])?")
_RESERVED_ADDRESSES = 4
"""Azure keeps the first four addresses and the last ("Azure Virtual Network FAQ")."""


@dataclass(slots=True, kw_only=True)
class Subnet(Resource):
    """A subnet of a virtual network."""

    prefix: str

    def properties(self) -> dict[str, Any]:
        """See ``Resource.properties``."""
        return {"addressPrefix": self.prefix}


@dataclass(slots=True, kw_only=True)
class Network(Resource):
    """A virtual network."""

    prefix: str
    subnets: tuple[Subnet, ...] = ()

    def properties(self) -> dict[str, Any]:
        """See ``Resource.properties``."""
        return {
            "addressSpace": {"addressPrefixes": [self.prefix]},
            "subnets": [subnet.document() for subnet in self.subnets],
        }


@dataclass(slots=True, kw_only=True)
class SecurityGroup(Resource):
    """A network security group without rules of its own."""

    def properties(self) -> dict[str, Any]:
        """See ``Resource.properties``."""
        return {"securityRules": []}


@dataclass(slots=True, kw_only=True)
class Interface(Resource):
    """A network interface.

    Attributes:
        subnet: where its one address is.
        security_group: id, or empty.
        address: private, from the subnet.
        configuration: name of its IP configuration.
        machine: id of the machine that it hangs on, or empty.
        accelerated: accelerated networking.
    """

    subnet: ResourceId
    address: str
    configuration: str
    security_group: str = ""
    machine: str = ""
    accelerated: bool = False

    def properties(self) -> dict[str, Any]:
        """See ``Resource.properties``."""
        configuration = {
            "name": self.configuration,
            "id": f"{self.id}/ipConfigurations/{self.configuration}",
            "properties": {
                "provisioningState": "Succeeded",
                "privateIPAddress": self.address,
                "privateIPAllocationMethod": "Dynamic",
                "primary": True,
                "subnet": {"id": str(self.subnet)},
            },
        }
        shown: dict[str, Any] = {
            "ipConfigurations": [configuration],
            "enableAcceleratedNetworking": self.accelerated,
            "primary": True,
        }
        if self.security_group:
            shown["networkSecurityGroup"] = {"id": self.security_group}
        if self.machine:
            shown["virtualMachine"] = {"id": self.machine}
        return shown


class InterfaceRules:
    """Makes and removes network interfaces; used under the subscription's lock."""

    def __init__(self, subscription: Subscription) -> None:
        self._subscription = subscription

    def plan(self, interface_id: ResourceId, body: Mapping[str, Any]) -> Interface:
        """The interface that a PUT asks for ("Network Interfaces - Create Or Update").

        Raises:
            ArmError: a value does not do, or something that is named does not exist.
        """
        if not _NAME.fullmatch(interface_id.name):
            message = f"Resource name {interface_id.name} is invalid."
            raise ArmError(400, "InvalidResourceName", message)
        location = self._subscription.check_location(body.get("location"), INTERFACE_TYPE)
        given = body.get("properties") or {}
        configurations = given.get("ipConfigurations") or []
        if len(configurations) != 1:
            message = f"Network interface {interface_id.name} needs one IP configuration here."
            raise ArmError(400, "NetworkInterfaceMustHaveOneIpConfiguration", message)
        subnet = self._subnet((configurations[0].get("properties") or {}).get("subnet"), location)
        return Interface(
            id=interface_id,
            location=location,
            tags=parsed_tags(body),
            subnet=subnet.id,
            address=self._free_address(subnet),
            configuration=str(configurations[0].get("name", "ipconfig1")),
            security_group=self._security_group(given.get("networkSecurityGroup"), location),
            accelerated=bool(given.get("enableAcceleratedNetworking", False)),
            provisioning_state="Updating",
        )

    def replace(self, old: Interface, new: Interface) -> None:
        """A PUT to an interface that exists.

        Raises:
            ArmError: an interface of a machine cannot move to another network.
        """
        if old.machine and old.subnet.key != new.subnet.key:
            message = f"Network interface {old.id.name} is in use; its subnet cannot be changed."
            raise ArmError(400, "NicInUseSubnetChangeNotAllowed", message)
        old.tags, old.security_group = new.tags, new.security_group
        old.subnet = new.subnet

    def check_delete(self, interface: Interface) -> None:
        """That an interface may go ("Delete a network interface").

        Raises:
            ArmError: 400 NicInUse.
        """
        if interface.machine:
            raise ArmError(
                400,
                "NicInUse",
                f"Network Interface {interface.id} is used by existing resource "
                f"{interface.machine}. In order to delete the network interface, it must be "
                f"dissociated from the resource.",
            )

    def _subnet(self, given: object, location: str) -> Subnet:
        if not isinstance(given, dict):
            raise required("networkInterface.ipConfigurations.subnet")
        subnet_id = parse_id(given.get("id"), SUBNET_TYPE, "subnet.id")
        found = self._subscription.find(subnet_id, Subnet)
        if found is None:
            raise _missing(subnet_id)
        self._subscription.check_same_location(found, location)
        return found

    def _security_group(self, given: object, location: str) -> str:
        if not isinstance(given, dict) or not given.get("id"):
            return ""
        group_id = parse_id(given["id"], GROUP_TYPE, "networkSecurityGroup.id")
        found = self._subscription.find(group_id, SecurityGroup)
        if found is None:
            raise _missing(group_id)
        self._subscription.check_same_location(found, location)
        return str(found.id)

    def _free_address(self, subnet: Subnet) -> str:
        used = {
            one.address
            for one in self._subscription.each(Interface)
            if one.subnet.key == subnet.id.key
        }
        hosts = list(ipaddress.ip_network(subnet.prefix))[_RESERVED_ADDRESSES:-1]
        for host in hosts:
            if str(host) not in used:
                return str(host)
        message = f"Subnet {subnet.id} does not have enough capacity for 1 IP addresses."
        raise ArmError(400, "SubnetIsFull", message)


def _missing(resource_id: ResourceId) -> ArmError:
    # "Resolve resource not found errors": a resource that another one names.
    message = f"Resource {resource_id} referenced by the request was not found."
    return ArmError(400, "InvalidResourceReference", message)
