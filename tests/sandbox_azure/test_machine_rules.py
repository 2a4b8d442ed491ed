"""Rules of machines and interfaces; each test names the page of Microsoft's that states it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from azure.core import MatchConditions
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.identity import DefaultAzureCredential
from azure.storage.blob import BlobClient

from sandbox.azure.rules import Rules
from sandbox.azure.server import AzureSandbox
from sandbox.reports import BootReport, CheckStatus
from tests.sandbox_azure.conftest import MIB, Cloud, clients, use

pytestmark = pytest.mark.sandbox


def refused(call: Callable[[], Any]) -> tuple[int | None, str]:
    """Status and code of what a call, or its operation, is refused with."""
    with pytest.raises(HttpResponseError) as caught:
        call().result()
    error = caught.value.error
    return caught.value.status_code, str(error.code if error else "")


@pytest.fixture
def parts(cloud: Cloud, request: pytest.FixtureRequest) -> tuple[str, str, str]:
    """OS disk (V1), data disk and interface of a test's own."""
    name = request.node.name.replace("test_", "")[:50]
    system = cloud.make_disk(f"{name}-os", bytes(MIB), osType="Linux", hyperVGeneration="V1")
    return system, cloud.make_disk(f"{name}-data", bytes(MIB)), cloud.make_nic(f"{name}-nic")


def create(cloud: Cloud, body: Any, name: str = "refused") -> Callable[[], Any]:
    machines = cloud.compute.virtual_machines
    return lambda: machines.begin_create_or_update(cloud.group, name, body)


def changed(body: Any, path: str, value: object) -> Any:
    """The body with another value at a dotted path."""
    *names, last = path.split(".")
    place = body["properties"]
    for name in names:
        place = place[int(name)] if isinstance(place, list) else place[name]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return body


def test_what_must_fit(cloud: Cloud, parts: tuple[str, str, str]) -> None:
    """ "Virtual Machines - Create Or Update"; "Create a VM from a specialized disk": no osProfile;
    "Resolve errors for SKU not available"; "Resolve resource not found errors"; sizes: "Sizes for
    virtual machines in Azure"; "Select a disk type for Azure IaaS VMs": Premium needs its size."""
    system, data, nic = parts
    cases: list[tuple[str, object, tuple[int, str]]] = [
        ("osProfile", {"computerName": "x"}, (400, "InvalidParameter")),
        ("hardwareProfile.vmSize", "Standard_Nonsense", (400, "InvalidParameter")),
        ("hardwareProfile.vmSize", "Standard_E2s_v5", (409, "SkuNotAvailable")),
        ("hardwareProfile.vmSize", "Standard_A2_v2", (400, "InvalidParameter")),
        ("hardwareProfile.vmSize", "Standard_D2s_v6", (400, "BadRequest")),
        ("storageProfile.osDisk.osType", "Windows", (400, "InvalidParameter")),
        ("storageProfile.osDisk.osType", None, (400, "InvalidParameter")),
        ("storageProfile.osDisk.managedDisk.id", system + "x", (404, "NotFound")),
        ("storageProfile.osDisk.managedDisk.id", "x", (400, "LinkedInvalidPropertyId")),
        ("storageProfile.osDisk.managedDisk.id", nic, (400, "InvalidParameter")),
        ("storageProfile.dataDisks.0.managedDisk.id", system, (400, "InvalidParameter")),
        ("storageProfile.dataDisks.0.lun", 64, (400, "InvalidParameter")),
        ("networkProfile.networkInterfaces", [], (400, "VMMustHaveNetworkInterface")),
        ("networkProfile.networkInterfaces.0.id", nic + "x", (404, "NotFound")),
        ("securityProfile", {"securityType": "TrustedLaunch"}, (400, "BadRequest")),
    ]
    for path, value, expected in cases:
        body = changed(cloud.vm_body(system, nic, (data,)), path, value)
        assert refused(create(cloud, body)) == expected, (path, value)
    with pytest.raises(ResourceNotFoundError):
        cloud.compute.virtual_machines.get(cloud.group, "refused")
    assert cloud.compute.disks.get(cloud.group, system.rpartition("/")[2]).disk_state == (
        "Unattached"
    )


def test_luns_and_their_number(cloud: Cloud, parts: tuple[str, str, str]) -> None:
    """ "Virtual Machines - Create Or Update", ``lun``: unique per machine; the size's
    ``MaxDataDiskCount``: "Sizes for virtual machines in Azure"."""
    system, data, nic = parts
    more = [cloud.make_disk(f"slots-{number}", bytes(MIB)) for number in range(4)]
    body = cloud.vm_body(system, nic, (data, more[0]))
    body["properties"]["storageProfile"]["dataDisks"][1]["lun"] = 0
    assert refused(create(cloud, body)) == (400, "InvalidParameter")
    body = cloud.vm_body(system, nic, (data, *more))
    assert refused(create(cloud, body)) == (409, "OperationNotAllowed")


def test_what_is_in_use_cannot_be_used_again(cloud: Cloud, parts: tuple[str, str, str]) -> None:
    """ "Attach a managed data disk": a disk is attached to one machine; "Create, change, or delete
    a network interface": one machine, and not deleted while in use; disks likewise."""
    system, _, nic = parts
    body = cloud.make_vm("user")
    storage, network = body["properties"]["storageProfile"], body["properties"]["networkProfile"]
    disk = storage["osDisk"]["managedDisk"]["id"]
    used = network["networkInterfaces"][0]["id"]
    assert refused(create(cloud, cloud.vm_body(disk, nic))) == (409, "ConflictingUserInput")
    assert refused(create(cloud, cloud.vm_body(system, used))) == (400, "NicInUse")
    interfaces, disks = cloud.network.network_interfaces, cloud.compute.disks
    assert refused(lambda: interfaces.begin_delete(cloud.group, "user-nic")) == (400, "NicInUse")
    assert refused(lambda: disks.begin_delete(cloud.group, "user-os")) == (
        409, "OperationNotAllowed",
    )  # fmt: skip


def test_a_put_again_is_the_same_machine(cloud: Cloud, parts: tuple[str, str, str]) -> None:
    """ "Virtual Machines - Create Or Update": PUT; the OS disk cannot be changed."""
    body = cloud.make_vm("again")
    machines = cloud.compute.virtual_machines
    first = machines.get(cloud.group, "again")
    second = machines.begin_create_or_update(cloud.group, "again", body).result()
    assert second.vm_id == first.vm_id
    other = cloud.vm_body(parts[0], parts[2])
    assert refused(create(cloud, other, "again")) == (409, "PropertyChangeNotAllowed")
    assert [m.name for m in cloud.sandbox.machines()].count("again") == 1


def test_conditions(cloud: Cloud) -> None:
    """ "Virtual Machines - Create Or Update", If-Match and If-None-Match: 412 when not met."""
    body = cloud.make_vm("conditions")
    machines = cloud.compute.virtual_machines

    def put(condition: MatchConditions, etag: str | None = None) -> Any:
        return machines.begin_create_or_update(
            cloud.group, "conditions", body, etag=etag, match_condition=condition
        ).result()

    with pytest.raises(HttpResponseError) as caught:
        put(MatchConditions.IfMissing)
    assert caught.value.status_code == 412
    first = machines.get(cloud.group, "conditions").etag
    assert put(MatchConditions.IfNotModified, first).etag != first
    with pytest.raises(HttpResponseError) as caught:
        put(MatchConditions.IfNotModified, first)
    assert caught.value.status_code == 412


def test_an_os_disk_has_its_limit(cloud: Cloud) -> None:
    """ "Introduction to Azure managed disks": at most 4,095 GiB."""
    body = cloud.disk_body(
        {"createOption": "Empty"}, diskSizeGB=4096, osType="Linux", hyperVGeneration="V2"
    )
    made = cloud.compute.disks.begin_create_or_update(cloud.group, "huge-os", body).result()
    vm = cloud.vm_body(str(made.id), cloud.make_nic("huge-nic"))
    assert refused(create(cloud, vm)) == (400, "InvalidParameter")


def test_power_and_states_of_disks(cloud: Cloud) -> None:
    """ "States and billing status of Azure Virtual Machines"; ``DiskState``: Reserved when the
    machine is deallocated."""
    cloud.make_vm("power")
    machines = cloud.compute.virtual_machines

    def seen() -> tuple[str | None, str | None]:
        statuses = machines.instance_view(cloud.group, "power").statuses or []
        disk = cloud.compute.disks.get(cloud.group, "power-os")
        return statuses[-1].code, disk.disk_state

    assert seen() == ("PowerState/running", "Attached")
    machines.begin_power_off(cloud.group, "power", skip_shutdown=True).result()
    assert seen() == ("PowerState/stopped", "Attached")
    machines.begin_deallocate(cloud.group, "power").result()
    assert seen() == ("PowerState/deallocated", "Reserved")
    machines.begin_start(cloud.group, "power").result()
    assert seen() == ("PowerState/running", "Attached")
    assert [m.name for m in cloud.sandbox.machines()].count("power") == 2


def test_what_goes_with_a_machine(cloud: Cloud) -> None:
    """ "Delete a VM and attached resources": deleteOption Detach keeps, Delete removes."""
    system = cloud.make_disk("kept-os", b"\x31" * MIB, osType="Linux", hyperVGeneration="V1")
    fresh: Any = cloud.compute.disks.get(cloud.group, "kept-os").properties
    assert fresh.last_ownership_update_time is None
    body = cloud.vm_body(system, cloud.make_nic("gone-nic"))
    changed(body, "storageProfile.osDisk.deleteOption", "Detach")
    create(cloud, body, "goes")().result()
    cloud.compute.virtual_machines.begin_delete(cloud.group, "goes").result()
    kept = cloud.compute.disks.get(cloud.group, "kept-os")
    assert (kept.disk_state, kept.managed_by) == ("Unattached", None)
    used: Any = kept.properties
    assert used.last_ownership_update_time is not None
    assert cloud.sandbox.disk_bytes(system) == b"\x31" * MIB
    with pytest.raises(ResourceNotFoundError):
        cloud.network.network_interfaces.get(cloud.group, "gone-nic")
    # Deleting what is gone: 204, "Virtual Machines - Delete".
    cloud.compute.virtual_machines.begin_delete(cloud.group, "goes").result()


def test_interfaces(cloud: Cloud) -> None:
    """ "Network Interfaces - Create Or Update"; "Azure Virtual Network FAQ": five addresses of a
    subnet are Azure's own."""
    interfaces = cloud.network.network_interfaces
    first = interfaces.get(cloud.group, cloud.make_nic("address").rpartition("/")[2])
    configuration = (first.ip_configurations or [])[0]
    address = str(configuration.private_ip_address)
    assert int(address.rpartition(".")[2]) >= 4
    body = cloud.nic_body()
    place = body["properties"]["ipConfigurations"][0]["properties"]["subnet"]
    place["id"] += "x"
    assert refused(lambda: interfaces.begin_create_or_update(cloud.group, "bad", body)) == (
        400, "InvalidResourceReference",
    )  # fmt: skip
    body = cloud.nic_body(networkSecurityGroup={"id": cloud.sandbox.subnet_id})
    assert refused(lambda: interfaces.begin_create_or_update(cloud.group, "bad", body)) == (
        400, "InvalidParameter",
    )  # fmt: skip
    interfaces.begin_delete(cloud.group, "address").result()
    interfaces.begin_delete(cloud.group, "address").result()


def test_boot_diagnostics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ "Virtual Machines - Retrieve Boot Diagnostics Data": addresses of log and picture."""
    report = BootReport(CheckStatus.OK, b"login:", b"\x89PNG")
    with AzureSandbox(tmp_path, on_launch=lambda machine: report) as sandbox:
        use(sandbox, monkeypatch)
        with DefaultAzureCredential() as credential:
            for cloud in clients(sandbox, credential):
                body = cloud.make_vm("shown")
                machines = cloud.compute.virtual_machines
                assert sandbox.launches.wait_booted(sandbox.machines()[0].id, 30)
                found = machines.retrieve_boot_diagnostics_data(cloud.group, "shown")
                assert _fetched(found.serial_console_log_blob_uri) == b"login:"
                assert _fetched(found.console_screenshot_blob_uri) == b"\x89PNG"
                assert body["properties"]["diagnosticsProfile"]


def test_boot_diagnostics_must_be_on(cloud: Cloud, parts: tuple[str, str, str]) -> None:
    """ "Azure boot diagnostics": nothing is kept unless they are enabled."""
    body = changed(cloud.vm_body(parts[0], parts[2]), "diagnosticsProfile", None)
    create(cloud, body, "silent")().result()
    machines = cloud.compute.virtual_machines
    with pytest.raises(HttpResponseError) as caught:
        machines.retrieve_boot_diagnostics_data(cloud.group, "silent")
    assert caught.value.status_code == 409


@pytest.fixture
def poor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    rules = Rules(vcpu_quota={"cores": 3}, visibility_delay_seconds=3600.0)
    with AzureSandbox(tmp_path, rules=rules) as sandbox:
        use(sandbox, monkeypatch)
        with DefaultAzureCredential() as credential:
            yield from clients(sandbox, credential)


def test_quota_and_invisible_machines(poor: Cloud) -> None:
    """ "Resolve errors for resource quotas": OperationNotAllowed, with limit and usage; usages:
    "Usage - List". That a new machine may be unknown for a while is the sandbox's rule."""
    disk = poor.make_disk("one-os", bytes(MIB), osType="Linux", hyperVGeneration="V1")
    machines = poor.compute.virtual_machines
    body = poor.vm_body(disk, poor.make_nic("one-nic"))
    machines.begin_create_or_update(poor.group, "one", body, polling=False)
    with pytest.raises(ResourceNotFoundError):
        machines.get(poor.group, "one")
    second = poor.make_disk("two-os", bytes(MIB), osType="Linux", hyperVGeneration="V1")
    answer = refused(create(poor, poor.vm_body(second, poor.make_nic("two-nic")), "two"))
    assert answer == (409, "OperationNotAllowed")
    usages = {one.name.value: one for one in poor.compute.usage.list(poor.sandbox.location)}
    assert (usages["cores"].current_value, usages["cores"].limit) == (2, 3)


def _fetched(address: str | None) -> bytes:
    with BlobClient.from_blob_url(str(address), retry_total=0) as blob:
        return bytes(blob.download_blob().readall())
