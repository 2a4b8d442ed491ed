"""The network card of a launched machine."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from connectors.azure import names
from connectors.azure.errors import MissingError, azure_call
from connectors.azure.operations import Operations, found, provisioning_state
from connectors.azure.session import AzureClients
from connectors.azure.spec import AzureSpec
from sealift.errors import TargetError

if TYPE_CHECKING:
    from azure.mgmt.network.models import NetworkInterface

READ = "Microsoft.Network/networkInterfaces/read"
WRITE = "Microsoft.Network/networkInterfaces/write"
DELETE = "Microsoft.Network/networkInterfaces/delete"


@dataclass(frozen=True, slots=True)
class Cards:
    """The network cards of one migration.

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

    def ensure(self, name: str, location: str, tags: Mapping[str, str]) -> str:
        """Make (or find) a card in the plan's subnet; its id.

        Raises:
            TargetError: the name is taken by somebody else's card, or the service refuses.
        """
        card = self.find(name)
        if card is not None and provisioning_state(card) == "failed":
            self.delete(name)
            card = None
        if card is None:
            self._create(name, location, tags)
        waiter, timeout = self.operations.waiter, self.operations.timeout_seconds
        return waiter.until(partial(self._ready, name), timeout, f"making network card {name}")

    def _ready(self, name: str) -> str | None:
        card = self.find(name)
        if card is None:
            return None
        state = provisioning_state(card)
        if state in ("failed", "canceled"):
            raise TargetError(f"network card {name} ended as {state}", card=name)
        return str(card.id) if state == "succeeded" else None

    def find(self, name: str) -> "NetworkInterface | None":
        """A card of ours.

        Raises:
            TargetError: there is one, and it is not ours.
        """
        get = partial(self.clients.network.network_interfaces.get, self.spec.resource_group, name)
        card = found(READ, get)
        if card is not None and not self.owner.owns(card.tags):
            raise TargetError(
                f"the name {name} is taken by a network card that this migration did not make",
                next_step="remove that card, or give the migration another name in the plan",
                card=name,
            )
        return cast("NetworkInterface | None", card)

    def _create(self, name: str, location: str, tags: Mapping[str, str]) -> None:
        properties: dict[str, Any] = {
            "ipConfigurations": [
                {
                    "name": "primary",
                    "properties": {
                        "subnet": {"id": self.spec.subnet_id},
                        "privateIPAllocationMethod": "Dynamic",
                        "primary": True,
                    },
                }
            ]
        }
        if self.spec.network_security_group_id:
            properties["networkSecurityGroup"] = {"id": self.spec.network_security_group_id}
        body = {"location": location, "tags": dict(tags), "properties": properties}
        network = self.clients.network
        begin = partial(
            network.network_interfaces.begin_create_or_update,
            self.spec.resource_group,
            name,
            cast(Any, body),
        )
        self.operations.run(network, WRITE, begin, f"making network card {name}")

    def delete(self, name: str) -> None:
        """Remove a card of ours and wait until it is gone; fine when it is."""
        if self.find(name) is None:
            return
        network = self.clients.network
        begin = partial(network.network_interfaces.begin_delete, self.spec.resource_group, name)
        try:
            self.operations.run(network, DELETE, begin, f"deleting network card {name}")
        except MissingError:
            return
        self.operations.until_gone(lambda: self.find(name), f"network card {name}")

    def let_go(self, name: str) -> None:
        """Ask for the end of a card that ``ensure`` just gave; waits for nothing."""
        begin = self.clients.network.network_interfaces.begin_delete
        self.operations.begin(DELETE, partial(begin, self.spec.resource_group, name))

    def listed(self) -> "list[NetworkInterface]":
        """Every card of the resource group, whoever's it is."""
        with azure_call(READ):
            return list(self.clients.network.network_interfaces.list(self.spec.resource_group))

    def owned(self, own: Mapping[str, str]) -> "Iterator[NetworkInterface]":
        """Every card of the migration that also has the tags ``own``."""
        for card in self.listed():
            tags = card.tags or {}
            if self.owner.owns(tags) and own.items() <= tags.items():
                yield card
