"""From blocks to the volume of a launched machine."""

from collections.abc import Callable
from pathlib import Path

import pytest

from sandbox.aws import AwsSandbox
from sandbox.aws.testing import BLOCK, ZERO, A, B, Cloud

StartSandbox = Callable[..., tuple[AwsSandbox, Cloud]]

pytestmark = pytest.mark.sandbox


def block_of(path: Path, index: int) -> bytes:
    with path.open("rb") as file:
        file.seek(index * BLOCK)
        return file.read(BLOCK)


def test_launched_volume_holds_what_the_chain_wrote(
    start_sandbox: StartSandbox, tmp_path: Path
) -> None:
    sandbox, cloud = start_sandbox()
    parent = cloud.snapshot({0: A, 3: A, 2047: A})
    child = cloud.start(1, ParentSnapshotId=parent)
    cloud.put(child, 3, B)
    cloud.put(child, 0, bytes(BLOCK))
    assert cloud.complete(child, 2) == "completed"
    instance = cloud.launch(cloud.image(child))
    volumes = cloud.ec2.describe_volumes()["Volumes"]
    assert [(v["SnapshotId"], v["Attachments"][0]["InstanceId"]) for v in volumes] == [
        (child, instance["InstanceId"])
    ]
    exported = tmp_path / "volume.raw"
    sandbox.export_volume(volumes[0]["VolumeId"], exported)
    found = {i: block_of(exported, i) for i in (0, 1, 3, 2047)}
    assert found == {0: ZERO, 1: ZERO, 3: B, 2047: A}
    assert exported.stat().st_size == 1024**3
    assert exported.stat().st_blocks * 512 <= 2 * BLOCK


def test_two_sandboxes_in_one_process_do_not_meet(start_sandbox: StartSandbox) -> None:
    (one, first), (two, second) = start_sandbox(), start_sandbox()
    snapshot_id = first.snapshot({0: A})
    assert one.account_id != two.account_id
    assert first.client("sts").get_caller_identity()["Account"] == one.account_id
    assert second.ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"] == []
    assert [s["SnapshotId"] for s in first.ec2.describe_snapshots()["Snapshots"]] == [snapshot_id]
