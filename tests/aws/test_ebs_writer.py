"""Blocks land exactly as they were acknowledged, through crashes and bad answers."""

import hashlib
import os
import signal
import subprocess
import sys
from base64 import b64encode

import pytest

from connectors.aws.block_lists import BLOCK_BYTES
from connectors.aws.block_put import BlockSender
from sandbox.aws import Rules
from sandbox.aws.faults import FaultKind
from sealift.disk import Unwritten
from sealift.endpoints import SnapshotState, SourceVm
from sealift.errors import (
    CredentialsError,
    IntegrityError,
    SealiftError,
    StoppedError,
    TargetDeniedError,
    TargetError,
    ThrottledError,
    TransientError,
)
from sealift.extents import Extent, Kind
from sealift.ratelimit import TokenBucket
from sealift.sync import SyncContext, sync
from sealift.testing.memory import MemoryReader
from sealift.units import GiB

from .conftest import ROOT, ZERO, Account, OpenAccount, block, put, vm

pytestmark = pytest.mark.sandbox


def test_what_the_writer_promises(account: Account) -> None:
    target = account.target()
    ref = target.begin_snapshot(1, ROOT, None)
    caps = target.writer(ref, None).caps
    assert (caps.size, caps.block_size, caps.max_op_bytes) == (GiB, BLOCK_BYTES, BLOCK_BYTES)
    assert caps.whole_blocks
    assert caps.durable_writes
    assert caps.wants_digests
    assert not caps.native_zero
    assert target.writer(ref, None).identity == target.writer(ref, None).identity
    assert ref.id in target.writer(ref, None).identity


def test_blocks_land_where_they_were_written(account: Account) -> None:
    target = account.target()
    ref = account.snapshot(target, {0: block("a"), 5: block("b"), 2047: block("c")})
    reader = target.reader(ref)
    for index, data in ((0, block("a")), (1, ZERO), (5, block("b")), (2047, block("c"))):
        buffer = bytearray(BLOCK_BYTES)
        reader.read_into(index * BLOCK_BYTES, memoryview(buffer))
        assert buffer == data


def test_whole_buffers_and_parts_of_them_land_and_may_be_used_again(account: Account) -> None:
    target = account.target()
    ref = target.begin_snapshot(1, ROOT, None)
    writer = target.writer(ref, None)
    one, two = bytearray(BLOCK_BYTES), bytearray(2 * BLOCK_BYTES)
    digests: dict[int, bytes] = {}
    for index, text in enumerate("abcd"):
        one[:] = block(text)
        two[BLOCK_BYTES:] = block(text.upper())
        for at, view in ((index, memoryview(one)), (index + 9, memoryview(two)[BLOCK_BYTES:])):
            digests[at] = hashlib.sha256(view).digest()
            writer.write(at * BLOCK_BYTES, view, [digests[at]])
    writer.commit(sorted(digests.items()))
    reader, buffer = target.reader(ref), bytearray(BLOCK_BYTES)
    for index, text in enumerate("abcd"):
        for at, data in ((index, block(text)), (index + 9, block(text.upper()))):
            reader.read_into(at * BLOCK_BYTES, memoryview(buffer))
            assert buffer == data


@pytest.mark.parametrize(
    ("offset", "length", "digests"),
    [
        (1, BLOCK_BYTES, 1),
        (0, BLOCK_BYTES - 1, 1),
        (0, BLOCK_BYTES, 0),
        (0, BLOCK_BYTES, 2),
        (GiB, BLOCK_BYTES, 1),
    ],
)
def test_writes_off_the_grid_are_a_bug_of_the_caller(
    account: Account, offset: int, length: int, digests: int
) -> None:
    target = account.target()
    writer = target.writer(target.begin_snapshot(1, ROOT, None), None)
    with pytest.raises(ValueError, match="write of"):
        writer.write(offset, memoryview(bytes(length)), [bytes(32)] * digests)
    assert account.box.requests.count("PutSnapshotBlock") == 0


def test_a_second_process_goes_on_where_the_first_was_killed(account: Account) -> None:
    script = """
import hashlib, os, signal, sys
from connectors.aws.spec import AwsSpec
from connectors.aws.target import AwsTarget
from sealift.clock import SystemClock
from sealift.endpoints import VmDisk
target = AwsTarget(AwsSpec(sys.argv[1], (sys.argv[2],)), "mig-1", SystemClock())
ref = target.begin_snapshot(1, VmDisk("vda", 700 * 1024**2, "virtio-blk"), None)
writer = target.writer(ref, None)
data = b"x" * 524288
for index in (0, 3):
    writer.write(index * 524288, memoryview(data), [hashlib.sha256(data).digest()])
print(ref.id, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    spec = account.spec
    child = subprocess.run(
        [sys.executable, "-c", script, spec.subnet_id, spec.security_group_ids[0]],
        capture_output=True,
        timeout=60,
        env=dict(os.environ),
        cwd=os.getcwd(),
        text=True,
    )
    assert child.returncode == -signal.SIGKILL, child.stderr
    target = account.target()
    ref = target.begin_snapshot(1, ROOT, None)
    assert ref.id == child.stdout.strip()
    writer = target.writer(ref, None)
    before = [(i, hashlib.sha256(b"x" * BLOCK_BYTES).digest()) for i in (0, 3)]
    writer.commit(sorted([*before, *put(writer, {1: block("b")})]))
    assert target.owned() == [ref.id]
    buffer = bytearray(4 * BLOCK_BYTES)
    target.reader(ref).read_into(0, memoryview(buffer))
    assert buffer == b"x" * BLOCK_BYTES + block("b") + ZERO + b"x" * BLOCK_BYTES


def test_a_block_may_be_put_again_with_other_bytes_before_commit(account: Account) -> None:
    target = account.target()
    ref = target.begin_snapshot(1, ROOT, None)
    writer = target.writer(ref, None)
    put(writer, {7: block("old")})
    writer.commit(put(writer, {7: block("new")}))
    buffer = bytearray(BLOCK_BYTES)
    target.reader(ref).read_into(7 * BLOCK_BYTES, memoryview(buffer))
    assert buffer == block("new")


def test_zeroes_over_the_parents_data_land_as_zeroes(account: Account) -> None:
    target = account.target()
    parent = account.snapshot(target, {0: block("a"), 1: block("b"), 2: block("c")})
    child = account.snapshot(target, {1: ZERO}, seq=2, parent=parent)
    image = target.publish(2, _one_disk(), {"vda": child})
    instance = target.launch(2, 1, image, _one_disk())
    landed = account.volume_bytes(account.volumes_of(instance)[0], 4)
    assert landed == block("a") + ZERO + block("c") + ZERO


def _one_disk() -> SourceVm:

    return vm(disks=(ROOT,))


def test_an_encrypted_snapshot_gets_every_zero_block(account: Account) -> None:
    """Through the engine: the whole volume is sent, and nothing reads as noise."""
    target = account.target(encrypted=True)
    ref = target.begin_snapshot(1, ROOT, None)
    reader = MemoryReader(
        block("a") + bytes(ROOT.size - BLOCK_BYTES),
        extents=[
            Extent(0, BLOCK_BYTES, Kind.DATA),
            Extent(BLOCK_BYTES, ROOT.size - BLOCK_BYTES, Kind.ZERO),
        ],
    )
    report = sync(reader, target.writer(ref, None), SyncContext(account.clock))
    assert len(list(report.blocks.items())) == GiB // BLOCK_BYTES
    image = target.publish(1, _one_disk(), {"vda": ref})
    instance = target.launch(1, 1, image, _one_disk())
    volume = account.volumes_of(instance)[0]
    assert account.volume_bytes(volume, 2048) == block("a") + bytes(2047 * BLOCK_BYTES)


def test_an_unencrypted_snapshot_is_sent_without_its_zeroes(account: Account) -> None:
    target = account.target()
    ref = target.begin_snapshot(1, ROOT, None)
    content = bytearray(ROOT.size)
    content[5 * BLOCK_BYTES : 6 * BLOCK_BYTES] = block("a")
    sync(MemoryReader(bytes(content)), target.writer(ref, None), SyncContext(account.clock))
    assert account.box.requests.count("PutSnapshotBlock") == 1
    buffer = bytearray(ROOT.size)
    target.reader(ref).read_into(0, memoryview(buffer))
    assert buffer == content


BEFORE = [
    FaultKind.ERROR_BEFORE,
    FaultKind.RESET_BEFORE,
    FaultKind.OK_WITH_ERROR_BODY,
    FaultKind.OK_WITH_PROXY_PAGE,
    FaultKind.EMPTY_BODY,
    FaultKind.THROTTLE,
]
AFTER = [FaultKind.ERROR_AFTER, FaultKind.RESET_AFTER]


@pytest.mark.fault(18, 19)
@pytest.mark.parametrize("kind", [*BEFORE, *AFTER])
def test_a_put_that_was_not_confirmed_is_transient_and_safe_to_repeat(
    account: Account, kind: FaultKind
) -> None:
    target = account.target()
    ref = target.begin_snapshot(1, ROOT, None)
    writer = target.writer(ref, None)
    account.fault(kind, "PutSnapshotBlock")
    with pytest.raises(TransientError):
        put(writer, {0: block("a")})
    writer.commit(put(writer, {0: block("a")}))
    assert target.snapshot_state(ref.id) is SnapshotState.COMPLETED
    assert not account.box.faults.unexercised()


@pytest.mark.fault(19)
@pytest.mark.parametrize("operation", ["CompleteSnapshot", "CreateTags", "DescribeSnapshots"])
@pytest.mark.parametrize("kind", [*BEFORE, *AFTER, FaultKind.TRUNCATED])
def test_an_interrupted_commit_is_repeated_until_it_is_known(
    account: Account, operation: str, kind: FaultKind
) -> None:
    target = account.target()
    ref = target.begin_snapshot(1, ROOT, None)
    writer = target.writer(ref, None)
    blocks = put(writer, {0: block("a"), 9: block("b")})
    account.fault(kind, operation)
    with pytest.raises(TransientError):
        writer.commit(blocks)
    account.target().writer(ref, None).commit(blocks)
    assert target.snapshot_state(ref.id) is SnapshotState.COMPLETED
    assert not account.box.faults.unexercised()


def test_commit_waits_until_the_snapshot_is_completed(open_account: OpenAccount) -> None:
    account = open_account(Rules(completing_delay_seconds=90))
    target = account.target()
    ref = account.snapshot(target, {0: block("a")})
    assert target.snapshot_state(ref.id) is SnapshotState.COMPLETED
    assert account.clock.monotonic() >= 90


def test_commit_gives_up_waiting_and_goes_on_when_called_again(open_account: OpenAccount) -> None:
    account = open_account(Rules(completing_delay_seconds=90))
    target = account.target(complete_timeout_seconds=10.0)
    ref = target.begin_snapshot(1, ROOT, None)
    writer = target.writer(ref, None)
    blocks = put(writer, {0: block("a")})
    with pytest.raises(TransientError, match="took longer than 10 seconds"):
        writer.commit(blocks)
    account.target().writer(ref, None).commit(blocks)
    assert target.snapshot_state(ref.id) is SnapshotState.COMPLETED
    assert account.box.requests.count("CompleteSnapshot") == 2


def test_a_stop_ends_the_wait(open_account: OpenAccount) -> None:
    from connectors.aws.target import AwsTarget
    from sealift.cancel import CancelToken

    account = open_account(Rules(completing_delay_seconds=90))
    cancel = CancelToken()
    target = AwsTarget(account.spec, "mig-1", account.clock, cancel=cancel)
    writer = target.writer(target.begin_snapshot(1, ROOT, None), None)
    blocks = put(writer, {0: block("a")})
    cancel.cancel("ctrl-c")
    with pytest.raises(StoppedError):
        writer.commit(blocks)


@pytest.mark.fault(44)
def test_other_blocks_than_ebs_holds_are_an_integrity_error(account: Account) -> None:
    target = account.target()
    ref = target.begin_snapshot(1, ROOT, None)
    writer = target.writer(ref, None)
    blocks = put(writer, {0: block("a"), 1: block("b")})
    swapped = [(0, blocks[1][1]), (1, blocks[0][1])]
    for wrong in (blocks[:1], swapped, [*blocks, (2, blocks[0][1])], []):
        with pytest.raises(IntegrityError, match="EBS refuses to complete") as caught:
            writer.commit(wrong)
        assert caught.value.operands["snapshot_id"] == ref.id
    assert target.snapshot_state(ref.id) is SnapshotState.PENDING
    writer.commit(blocks)


@pytest.mark.fault(44)
def test_a_completed_snapshot_is_checked_against_what_this_run_wrote(account: Account) -> None:
    target = account.target()
    ref = target.begin_snapshot(1, ROOT, None)
    writer = target.writer(ref, None)
    blocks = put(writer, {0: block("a"), 1: block("b")})
    writer.commit(blocks)
    writer.commit(iter(blocks))
    with pytest.raises(IntegrityError, match="completed over other blocks"):
        writer.commit(blocks[:1])


def test_an_empty_delta_commits(account: Account) -> None:
    target = account.target()
    parent = account.snapshot(target, {0: block("a")})
    child = account.snapshot(target, {}, seq=2, parent=parent)
    buffer = bytearray(BLOCK_BYTES)
    target.reader(child).read_into(0, memoryview(buffer))
    assert buffer == block("a")


def test_the_total_is_the_linear_one_of_the_interface(account: Account) -> None:
    target = account.target()
    ref = account.snapshot(target, {3: block("a"), 4: block("b")})
    raw = hashlib.sha256(block("a")).digest() + hashlib.sha256(block("b")).digest()
    total = b64encode(hashlib.sha256(raw).digest()).decode()
    snapshot = account.ec2.describe_snapshots(SnapshotIds=[ref.id])["Snapshots"][0]
    tags = {tag["Key"]: tag["Value"] for tag in snapshot["Tags"]}
    assert tags["sealift:sealed"] == f"2:{total}"


def test_blocks_out_of_order_are_a_bug_of_the_caller(account: Account) -> None:
    target = account.target()
    writer = target.writer(target.begin_snapshot(1, ROOT, None), None)
    with pytest.raises(ValueError, match="ascending"):
        writer.commit([(1, bytes(32)), (0, bytes(32))])


@pytest.mark.fault(23)
def test_expired_credentials_are_named_and_the_next_run_goes_on(account: Account) -> None:
    target = account.target()
    ref = target.begin_snapshot(1, ROOT, None)
    writer = target.writer(ref, None)
    before = put(writer, {0: block("a")})
    account.fault(FaultKind.EXPIRED_TOKEN, "PutSnapshotBlock")
    with pytest.raises(CredentialsError, match="ExpiredTokenException") as caught:
        put(writer, {1: block("b")})
    assert "renew the credentials" in caught.value.next_step
    assert caught.value.exit_code == 32
    again = account.target()
    after = put(again.writer(ref, None), {1: block("b")})
    again.writer(ref, None).commit([*before, *after])


@pytest.mark.fault(24)
def test_a_throttled_put_carries_the_services_delay(account: Account) -> None:
    target = account.target()
    writer = target.writer(target.begin_snapshot(1, ROOT, None), None)
    account.fault(FaultKind.THROTTLE, "PutSnapshotBlock", retry_after_seconds=7)
    with pytest.raises(ThrottledError) as caught:
        put(writer, {0: block("a")})
    assert caught.value.retry_after_seconds == 7
    assert caught.value.operands["aws_reason"] == "ACCOUNT_THROTTLED"


@pytest.mark.fault(23)
def test_a_missing_permission_names_the_call(account: Account) -> None:
    target = account.target()
    writer = target.writer(target.begin_snapshot(1, ROOT, None), None)
    account.fault(FaultKind.ACCESS_DENIED, "PutSnapshotBlock")
    with pytest.raises(TargetDeniedError, match="ebs:PutSnapshotBlock") as caught:
        put(writer, {0: block("a")})
    assert "allow ebs:PutSnapshotBlock" in caught.value.next_step


@pytest.mark.fault(14, 15)
def test_a_silent_service_is_given_up(open_account: OpenAccount) -> None:
    account = open_account()
    target = account.target(read_timeout_seconds=3.0)
    writer = target.writer(target.begin_snapshot(1, ROOT, None), None)
    account.fault(FaultKind.STALL, "PutSnapshotBlock", seconds=60.0)
    with pytest.raises(TransientError):
        put(writer, {0: block("a")})


def test_a_snapshot_that_is_gone_is_transient_only_while_it_is_young(account: Account) -> None:
    target = account.target()
    ref = target.begin_snapshot(1, ROOT, None)
    writer = target.writer(ref, None)
    account.ec2.delete_snapshot(SnapshotId=ref.id)
    for attempt in (lambda: put(writer, {0: block("a")}), lambda: writer.commit([])):
        with pytest.raises(TransientError):
            attempt()
    account.clock.sleep(200)
    for attempt in (lambda: put(writer, {0: block("a")}), lambda: writer.commit([])):
        with pytest.raises(TargetError, match="is gone") as caught:
            attempt()
        assert "starts a new snapshot" in caught.value.next_step


@pytest.mark.fault(26)
def test_a_snapshot_that_timed_out_takes_nothing_any_more(account: Account) -> None:
    target = account.target(snapshot_timeout_minutes=10)
    ref = target.begin_snapshot(1, ROOT, None)
    writer = target.writer(ref, None)
    blocks = put(writer, {0: block("a")})
    account.clock.sleep(601)
    with pytest.raises(TargetError):
        put(writer, {1: block("b")})
    with pytest.raises(TargetError, match="ended in state error"):
        writer.commit(blocks)


def test_abort_deletes_and_may_be_repeated(account: Account) -> None:
    target = account.target()
    ref = target.begin_snapshot(1, ROOT, None)
    writer = target.writer(ref, None)
    writer.abort()
    writer.abort()
    assert target.owned() == []


@pytest.mark.fault(24)
def test_the_accounts_rate_is_kept_before_every_put(account: Account) -> None:
    from connectors.aws.target import AwsTarget

    bucket = TokenBucket(2, 1, account.clock)
    target = AwsTarget(account.spec, "mig-1", account.clock, put_limit=bucket)
    writer = target.writer(target.begin_snapshot(1, ROOT, None), None)
    started = account.clock.monotonic()
    put(writer, {index: block(str(index)) for index in range(5)})
    assert account.clock.monotonic() - started == pytest.approx(2.0, abs=0.01)


def test_native_zero_is_not_offered(account: Account) -> None:
    target = account.target()
    writer = target.writer(target.begin_snapshot(1, ROOT, None), None)
    with pytest.raises(NotImplementedError):
        writer.zero(0, BLOCK_BYTES)
    writer.flush()
    writer.close()
    assert writer.caps.unwritten is Unwritten.ZERO


def test_every_error_is_of_the_tree(account: Account) -> None:
    """One error code of each class that the model names, at both block calls."""
    target = account.target()
    ref = target.begin_snapshot(1, ROOT, None)
    writer = target.writer(ref, None)
    codes = [
        ("AccessDeniedException", 403),
        ("ValidationException", 400),
        ("ResourceNotFoundException", 404),
        ("RequestThrottledException", 400),
        ("ServiceQuotaExceededException", 402),
        ("InternalServerException", 500),
    ]
    for code, status in codes:
        account.fault(FaultKind.API_ERROR, "PutSnapshotBlock", code=code, status=status)
        with pytest.raises(SealiftError) as caught:
            put(writer, {0: block("a")})
        assert caught.value.operands["aws_code"] == code
    assert not account.box.faults.unexercised()


@pytest.mark.fault(18)
@pytest.mark.parametrize("confirmed", [None, b64encode(bytes(32)).decode()])
def test_a_block_that_is_not_confirmed_as_sent_is_to_be_repeated(
    account: Account, monkeypatch: pytest.MonkeyPatch, confirmed: str | None
) -> None:
    target = account.target()
    writer = target.writer(target.begin_snapshot(1, ROOT, None), None)
    monkeypatch.setattr(BlockSender, "put", lambda *_: confirmed)
    data = block("sent")
    with pytest.raises(TransientError, match="did not confirm"):
        writer.write(0, memoryview(data), [hashlib.sha256(data).digest()])
