"""The same cases against the sandbox and against plain moto.

Every rule has the answer that AWS's rules ask for, which the sandbox must give, and the
answer that moto 5.2.5 gives. Where they differ the gap has a name here and a row in
``docs/sandbox.md``. When moto learns a rule its case fails and says so: then the sandbox
may lean on moto for it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from botocore.parsers import ResponseParserError
from moto.server import ThreadedMotoServer

from sandbox.aws import AwsSandbox
from sandbox.aws.testing import ZERO, A, B, C, Cloud, digest, linear, refusal

pytestmark = pytest.mark.sandbox
NOBODY = "snap-0123456789abcdef0"
NOT_FOUND = "ResourceNotFoundException/SNAPSHOT_NOT_FOUND"
WRONG_STATE = "ValidationException/INVALID_SNAPSHOT_ID"
BAD_BLOCK = "ValidationException/INVALID_BLOCK"
BAD_VALUE = "ValidationException/INVALID_PARAMETER_VALUE"
BAD_SIZE = "ValidationException/INVALID_VOLUME_SIZE"
BAD_KEY = "ValidationException/INVALID_CUSTOMER_KEY"
CRASH = "HTTP 500"

Case = Callable[[Cloud], object]
_numbers = count(1)


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule, the case that shows it, AWS's answer and moto's."""

    name: str
    case: Case
    aws: str
    moto: str

    @property
    def is_gap(self) -> bool:
        return self.aws != self.moto


RULES: list[Rule] = []


def rule(name: str, aws: object, moto: object) -> Callable[[Case], Case]:
    """Register a case; what it returns, as text, is compared."""

    def register(case: Case) -> Case:
        RULES.append(Rule(name, case, str(aws), str(moto)))
        return case

    return register


def fresh(stem: str) -> str:
    """A name that no other case used."""
    return f"{stem}-{next(_numbers)}"


def answer(case: Case, cloud: Cloud) -> str:
    """What a case comes to: its result, the code of a refusal, or that the server crashed."""
    try:
        return str(case(cloud))
    except ClientError as error:
        if error.response["Error"]["Code"] == "500":
            return CRASH
        code, reason = error.response["Error"]["Code"], error.response.get("Reason")
        return f"{code}/{reason}" if reason else code
    except ResponseParserError:
        return CRASH


def refused(call: Callable[[], object]) -> str:
    answered = refusal(call)
    return CRASH if answered == "500" else answered


def raw(cloud: Cloud) -> Any:
    """An EBS client without the SDK's own checks."""
    return cloud.client("ebs", validate=False)


def described(cloud: Cloud, snapshot_id: str) -> Any:
    return cloud.ec2.describe_snapshots(SnapshotIds=[snapshot_id])["Snapshots"][0]


def new_key(cloud: Cloud) -> str:
    return str(cloud.client("kms").create_key()["KeyMetadata"]["Arn"])


def new_image(cloud: Cloud, **changed: Any) -> Any:
    snapshot_id = cloud.snapshot({0: A})
    image_id = cloud.image(snapshot_id, fresh("image"), **changed)
    return cloud.ec2.describe_images(ImageIds=[image_id])["Images"][0]


def launched_volumes(cloud: Cloud, instance: Any) -> list[Any]:
    of_instance = [{"Name": "attachment.instance-id", "Values": [instance["InstanceId"]]}]
    return list(cloud.ec2.describe_volumes(Filters=of_instance)["Volumes"])


# StartSnapshot


@rule("start-block-size", 524_288, 512)
def _(cloud: Cloud) -> object:
    return cloud.ebs.start_snapshot(VolumeSize=1)["BlockSize"]


@rule("start-volume-size", BAD_SIZE, "ok")
def _(cloud: Cloud) -> object:
    return refusal(lambda: cloud.start(65_537))


@rule("start-parent-exists", NOT_FOUND, "ok")
def _(cloud: Cloud) -> object:
    return refusal(lambda: cloud.start(ParentSnapshotId=NOBODY))


@rule("start-parent-completed", WRONG_STATE, "ok")
def _(cloud: Cloud) -> object:
    parent = cloud.start()
    return refusal(lambda: cloud.start(ParentSnapshotId=parent))


@rule("start-parent-shown", True, False)
def _(cloud: Cloud) -> object:
    parent = cloud.snapshot({0: A})
    answered = cloud.ebs.start_snapshot(VolumeSize=1, ParentSnapshotId=parent)
    return answered.get("ParentSnapshotId") == parent


@rule("start-parent-inherited", [0, 1], [1])
def _(cloud: Cloud) -> object:
    parent = cloud.snapshot({0: A})
    return list(cloud.blocks(cloud.snapshot({1: B}, ParentSnapshotId=parent)))


@rule("start-token-idempotent", True, False)
def _(cloud: Cloud) -> object:
    token = fresh("token")
    return cloud.start(ClientToken=token) == cloud.start(ClientToken=token)


@rule("start-token-conflict", "ConflictException", "ok")
def _(cloud: Cloud) -> object:
    token = fresh("token")
    cloud.start(ClientToken=token)
    return refusal(lambda: cloud.start(2, ClientToken=token))


@rule("start-timeout-range", BAD_VALUE, "ok")
def _(cloud: Cloud) -> object:
    return refusal(lambda: raw(cloud).start_snapshot(VolumeSize=1, Timeout=9))


@rule("start-tag-limit", "ValidationException/INVALID_TAG", "TagLimitExceeded")
def _(cloud: Cloud) -> object:
    tags = [{"Key": f"k{i}", "Value": "v"} for i in range(51)]
    return refusal(lambda: cloud.start(Tags=tags))


@rule("start-makes-no-volume", 0, 1)
def _(cloud: Cloud) -> object:
    before = len(cloud.ec2.describe_volumes()["Volumes"])
    cloud.start()
    return len(cloud.ec2.describe_volumes()["Volumes"]) - before


@rule("start-pending-in-ec2", "pending", "completed")
def _(cloud: Cloud) -> object:
    return described(cloud, cloud.start())["State"]


@rule("start-tags-in-ec2", "m1", "m1")
def _(cloud: Cloud) -> object:
    snapshot_id = cloud.start(Tags=[{"Key": "migration", "Value": "m1"}])
    return described(cloud, snapshot_id)["Tags"][0]["Value"]


@rule("start-encrypted", True, False)
def _(cloud: Cloud) -> object:
    snapshot_id = cloud.start(Encrypted=True, KmsKeyArn=new_key(cloud))
    return described(cloud, snapshot_id)["Encrypted"]


@rule("start-parent-excludes-encrypted", BAD_VALUE, "ok")
def _(cloud: Cloud) -> object:
    parent = cloud.snapshot({0: A})
    return refusal(lambda: cloud.start(ParentSnapshotId=parent, Encrypted=True))


@rule("start-key-exists", BAD_KEY, "ok")
def _(cloud: Cloud) -> object:
    unknown = new_key(cloud)[:-12] + "000000000000"
    return refusal(lambda: cloud.start(Encrypted=True, KmsKeyArn=unknown))


@rule("start-key-enabled", BAD_KEY, "ok")
def _(cloud: Cloud) -> object:
    key = new_key(cloud)
    cloud.client("kms").disable_key(KeyId=key.rpartition("/")[2])
    return refusal(lambda: cloud.start(Encrypted=True, KmsKeyArn=key))


@rule("start-encryption-by-default", (True, BAD_VALUE), (False, "ok"))
def _(cloud: Cloud) -> object:
    parent = cloud.snapshot({0: A})
    cloud.ec2.enable_ebs_encryption_by_default()
    try:
        encrypted = described(cloud, cloud.start())["Encrypted"]
        return encrypted, refusal(lambda: cloud.start(ParentSnapshotId=parent))
    finally:
        cloud.ec2.disable_ebs_encryption_by_default()


# PutSnapshotBlock


@rule("put-checksum-verified", BAD_BLOCK, "ok")
def _(cloud: Cloud) -> object:
    snapshot_id = cloud.start()
    return refusal(lambda: cloud.put(snapshot_id, 0, A, Checksum=digest(B)))


@rule("put-data-length", BAD_BLOCK, "ok")
def _(cloud: Cloud) -> object:
    snapshot_id = cloud.start()
    return refusal(lambda: cloud.put(snapshot_id, 0, b"x" * 1000))


@rule("put-within-volume", BAD_BLOCK, "ok")
def _(cloud: Cloud) -> object:
    snapshot_id = cloud.start()
    return refusal(lambda: cloud.put(snapshot_id, 2048, A))


@rule("put-pending-only", WRONG_STATE, "ok")
def _(cloud: Cloud) -> object:
    snapshot_id = cloud.snapshot({0: A})
    return refusal(lambda: cloud.put(snapshot_id, 0, B))


@rule("put-snapshot-exists", NOT_FOUND, CRASH)
def _(cloud: Cloud) -> object:
    return refused(lambda: cloud.put(NOBODY, 0, A))


@rule("put-overwrites", True, True)
def _(cloud: Cloud) -> object:
    snapshot_id = cloud.start()
    for data in (A, B):
        cloud.put(snapshot_id, 0, data)
    cloud.complete(snapshot_id, 1)
    return cloud.blocks(snapshot_id) == {0: B}


@rule("put-answers-checksum", True, True)
def _(cloud: Cloud) -> object:
    return cloud.put(cloud.start(), 0, A)["Checksum"] == digest(A)


# CompleteSnapshot


@rule("complete-count", BAD_VALUE, "ok")
def _(cloud: Cloud) -> object:
    snapshot_id = cloud.start()
    cloud.put(snapshot_id, 0, A)
    return refusal(lambda: cloud.complete(snapshot_id, 2))


def completed_with(cloud: Cloud, **arguments: str) -> str:
    snapshot_id = cloud.start()
    for index, data in ((5, A), (1, B)):
        cloud.put(snapshot_id, index, data)
    how = {"ChecksumAlgorithm": "SHA256", **arguments}
    return refusal(lambda: cloud.complete(snapshot_id, 2, **how))


@rule("complete-linear-checksum", (BAD_VALUE, "ok"), ("ok", "ok"))
def _(cloud: Cloud) -> object:
    method = "LINEAR"
    return (
        completed_with(cloud, Checksum=linear(A, B), ChecksumAggregationMethod=method),
        completed_with(cloud, Checksum=linear(B, A), ChecksumAggregationMethod=method),
    )


@rule("complete-needs-method", BAD_VALUE, "ok")
def _(cloud: Cloud) -> object:
    return completed_with(cloud, Checksum=linear(B, A))


@rule("complete-once", WRONG_STATE, "ok")
def _(cloud: Cloud) -> object:
    snapshot_id = cloud.snapshot({0: A})
    return refusal(lambda: cloud.complete(snapshot_id, 1))


@rule("complete-snapshot-exists", NOT_FOUND, CRASH)
def _(cloud: Cloud) -> object:
    return refused(lambda: cloud.complete(NOBODY, 0))


# Reading


def first_entry(cloud: Cloud, snapshot_id: str) -> Any:
    return cloud.ebs.list_snapshot_blocks(SnapshotId=snapshot_id)["Blocks"][0]


@rule("get-token-checked", "ValidationException/INVALID_BLOCK_TOKEN", "ok")
def _(cloud: Cloud) -> object:
    one, two = cloud.snapshot({0: A}), cloud.snapshot({0: B})
    entry = first_entry(cloud, one)
    return refusal(lambda: cloud.ebs.get_snapshot_block(SnapshotId=two, **entry))


@rule("get-checksum-and-data", True, True)
def _(cloud: Cloud) -> object:
    snapshot_id = cloud.snapshot({0: A})
    block = cloud.ebs.get_snapshot_block(SnapshotId=snapshot_id, **first_entry(cloud, snapshot_id))
    return block["Checksum"] == digest(A) and block["BlockData"].read() == A


@rule("read-completed-only", WRONG_STATE, "ok")
def _(cloud: Cloud) -> object:
    snapshot_id = cloud.start()
    return refusal(lambda: cloud.ebs.list_snapshot_blocks(SnapshotId=snapshot_id))


@rule("list-snapshot-exists", NOT_FOUND, CRASH)
def _(cloud: Cloud) -> object:
    return refused(lambda: cloud.ebs.list_snapshot_blocks(SnapshotId=NOBODY))


@rule("list-ascending", [0, 4, 9], [9, 0, 4])
def _(cloud: Cloud) -> object:
    return list(cloud.blocks(cloud.snapshot({9: A, 0: B, 4: C})))


@rule("list-zero-blocks-that-were-written", [3], [3])
def _(cloud: Cloud) -> object:
    return list(cloud.blocks(cloud.snapshot({3: ZERO})))


@rule("list-expiry", True, False)
def _(cloud: Cloud) -> object:
    snapshot_id = cloud.snapshot({0: A})
    return "ExpiryTime" in cloud.ebs.list_snapshot_blocks(SnapshotId=snapshot_id)


@rule("list-paged", (100, True), (130, False))
def _(cloud: Cloud) -> object:
    snapshot_id = cloud.snapshot(dict.fromkeys(range(130), ZERO))
    page = cloud.ebs.list_snapshot_blocks(SnapshotId=snapshot_id, MaxResults=100)
    return len(page["Blocks"]), "NextToken" in page


@rule("list-starting-index", [7], [1, 7])
def _(cloud: Cloud) -> object:
    snapshot_id = cloud.snapshot({1: A, 7: A})
    page = cloud.ebs.list_snapshot_blocks(SnapshotId=snapshot_id, StartingBlockIndex=2)
    return [entry["BlockIndex"] for entry in page["Blocks"]]


@rule("list-page-token-checked", "ValidationException/INVALID_PAGE_TOKEN", "ok")
def _(cloud: Cloud) -> object:
    snapshot_id = cloud.snapshot({0: A})
    arguments = {"SnapshotId": snapshot_id, "NextToken": "bm90IGEgdG9rZW4="}
    return refusal(lambda: cloud.ebs.list_snapshot_blocks(**arguments))


def changed_indices(cloud: Cloud, first: str, second: str) -> list[int]:
    page = cloud.ebs.list_changed_blocks(FirstSnapshotId=first, SecondSnapshotId=second)
    return [entry["BlockIndex"] for entry in page["ChangedBlocks"]]


@rule("changed-blocks-only-in-second", [0, 5], [0])
def _(cloud: Cloud) -> object:
    parent = cloud.snapshot({0: A, 1: A})
    child = cloud.snapshot({0: B, 1: A, 5: C}, ParentSnapshotId=parent)
    both = changed_indices(cloud, parent, child)
    return [index for index in both if index != 1]


@rule("changed-blocks-not-written-again", [], [0])
def _(cloud: Cloud) -> object:
    parent = cloud.snapshot({0: A})
    return changed_indices(cloud, parent, cloud.snapshot({}, ParentSnapshotId=parent))


@rule("changed-same-lineage", "ValidationException/UNRELATED_SNAPSHOTS", [0])
def _(cloud: Cloud) -> object:
    return changed_indices(cloud, cloud.snapshot({0: A}), cloud.snapshot({0: B}))


@rule("changed-needs-first", BAD_VALUE, CRASH)
def _(cloud: Cloud) -> object:
    snapshot_id = cloud.snapshot({0: A})
    return refused(lambda: raw(cloud).list_changed_blocks(SecondSnapshotId=snapshot_id))


# Snapshots and volumes in EC2


def new_volume(cloud: Cloud, snapshot_id: str, **arguments: Any) -> str:
    zone = "us-east-1a"
    volume = cloud.ec2.create_volume(AvailabilityZone=zone, SnapshotId=snapshot_id, **arguments)
    return str(volume["VolumeId"])


@rule("ec2-snapshot-readable", [0], CRASH)
def _(cloud: Cloud) -> object:
    volume_id = new_volume(cloud, cloud.snapshot({0: A}))
    made = cloud.ec2.create_snapshot(VolumeId=volume_id)["SnapshotId"]
    return list(cloud.blocks(made))


@rule("ec2-copy-readable", [0], CRASH)
def _(cloud: Cloud) -> object:
    source = cloud.snapshot({0: A})
    copy = cloud.ec2.copy_snapshot(SourceSnapshotId=source, SourceRegion="us-east-1")
    return list(cloud.blocks(copy["SnapshotId"]))


@rule("deleted-snapshot-is-gone", NOT_FOUND, "ok")
def _(cloud: Cloud) -> object:
    snapshot_id = cloud.snapshot({0: A})
    cloud.ec2.delete_snapshot(SnapshotId=snapshot_id)
    return refusal(lambda: cloud.blocks(snapshot_id))


@rule("snapshot-in-use-stays", "InvalidSnapshot.InUse", "ok")
def _(cloud: Cloud) -> object:
    snapshot_id = cloud.snapshot({0: A})
    cloud.image(snapshot_id, fresh("image"))
    return refusal(lambda: cloud.ec2.delete_snapshot(SnapshotId=snapshot_id))


@rule("snapshots-of-self", True, False)
def _(cloud: Cloud) -> object:
    account = cloud.client("sts").get_caller_identity()["Account"]
    shown = cloud.ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"]
    return {snapshot["OwnerId"] for snapshot in shown} <= {account}


@rule("volume-not-smaller-than-snapshot", "InvalidParameterValue", "ok")
def _(cloud: Cloud) -> object:
    snapshot_id = cloud.snapshot({0: A}, size_gib=3)
    return refusal(lambda: new_volume(cloud, snapshot_id, Size=2))


@rule("volume-of-pending-snapshot", "IncorrectState", "ok")
def _(cloud: Cloud) -> object:
    snapshot_id = cloud.start()
    return refusal(lambda: new_volume(cloud, snapshot_id))


@rule("attach-only-once", "VolumeInUse", "ok")
def _(cloud: Cloud) -> object:
    image_id = new_image(cloud)["ImageId"]
    one, two = cloud.launch(image_id), cloud.launch(image_id)
    volume_id = launched_volumes(cloud, one)[0]["VolumeId"]
    arguments = {"VolumeId": volume_id, "InstanceId": two["InstanceId"], "Device": "/dev/sdz"}
    return refusal(lambda: cloud.ec2.attach_volume(**arguments))


@rule("default-kms-key", "ok", CRASH)
def _(cloud: Cloud) -> object:
    cloud.ec2.get_ebs_default_kms_key_id()
    return "ok"


@rule("service-quotas-of-ebs", 1000.0, CRASH)
def _(cloud: Cloud) -> object:
    client = cloud.client("service-quotas")
    arguments = {"ServiceCode": "ebs", "QuotaCode": "L-AFAE1BE8"}
    return client.get_aws_default_service_quota(**arguments)["Quota"]["Value"]


@rule("unknown-action-is-refused", "InvalidAction", CRASH)
def _(cloud: Cloud) -> object:
    return cloud.ec2.describe_fast_snapshot_restores()


# Images


@rule("image-keeps-its-snapshot", True, False)
def _(cloud: Cloud) -> object:
    snapshot_id = cloud.snapshot({0: A})
    image_id = cloud.image(snapshot_id, fresh("image"))
    shown = cloud.ec2.describe_images(ImageIds=[image_id])["Images"][0]
    return shown["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"] == snapshot_id


@rule("image-keeps-architecture", "arm64", None)
def _(cloud: Cloud) -> object:
    return new_image(cloud, Architecture="arm64").get("Architecture")


@rule("image-keeps-virtualization", "hvm", None)
def _(cloud: Cloud) -> object:
    return new_image(cloud).get("VirtualizationType")


@rule("image-keeps-boot-mode", "legacy-bios", "uefi")
def _(cloud: Cloud) -> object:
    return new_image(cloud, BootMode="legacy-bios").get("BootMode")


@rule("image-keeps-root-device", "/dev/xvda", "/dev/sda1")
def _(cloud: Cloud) -> object:
    return new_image(cloud)["RootDeviceName"]


@rule("image-keeps-ena-imds-tpm", (True, "v2.0", "v2.0"), (None, None, None))
def _(cloud: Cloud) -> object:
    shown = new_image(cloud, ImdsSupport="v2.0", TpmSupport="v2.0")
    return shown.get("EnaSupport"), shown.get("ImdsSupport"), shown.get("TpmSupport")


@rule("image-keeps-tags", "1", None)
def _(cloud: Cloud) -> object:
    tags = [{"ResourceType": "image", "Tags": [{"Key": "m", "Value": "1"}]}]
    shown = new_image(cloud, TagSpecifications=tags)
    return shown["Tags"][0]["Value"] if shown.get("Tags") else None


@rule("image-keeps-uefi-data", "QUJD", CRASH)
def _(cloud: Cloud) -> object:
    image_id = new_image(cloud, UefiData="QUJD")["ImageId"]
    shown = cloud.ec2.describe_image_attribute(ImageId=image_id, Attribute="uefiData")
    return shown["UefiData"]["Value"]


@rule("image-name-is-unique", "InvalidAMIName.Duplicate", "ok")
def _(cloud: Cloud) -> object:
    name, snapshot_id = fresh("image"), cloud.snapshot({0: A})
    cloud.image(snapshot_id, name)
    return refusal(lambda: cloud.image(snapshot_id, name))


@rule("image-snapshot-exists", "InvalidSnapshot.NotFound", "ok")
def _(cloud: Cloud) -> object:
    return refusal(lambda: cloud.image(NOBODY, fresh("image")))


@rule("image-snapshot-completed", "IncorrectState", "ok")
def _(cloud: Cloud) -> object:
    snapshot_id = cloud.start()
    return refusal(lambda: cloud.image(snapshot_id, fresh("image")))


def image_with(cloud: Cloud, root_device_name: str = "/dev/xvda", **ebs: Any) -> str:
    mapping = {"DeviceName": "/dev/xvda", "Ebs": {"SnapshotId": cloud.snapshot({0: A}), **ebs}}
    return refusal(
        lambda: cloud.image(
            "", fresh("image"), RootDeviceName=root_device_name, BlockDeviceMappings=[mapping]
        )
    )


@rule("image-states-no-encryption", "InvalidBlockDeviceMapping", "ok")
def _(cloud: Cloud) -> object:
    return image_with(cloud, Encrypted=True)


@rule("image-root-is-mapped", "InvalidBlockDeviceMapping", "ok")
def _(cloud: Cloud) -> object:
    return image_with(cloud, "/dev/sda1")


@rule("image-root-not-st1", "InvalidBlockDeviceMapping", "ok")
def _(cloud: Cloud) -> object:
    return image_with(cloud, VolumeType="st1", VolumeSize=200)


@rule("image-volume-not-smaller", "InvalidBlockDeviceMapping", "ok")
def _(cloud: Cloud) -> object:
    snapshot_id = cloud.snapshot({0: A}, size_gib=3)
    ebs = {"SnapshotId": snapshot_id, "VolumeSize": 2}
    mappings = [{"DeviceName": "/dev/xvda", "Ebs": ebs}]
    return refusal(lambda: cloud.image("", fresh("image"), BlockDeviceMappings=mappings))


# Launches


@rule("launch-image-exists", "InvalidAMIID.NotFound", "ok")
def _(cloud: Cloud) -> object:
    return refusal(lambda: cloud.launch("ami-0123456789abcdef0"))


@rule("launch-instance-type-exists", "InvalidParameterValue", "ok")
def _(cloud: Cloud) -> object:
    image_id = new_image(cloud)["ImageId"]
    return refusal(lambda: cloud.launch(image_id, "t9.huge"))


@rule("launch-boot-mode-fits", "UnsupportedOperation", "ok")
def _(cloud: Cloud) -> object:
    image_id = new_image(cloud, BootMode="uefi")["ImageId"]
    return refusal(lambda: cloud.launch(image_id, "t2.micro"))


@rule("launch-architecture-fits", "InvalidParameterValue", "ok")
def _(cloud: Cloud) -> object:
    image_id = new_image(cloud, Architecture="arm64")["ImageId"]
    return refusal(lambda: cloud.launch(image_id, "t3.small"))


@rule("launch-ena-required", "InvalidParameterCombination", "ok")
def _(cloud: Cloud) -> object:
    image_id = new_image(cloud, EnaSupport=False)["ImageId"]
    return refusal(lambda: cloud.launch(image_id, "t3.small"))


@rule("launch-token-idempotent", True, False)
def _(cloud: Cloud) -> object:
    image_id, token = new_image(cloud)["ImageId"], fresh("token")
    one, two = (cloud.launch(image_id, ClientToken=token) for _ in range(2))
    return one["InstanceId"] == two["InstanceId"]


@rule("launch-volume-from-snapshot", True, False)
def _(cloud: Cloud) -> object:
    snapshot_id = cloud.snapshot({0: A})
    instance = cloud.launch(cloud.image(snapshot_id, fresh("image")))
    return [v.get("SnapshotId") for v in launched_volumes(cloud, instance)] == [snapshot_id]


@rule("launch-imds-from-image", "required", "optional")
def _(cloud: Cloud) -> object:
    instance = cloud.launch(new_image(cloud, ImdsSupport="v2.0")["ImageId"])
    return instance["MetadataOptions"]["HttpTokens"]


@rule("launch-subnet-exists", "InvalidSubnetID.NotFound", "InvalidSubnetID.NotFound")
def _(cloud: Cloud) -> object:
    image_id = new_image(cloud)["ImageId"]
    return refusal(lambda: cloud.launch(image_id, SubnetId="subnet-0123456789abcdef0"))


@rule("launch-group-exists", "InvalidGroup.NotFound", "InvalidGroup.NotFound")
def _(cloud: Cloud) -> object:
    image_id = new_image(cloud)["ImageId"]
    return refusal(lambda: cloud.launch(image_id, SecurityGroupIds=["sg-0123456789abcdef0"]))


@rule("launch-group-of-the-network", "InvalidParameter", "ok")
def _(cloud: Cloud) -> object:
    vpc = cloud.ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    group = cloud.ec2.create_security_group(GroupName=fresh("g"), Description="g", VpcId=vpc)
    image_id = new_image(cloud)["ImageId"]
    return refusal(lambda: cloud.launch(image_id, SecurityGroupIds=[group["GroupId"]]))


@rule("launch-dry-run", "DryRunOperation", "DryRunOperation")
def _(cloud: Cloud) -> object:
    image_id = new_image(cloud)["ImageId"]
    return refusal(lambda: cloud.launch(image_id, DryRun=True))


@rule("launch-max-count", 3, 1)
def _(cloud: Cloud) -> object:
    image_id = new_image(cloud)["ImageId"]
    answered = cloud.ec2.run_instances(
        ImageId=image_id, InstanceType="t3.small", MinCount=1, MaxCount=3
    )
    return len(answered["Instances"])


@rule("terminate-deletes-volumes", 0, 0)
def _(cloud: Cloud) -> object:
    instance = cloud.launch(new_image(cloud)["ImageId"])
    volume_ids = {v["VolumeId"] for v in launched_volumes(cloud, instance)}
    cloud.ec2.terminate_instances(InstanceIds=[instance["InstanceId"]])
    return len(volume_ids & {v["VolumeId"] for v in cloud.ec2.describe_volumes()["Volumes"]})


@rule("console-is-the-machine's", "", "Linux version 2.6.16")
def _(cloud: Cloud) -> object:
    instance = cloud.launch(new_image(cloud)["ImageId"])
    output = cloud.ec2.get_console_output(InstanceId=instance["InstanceId"])["Output"]
    return output[:20]


@rule("console-screenshot", "UnsupportedOperation", CRASH)
def _(cloud: Cloud) -> object:
    instance = cloud.launch(new_image(cloud)["ImageId"])
    return cloud.ec2.get_console_screenshot(InstanceId=instance["InstanceId"])


# The comparison


@pytest.fixture(scope="module")
def plain_moto() -> Iterator[Cloud]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield Cloud(f"http://{host}:{port}")
    server.stop()


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with AwsSandbox(tmp_path_factory.mktemp("strict")) as sandbox:
        yield Cloud.of(sandbox)


@pytest.fixture(scope="module")
def compared(evidence: Callable[[str, str], None]) -> Iterator[list[Rule]]:
    done: list[Rule] = []
    yield done
    gaps = sum(item.is_gap for item in done)
    evidence("moto gaps", f"{len(done)} rules compared, {gaps} gaps named")


@pytest.mark.filterwarnings("ignore:Exception.TagLimitExceeded")
@pytest.mark.parametrize("item", RULES, ids=[item.name for item in RULES])
def test_rule(item: Rule, strict: Cloud, plain_moto: Cloud, compared: list[Rule]) -> None:
    assert answer(item.case, strict) == item.aws, "the sandbox breaks the rule"
    seen = answer(item.case, plain_moto)
    assert seen == item.moto, f"moto {version('moto')} answers differently from 5.2.5"
    compared.append(item)


def rows() -> dict[str, list[str]]:
    """The table of docs/sandbox.md: rule name -> cells."""
    text = (Path(__file__).parents[2] / "docs" / "sandbox.md").read_text()
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("| `")
    ]
    return {row[0].strip("`"): row for row in cells if len(row) == 5}


def test_every_compared_rule_is_documented() -> None:
    names = [item.name for item in RULES]
    assert len(names) == len(set(names))
    assert [name for name in names if name not in rows()] == []


def test_documentation_names_existing_tests() -> None:
    sources = {path.name: path.read_text() for path in Path(__file__).parent.glob("test_*.py")}
    names = {item.name for item in RULES}
    for name, row in rows().items():
        file, _, function = row[4].strip("`").partition("::")
        if file == "test_moto_gaps.py":
            assert name in names, name
            assert function == f"test_rule[{name}]", name
        else:
            assert f"def {function}(" in sources[file], (name, row[4])
