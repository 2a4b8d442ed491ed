from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from azure.core.credentials import TokenCredential
from azure.identity import DefaultAzureCredential
from azure.mgmt.compute import ComputeManagementClient
from azure.mgmt.network import NetworkManagementClient
from azure.mgmt.resource import ResourceManagementClient

from converters.vhd import fixed_footer
from sandbox.azure.server import AzureSandbox

MIB = 1 << 20


@dataclass(frozen=True)
class Cloud:
    """A sandbox and the real clients of its Resource Manager, which repeat nothing."""

    sandbox: AzureSandbox
    compute: ComputeManagementClient
    network: NetworkManagementClient
    resources: ResourceManagementClient

    @property
    def group(self) -> str:
        return self.sandbox.resource_group

    def put_vhd(self, name: str, data: bytes) -> str:
        """A page blob with a disk and its footer; its address."""
        footer = fixed_footer(
            len(data), unique_id=uuid4(), created=datetime(2026, 1, 1, tzinfo=UTC)
        )
        return self.put_blob(name, data + footer)

    def put_blob(self, name: str, content: bytes) -> str:
        with (
            self.sandbox.blob_service() as service,
            service.get_blob_client(self.sandbox.container, name) as blob,
        ):
            blob.upload_blob(content, blob_type="PageBlob", overwrite=True)
        return f"{self.sandbox.blob_endpoint}/{self.sandbox.container}/{name}"

    def import_body(self, uri: str, **properties: object) -> Any:
        source: dict[str, object] = {
            "createOption": "Import",
            "sourceUri": uri,
            "storageAccountId": self.sandbox.storage_account_id,
        }
        return self.disk_body(source, **properties)

    def disk_body(self, creation: dict[str, object], **properties: object) -> Any:
        return {
            "location": self.sandbox.location,
            "sku": {"name": "Premium_LRS"},
            "properties": {"creationData": creation, **properties},
        }

    def make_disk(self, name: str, data: bytes, **properties: object) -> str:
        """An imported disk; its id."""
        body = self.import_body(self.put_vhd(f"{name}.vhd", data), **properties)
        made = self.compute.disks.begin_create_or_update(self.group, name, body).result()
        return str(made.id)

    def nic_body(self, **properties: object) -> Any:
        configuration = {
            "name": "ipconfig1",
            "properties": {"subnet": {"id": self.sandbox.subnet_id}},
        }
        group = {"id": self.sandbox.network_security_group_id}
        return {
            "location": self.sandbox.location,
            "properties": {
                "ipConfigurations": [configuration],
                "networkSecurityGroup": group,
                **properties,
            },
        }

    def make_nic(self, name: str) -> str:
        poller = self.network.network_interfaces.begin_create_or_update(
            self.group, name, self.nic_body()
        )
        return str(poller.result().id)

    def vm_body(self, disk: str, nic: str, data: tuple[str, ...] = (), **properties: object) -> Any:
        data_disks = [
            {
                "lun": lun,
                "createOption": "Attach",
                "managedDisk": {"id": one},
                "deleteOption": "Delete",
            }
            for lun, one in enumerate(data)
        ]
        storage = {
            "osDisk": {
                "createOption": "Attach",
                "osType": "Linux",
                "managedDisk": {"id": disk},
                "deleteOption": "Delete",
            },
            "dataDisks": data_disks,
        }
        interface = {"id": nic, "properties": {"primary": True, "deleteOption": "Delete"}}
        return {
            "location": self.sandbox.location,
            "properties": {
                "hardwareProfile": {"vmSize": "Standard_D2s_v5"},
                "storageProfile": storage,
                "networkProfile": {"networkInterfaces": [interface]},
                "diagnosticsProfile": {"bootDiagnostics": {"enabled": True}},
                **properties,
            },
        }

    def make_vm(self, name: str, data: bytes = bytes(MIB)) -> Any:
        """A machine with one disk and one interface; the body that made it."""
        disk = self.make_disk(f"{name}-os", data, osType="Linux", hyperVGeneration="V1")
        body = self.vm_body(disk, self.make_nic(f"{name}-nic"))
        self.compute.virtual_machines.begin_create_or_update(self.group, name, body).result()
        return body


@pytest.fixture(scope="session")
def shared_sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AzureSandbox]:
    directory: Path = tmp_path_factory.mktemp("azure")
    with AzureSandbox(directory) as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(
    shared_sandbox: AzureSandbox, monkeypatch: pytest.MonkeyPatch
) -> Iterator[AzureSandbox]:
    use(shared_sandbox, monkeypatch)
    yield shared_sandbox
    left = shared_sandbox.faults.unexercised()
    shared_sandbox.faults.clear()
    assert not left


@pytest.fixture
def cloud(sandbox: AzureSandbox) -> Iterator[Cloud]:
    with DefaultAzureCredential() as credential:
        yield from clients(sandbox, credential)


def use(sandbox: AzureSandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in sandbox.environment().items():
        monkeypatch.setenv(name, value)


def clients(sandbox: AzureSandbox, credential: TokenCredential) -> Iterator[Cloud]:
    options: dict[str, Any] = {
        "base_url": sandbox.endpoint,
        "retry_total": 0,
        "polling_interval": 0,
    }
    subscription = sandbox.subscription_id
    with (
        ComputeManagementClient(credential, subscription, **options) as compute,
        NetworkManagementClient(credential, subscription, **options) as network,
        ResourceManagementClient(credential, subscription, **options) as resources,
    ):
        yield Cloud(sandbox, compute, network, resources)
