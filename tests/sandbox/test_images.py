"""RegisterImage, DescribeImages, and what an image keeps from being deleted."""

from typing import Any

import pytest

from sandbox.aws.testing import A, Cloud, refusal

pytestmark = pytest.mark.sandbox
MAPPING = "InvalidBlockDeviceMapping"
COMBINATION = "InvalidParameterCombination"


@pytest.fixture
def snapshot_id(cloud: Cloud) -> str:
    return cloud.snapshot({0: A}, size_gib=4)


def described(cloud: Cloud, image_id: str) -> Any:
    return cloud.ec2.describe_images(ImageIds=[image_id])["Images"][0]


def device(name: str, snapshot_id: str, **ebs: Any) -> dict[str, Any]:
    return {"DeviceName": name, "Ebs": {"SnapshotId": snapshot_id, **ebs}}


def test_everything_given_is_shown(cloud: Cloud, snapshot_id: str) -> None:
    data = cloud.snapshot({1: A}, size_gib=2)
    image_id = cloud.image(
        snapshot_id,
        "web-1",
        Description="from node-7",
        ImdsSupport="v2.0",
        TpmSupport="v2.0",
        SriovNetSupport="simple",
        UefiData="QUJD",
        BlockDeviceMappings=[
            device("/dev/xvda", snapshot_id, VolumeType="gp3", VolumeSize=8, Iops=4000),
            device("/dev/xvdb", data, DeleteOnTermination=False),
        ],
        TagSpecifications=[{"ResourceType": "image", "Tags": [{"Key": "m", "Value": "1"}]}],
    )
    shown = described(cloud, image_id)
    expected = {
        "Name": "web-1", "Description": "from node-7", "Architecture": "x86_64",
        "VirtualizationType": "hvm", "EnaSupport": True, "BootMode": "uefi",
        "ImdsSupport": "v2.0", "TpmSupport": "v2.0", "SriovNetSupport": "simple",
        "RootDeviceName": "/dev/xvda", "RootDeviceType": "ebs", "State": "available",
        "Tags": [{"Key": "m", "Value": "1"}], "Public": False,
    }  # fmt: skip
    assert {key: shown.get(key) for key in expected} == expected
    root, second = shown["BlockDeviceMappings"]
    assert root == {
        "DeviceName": "/dev/xvda",
        "Ebs": {
            "SnapshotId": snapshot_id, "VolumeSize": 8, "VolumeType": "gp3", "Iops": 4000,
            "DeleteOnTermination": True, "Encrypted": False,
        },
    }  # fmt: skip
    assert (second["Ebs"]["SnapshotId"], second["Ebs"]["VolumeSize"]) == (data, 2)
    assert not second["Ebs"]["DeleteOnTermination"]
    attribute = cloud.ec2.describe_image_attribute(ImageId=image_id, Attribute="uefiData")
    assert attribute["UefiData"]["Value"] == "QUJD"
    assert cloud.ec2.describe_volumes()["Volumes"] == []


def test_defaults_are_aws_s(cloud: Cloud, snapshot_id: str) -> None:
    answer = cloud.ec2.register_image(
        Name="bare",
        RootDeviceName="/dev/sda1",
        BlockDeviceMappings=[device("/dev/sda1", snapshot_id)],
    )
    shown = described(cloud, answer["ImageId"])
    assert (shown["Architecture"], shown["VirtualizationType"]) == ("i386", "paravirtual")
    assert not shown["EnaSupport"]
    assert "BootMode" not in shown
    assert shown["BlockDeviceMappings"][0]["Ebs"]["VolumeSize"] == 4


def test_name_is_checked_and_unique(cloud: Cloud, snapshot_id: str) -> None:
    cloud.image(snapshot_id, "image")
    assert refusal(lambda: cloud.image(snapshot_id, "image")) == "InvalidAMIName.Duplicate"
    for name in ("a:b", "größe", "tab\tname"):
        code = refusal(lambda n=name: cloud.image(snapshot_id, n))  # type: ignore[misc]
        assert code == "InvalidAMIName.Malformed"
    assert refusal(lambda: cloud.image(snapshot_id, "a(b)[c] d.e/f-g'h@i_j")) == "ok"


def test_snapshots_must_exist_and_be_completed(cloud: Cloud) -> None:
    assert refusal(lambda: cloud.image("snap-0123456789abcdef0")) == "InvalidSnapshot.NotFound"
    assert refusal(lambda: cloud.image(cloud.start())) == "IncorrectState"


@pytest.mark.parametrize(
    ("ebs", "code"),
    [
        ({"VolumeSize": 3}, MAPPING),
        ({"Encrypted": True}, MAPPING),
        ({"Encrypted": False}, MAPPING),
        ({"VolumeType": "st1", "VolumeSize": 200}, MAPPING),
        ({"VolumeType": "sc1", "VolumeSize": 200}, MAPPING),
        ({"VolumeType": "standard", "VolumeSize": 1025}, "InvalidParameterValue"),
        ({"VolumeType": "gp2", "VolumeSize": 16_385}, "InvalidParameterValue"),
        ({"VolumeType": "gp3", "VolumeSize": 65_536}, "ok"),
    ],
)
def test_root_device_is_checked(
    cloud: Cloud, snapshot_id: str, ebs: dict[str, Any], code: str
) -> None:
    mapping = device("/dev/xvda", snapshot_id, **ebs)
    assert refusal(lambda: cloud.image(snapshot_id, BlockDeviceMappings=[mapping])) == code


def test_root_device_must_be_a_mapped_snapshot(cloud: Cloud, snapshot_id: str) -> None:
    one = device("/dev/xvda", snapshot_id)
    wrong: list[dict[str, Any]] = [
        {"RootDeviceName": "/dev/sda1"},
        {"BlockDeviceMappings": []},
        {"BlockDeviceMappings": [{"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 8}}]},
        {"BlockDeviceMappings": [one, one]},
    ]
    for changed in wrong:
        assert refusal(lambda c=changed: cloud.image(snapshot_id, **c)) == MAPPING  # type: ignore[misc]


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"VirtualizationType": "paravirtual"}, COMBINATION),
        ({"TpmSupport": "v2.0", "BootMode": "legacy-bios"}, COMBINATION),
        ({"TpmSupport": "v2.0"}, "ok"),
        ({"Architecture": "arm64", "BootMode": "legacy-bios"}, COMBINATION),
        ({"UefiData": "A" * 64_001}, "InvalidParameterValue"),
        ({"UefiData": "A" * 64_000}, "ok"),
        ({"BootMode": "uefi-preferred"}, "ok"),
        (
            {"TagSpecifications": [{"ResourceType": "snapshot", "Tags": [{"Key": "a"}]}]},
            "InvalidParameterValue",
        ),
    ],
)
def test_combinations(cloud: Cloud, snapshot_id: str, changed: dict[str, Any], code: str) -> None:
    assert refusal(lambda: cloud.image(snapshot_id, **changed)) == code


def test_dry_run_checks_and_registers_nothing(cloud: Cloud, snapshot_id: str) -> None:
    assert refusal(lambda: cloud.image(snapshot_id, DryRun=True)) == "DryRunOperation"
    wrong = "snap-0123456789abcdef0"
    assert refusal(lambda: cloud.image(wrong, DryRun=True)) == "InvalidSnapshot.NotFound"
    assert cloud.ec2.describe_images(Owners=["self"])["Images"] == []


def test_only_own_images_are_there(cloud: Cloud, snapshot_id: str) -> None:
    image_id = cloud.image(snapshot_id, "mine")
    assert [i["ImageId"] for i in cloud.ec2.describe_images()["Images"]] == [image_id]
    by_name = [{"Name": "name", "Values": ["mine"]}]
    assert len(cloud.ec2.describe_images(Owners=["self"], Filters=by_name)["Images"]) == 1
    assert cloud.ec2.describe_images(Owners=["amazon"])["Images"] == []


def test_snapshot_of_an_image_cannot_be_deleted(cloud: Cloud, snapshot_id: str) -> None:
    image_id = cloud.image(snapshot_id)
    delete = lambda: cloud.ec2.delete_snapshot(SnapshotId=snapshot_id)  # noqa: E731
    assert refusal(delete) == "InvalidSnapshot.InUse"
    cloud.ec2.deregister_image(ImageId=image_id)
    assert refusal(delete) == "ok"
    assert refusal(delete) == "InvalidSnapshot.NotFound"


def test_deregistered_image_is_gone_and_its_name_is_free(cloud: Cloud, snapshot_id: str) -> None:
    image_id = cloud.image(snapshot_id)
    cloud.ec2.deregister_image(ImageId=image_id)
    assert refusal(lambda: cloud.launch(image_id)) == "InvalidAMIID.NotFound"
    assert refusal(lambda: cloud.image(snapshot_id)) == "ok"


def test_image_of_an_instance_holds_its_volumes(cloud: Cloud, snapshot_id: str) -> None:
    instance = cloud.launch(cloud.image(snapshot_id))
    made = cloud.ec2.create_image(InstanceId=instance["InstanceId"], Name="made")["ImageId"]
    shown = described(cloud, made)
    ebs = shown["BlockDeviceMappings"][0]["Ebs"]
    assert (shown["BootMode"], ebs["VolumeSize"]) == ("uefi", 4)
    assert ebs["SnapshotId"] != snapshot_id
    assert cloud.blocks(ebs["SnapshotId"]) == {0: A}
    copied = cloud.ec2.copy_image(SourceImageId=made, SourceRegion="us-east-1", Name="copy")
    copy = described(cloud, copied["ImageId"])["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"]
    assert cloud.blocks(copy) == {0: A}
