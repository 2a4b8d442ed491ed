"""Microsoft.Resources, and what is only looked at: groups, networks, sizes, usages, storage."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sandbox.azure.arm_api import MACHINE_VERSIONS, NETWORK_VERSIONS
from sandbox.azure.arm_call import ArmCall, Route, json_reply, route
from sandbox.azure.arm_errors import ArmError
from sandbox.azure.disks import Disk
from sandbox.azure.https import Reply
from sandbox.azure.machine_rules import used_vcpus
from sandbox.azure.machines import Machine
from sandbox.azure.network import (
    GROUP_TYPE,
    NETWORK_TYPE,
    SUBNET_TYPE,
    Network,
    SecurityGroup,
    Subnet,
)  # fmt: skip
from sandbox.azure.sizes import SIZES, sku_documents
from sandbox.azure.state import Resource, Subscription

STORAGE_TYPE = "Microsoft.Storage/storageAccounts"
RESOURCE_VERSIONS = ("2025-04-01", "2025-03-01", "2024-11-01", "2022-09-01", "2021-04-01")
STORAGE_VERSIONS = ("2025-06-01", "2025-01-01", "2024-01-01", "2023-05-01", "2023-01-01")
_SKU_VERSIONS = ("2021-07-01", "2019-04-01")
_GROUP = "/subscriptions/{subscription}/resourceGroups/{group}"
_COMPUTE = "/subscriptions/{subscription}/providers/Microsoft.Compute"
_TAG_FILTER = re.compile(r"tagName eq '([^']*)'(?: and tagValue eq '([^']*)')?")
_TYPE_FILTER = re.compile(r"resourceType eq '([^']*)'")
_DISK_LIMIT = 50_000
"""Disks per type, subscription and region ("Introduction to Azure managed disks")."""


@dataclass(slots=True, kw_only=True)
class StorageAccount(Resource):
    """The storage account, as far as Resource Manager shows it."""

    blob_endpoint: str

    def extra(self) -> dict[str, Any]:
        """See ``Resource.extra``."""
        return {"kind": "StorageV2", "sku": {"name": "Standard_LRS", "tier": "Standard"}}

    def properties(self) -> dict[str, Any]:
        """See ``Resource.properties``."""
        return {
            "primaryEndpoints": {"blob": f"{self.blob_endpoint}/"},
            "primaryLocation": self.location,
            "statusOfPrimary": "available",
            "supportsHttpsTrafficOnly": True,
        }


class ResourcesApi:
    """Answers calls under the subscription's lock."""

    def __init__(self, subscription: Subscription) -> None:
        self._subscription = subscription

    def routes(self) -> list[Route]:
        """Where calls go."""
        subscription, versions = "/subscriptions/{subscription}", RESOURCE_VERSIONS
        return [
            route("GET", _GROUP, "ResourceGroups_Get", versions, self._group),
            route("HEAD", _GROUP, "ResourceGroups_CheckExistence", versions, self._exists),
            route("GET", f"{subscription}/resourceGroups", "ResourceGroups_List", versions,
                  self._groups),
            route("GET", f"{_GROUP}/resources", "Resources_ListByResourceGroup", versions,
                  self._resources),
            route("GET", f"{subscription}/resources", "Resources_List", versions,
                  self._resources),
            route("GET", f"{_COMPUTE}/skus", "ResourceSkus_List", _SKU_VERSIONS, self._skus),
            route("GET", f"{_COMPUTE}/locations/{{location}}/usages", "Usage_List",
                  MACHINE_VERSIONS, self._usages),
            *self._shown(NETWORK_TYPE, "VirtualNetworks", Network),
            *self._shown(GROUP_TYPE, "NetworkSecurityGroups", SecurityGroup),
            route("GET", f"{_GROUP}/providers/{NETWORK_TYPE}/{{name}}/subnets/{{child}}",
                  "Subnets_Get", NETWORK_VERSIONS, self._get(SUBNET_TYPE, Subnet)),
            route("GET", f"{_GROUP}/providers/{NETWORK_TYPE}/{{name}}/subnets",
                  "Subnets_List", NETWORK_VERSIONS, self._subnets),
            route("GET", f"{_GROUP}/providers/{STORAGE_TYPE}/{{name}}",
                  "StorageAccounts_GetProperties", STORAGE_VERSIONS,
                  self._get(STORAGE_TYPE, StorageAccount)),
        ]  # fmt: skip

    def _shown(self, type_name: str, name: str, kind: type[Resource]) -> list[Route]:
        place, versions = f"{_GROUP}/providers/{type_name}", NETWORK_VERSIONS
        return [
            route("GET", f"{place}/{{name}}", f"{name}_Get", versions, self._get(type_name, kind)),
            route("GET", place, f"{name}_List", versions, self._list(kind)),
        ]

    def _get(self, type_name: str, kind: type[Resource]) -> Callable[[ArmCall], Reply]:
        def answer(call: ArmCall) -> Reply:
            found = self._subscription.get(call.resource(type_name), kind)
            return json_reply(200, found.document())

        return answer

    def _list(self, kind: type[Resource]) -> Callable[[ArmCall], Reply]:
        def answer(call: ArmCall) -> Reply:
            group = call.parts["group"].lower()
            found = self._subscription.each(kind, group)
            return json_reply(200, {"value": [one.document() for one in found]})

        return answer

    def _subnets(self, call: ArmCall) -> Reply:
        network = self._subscription.get(call.resource(NETWORK_TYPE), Network)
        return json_reply(200, {"value": [one.document() for one in network.subnets]})

    def _group(self, call: ArmCall) -> Reply:
        return json_reply(200, self._group_document(call.parts["group"]))

    def _exists(self, call: ArmCall) -> Reply:
        return Reply(204)

    def _groups(self, call: ArmCall) -> Reply:
        names = self._subscription.groups.values()
        return json_reply(200, {"value": [self._group_document(name) for name in names]})

    def _group_document(self, name: str) -> dict[str, Any]:
        shown = self._subscription.groups[name.lower()]
        return {
            "id": f"/subscriptions/{self._subscription.id}/resourceGroups/{shown}",
            "name": shown,
            "type": "Microsoft.Resources/resourceGroups",
            "location": self._subscription.location,
            "properties": {"provisioningState": "Succeeded"},
        }

    def _resources(self, call: ArmCall) -> Reply:
        group = call.parts["group"].lower() if "group" in call.parts else None
        wanted = call.query.get("$filter", "")
        shown = []
        for one in self._subscription.each(Resource, group):
            if not isinstance(one, Subnet) and _fits(one, wanted):
                document = one.document()
                shown.append({name: document[name] for name in _SHOWN if name in document})
        return json_reply(200, {"value": shown})

    def _skus(self, call: ArmCall) -> Reply:
        rules = self._subscription.rules
        return json_reply(200, {"value": sku_documents(self._subscription.location, rules)})

    def _usages(self, call: ArmCall) -> Reply:
        self._subscription.check_location(call.parts["location"], "locations/usages")
        families = ("cores", *sorted({size.family for size in SIZES}))
        quota = self._subscription.rules.vcpu_quota
        usages = [
            _usage(name, used_vcpus(self._subscription, name), quota.get(name, 100))
            for name in families
        ]
        machines = sum(1 for _ in self._subscription.each(Machine))
        disks = [one.sku for one in self._subscription.each(Disk)]
        usages.append(_usage("virtualMachines", machines, 25_000))
        usages.append(_usage("PremiumDiskCount", disks.count("Premium_LRS"), _DISK_LIMIT))
        usages.append(_usage("StandardSSDDiskCount", disks.count("StandardSSD_LRS"), _DISK_LIMIT))
        usages.append(_usage("StandardDiskCount", disks.count("Standard_LRS"), _DISK_LIMIT))
        return json_reply(200, {"value": usages})


_SHOWN = ("id", "name", "type", "location", "tags", "sku", "kind", "managedBy", "zones")


def _usage(name: str, current: int, limit: int) -> dict[str, Any]:
    named = {"value": name, "localizedValue": name}
    return {"unit": "Count", "currentValue": current, "limit": limit, "name": named}


def _fits(resource: Resource, wanted: str) -> bool:
    """Whether a resource fits a filter of "Resources - List": one tag, or one type."""
    if not wanted:
        return True
    tag, kind = _TAG_FILTER.fullmatch(wanted), _TYPE_FILTER.fullmatch(wanted)
    if tag is not None:
        name, value = tag.groups()
        tags = {key.lower(): text for key, text in resource.tags.items()}
        return name.lower() in tags and value in (None, tags[name.lower()])
    if kind is not None:
        return resource.id.type_name.lower() == kind[1].lower()
    raise ArmError(400, "InvalidFilterInQueryString", f"Invalid $filter '{wanted}' specified.")
