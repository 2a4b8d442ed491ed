"""StartSnapshot, PutSnapshotBlock, CompleteSnapshot."""

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from sandbox.aws import AwsSandbox, Fault, FaultKind, Rules
from sandbox.aws.testing import BLOCK, ZERO, A, B, C, Cloud, digest, linear, refusal
from sealift.testing.clock import VirtualClock

pytestmark = pytest.mark.sandbox
StartSandbox = Callable[..., tuple[AwsSandbox, Cloud]]
WRONG_STATE = "ValidationException/INVALID_SNAPSHOT_ID"
BAD_BLOCK = "ValidationException/INVALID_BLOCK"
BAD_VALUE = "ValidationException/INVALID_PARAMETER_VALUE"
BAD_SIZE = "ValidationException/INVALID_VOLUME_SIZE"
MISSING = "ResourceNotFoundException/SNAPSHOT_NOT_FOUND"


def state(cloud: Cloud, snapshot_id: str) -> str:
    return str(cloud.ec2.describe_snapshots(SnapshotIds=[snapshot_id])["Snapshots"][0]["State"])


def test_start_answers_what_the_model_says(start_sandbox: StartSandbox) -> None:
    sandbox, cloud = start_sandbox()
    parent = cloud.snapshot({0: A})
    answer = cloud.ebs.start_snapshot(
        VolumeSize=2,
        ParentSnapshotId=parent,
        Description="round 2",
        Tags=[{"Key": "migration", "Value": "m1"}],
    )
    assert answer["Status"] == "pending"
    assert answer["BlockSize"] == BLOCK
    assert answer["OwnerId"] == sandbox.account_id
    assert answer["ParentSnapshotId"] == parent
    assert (answer["VolumeSize"], answer["Description"]) == (2, "round 2")
    assert answer["Tags"] == [{"Key": "migration", "Value": "m1"}]


def test_child_inherits_what_it_does_not_write(cloud: Cloud) -> None:
    parent = cloud.snapshot({0: A, 5: A, 9: A})
    child = cloud.snapshot({5: B, 9: ZERO, 11: C}, ParentSnapshotId=parent)
    assert cloud.blocks(child) == {0: A, 5: B, 9: ZERO, 11: C}
    assert cloud.blocks(parent) == {0: A, 5: A, 9: A}


def test_inherited_blocks_outlive_the_parent(cloud: Cloud) -> None:
    first = cloud.snapshot({0: A})
    second = cloud.snapshot({1: B}, ParentSnapshotId=first)
    third = cloud.snapshot({2: C}, ParentSnapshotId=second)
    cloud.ec2.delete_snapshot(SnapshotId=first)
    cloud.ec2.delete_snapshot(SnapshotId=second)
    assert cloud.blocks(third) == {0: A, 1: B, 2: C}


def test_deleted_content_leaves_the_disk(start_sandbox: StartSandbox, tmp_path: Any) -> None:
    _, cloud = start_sandbox()
    first = cloud.snapshot({0: A})
    second = cloud.snapshot({1: B}, ParentSnapshotId=first)
    layers = tmp_path / "sandbox-0" / "layers"
    assert len(list(layers.iterdir())) == 2
    cloud.ec2.delete_snapshot(SnapshotId=first)
    assert len(list(layers.iterdir())) == 2
    cloud.ec2.delete_snapshot(SnapshotId=second)
    assert list(layers.iterdir()) == []


@pytest.mark.parametrize("size_gib", [0, 65_537])
def test_volume_size_is_1_to_65536_gib(cloud: Cloud, size_gib: int) -> None:
    # The SDK refuses 0 itself, so the server is asked without its checks.
    client = cloud.client("ebs", validate=False)
    assert refusal(lambda: client.start_snapshot(VolumeSize=size_gib)) == BAD_SIZE


def test_largest_volume_is_accepted(cloud: Cloud) -> None:
    snapshot_id = cloud.start(65_536)
    cloud.put(snapshot_id, 65_536 * 2048 - 1, A)
    assert cloud.complete(snapshot_id, 1) == "completed"
    assert cloud.blocks(snapshot_id) == {65_536 * 2048 - 1: A}


def test_parent_must_exist_be_completed_and_not_be_larger(cloud: Cloud) -> None:
    pending, large = cloud.start(), cloud.snapshot({}, size_gib=3)
    assert refusal(lambda: cloud.start(ParentSnapshotId="snap-0123456789abcdef0")) == MISSING
    assert refusal(lambda: cloud.start(ParentSnapshotId=pending)) == WRONG_STATE
    assert refusal(lambda: cloud.start(2, ParentSnapshotId=large)) == BAD_SIZE
    assert refusal(lambda: cloud.start(4, ParentSnapshotId=large)) == "ok"


def test_same_client_token_and_arguments_is_the_same_snapshot(cloud: Cloud) -> None:
    first = cloud.start(ClientToken="t1", Description="d")
    assert cloud.start(ClientToken="t1", Description="d") == first
    assert cloud.start(ClientToken="t2", Description="d") != first
    assert len(cloud.ec2.describe_snapshots()["Snapshots"]) == 2


def test_same_client_token_with_other_arguments_conflicts(cloud: Cloud) -> None:
    cloud.start(ClientToken="t1")
    assert refusal(lambda: cloud.start(2, ClientToken="t1")) == "ConflictException"


def test_client_token_has_at_most_64_ascii_characters(cloud: Cloud) -> None:
    assert refusal(lambda: cloud.start(ClientToken="x" * 65)) == BAD_VALUE
    assert refusal(lambda: cloud.start(ClientToken="x" * 64)) == "ok"


def test_at_most_50_tags(cloud: Cloud) -> None:
    tags = [{"Key": f"k{i}", "Value": ""} for i in range(51)]
    assert refusal(lambda: cloud.start(Tags=tags)) == "ValidationException/INVALID_TAG"
    assert refusal(lambda: cloud.start(Tags=tags[1:])) == "ok"


@pytest.mark.parametrize(("minutes", "expected"), [(9, BAD_VALUE), (4321, BAD_VALUE), (10, "ok")])
def test_timeout_is_10_to_4320_minutes(cloud: Cloud, minutes: int, expected: str) -> None:
    client = cloud.client("ebs", validate=False)
    assert refusal(lambda: client.start_snapshot(VolumeSize=1, Timeout=minutes)) == expected


def test_timeout_counts_from_the_last_block(cloud: Cloud, clock: VirtualClock) -> None:
    snapshot_id = cloud.start(Timeout=10)
    clock.sleep(599)
    cloud.put(snapshot_id, 0, A)
    clock.sleep(599)
    cloud.put(snapshot_id, 1, A)
    clock.sleep(600)
    assert state(cloud, snapshot_id) == "error"
    assert refusal(lambda: cloud.put(snapshot_id, 2, A)) == WRONG_STATE
    assert refusal(lambda: cloud.complete(snapshot_id, 2)) == WRONG_STATE


def test_timeout_is_60_minutes_when_none_is_given(cloud: Cloud, clock: VirtualClock) -> None:
    snapshot_id = cloud.start()
    clock.sleep(3599)
    assert state(cloud, snapshot_id) == "pending"
    clock.sleep(1)
    assert state(cloud, snapshot_id) == "error"


def test_completed_snapshot_never_times_out(cloud: Cloud, clock: VirtualClock) -> None:
    snapshot_id = cloud.snapshot({0: A})
    clock.sleep(10 * 86_400)
    assert state(cloud, snapshot_id) == "completed"


def test_new_snapshot_does_not_exist_for_a_while(
    start_sandbox: StartSandbox, clock: VirtualClock
) -> None:
    _, cloud = start_sandbox(Rules(visibility_delay_seconds=120))
    snapshot_id = cloud.start(ClientToken="t")
    assert refusal(lambda: cloud.put(snapshot_id, 0, A)) == MISSING
    assert cloud.start(ClientToken="t") == snapshot_id
    clock.sleep(120)
    assert refusal(lambda: cloud.put(snapshot_id, 0, A)) == "ok"


def test_put_answers_the_checksum(cloud: Cloud) -> None:
    answer = cloud.put(cloud.start(), 0, A)
    assert answer["Checksum"] == digest(A)
    assert answer["ChecksumAlgorithm"] == "SHA256"
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 201


def test_put_refuses_data_that_the_checksum_does_not_fit(cloud: Cloud) -> None:
    snapshot_id = cloud.start()
    assert refusal(lambda: cloud.put(snapshot_id, 0, A, Checksum=digest(B))) == BAD_BLOCK
    assert cloud.complete(snapshot_id, 0) == "completed"


@pytest.mark.parametrize("data", [A[:-1], A + b"x", b""])
def test_put_takes_whole_blocks_only(cloud: Cloud, data: bytes) -> None:
    snapshot_id = cloud.start()
    assert refusal(lambda: cloud.put(snapshot_id, 0, data)) == BAD_BLOCK
    assert refusal(lambda: cloud.put(snapshot_id, 0, data, DataLength=BLOCK)) == BAD_BLOCK
    assert refusal(lambda: cloud.put(snapshot_id, 0, A, DataLength=len(data))) == BAD_BLOCK


def test_put_stays_within_the_volume(cloud: Cloud) -> None:
    snapshot_id = cloud.start()
    assert refusal(lambda: cloud.put(snapshot_id, 2047, A)) == "ok"
    assert refusal(lambda: cloud.put(snapshot_id, 2048, A)) == BAD_BLOCK


def test_put_again_replaces_the_block(cloud: Cloud) -> None:
    snapshot_id = cloud.start()
    for data in (A, ZERO, B, ZERO, C):
        cloud.put(snapshot_id, 7, data)
    cloud.complete(
        snapshot_id,
        1,
        Checksum=linear(C),
        ChecksumAlgorithm="SHA256",
        ChecksumAggregationMethod="LINEAR",
    )
    assert cloud.blocks(snapshot_id) == {7: C}


def test_put_needs_a_pending_snapshot(cloud: Cloud) -> None:
    done = cloud.snapshot({0: A})
    assert refusal(lambda: cloud.put(done, 0, B)) == WRONG_STATE
    assert refusal(lambda: cloud.put("snap-0123456789abcdef0", 0, B)) == MISSING
    assert cloud.blocks(done) == {0: A}


def test_two_writes_of_one_block_at_a_time_conflict(start_sandbox: StartSandbox) -> None:
    """Both are under way at once only if the first one is slow: its store is held."""
    sandbox, cloud = start_sandbox()
    snapshot_id = cloud.start()
    record = sandbox.snapshot_record(snapshot_id)
    with record.writing(3):
        answer = refusal(lambda: cloud.put(snapshot_id, 3, A))
    assert answer == "ValidationException/CONFLICTING_BLOCK_UPDATE"
    assert refusal(lambda: cloud.put(snapshot_id, 3, A)) == "ok"


def test_complete_counts_the_blocks_that_were_written(cloud: Cloud) -> None:
    parent = cloud.snapshot({0: A, 1: A})
    child = cloud.start(ParentSnapshotId=parent)
    cloud.put(child, 1, B)
    cloud.put(child, 1, C)
    for wrong in (0, 2, 3):
        assert refusal(lambda count=wrong: cloud.complete(child, count)) == BAD_VALUE  # type: ignore[misc]
    assert state(cloud, child) == "pending"
    assert cloud.complete(child, 1) == "completed"


def test_complete_verifies_the_linear_checksum(cloud: Cloud) -> None:
    snapshot_id = cloud.start()
    for index, data in ((9, A), (2, B), (5, ZERO)):
        cloud.put(snapshot_id, index, data)
    how = {"ChecksumAlgorithm": "SHA256", "ChecksumAggregationMethod": "LINEAR"}
    for wrong in (linear(A, B, ZERO), linear(B, A), digest(A)):
        arguments = {**how, "Checksum": wrong}
        assert refusal(lambda a=arguments: cloud.complete(snapshot_id, 3, **a)) == BAD_VALUE  # type: ignore[misc]
    assert cloud.complete(snapshot_id, 3, Checksum=linear(B, ZERO, A), **how) == "completed"


def test_checksum_of_the_whole_needs_its_method(cloud: Cloud) -> None:
    snapshot_id = cloud.start()
    cloud.put(snapshot_id, 0, A)
    arguments = {"Checksum": linear(A), "ChecksumAlgorithm": "SHA256"}
    assert refusal(lambda: cloud.complete(snapshot_id, 1, **arguments)) == BAD_VALUE


def test_complete_works_once(cloud: Cloud) -> None:
    snapshot_id = cloud.snapshot({0: A})
    assert refusal(lambda: cloud.complete(snapshot_id, 1)) == WRONG_STATE


def test_completing_takes_its_time(start_sandbox: StartSandbox, clock: VirtualClock) -> None:
    _, cloud = start_sandbox(Rules(completing_delay_seconds=30))
    snapshot_id = cloud.start()
    cloud.put(snapshot_id, 0, A)
    assert cloud.complete(snapshot_id, 1) == "pending"
    assert refusal(lambda: cloud.put(snapshot_id, 0, B)) == WRONG_STATE
    assert refusal(lambda: cloud.blocks(snapshot_id)) == WRONG_STATE
    assert state(cloud, snapshot_id) == "pending"
    clock.sleep(30)
    assert state(cloud, snapshot_id) == "completed"
    assert cloud.blocks(snapshot_id) == {0: A}


def test_complete_counts_writes_that_were_under_way(start_sandbox: StartSandbox) -> None:
    """CompleteSnapshot waits for a write that came first, and counts it."""
    sandbox, cloud = start_sandbox()
    snapshot_id = cloud.start()
    cloud.put(snapshot_id, 0, A)
    outcome: list[str] = []
    record = sandbox.snapshot_record(snapshot_id)
    with record.writing(1):
        caller = threading.Thread(target=lambda: outcome.append(cloud.complete(snapshot_id, 1)))
        caller.start()
        caller.join(0.3)
        assert outcome == []
    caller.join(60)
    assert outcome == ["completed"]


def test_many_writers_at_once_lose_nothing(start_sandbox: StartSandbox) -> None:
    sandbox, cloud = start_sandbox()
    snapshot_id = cloud.start()
    blocks = {index: bytes([index]) * BLOCK for index in range(120)}
    todo, lock = iter([*blocks, *blocks]), threading.Lock()  # every block twice

    def write() -> None:
        while True:
            with lock:
                index = next(todo, None)
            if index is None:
                return
            put = partial(cloud.put, snapshot_id, index, blocks[index])
            while refusal(put) != "ok":
                pass  # the other writer has this block right now

    writers = [threading.Thread(target=write) for _ in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    total = {"ChecksumAlgorithm": "SHA256", "ChecksumAggregationMethod": "LINEAR"}
    cloud.complete(snapshot_id, 120, Checksum=linear(*blocks.values()), **total)
    assert cloud.blocks(snapshot_id) == blocks
    assert sandbox.requests.count("PutSnapshotBlock") >= 240


def test_one_token_from_many_callers_is_one_snapshot(cloud: Cloud) -> None:
    found: list[str] = []
    callers = [
        threading.Thread(target=lambda: found.append(cloud.start(ClientToken="t")))
        for _ in range(8)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert (len(found), len(set(found))) == (8, 1)


def test_lost_answer_of_start_is_found_again_by_its_token(start_sandbox: StartSandbox) -> None:
    sandbox, cloud = start_sandbox()
    sandbox.faults.add(Fault(FaultKind.ERROR_AFTER, "StartSnapshot"))
    assert refusal(lambda: cloud.start(ClientToken="t")) == "InternalServerException"
    found = cloud.start(ClientToken="t")
    shown = cloud.ec2.describe_snapshots()["Snapshots"]
    assert [s["SnapshotId"] for s in shown] == [found]


def test_ec2_sees_state_size_and_tags_and_no_volume(cloud: Cloud) -> None:
    snapshot_id = cloud.start(3, Tags=[{"Key": "a", "Value": "b"}], Description="d")
    shown = cloud.ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"]
    assert [(s["SnapshotId"], s["State"], s["VolumeSize"], s["Tags"]) for s in shown] == [
        (snapshot_id, "pending", 3, [{"Key": "a", "Value": "b"}])
    ]
    assert cloud.ec2.describe_volumes()["Volumes"] == []
    by_tag = [{"Name": "tag:a", "Values": ["b"]}, {"Name": "status", "Values": ["pending"]}]
    assert len(cloud.ec2.describe_snapshots(Filters=by_tag)["Snapshots"]) == 1
    assert cloud.ec2.describe_snapshots(OwnerIds=["amazon"])["Snapshots"] == []
