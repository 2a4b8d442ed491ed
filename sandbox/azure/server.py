"""The Azure sandbox: blobs, identity and Resource Manager as they are in Azure, on loopback."""

import secrets
import uuid
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from azure.storage.blob import BlobServiceClient

from converters.vhd import FOOTER_BYTES
from sandbox.azure.arm_api import ArmApi
from sandbox.azure.arm_server import ArmServer
from sandbox.azure.authority import make_authority
from sandbox.azure.azurite import Azurite, new_account
from sandbox.azure.blob_locks import LockBook
from sandbox.azure.blob_rules import CopyBook
from sandbox.azure.disk_content import DiskContents
from sandbox.azure.disks import Disk, DiskRules
from sandbox.azure.faults import FaultBook, RequestLog
from sandbox.azure.front import BlobFront
from sandbox.azure.https import HttpsServer
from sandbox.azure.identity import IdentityServer, TokenIssuer
from sandbox.azure.launches import LaunchBook
from sandbox.azure.machines import BootHook, LaunchedMachine
from sandbox.azure.network import Network, SecurityGroup, Subnet
from sandbox.azure.resource_ids import ResourceId
from sandbox.azure.resources_api import ResourcesApi, StorageAccount
from sandbox.azure.rules import Rules
from sandbox.azure.state import Subscription
from sandbox.azure.vault import Vault
from sealift.clock import Clock, SystemClock

CONTAINER = "sealift"


class AzureSandbox:
    """A subscription of its own, offline, on 127.0.0.1.

    All servers speak TLS with a certificate of the sandbox's own authority, so that the real
    SDKs run as they are; ``environment()`` makes them find it. State lives below ``directory``
    (mode 0700). Several sandboxes may run in one process.

    Args:
        directory: made when missing; must not be in use by another sandbox.
        clock: time of operations, quotas and states. Tokens and access grants live in real
            time, which is what Azurite and the SDKs look at.
        rules: what Azure leaves open, quotas, delays.
        on_launch: boots the disks of every started machine and reports.
        strict: the slow Azurite that checks the digests of pages.
        direct: ``blob_endpoint`` is Azurite itself, without faults, log and the rules that
            it lacks; for measurements.

    Raises:
        ToolError: Azurite is not installed or does not start.
        OSError: the directory cannot be used.
    """

    def __init__(
        self,
        directory: Path,
        *,
        clock: Clock | None = None,
        rules: Rules | None = None,
        on_launch: BootHook | None = None,
        strict: bool = False,
        direct: bool = False,
    ) -> None:
        self._directory = directory
        self._rules = rules or Rules()
        self._hook = on_launch
        self._clock = clock or SystemClock()
        self._strict = strict
        self._direct = direct
        self._stack = ExitStack()
        self._account = new_account("sealift")
        self._disks = new_account("md")
        self.subscription_id = str(uuid.uuid4())
        self.tenant_id = str(uuid.uuid4())
        self.resource_group = f"sandbox-{secrets.token_hex(3)}"
        self.location = "westeurope"
        self.container = CONTAINER
        self.issuer = TokenIssuer(self.tenant_id, self._rules.token_seconds)
        self.faults = FaultBook()
        self.requests = RequestLog(self._clock)

    def __enter__(self) -> "AzureSandbox":
        """Start."""
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop."""
        self.stop()

    def start(self) -> None:
        """Start everything; returns when all of it answers."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.authority = make_authority(self._directory / "tls")
        try:
            self._identity = IdentityServer(self.issuer)
            self._stack.callback(self._identity.close)
            accounts = (self._account, self._disks)
            self._azurite = Azurite(
                self._directory / "azurite", accounts, self.authority, strict=self._strict
            )
            self._stack.callback(self._azurite.close)
            self._make_container()
            self._open_front()
            self._open_subscription()
            self.vault = Vault(self.authority, self.issuer, self._clock)
            self._stack.callback(self.vault.close)
        except BaseException:
            self._stack.close()
            raise

    def stop(self) -> None:
        """End everything, in the reverse order; harmless when repeated."""
        self._stack.close()

    @property
    def storage_account(self) -> str:
        """The storage account's name."""
        return self._account.name

    @property
    def storage_key(self) -> str:
        """The storage account's key in base64; the product uses tokens instead."""
        return self._account.key

    @property
    def blob_endpoint(self) -> str:
        """``https://127.0.0.1:PORT/ACCOUNT``."""
        shown = self._azurite.endpoint if self._direct else self._front.endpoint
        return f"{shown}/{self._account.name}"

    @property
    def direct_blob_endpoint(self) -> str:
        """As before, of Azurite itself: no faults, no log, not all rules."""
        return f"{self._azurite.endpoint}/{self._account.name}"

    @property
    def vault_url(self) -> str:
        """The key vault's ``https://127.0.0.1:PORT``."""
        return self.vault.url

    @property
    def endpoint(self) -> str:
        """Resource Manager's ``https://127.0.0.1:PORT``."""
        return self._server.endpoint

    @property
    def subnet_id(self) -> str:
        """Full ARM id of a subnet."""
        return str(self._subnet.id)

    @property
    def network_security_group_id(self) -> str:
        """Full ARM id of a network security group."""
        return str(self._group.id)

    @property
    def storage_account_id(self) -> str:
        """Full ARM id of the storage account."""
        return str(self._id("Microsoft.Storage", "storageAccounts", self._account.name))

    def enable_immutability(self, container: str) -> None:
        """Give a container version-level immutability: its blobs take policies from now on."""
        self._locks.enable(container)

    def machines(self) -> tuple[LaunchedMachine, ...]:
        """All starts of machines, oldest first."""
        return self.launches.machines()

    def disk_size(self, disk_id: str) -> int:
        """Bytes that a machine sees of a managed disk; ``KeyError`` when there is none."""
        return self._disk(disk_id).size_bytes

    def export_disk(self, disk_id: str, path: Path) -> int:
        """Write what a machine reads from a managed disk into a new sparse raw file (0600).

        Returns:
            How many bytes lie in ranges that were ever written.

        Raises:
            KeyError: no such disk.
            FileExistsError: the file is already there.
        """
        disk = self._disk(disk_id)
        return self._contents.export(disk.place, path, disk.size_bytes)

    def disk_bytes(self, disk_id: str, offset: int = 0, length: int | None = None) -> bytes:
        """What a machine reads from a managed disk; ``KeyError`` when there is none."""
        disk = self._disk(disk_id)
        end = disk.size_bytes if length is None else min(offset + length, disk.size_bytes)
        return self._contents.read(disk.place, offset, end - offset)

    def disk_footer(self, disk_id: str) -> bytes:
        """The 512 bytes behind the disk; ``KeyError`` when there is no such disk."""
        disk = self._disk(disk_id)
        return self._contents.read(disk.place, disk.size_bytes, FOOTER_BYTES)

    def _disk(self, disk_id: str) -> Disk:
        with self.subscription.lock:
            self.subscription.operations.settle()
            for disk in self.subscription.each(Disk):
                if disk.id.key == disk_id.lower() and disk.place:
                    return disk
        raise KeyError(disk_id)

    def _open_front(self) -> None:
        service = self.blob_service()
        self._stack.callback(service.close)
        self._locks = LockBook(service, self._clock)
        self._front = BlobFront(
            self.authority.server_context(),
            self.authority.client_context(),
            self._azurite.port,
            self.issuer,
            self.faults,
            self.requests,
            CopyBook(self._rules, self._clock),
            self._locks,
            service,
        )
        self._stack.callback(self._front.close)

    def _open_subscription(self) -> None:
        self.subscription = Subscription(
            self.subscription_id, self.tenant_id, self.location, self._rules, self._clock
        )
        self._contents = DiskContents(
            self._azurite.endpoint, self.blob_endpoint.rpartition("/")[0], self._disks,
            self._account,
            self.authority,
        )  # fmt: skip
        self._stack.callback(self._contents.close)
        self._make_resources()
        self.launches = LaunchBook(self._hook, self._contents)
        account = self._id("Microsoft.Storage", "storageAccounts", self._account.name)
        disks = DiskRules(self.subscription, self._contents, account)
        api = ArmApi(self.subscription, disks, self.launches.launched, self.launches.diagnostics)
        routes = [*api.routes(), *ResourcesApi(self.subscription).routes()]
        arm = ArmServer(self.subscription, routes, self.issuer, self.faults, self.requests)
        self._server = HttpsServer(self.authority.server_context(), "azure-arm", arm.answer)
        arm.endpoint = self._server.endpoint
        self._stack.callback(self._server.close)

    def _make_resources(self) -> None:
        self.subscription.groups[self.resource_group.lower()] = self.resource_group
        network_id = self._id("Microsoft.Network", "virtualNetworks", "network")
        self._subnet = Subnet(
            id=replace(network_id, child_kind="subnets", child="machines"),
            location=self.location,
            prefix="10.0.0.0/24",
        )
        network = Network(
            id=network_id, location=self.location, prefix="10.0.0.0/16", subnets=(self._subnet,)
        )
        self._group = SecurityGroup(
            id=self._id("Microsoft.Network", "networkSecurityGroups", "guard"),
            location=self.location,
        )
        account = StorageAccount(
            id=self._id("Microsoft.Storage", "storageAccounts", self._account.name),
            location=self.location,
            blob_endpoint=self.blob_endpoint,
        )
        for resource in (network, self._subnet, self._group, account):
            self.subscription.add(resource)

    def _id(self, namespace: str, kind: str, name: str) -> ResourceId:
        return ResourceId(self.subscription_id, self.resource_group, namespace, kind, name)

    def environment(self) -> Mapping[str, str]:
        """Environment variables under which Azure's SDKs use this sandbox."""
        return {
            "IDENTITY_ENDPOINT": self._identity.endpoint,
            "IDENTITY_HEADER": self._identity.header,
            "REQUESTS_CA_BUNDLE": str(self.authority.root),
            "AZURE_SUBSCRIPTION_ID": self.subscription_id,
        }

    def blob_service(self) -> BlobServiceClient:
        """A client with the account's key, for looking into the account past the front."""
        return BlobServiceClient(
            self.direct_blob_endpoint,
            credential={"account_name": self._account.name, "account_key": self._account.key},
            connection_verify=str(self.authority.root),
        )

    def _make_container(self) -> None:
        with self.blob_service() as service:
            service.create_container(CONTAINER).close()
