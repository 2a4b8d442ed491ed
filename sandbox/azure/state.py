"""The resources of one subscription."""

import secrets
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sandbox.azure.arm_errors import ArmError, referenced_not_found, resource_not_found
from sandbox.azure.operations import OperationBook
from sandbox.azure.resource_ids import ResourceId
from sandbox.azure.rules import Rules
from sealift.clock import Clock


@dataclass(slots=True, kw_only=True)
class Resource:
    """What all resources have.

    Attributes:
        id: as it was written when the resource was made.
        location: in lower case, without blanks.
        tags: at most 50 ("Use tags to organize your Azure resources").
        provisioning_state: ``Succeeded`` when nothing goes on.
        etag: changes with every change.
    """

    id: ResourceId
    location: str
    tags: dict[str, str] = field(default_factory=dict)
    provisioning_state: str = "Succeeded"
    etag: str = field(default_factory=lambda: f'W/"{secrets.token_hex(16)}"')

    def touch(self) -> None:
        """It was changed."""
        self.etag = f'W/"{secrets.token_hex(16)}"'

    def properties(self) -> dict[str, Any]:
        """What stands under ``properties``."""
        return {}

    def extra(self) -> dict[str, Any]:
        """What stands beside ``properties``."""
        return {}

    def document(self) -> dict[str, Any]:
        """The resource as a GET shows it."""
        shown: dict[str, Any] = {
            "id": str(self.id),
            "name": self.id.last_name,
            "type": self.id.type_name,
            "location": self.location,
            **self.extra(),
            "properties": {"provisioningState": self.provisioning_state, **self.properties()},
        }
        if self.tags:
            shown["tags"] = dict(self.tags)
        return shown


R = TypeVar("R", bound=Resource)


class Subscription:
    """All resources, and the lock under which every call works.

    Args:
        subscription_id: a UUID.
        tenant_id: whose it is.
        location: the one location that it has.
        rules: what is open in Azure.
        clock: time of operations.
    """

    def __init__(
        self, subscription_id: str, tenant_id: str, location: str, rules: Rules, clock: Clock
    ) -> None:
        self.id = subscription_id
        self.tenant_id = tenant_id
        self.location = location
        self.rules = rules
        self.clock = clock
        self.lock = threading.RLock()
        self.operations = OperationBook(clock)
        self._resources: dict[str, Resource] = {}
        self.groups: dict[str, str] = {}

    def add(self, resource: Resource) -> None:
        """Keep a new resource."""
        self._resources[resource.id.key] = resource

    def remove(self, resource: Resource) -> None:
        """Forget a resource; harmless when it is gone."""
        self._resources.pop(resource.id.key, None)

    def find(self, resource_id: ResourceId, kind: type[R]) -> R | None:
        """A resource, or ``None``."""
        found = self._resources.get(resource_id.key)
        return found if isinstance(found, kind) else None

    def get(self, resource_id: ResourceId, kind: type[R]) -> R:
        """The resource that a call is about.

        Raises:
            ArmError: 404 ResourceNotFound.
        """
        found = self.find(resource_id, kind)
        if found is None:
            name = resource_id.child or resource_id.name
            raise resource_not_found(resource_id.type_name, name, resource_id.group)
        return found

    def referenced(self, resource_id: ResourceId, kind: type[R]) -> R:
        """A resource that a request names.

        Raises:
            ArmError: 404 NotFound.
        """
        found = self.find(resource_id, kind)
        if found is None:
            raise referenced_not_found(str(resource_id))
        return found

    def each(self, kind: type[R], group: str | None = None) -> Iterator[R]:
        """All resources of a kind, of one group or of all."""
        for resource in list(self._resources.values()):
            if isinstance(resource, kind) and group in (None, resource.id.group.lower()):
                yield resource

    def check_group(self, group: str) -> None:
        """That a resource group exists ("Resolve resource not found errors").

        Raises:
            ArmError: 404 ResourceGroupNotFound.
        """
        if group.lower() not in self.groups:
            message = f"Resource group '{group}' could not be found."
            raise ArmError(404, "ResourceGroupNotFound", message)

    def check_location(self, given: object, kind: str) -> str:
        """The location that a request names.

        Raises:
            ArmError: 400 LocationRequired or LocationNotAvailableForResourceType.
        """
        if not isinstance(given, str) or not given:
            message = "The location property is required for this definition."
            raise ArmError(400, "LocationRequired", message)
        plain = given.lower().replace(" ", "")
        if plain != self.location:
            raise ArmError(
                400,
                "LocationNotAvailableForResourceType",
                f"The provided location '{given}' is not available for resource type '{kind}'. "
                f"List of available regions for the resource type is '{self.location}'.",
            )
        return plain

    def check_same_location(self, resource: Resource, location: str) -> None:
        """That a resource used by another one is where that one is.

        Raises:
            ArmError: 400 InvalidResourceLocation.
        """
        if resource.location != location:
            message = f"Resource {resource.id} is in location {resource.location}, not {location}."
            raise ArmError(400, "InvalidResourceLocation", message)


def parsed_tags(body: Mapping[str, Any]) -> dict[str, str]:
    """The tags of a request ("Use tags to organize your Azure resources", limitations).

    Raises:
        ArmError: too many, or too long.
    """
    tags = body.get("tags") or {}
    if not isinstance(tags, dict) or len(tags) > 50:
        raise ArmError(400, "InvalidTagSize", "A resource can have at most 50 tags.")
    for name, value in tags.items():
        bad = any(letter in name for letter in "<>%&\\?/")
        if bad or not 0 < len(name) <= 512 or len(str(value)) > 256:
            message = f"The tag name '{name}' or its value is invalid."
            raise ArmError(400, "InvalidTagNameCharacters", message)
    return {str(name): str(value) for name, value in tags.items()}
