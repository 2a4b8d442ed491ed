"""ListSnapshotBlocks, ListChangedBlocks, GetSnapshotBlock: order, pages, tokens."""

from collections.abc import Callable
from typing import Any

import pytest

from sandbox.aws import AwsSandbox, Fault, FaultKind
from sandbox.aws.testing import BLOCK, ZERO, A, B, C, Cloud, digest, refusal
from sealift.testing.clock import VirtualClock

pytestmark = pytest.mark.sandbox
StartSandbox = Callable[..., tuple[AwsSandbox, Cloud]]
BAD_TOKEN = "ValidationException/INVALID_BLOCK_TOKEN"
BAD_PAGE = "ValidationException/INVALID_PAGE_TOKEN"
WRONG_STATE = "ValidationException/INVALID_SNAPSHOT_ID"


def indices(page: Any) -> list[int]:
    entries = page["Blocks"] if "Blocks" in page else page["ChangedBlocks"]
    return [entry["BlockIndex"] for entry in entries]


def pages(call: Callable[..., Any], **arguments: Any) -> list[Any]:
    found = [call(**arguments)]
    while token := found[-1].get("NextToken"):
        found.append(call(**arguments, NextToken=token))
    return found


def get(cloud: Cloud, snapshot_id: str, index: int, token: str) -> Any:
    return cloud.ebs.get_snapshot_block(SnapshotId=snapshot_id, BlockIndex=index, BlockToken=token)


def token_of(cloud: Cloud, snapshot_id: str) -> str:
    page = cloud.ebs.list_snapshot_blocks(SnapshotId=snapshot_id)
    return str(page["Blocks"][0]["BlockToken"])


@pytest.fixture
def many(cloud: Cloud) -> str:
    """A snapshot of 250 zero blocks, written in descending order."""
    return cloud.snapshot(dict.fromkeys(reversed(range(10, 260)), ZERO))


def test_listing_is_ascending_and_names_written_blocks_only(cloud: Cloud) -> None:
    snapshot_id = cloud.snapshot({9: A, 0: ZERO, 4: B})
    page = cloud.ebs.list_snapshot_blocks(SnapshotId=snapshot_id)
    assert indices(page) == [0, 4, 9]
    assert (page["VolumeSize"], page["BlockSize"]) == (1, BLOCK)
    assert "NextToken" not in page


def test_listing_comes_in_pages(cloud: Cloud, many: str) -> None:
    found = pages(cloud.ebs.list_snapshot_blocks, SnapshotId=many, MaxResults=100)
    assert [len(page["Blocks"]) for page in found] == [100, 100, 50]
    assert [i for page in found for i in indices(page)] == list(range(10, 260))


def test_page_size_under_100_counts_as_100_and_ends_at_10000(cloud: Cloud, many: str) -> None:
    client = cloud.client("ebs", validate=False)
    assert len(indices(client.list_snapshot_blocks(SnapshotId=many, MaxResults=5))) == 100
    call = lambda: client.list_snapshot_blocks(SnapshotId=many, MaxResults=10_001)  # noqa: E731
    assert refusal(call) == "ValidationException/INVALID_PARAMETER_VALUE"


def test_listing_starts_where_asked_unless_a_token_says_otherwise(cloud: Cloud, many: str) -> None:
    ebs = cloud.ebs
    page = ebs.list_snapshot_blocks(SnapshotId=many, StartingBlockIndex=155, MaxResults=100)
    assert indices(page) == list(range(155, 255))
    following = ebs.list_snapshot_blocks(
        SnapshotId=many, NextToken=page["NextToken"], StartingBlockIndex=0, MaxResults=100
    )
    assert indices(following) == list(range(255, 260))


def test_page_token_lives_60_minutes(cloud: Cloud, many: str, clock: VirtualClock) -> None:
    ebs = cloud.ebs
    token = ebs.list_snapshot_blocks(SnapshotId=many, MaxResults=100)["NextToken"]
    clock.sleep(3599)
    following = lambda: ebs.list_snapshot_blocks(SnapshotId=many, NextToken=token)  # noqa: E731
    assert refusal(following) == "ok"
    clock.sleep(1)
    assert refusal(following) == BAD_PAGE


def test_page_token_fits_its_own_listing_only(cloud: Cloud, many: str) -> None:
    ebs, other = cloud.ebs, cloud.snapshot({0: A}, ParentSnapshotId=many)
    token = ebs.list_snapshot_blocks(SnapshotId=many, MaxResults=100)["NextToken"]
    for snapshot_id, given in ((other, token), (many, "bm90IGEgdG9rZW4="), (many, "+++")):
        arguments = {"SnapshotId": snapshot_id, "NextToken": given}
        assert refusal(lambda a=arguments: ebs.list_snapshot_blocks(**a)) == BAD_PAGE  # type: ignore[misc]
    call = lambda: ebs.list_changed_blocks(  # noqa: E731
        FirstSnapshotId=many, SecondSnapshotId=other, NextToken=token
    )
    assert refusal(call) == BAD_PAGE


def test_empty_page_with_a_token_on_demand(start_sandbox: StartSandbox) -> None:
    sandbox, cloud = start_sandbox()
    snapshot_id = cloud.snapshot({3: A, 4: B})
    sandbox.faults.add(Fault(FaultKind.EMPTY_PAGE, "ListSnapshotBlocks"))
    found = pages(cloud.ebs.list_snapshot_blocks, SnapshotId=snapshot_id)
    assert [indices(page) for page in found] == [[], [3, 4]]


def test_block_token_lives_7_days(cloud: Cloud, clock: VirtualClock) -> None:
    snapshot_id = cloud.snapshot({0: A})
    page = cloud.ebs.list_snapshot_blocks(SnapshotId=snapshot_id)
    token = page["Blocks"][0]["BlockToken"]
    assert (page["ExpiryTime"] - clock.now()).total_seconds() == 7 * 86_400
    clock.sleep(7 * 86_400 - 1)
    assert get(cloud, snapshot_id, 0, token)["BlockData"].read() == A
    clock.sleep(1)
    assert refusal(lambda: get(cloud, snapshot_id, 0, token)) == BAD_TOKEN


def test_block_token_fits_its_own_block_only(cloud: Cloud) -> None:
    one, two = cloud.snapshot({0: A, 1: B}), cloud.snapshot({0: C})
    token = token_of(cloud, one)
    assert refusal(lambda: get(cloud, one, 1, token)) == BAD_TOKEN
    assert refusal(lambda: get(cloud, two, 0, token)) == BAD_TOKEN
    assert refusal(lambda: get(cloud, one, 0, "bm90IGEgdG9rZW4=")) == BAD_TOKEN


def test_block_tokens_differ_in_every_listing(cloud: Cloud) -> None:
    snapshot_id = cloud.snapshot({0: A})
    assert token_of(cloud, snapshot_id) != token_of(cloud, snapshot_id)


def test_tokens_of_another_server_do_not_fit(start_sandbox: StartSandbox) -> None:
    (_, one), (_, two) = start_sandbox(), start_sandbox()
    first, second = one.snapshot({0: A}), two.snapshot({0: A})
    assert refusal(lambda: get(two, second, 0, token_of(one, first))) == BAD_TOKEN


def test_get_answers_data_length_and_checksum(cloud: Cloud) -> None:
    snapshot_id = cloud.snapshot({0: A})
    answer = get(cloud, snapshot_id, 0, token_of(cloud, snapshot_id))
    assert answer["DataLength"] == BLOCK
    assert (answer["Checksum"], answer["ChecksumAlgorithm"]) == (digest(A), "SHA256")
    assert answer["BlockData"].read() == A


def test_reading_needs_a_completed_snapshot(cloud: Cloud) -> None:
    parent = cloud.snapshot({0: A})
    token, pending = token_of(cloud, parent), cloud.start(ParentSnapshotId=parent)
    ebs = cloud.ebs
    calls: list[Callable[[], Any]] = [
        lambda: ebs.list_snapshot_blocks(SnapshotId=pending),
        lambda: ebs.list_changed_blocks(FirstSnapshotId=parent, SecondSnapshotId=pending),
        lambda: ebs.list_changed_blocks(FirstSnapshotId=pending, SecondSnapshotId=parent),
        lambda: get(cloud, pending, 0, token),
    ]
    assert [refusal(call) for call in calls] == [WRONG_STATE] * 4


def test_unknown_and_malformed_ids(cloud: Cloud) -> None:
    client = cloud.client("ebs", validate=False)
    missing = "ResourceNotFoundException/SNAPSHOT_NOT_FOUND"
    assert refusal(lambda: client.list_snapshot_blocks(SnapshotId="snap-0aa")) == missing
    malformed = "ValidationException/INVALID_PARAMETER_VALUE"
    assert refusal(lambda: client.list_snapshot_blocks(SnapshotId="vol-1")) == malformed


def changes(cloud: Cloud, first: str, second: str) -> dict[int, tuple[bytes | None, bytes | None]]:
    """What ListChangedBlocks says, with the data that its tokens lead to."""
    page = cloud.ebs.list_changed_blocks(FirstSnapshotId=first, SecondSnapshotId=second)

    def read(snapshot_id: str, index: int, token: str | None) -> bytes | None:
        return get(cloud, snapshot_id, index, token)["BlockData"].read() if token else None

    return {
        entry["BlockIndex"]: (
            read(first, entry["BlockIndex"], entry.get("FirstBlockToken")),
            read(second, entry["BlockIndex"], entry.get("SecondBlockToken")),
        )
        for entry in page["ChangedBlocks"]
    }


def test_changes_are_found_in_both_directions(cloud: Cloud) -> None:
    parent = cloud.snapshot({0: A, 5: A})
    child = cloud.snapshot({5: B, 9: C, 2: A}, ParentSnapshotId=parent)
    forward = {2: (None, A), 5: (A, B), 9: (None, C)}
    assert changes(cloud, parent, child) == forward
    assert list(changes(cloud, parent, child)) == [2, 5, 9]
    assert changes(cloud, child, parent) == {i: (b, a) for i, (a, b) in forward.items()}


def test_block_written_again_counts_as_changed(cloud: Cloud) -> None:
    parent = cloud.snapshot({0: A, 1: A})
    child = cloud.snapshot({0: A}, ParentSnapshotId=parent)
    assert changes(cloud, parent, child) == {0: (A, A)}


def test_siblings_share_a_lineage_and_strangers_do_not(cloud: Cloud) -> None:
    parent, stranger = cloud.snapshot({0: A}), cloud.snapshot({0: A})
    one = cloud.snapshot({1: B}, ParentSnapshotId=parent)
    two = cloud.snapshot({2: C}, ParentSnapshotId=parent)
    assert changes(cloud, one, two) == {1: (B, None), 2: (None, C)}
    call = lambda: changes(cloud, parent, stranger)  # noqa: E731
    assert refusal(call) == "ValidationException/UNRELATED_SNAPSHOTS"


def test_changes_need_both_snapshots(cloud: Cloud) -> None:
    snapshot_id, client = cloud.snapshot({0: A}), cloud.client("ebs", validate=False)
    call = lambda: client.list_changed_blocks(SecondSnapshotId=snapshot_id)  # noqa: E731
    assert refusal(call) == "ValidationException/INVALID_PARAMETER_VALUE"


def test_changes_come_in_pages(cloud: Cloud, many: str) -> None:
    child = cloud.snapshot(dict.fromkeys(range(100, 230), A), ParentSnapshotId=many)
    found = pages(
        cloud.ebs.list_changed_blocks,
        FirstSnapshotId=many, SecondSnapshotId=child, MaxResults=100,
    )  # fmt: skip
    assert [indices(page) for page in found] == [list(range(100, 200)), list(range(200, 230))]


def test_snapshots_that_ec2_makes_are_readable(cloud: Cloud) -> None:
    source = cloud.snapshot({0: A, 7: B})
    volume = cloud.ec2.create_volume(AvailabilityZone="us-east-1a", SnapshotId=source)
    taken = cloud.ec2.create_snapshot(VolumeId=volume["VolumeId"])["SnapshotId"]
    copied = cloud.ec2.copy_snapshot(SourceSnapshotId=source, SourceRegion="us-east-1")
    assert cloud.blocks(taken) == {0: A, 7: B}
    assert cloud.blocks(copied["SnapshotId"]) == {0: A, 7: B}
    assert changes(cloud, source, taken) == {}


def test_deleted_snapshot_is_gone(cloud: Cloud) -> None:
    snapshot_id = cloud.snapshot({0: A})
    cloud.ec2.delete_snapshot(SnapshotId=snapshot_id)
    assert refusal(lambda: cloud.blocks(snapshot_id)) == (
        "ResourceNotFoundException/SNAPSHOT_NOT_FOUND"
    )
