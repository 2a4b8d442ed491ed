"""RunInstances: checks, volumes, status checks, console, and launches that fail."""

import base64
import threading
from collections.abc import Callable
from typing import Any

import pytest

from sandbox.aws import (
    AwsSandbox,
    BootReport,
    CheckStatus,
    Fault,
    FaultKind,
    LaunchedInstance,
    Rules,
)
from sandbox.aws.testing import ZERO, A, B, Cloud, refusal
from sealift.testing.clock import VirtualClock

pytestmark = pytest.mark.sandbox
StartSandbox = Callable[..., tuple[AwsSandbox, Cloud]]


@pytest.fixture
def image_id(cloud: Cloud) -> str:
    return cloud.image(cloud.snapshot({0: A}))


def shown(cloud: Cloud, instance: Any) -> Any:
    found = cloud.ec2.describe_instances(InstanceIds=[instance["InstanceId"]])
    return found["Reservations"][0]["Instances"][0]


def status(cloud: Cloud, instance: Any, everything: bool = False) -> list[tuple[str, str]]:
    found = cloud.ec2.describe_instance_status(
        InstanceIds=[instance["InstanceId"]], IncludeAllInstances=everything
    )["InstanceStatuses"]
    return [(s["InstanceStatus"]["Status"], s["SystemStatus"]["Status"]) for s in found]


def test_image_must_exist(cloud: Cloud) -> None:
    assert refusal(lambda: cloud.launch("ami-0123456789abcdef0")) == "InvalidAMIID.NotFound"
    assert cloud.ec2.describe_instances()["Reservations"] == []


@pytest.mark.parametrize(
    ("changed", "instance_type", "code"),
    [
        ({"BootMode": "uefi"}, "t2.micro", "UnsupportedOperation"),
        ({"BootMode": "legacy-bios"}, "t2.micro", "ok"),
        ({"BootMode": "uefi-preferred"}, "t2.micro", "ok"),
        ({"BootMode": "uefi-preferred"}, "t3.small", "ok"),
        ({"EnaSupport": False}, "t3.small", "InvalidParameterCombination"),
        ({"Architecture": "i386"}, "t3.small", "InvalidParameterValue"),
        ({"Architecture": "arm64"}, "t3.small", "InvalidParameterValue"),
        ({"Architecture": "arm64"}, "c6g.large", "ok"),
        (
            {"VirtualizationType": "paravirtual", "EnaSupport": False},
            "t3.small",
            "InvalidParameterCombination",
        ),
        ({}, "t9.huge", "InvalidParameterValue"),
    ],
)
def test_machine_and_image_must_fit(
    cloud: Cloud, changed: dict[str, Any], instance_type: str, code: str
) -> None:
    image_id = cloud.image(cloud.snapshot({0: A}), **changed)
    assert refusal(lambda: cloud.launch(image_id, instance_type)) == code


def test_network_and_key_pair_must_exist(cloud: Cloud, image_id: str) -> None:
    vpc = cloud.ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    subnet = cloud.ec2.create_subnet(VpcId=vpc, CidrBlock="10.9.1.0/24")["Subnet"]["SubnetId"]
    group = cloud.ec2.create_security_group(GroupName="g", Description="g", VpcId=vpc)["GroupId"]
    cases = {
        "InvalidSubnetID.NotFound": {"SubnetId": "subnet-0123456789abcdef0"},
        "InvalidGroup.NotFound": {"SecurityGroupIds": ["sg-0123456789abcdef0"]},
        "InvalidParameter": {"SecurityGroupIds": [group]},
        "InvalidKeyPair.NotFound": {"KeyName": "nobody"},
    }
    for code, arguments in cases.items():
        assert refusal(lambda a=arguments: cloud.launch(image_id, **a)) == code  # type: ignore[misc]
    instance = cloud.launch(image_id, SubnetId=subnet, SecurityGroupIds=[group])
    assert shown(cloud, instance)["SubnetId"] == subnet
    assert [g["GroupId"] for g in shown(cloud, instance)["SecurityGroups"]] == [group]


def test_dry_run_launches_nothing(cloud: Cloud, image_id: str) -> None:
    assert refusal(lambda: cloud.launch(image_id, DryRun=True)) == "DryRunOperation"
    assert refusal(lambda: cloud.launch(image_id, "t9.huge", DryRun=True)) == (
        "InvalidParameterValue"
    )
    assert cloud.ec2.describe_instances()["Reservations"] == []


def test_client_token_launches_once(cloud: Cloud, image_id: str) -> None:
    first = cloud.launch(image_id, ClientToken="t")
    assert cloud.launch(image_id, ClientToken="t")["InstanceId"] == first["InstanceId"]
    changed = lambda: cloud.launch(image_id, "m5.large", ClientToken="t")  # noqa: E731
    assert refusal(changed) == "IdempotentParameterMismatch"
    assert len(cloud.ec2.describe_instances()["Reservations"]) == 1


def test_lost_answer_of_a_launch_is_found_again(start_sandbox: StartSandbox) -> None:
    sandbox, cloud = start_sandbox()
    image_id = cloud.image(cloud.snapshot({0: A}))
    sandbox.faults.add(Fault(FaultKind.ERROR_AFTER, "RunInstances"))
    assert refusal(lambda: cloud.launch(image_id, ClientToken="t")) == "InternalError"
    again = cloud.launch(image_id, ClientToken="t")
    (machine,) = sandbox.launches.machines()
    assert machine.instance_id == again["InstanceId"]


def test_instance_takes_over_from_its_image(cloud: Cloud) -> None:
    image_id = cloud.image(cloud.snapshot({0: A}), ImdsSupport="v2.0")
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "m", "Value": "1"}]}]
    tags.append({"ResourceType": "volume", "Tags": [{"Key": "v", "Value": "2"}]})
    instance = cloud.launch(image_id, TagSpecifications=tags)
    assert instance["State"]["Name"] == "pending"
    found = shown(cloud, instance)
    assert found["State"]["Name"] == "running"
    assert (found["BootMode"], found["CurrentInstanceBootMode"]) == ("uefi", "uefi")
    assert (found["EnaSupport"], found["Architecture"]) == (True, "x86_64")
    assert found["Tags"] == [{"Key": "m", "Value": "1"}]
    assert found["RootDeviceName"] == "/dev/xvda"
    options = found["MetadataOptions"]
    assert (options["HttpTokens"], options["HttpPutResponseHopLimit"]) == ("required", 2)
    assert cloud.ec2.describe_volumes()["Volumes"][0]["Tags"] == [{"Key": "v", "Value": "2"}]


def test_volumes_are_made_from_the_image(start_sandbox: StartSandbox) -> None:
    sandbox, cloud = start_sandbox()
    root, data = cloud.snapshot({0: A}), cloud.snapshot({1: B}, size_gib=2)
    image_id = cloud.image(
        root,
        BlockDeviceMappings=[
            {"DeviceName": "/dev/sdf", "Ebs": {"SnapshotId": data, "VolumeType": "gp3"}},
            {"DeviceName": "/dev/xvda", "Ebs": {"SnapshotId": root, "VolumeSize": 9}},
        ],
    )
    cloud.launch(image_id)
    (machine,) = sandbox.launches.machines()
    assert [name for name, _ in machine.volumes] == ["/dev/xvda", "/dev/sdf"]
    (_, first), (_, second) = machine.volumes
    found = cloud.ec2.describe_volumes(VolumeIds=[first, second])["Volumes"]
    by_id = {v["VolumeId"]: (v["SnapshotId"], v["Size"], v["VolumeType"]) for v in found}
    assert by_id == {first: (root, 9, "gp2"), second: (data, 2, "gp3")}
    assert sandbox.volume_block(first, 0) == A
    assert [sandbox.volume_block(second, i) for i in (0, 1)] == [ZERO, B]


def test_launch_may_change_and_leave_out_devices(cloud: Cloud) -> None:
    root, data = cloud.snapshot({0: A}), cloud.snapshot({1: B})
    devices = [
        {"DeviceName": "/dev/xvda", "Ebs": {"SnapshotId": root}},
        {"DeviceName": "/dev/sdf", "Ebs": {"SnapshotId": data}},
    ]
    image_id = cloud.image(root, BlockDeviceMappings=devices)
    cloud.launch(
        image_id,
        BlockDeviceMappings=[
            {"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 20, "VolumeType": "gp3"}},
            {"DeviceName": "/dev/sdf", "NoDevice": ""},
            {"DeviceName": "/dev/sdg", "Ebs": {"VolumeSize": 3}},
        ],
    )
    found = cloud.ec2.describe_volumes()["Volumes"]
    sizes = sorted((v["Attachments"][0]["Device"], v["Size"], v.get("SnapshotId")) for v in found)
    assert sizes == [("/dev/sdg", 3, None), ("/dev/xvda", 20, root)]


def test_volume_outlives_its_snapshot_and_image(start_sandbox: StartSandbox) -> None:
    sandbox, cloud = start_sandbox()
    snapshot_id = cloud.snapshot({0: A})
    image_id = cloud.image(snapshot_id)
    cloud.launch(image_id)
    cloud.ec2.deregister_image(ImageId=image_id)
    cloud.ec2.delete_snapshot(SnapshotId=snapshot_id)
    ((_, volume_id),) = sandbox.launches.machines()[0].volumes
    assert sandbox.volume_block(volume_id, 0) == A


def test_terminate_deletes_what_it_should(start_sandbox: StartSandbox, tmp_path: Any) -> None:
    _, cloud = start_sandbox()
    root = cloud.snapshot({0: A})
    devices = [
        {"DeviceName": "/dev/xvda", "Ebs": {"SnapshotId": root}},
        {"DeviceName": "/dev/sdf", "Ebs": {"SnapshotId": root, "DeleteOnTermination": False}},
    ]
    image_id = cloud.image(root, BlockDeviceMappings=devices)
    instance = cloud.launch(image_id)
    cloud.ec2.terminate_instances(InstanceIds=[instance["InstanceId"]])
    assert shown(cloud, instance)["State"]["Name"] == "terminated"
    (left,) = cloud.ec2.describe_volumes()["Volumes"]
    assert (left["State"], left["Attachments"]) == ("available", [])
    cloud.ec2.delete_volume(VolumeId=left["VolumeId"])
    cloud.ec2.deregister_image(ImageId=image_id)
    cloud.ec2.delete_snapshot(SnapshotId=root)
    assert list((tmp_path / "sandbox-0" / "layers").iterdir()) == []


def test_attached_volume_cannot_be_attached_or_deleted(cloud: Cloud, image_id: str) -> None:
    one, two = cloud.launch(image_id), cloud.launch(image_id)
    volume_id = cloud.ec2.describe_volumes()["Volumes"][0]["VolumeId"]
    attach = lambda: cloud.ec2.attach_volume(  # noqa: E731
        VolumeId=volume_id, InstanceId=two["InstanceId"], Device="/dev/sdz"
    )
    assert refusal(attach) == "VolumeInUse"
    assert refusal(lambda: cloud.ec2.delete_volume(VolumeId=volume_id)) == "VolumeInUse"
    cloud.ec2.terminate_instances(InstanceIds=[one["InstanceId"], two["InstanceId"]])
    assert cloud.ec2.describe_volumes()["Volumes"] == []


def test_no_capacity_on_demand(start_sandbox: StartSandbox) -> None:
    sandbox, cloud = start_sandbox()
    image_id = cloud.image(cloud.snapshot({0: A}))
    fault = Fault(
        FaultKind.API_ERROR, "RunInstances", status=500, code="InsufficientInstanceCapacity"
    )
    sandbox.faults.add(fault)
    assert refusal(lambda: cloud.launch(image_id)) == "InsufficientInstanceCapacity"
    assert cloud.ec2.describe_volumes()["Volumes"] == []
    assert refusal(lambda: cloud.launch(image_id)) == "ok"


@pytest.mark.parametrize("code", ["Server.InternalError", "Client.InternalError"])
def test_instance_that_ends_at_once(start_sandbox: StartSandbox, code: str) -> None:
    sandbox, cloud = start_sandbox()
    image_id = cloud.image(cloud.snapshot({0: A}))
    sandbox.faults.add(Fault(FaultKind.LAUNCH_TERMINATED, "RunInstances", code=code))
    instance = cloud.launch(image_id)
    assert instance["State"]["Name"] == "pending"
    found = shown(cloud, instance)
    assert (found["State"]["Name"], found["StateReason"]["Code"]) == ("terminated", code)
    assert cloud.ec2.describe_volumes()["Volumes"] == []


def test_status_checks_take_their_time(start_sandbox: StartSandbox, clock: VirtualClock) -> None:
    _, cloud = start_sandbox(Rules(status_check_seconds=120))
    instance = cloud.launch(cloud.image(cloud.snapshot({0: A})))
    assert status(cloud, instance) == [("initializing", "initializing")]
    clock.sleep(120)
    assert status(cloud, instance) == [("ok", "ok")]
    cloud.ec2.stop_instances(InstanceIds=[instance["InstanceId"]])
    assert status(cloud, instance) == []
    assert status(cloud, instance, everything=True) == [("not-applicable", "not-applicable")]


def test_status_can_be_impaired(start_sandbox: StartSandbox) -> None:
    sandbox, cloud = start_sandbox(Rules(hold_status_checks=True))
    instance = cloud.launch(cloud.image(cloud.snapshot({0: A})))
    assert status(cloud, instance) == [("initializing", "initializing")]
    sandbox.launches.attach(instance["InstanceId"], BootReport(CheckStatus.IMPAIRED))
    assert status(cloud, instance) == [("impaired", "ok")]


def test_boot_hook_reports_console_and_picture(start_sandbox: StartSandbox) -> None:
    go, seen = threading.Event(), []

    def boot(machine: LaunchedInstance) -> BootReport:
        seen.append(machine)
        assert go.wait(60)
        return BootReport(CheckStatus.OK, b"booted \xff", b"\x89PNG")

    sandbox, cloud = start_sandbox(on_launch=boot)
    instance = cloud.launch(cloud.image(cloud.snapshot({0: A})))
    instance_id = instance["InstanceId"]
    assert status(cloud, instance) == [("initializing", "initializing")]
    assert cloud.client("ec2").get_console_output(InstanceId=instance_id)["Output"] == ""

    def picture() -> Any:
        return cloud.ec2.get_console_screenshot(InstanceId=instance_id)

    assert refusal(picture) == "UnsupportedOperation"
    go.set()
    assert sandbox.launches.wait_booted(instance_id, 20)
    assert [(m.instance_id, m.boot_mode, m.region) for m in seen] == [
        (instance_id, "uefi", "us-east-1")
    ]
    assert status(cloud, instance) == [("ok", "ok")]
    assert cloud.ec2.get_console_output(InstanceId=instance_id)["Output"].startswith("booted ")
    assert base64.b64decode(picture()["ImageData"]) == b"\x89PNG"


def test_boot_hook_that_fails_makes_the_instance_impaired(start_sandbox: StartSandbox) -> None:
    def boot(machine: LaunchedInstance) -> BootReport:
        raise RuntimeError("no firmware")

    sandbox, cloud = start_sandbox(on_launch=boot)
    instance = cloud.launch(cloud.image(cloud.snapshot({0: A})))
    assert sandbox.launches.wait_booted(instance["InstanceId"], 20)
    assert status(cloud, instance) == [("impaired", "ok")]
