"""From a page blob to a running machine and back to nothing, with the real SDKs."""

import random
from pathlib import Path
from typing import Any

import pytest
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.storage.blob import BlobClient

from converters.vhd import parse_footer
from sandbox.azure.server import AzureSandbox
from tests.sandbox_azure.conftest import MIB, Cloud

pytestmark = pytest.mark.sandbox


def test_import_launch_and_remove(cloud: Cloud, tmp_path: Path) -> None:
    system = random.Random(1).randbytes(MIB) + bytes(MIB)
    data = random.Random(2).randbytes(MIB)
    os_disk = cloud.make_disk("first-os", system, osType="Linux", hyperVGeneration="V2")
    data_disk = cloud.make_disk("first-data", data)
    nic = cloud.make_nic("first-nic")
    machines = cloud.compute.virtual_machines
    body = cloud.vm_body(os_disk, nic, (data_disk,))
    made = machines.begin_create_or_update(cloud.group, "first", body).result()
    assert made.provisioning_state == "Succeeded"
    view = machines.instance_view(cloud.group, "first")
    codes = [status.code for status in view.statuses or []]
    assert codes == ["ProvisioningState/succeeded", "PowerState/running"]
    disk = cloud.compute.disks.get(cloud.group, "first-os")
    assert (disk.disk_state, disk.managed_by) == ("Attached", made.id)
    machine = cloud.sandbox.machines()[-1]
    assert (machine.name, machine.generation, machine.disks) == (
        "first", "V2", (os_disk, data_disk),
    )  # fmt: skip
    assert cloud.sandbox.export_disk(machine.disks[0], tmp_path / "os.raw") >= MIB
    assert (tmp_path / "os.raw").read_bytes() == system
    assert cloud.sandbox.disk_bytes(data_disk) == data
    assert parse_footer(cloud.sandbox.disk_footer(os_disk)).current_size == 2 * MIB
    machines.begin_delete(cloud.group, "first", force_deletion=True).result()
    with pytest.raises(ResourceNotFoundError):
        cloud.compute.disks.get(cloud.group, "first-os")
    with pytest.raises(ResourceNotFoundError):
        cloud.network.network_interfaces.get(cloud.group, "first-nic")


def test_direct_upload(cloud: Cloud) -> None:
    disks = cloud.compute.disks
    size = 20 * MIB + 512
    creation: dict[str, object] = {"createOption": "Upload", "uploadSizeBytes": size}
    body = cloud.disk_body(creation)
    made = disks.begin_create_or_update(cloud.group, "upload", body).result()
    assert made.disk_state == "ReadyToUpload"
    grant: Any = {"access": "Write", "durationInSeconds": 3600}
    address = disks.begin_grant_access(cloud.group, "upload", grant).result().access_sas
    assert address is not None
    assert disks.get(cloud.group, "upload").disk_state == "ActiveUpload"
    with BlobClient.from_blob_url(address, retry_total=0) as blob:
        blob.upload_page(b"\x77" * 4096, offset=MIB, length=4096)
        disks.begin_revoke_access(cloud.group, "upload").result()
        with pytest.raises(HttpResponseError) as refused:
            blob.upload_page(b"\x78" * 4096, offset=MIB, length=4096)
    assert refused.value.status_code == 403
    done = disks.get(cloud.group, "upload")
    assert (done.disk_state, done.disk_size_bytes) == ("Unattached", 20 * MIB)
    assert cloud.sandbox.disk_bytes(str(done.id), MIB, 4096) == b"\x77" * 4096


def test_copy_of_a_disk_does_not_follow_it(cloud: Cloud) -> None:
    source = cloud.make_disk("original", b"\x01" * MIB, osType="Linux", hyperVGeneration="V1")
    body = cloud.disk_body({"createOption": "Copy", "sourceResourceId": source})
    copy = cloud.compute.disks.begin_create_or_update(cloud.group, "copied", body).result()
    assert (copy.hyper_v_generation, copy.os_type) == ("V1", "Linux")
    cloud.compute.disks.begin_delete(cloud.group, "original").result()
    assert cloud.sandbox.disk_bytes(str(copy.id)) == b"\x01" * MIB


def test_writes_after_an_import_do_not_show(cloud: Cloud) -> None:
    """ "Disks - Create Or Update": Import copies the blob into the disk."""
    disk = cloud.make_disk("imported", b"\x01" * MIB)
    with (
        cloud.sandbox.blob_service() as service,
        service.get_blob_client(cloud.sandbox.container, "imported.vhd") as blob,
    ):
        blob.upload_page(b"\x02" * 512, 0, 512)
    assert cloud.sandbox.disk_bytes(disk) == b"\x01" * MIB


def test_what_is_only_looked_at(cloud: Cloud) -> None:
    sandbox: AzureSandbox = cloud.sandbox
    assert cloud.resources.resource_groups.get(cloud.group).location == sandbox.location
    assert cloud.resources.resource_groups.check_existence(cloud.group)
    network, subnet = sandbox.subnet_id.split("/")[-3], sandbox.subnet_id.split("/")[-1]
    found = cloud.network.subnets.get(cloud.group, network, subnet)
    assert found.id == sandbox.subnet_id
    guard = sandbox.network_security_group_id.rpartition("/")[2]
    assert cloud.network.network_security_groups.get(cloud.group, guard).name == guard
    sizes = {sku.name: sku for sku in cloud.compute.resource_skus.list()}
    facts = {one.name: one.value for one in sizes["Standard_D2s_v5"].capabilities or []}
    assert (facts["vCPUs"], facts["HyperVGenerations"]) == ("2", "V1,V2")
    usages = {one.name.value: one for one in cloud.compute.usage.list(sandbox.location)}
    assert usages["cores"].limit == 100
    account = cloud.resources.resources.get_by_id(sandbox.storage_account_id, "2023-05-01")
    assert account.location == sandbox.location
