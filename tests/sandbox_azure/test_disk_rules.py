"""Rules of disks and grants; each test names the page of Microsoft's that states its rule."""

from collections.abc import Callable
from functools import partial
from typing import Any
from uuid import uuid4

import pytest
from azure.core.exceptions import (
    HttpResponseError,
    ResourceExistsError,
    ResourceNotFoundError,
)
from azure.storage.blob import BlobClient

from converters.vhd import FOOTER_BYTES, DiskType, Footer, geometry_of
from tests.sandbox_azure.conftest import MIB, Cloud

pytestmark = pytest.mark.sandbox
UPLOAD: dict[str, object] = {"createOption": "Upload", "uploadSizeBytes": 20 * MIB + 512}


def refused(call: Callable[[], Any]) -> tuple[int | None, str]:
    """Status and code of what a call, or its operation, is refused with."""
    with pytest.raises(HttpResponseError) as caught:
        call().result()
    error = caught.value.error
    return caught.value.status_code, str(error.code if error else "")


def create(cloud: Cloud, name: str, body: Any) -> Callable[[], Any]:
    return lambda: cloud.compute.disks.begin_create_or_update(cloud.group, name, body)


def footer(cloud: Cloud, kind: DiskType, size: int) -> bytes:
    now = cloud.sandbox.subscription.clock.now()
    return Footer(kind, size, size, geometry_of(size), now, uuid4()).pack()


def test_import_needs_a_fixed_vhd_of_whole_mib(cloud: Cloud) -> None:
    """ "Prepare a Windows VHD or VHDX to upload to Azure": fixed VHD, whole MiB.

    Code and words: "Troubleshoot invalid VHD errors".
    """
    fixed = footer(cloud, DiskType.FIXED, MIB)
    broken = bytearray(fixed)
    broken[70] ^= 1
    cases = {
        "none": bytes(MIB + FOOTER_BYTES),
        "broken": bytes(MIB) + broken,
        "dynamic": bytes(MIB) + footer(cloud, DiskType.DYNAMIC, MIB),
        "odd": bytes(MIB + 512) + footer(cloud, DiskType.FIXED, MIB + 512),
        "other": bytes(2 * MIB) + fixed,
        "short": fixed,
    }
    for name, content in cases.items():
        body = cloud.import_body(cloud.put_blob(f"bad-{name}.vhd", content))
        assert refused(create(cloud, f"bad-{name}", body))[1] == "InvalidVhd", name
        assert cloud.compute.disks.get(cloud.group, f"bad-{name}").provisioning_state == "Failed"
    # "Disks - Create Or Update": a PUT to what failed tries again.
    body = cloud.import_body(cloud.put_vhd("good.vhd", bytes(MIB)))
    made = cloud.compute.disks.begin_create_or_update(cloud.group, "bad-none", body).result()
    assert made.provisioning_state == "Succeeded"


def test_import_needs_its_blob_and_its_account(cloud: Cloud) -> None:
    """ "Disks - Create Or Update": ``sourceUri`` and ``storageAccountId`` of Import."""
    uri = cloud.put_vhd("there.vhd", bytes(MIB))
    missing = cloud.import_body(f"{uri}-not")
    assert refused(create(cloud, "missing", missing)) == (400, "BlobNotFound")
    body = cloud.import_body(uri)
    del body["properties"]["creationData"]["storageAccountId"]
    assert refused(create(cloud, "missing", body)) == (400, "InvalidParameter")
    body = cloud.import_body(uri)
    body["properties"]["creationData"]["storageAccountId"] += "x"
    assert refused(create(cloud, "missing", body)) == (404, "StorageAccountNotFound")
    with (
        cloud.sandbox.blob_service() as service,
        service.get_blob_client(cloud.sandbox.container, "block") as block,
    ):
        block.upload_blob(b"no pages", overwrite=True)
    body = cloud.import_body(f"{uri.rpartition('/')[0]}/block")
    assert refused(create(cloud, "missing", body)) == (400, "InvalidParameter")
    with pytest.raises(ResourceNotFoundError):
        cloud.compute.disks.get(cloud.group, "missing")


def test_bounds_of_an_upload(cloud: Cloud) -> None:
    """ "Disks - Create Or Update", ``uploadSizeBytes``: 20972032 to 35183298347520."""
    for size in (20 * MIB, 20 * MIB + 512 - 1, 35_183_298_347_520 + 512, 21 * MIB + 1024, "x"):
        body = cloud.disk_body({"createOption": "Upload", "uploadSizeBytes": size})
        assert refused(create(cloud, "bounds", body)) == (400, "InvalidParameter"), size


def test_states_of_an_upload(cloud: Cloud) -> None:
    """ "Upload a VHD to Azure or copy a managed disk to another region", and ``DiskState``.

    ReadyToUpload, ActiveUpload, Unattached; neither attached, copied nor read before that, and
    stuck in ActiveUpload until it is revoked.
    """
    disks, name = cloud.compute.disks, "states"
    made = create(cloud, name, cloud.disk_body(dict(UPLOAD)))().result()
    read: Any = {"access": "Read", "durationInSeconds": 60}
    write: Any = {"access": "Write", "durationInSeconds": 60}

    def grant(body: Any) -> Callable[[], Any]:
        return lambda: disks.begin_grant_access(cloud.group, name, body)

    def unusable() -> None:
        copy = cloud.disk_body({"createOption": "Copy", "sourceResourceId": made.id})
        assert refused(create(cloud, "of-states", copy)) == (409, "OperationNotAllowed")
        assert refused(grant(read)) == (409, "OperationNotAllowed")
        vm = cloud.vm_body(str(made.id), cloud.make_nic("states-nic"))
        machines = cloud.compute.virtual_machines
        assert refused(lambda: machines.begin_create_or_update(cloud.group, "of-states", vm)) == (
            409,
            "OperationNotAllowed",
        )

    unusable()
    grant(write)().result()
    assert disks.get(cloud.group, name).disk_state == "ActiveUpload"
    unusable()
    assert refused(lambda: disks.begin_delete(cloud.group, name)) == (409, "OperationNotAllowed")
    disks.begin_revoke_access(cloud.group, name).result()
    assert disks.get(cloud.group, name).disk_state == "Unattached"
    assert refused(grant(write)) == (409, "OperationNotAllowed")
    grant(read)().result()
    assert disks.get(cloud.group, name).disk_state == "ActiveSAS"
    disks.begin_revoke_access(cloud.group, name).result()
    disks.begin_revoke_access(cloud.group, name).result()
    disks.begin_delete(cloud.group, name).result()


def test_grants_end_and_are_renewed(cloud: Cloud) -> None:
    """ "Disks - Grant Access": ``durationInSeconds``; expired signatures: "Status and error
    codes" of the blob service, 403 AuthenticationFailed or AuthorizationFailure."""
    name = "renewed"
    create(cloud, name, cloud.disk_body(dict(UPLOAD)))().result()

    def grant(seconds: int) -> str:
        body: Any = {"access": "Write", "durationInSeconds": seconds}
        found = cloud.compute.disks.begin_grant_access(cloud.group, name, body).result()
        return str(found.access_sas)

    short = grant(1)
    cloud.sandbox.subscription.clock.sleep(1.2)
    with BlobClient.from_blob_url(short, retry_total=0) as blob:
        with pytest.raises(HttpResponseError) as caught:
            blob.upload_page(bytes(512), 0, 512)
        assert caught.value.status_code == 403
    with BlobClient.from_blob_url(grant(600), retry_total=0) as blob:
        blob.upload_page(bytes(512), 0, 512)
    disks = cloud.compute.disks
    for seconds in (0, -1, "60"):
        body: Any = {"access": "Write", "durationInSeconds": seconds}
        answer = refused(partial(disks.begin_grant_access, cloud.group, name, body))
        assert answer == (400, "InvalidParameter")
    cloud.compute.disks.begin_revoke_access(cloud.group, name).result()


def test_reads_are_no_writes(cloud: Cloud) -> None:
    """ "Disks - Grant Access": access Read."""
    cloud.make_disk("read-only", b"\x11" * MIB)
    body: Any = {"access": "Read", "durationInSeconds": 600}
    found = cloud.compute.disks.begin_grant_access(cloud.group, "read-only", body).result()
    with BlobClient.from_blob_url(str(found.access_sas), retry_total=0) as blob:
        assert blob.download_blob(0, 512).readall() == b"\x11" * 512
        with pytest.raises(HttpResponseError) as caught:
            blob.upload_page(bytes(512), 0, 512)
    assert caught.value.status_code == 403
    cloud.compute.disks.begin_revoke_access(cloud.group, "read-only").result()


def test_names_locations_and_tags(cloud: Cloud) -> None:
    """ "Naming rules and restrictions for Azure resources", Microsoft.Compute/disks; "Use tags
    to organize your Azure resources"; location is required."""
    good = cloud.disk_body({"createOption": "Empty"}, diskSizeGB=1)
    for name in ("-a", "a-", "a" * 81, "a b"):
        assert refused(create(cloud, name, good)) == (400, "InvalidParameter"), name
    elsewhere = {**good, "location": "eastus"}
    assert refused(create(cloud, "place", elsewhere)) == (
        400, "LocationNotAvailableForResourceType",
    )  # fmt: skip
    nowhere = {key: value for key, value in good.items() if key != "location"}
    assert refused(create(cloud, "place", nowhere)) == (400, "LocationRequired")
    many = {**good, "tags": {f"t{number}": "x" for number in range(51)}}
    assert refused(create(cloud, "place", many)) == (400, "InvalidTagSize")
    assert create(cloud, "place", {**good, "location": "West Europe"})().result().location


def test_a_taken_name_is_not_overwritten(cloud: Cloud) -> None:
    """ "Disks - Create Or Update": creationData cannot be changed; the same PUT changes nothing."""
    uri = cloud.put_vhd("taken.vhd", b"\x21" * MIB)
    body = cloud.import_body(uri)
    first = create(cloud, "taken", body)().result()
    assert create(cloud, "taken", body)().result().unique_id == first.unique_id
    other = cloud.import_body(cloud.put_vhd("other.vhd", b"\x22" * MIB))
    with pytest.raises(ResourceExistsError) as caught:
        create(cloud, "taken", other)().result()
    assert caught.value.error is not None
    assert caught.value.error.code == "PropertyChangeNotAllowed"
    assert cloud.sandbox.disk_bytes(str(first.id)) == b"\x21" * MIB


def test_trusted_launch_needs_generation_2(cloud: Cloud) -> None:
    """ "Trusted launch for Azure virtual machines": generation 2 only."""
    security = {"securityType": "TrustedLaunch"}
    body = cloud.disk_body(
        {"createOption": "Empty"}, diskSizeGB=1, osType="Linux", hyperVGeneration="V1",
        securityProfile=security,
    )  # fmt: skip
    assert refused(create(cloud, "trusted", body)) == (400, "InvalidParameter")
    body["properties"]["hyperVGeneration"] = "V2"
    assert create(cloud, "trusted", body)().result().hyper_v_generation == "V2"


def test_disks_do_not_shrink(cloud: Cloud) -> None:
    """ "Expand virtual hard disks": only expansion is possible."""
    body = cloud.disk_body({"createOption": "Empty"}, diskSizeGB=2)
    create(cloud, "large", body)().result()
    smaller: Any = {"properties": {"diskSizeGB": 1}}
    assert refused(lambda: cloud.compute.disks.begin_update(cloud.group, "large", smaller)) == (
        409,
        "OperationNotAllowed",
    )
