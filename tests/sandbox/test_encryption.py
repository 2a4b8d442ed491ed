"""Keys, encryption by default, and noise where nobody wrote."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sandbox.aws import AwsSandbox
from sandbox.aws.testing import BLOCK, ZERO, A, Cloud, refusal

pytestmark = pytest.mark.sandbox
StartSandbox = Callable[..., tuple[AwsSandbox, Cloud]]
BAD_VALUE = "ValidationException/INVALID_PARAMETER_VALUE"
BAD_KEY = "ValidationException/INVALID_CUSTOMER_KEY"


@pytest.fixture
def key(cloud: Cloud) -> str:
    return str(cloud.client("kms").create_key()["KeyMetadata"]["Arn"])


def key_id(arn: str) -> str:
    return arn.rpartition("/")[2]  # moto's key switches know ids only


def shown(cloud: Cloud, snapshot_id: str) -> tuple[bool, str | None]:
    found = cloud.ec2.describe_snapshots(SnapshotIds=[snapshot_id])["Snapshots"][0]
    return found["Encrypted"], found.get("KmsKeyId")


def block_of(path: Path, index: int) -> bytes:
    with path.open("rb") as file:
        file.seek(index * BLOCK)
        return file.read(BLOCK)


def test_key_is_used_and_shown(cloud: Cloud, key: str) -> None:
    answer = cloud.ebs.start_snapshot(VolumeSize=1, Encrypted=True, KmsKeyArn=key)
    assert answer["KmsKeyArn"] == key
    assert shown(cloud, answer["SnapshotId"]) == (True, key)


def test_encrypted_without_a_key_takes_the_account_s(cloud: Cloud, key: str) -> None:
    managed = shown(cloud, cloud.start(Encrypted=True))[1]
    aliases = cloud.client("kms").list_aliases()["Aliases"]
    wanted = next(a["TargetKeyId"] for a in aliases if a["AliasName"] == "alias/aws/ebs")
    assert managed is not None
    assert managed.endswith(f"/{wanted}")
    cloud.ec2.modify_ebs_default_kms_key_id(KmsKeyId=key)
    assert cloud.ec2.get_ebs_default_kms_key_id()["KmsKeyId"] == key
    assert shown(cloud, cloud.start(Encrypted=True)) == (True, key)


def test_child_takes_the_parent_s_key(cloud: Cloud, key: str) -> None:
    parent = cloud.snapshot({0: A}, Encrypted=True, KmsKeyArn=key)
    child = cloud.snapshot({1: A}, ParentSnapshotId=parent)
    assert shown(cloud, child) == (True, key)
    assert cloud.blocks(child) == {0: A, 1: A}


@pytest.mark.parametrize("encrypted_parent", [False, True])
def test_parent_excludes_encrypted_and_key(cloud: Cloud, key: str, encrypted_parent: bool) -> None:
    how: dict[str, Any] = {"Encrypted": True, "KmsKeyArn": key} if encrypted_parent else {}
    parent = cloud.snapshot({}, **how)
    for extra in ({"Encrypted": True}, {"Encrypted": False}, {"KmsKeyArn": key}):
        arguments: dict[str, Any] = {"ParentSnapshotId": parent, **extra}
        assert refusal(lambda a=arguments: cloud.start(**a)) == BAD_VALUE  # type: ignore[misc]


def test_key_without_encrypted_is_refused(cloud: Cloud, key: str) -> None:
    assert refusal(lambda: cloud.start(KmsKeyArn=key)) == BAD_VALUE
    assert refusal(lambda: cloud.start(KmsKeyArn=key, Encrypted=False)) == BAD_VALUE


def test_encryption_by_default(cloud: Cloud, key: str) -> None:
    plain = cloud.snapshot({0: A})
    cloud.ec2.modify_ebs_default_kms_key_id(KmsKeyId=key)
    cloud.ec2.enable_ebs_encryption_by_default()
    assert cloud.ec2.get_ebs_encryption_by_default()["EbsEncryptionByDefault"]
    assert shown(cloud, cloud.start()) == (True, key)
    assert refusal(lambda: cloud.start(ParentSnapshotId=plain)) == BAD_VALUE
    assert refusal(lambda: cloud.start(Encrypted=False)) == BAD_VALUE
    copied = cloud.ec2.copy_snapshot(SourceSnapshotId=plain, SourceRegion="us-east-1")
    assert shown(cloud, copied["SnapshotId"]) == (True, key)
    assert refusal(lambda: cloud.start(ParentSnapshotId=copied["SnapshotId"])) == "ok"


def test_key_must_exist_and_be_enabled(cloud: Cloud, key: str) -> None:
    unknown = key[:-12] + "000000000000"
    assert refusal(lambda: cloud.start(Encrypted=True, KmsKeyArn=unknown)) == BAD_KEY
    cloud.client("kms").disable_key(KeyId=key_id(key))
    assert refusal(lambda: cloud.start(Encrypted=True, KmsKeyArn=key)) == BAD_KEY
    cloud.client("kms").enable_key(KeyId=key_id(key))
    assert refusal(lambda: cloud.start(Encrypted=True, KmsKeyArn=key)) == "ok"


def test_disabled_key_stops_writing_and_reading(cloud: Cloud, key: str) -> None:
    done = cloud.snapshot({0: A}, Encrypted=True, KmsKeyArn=key)
    pending = cloud.start(ParentSnapshotId=done)
    cloud.client("kms").schedule_key_deletion(KeyId=key_id(key), PendingWindowInDays=7)
    assert refusal(lambda: cloud.put(pending, 1, A)) == BAD_KEY
    assert refusal(lambda: cloud.blocks(done)) == BAD_KEY
    assert refusal(lambda: cloud.start(ParentSnapshotId=done)) == BAD_KEY
    create = lambda: cloud.ec2.create_volume(AvailabilityZone="us-east-1a", SnapshotId=done)  # noqa: E731
    assert refusal(create) == "InvalidKMSKey.InvalidState"


def volume_of(cloud: Cloud, snapshot_id: str, **arguments: Any) -> Any:
    return cloud.ec2.create_volume(
        AvailabilityZone="us-east-1a", SnapshotId=snapshot_id, **arguments
    )


def test_absent_block_of_an_encrypted_volume_is_noise(start_sandbox: StartSandbox) -> None:
    sandbox, cloud = start_sandbox()
    volume = volume_of(cloud, cloud.snapshot({0: A, 2: ZERO}, Encrypted=True))
    assert volume["Encrypted"]
    found = {i: sandbox.volume_block(volume["VolumeId"], i) for i in (0, 1, 2, 3, 2047)}
    assert (found[0], found[2]) == (A, ZERO)
    assert len({found[1], found[3], found[2047]}) == 3
    assert all(len(set(found[i])) == 256 for i in (1, 3, 2047))
    assert sandbox.volume_block(volume["VolumeId"], 1) == found[1]


def test_exported_file_has_the_noise_too(start_sandbox: StartSandbox, tmp_path: Path) -> None:
    sandbox, cloud = start_sandbox()
    volume_id = volume_of(cloud, cloud.snapshot({2047: A}, Encrypted=True))["VolumeId"]
    assert sandbox.export_volume(volume_id, tmp_path / "v.raw") == 2048
    for index in (0, 1000, 2047):
        assert block_of(tmp_path / "v.raw", index) == sandbox.volume_block(volume_id, index)


def test_unencrypted_image_launched_encrypted_reads_noise(start_sandbox: StartSandbox) -> None:
    sandbox, cloud = start_sandbox()
    image = cloud.image(cloud.snapshot({0: A}))
    cloud.ec2.enable_ebs_encryption_by_default()
    cloud.launch(image)
    ((_, volume_id),) = sandbox.launches.machines()[0].volumes
    assert sandbox.volume_block(volume_id, 0) == A
    assert sandbox.volume_block(volume_id, 1) != ZERO


def test_launch_may_ask_for_encryption(start_sandbox: StartSandbox) -> None:
    sandbox, cloud = start_sandbox()
    key = cloud.client("kms").create_key()["KeyMetadata"]["Arn"]
    mapping = {"DeviceName": "/dev/xvda", "Ebs": {"Encrypted": True, "KmsKeyId": key}}
    cloud.launch(cloud.image(cloud.snapshot({0: A})), BlockDeviceMappings=[mapping])
    volume = cloud.ec2.describe_volumes()["Volumes"][0]
    assert (volume["Encrypted"], volume["KmsKeyId"]) == (True, key)
    assert sandbox.volume_block(volume["VolumeId"], 1) != ZERO


def test_absent_block_of_an_unencrypted_volume_is_zero(
    start_sandbox: StartSandbox, tmp_path: Path
) -> None:
    sandbox, cloud = start_sandbox()
    volume_id = volume_of(cloud, cloud.snapshot({0: A}), Size=2)["VolumeId"]
    assert {sandbox.volume_block(volume_id, index) for index in (1, 2047, 4095)} == {ZERO}
    with pytest.raises(IndexError):
        sandbox.volume_block(volume_id, 4096)
    assert sandbox.export_volume(volume_id, tmp_path / "v.raw") == 1
    assert (tmp_path / "v.raw").stat().st_size == 2 * 1024**3
    assert (tmp_path / "v.raw").stat().st_blocks * 512 <= 2 * BLOCK
