"""Snapshots are started once, found again, and never built on what does not fit."""

import dataclasses

import pytest

from sandbox.aws import Quotas, Rules
from sandbox.aws.faults import FaultKind
from sealift.disk import Unwritten
from sealift.endpoints import SnapshotRef, SnapshotState, VmDisk
from sealift.errors import QuotaError, TargetError, TransientError
from sealift.units import GiB, MiB

from .conftest import DATA, ROOT, Account, OpenAccount, block, put

pytestmark = pytest.mark.sandbox

UNANSWERED = [FaultKind.ERROR_AFTER, FaultKind.RESET_AFTER, FaultKind.TRUNCATED]


def test_a_repeated_begin_finds_the_same_snapshot(account: Account) -> None:
    first = account.target().begin_snapshot(1, ROOT, None)
    assert account.target().begin_snapshot(1, ROOT, None) == first
    assert first.size == GiB
    assert account.target().snapshot_state(first.id) is SnapshotState.PENDING
    assert account.box.requests.count("StartSnapshot") == 1


def test_points_disks_and_migrations_have_snapshots_of_their_own(account: Account) -> None:
    ids = {
        account.target(migration).begin_snapshot(seq, disk, None).id
        for migration in ("mig-1", "mig-2")
        for seq in (1, 2)
        for disk in (ROOT, DATA)
    }
    assert len(ids) == 8


def test_tags_say_whose_it_is(account: Account) -> None:
    ref = account.target(tags={"team": "web"}).begin_snapshot(3, ROOT, None)
    snapshot = account.ec2.describe_snapshots(SnapshotIds=[ref.id])["Snapshots"][0]
    tags = {tag["Key"]: tag["Value"] for tag in snapshot["Tags"]}
    assert tags["sealift:migration"] == "mig-1"
    assert tags["sealift:point"] == "3"
    assert tags["sealift:disk"] == "vda"
    assert tags["team"] == "web"
    assert tags["Name"] == "sealift mig-1 point 3 disk vda"


@pytest.mark.fault(19)
@pytest.mark.parametrize("kind", UNANSWERED)
def test_a_lost_answer_starts_nothing_twice(account: Account, kind: FaultKind) -> None:
    account.fault(kind, "StartSnapshot")
    with pytest.raises(TransientError):
        account.target().begin_snapshot(1, ROOT, None)
    ref = account.target().begin_snapshot(1, ROOT, None)
    assert [ref.id] == account.target().owned()


@pytest.mark.fault(19)
def test_a_lost_answer_is_found_by_the_token_where_tags_are_not_visible_yet(
    account: Account,
) -> None:
    account.fault(FaultKind.RESET_AFTER, "StartSnapshot")
    with pytest.raises(TransientError):
        account.target().begin_snapshot(1, ROOT, None)
    made = account.target().owned()
    account.ec2.delete_tags(Resources=list(made), Tags=[{"Key": "sealift:point"}])
    assert [account.target().begin_snapshot(1, ROOT, None).id] == made


@pytest.mark.fault(26)
def test_a_snapshot_that_timed_out_is_left_behind_for_a_new_one(account: Account) -> None:
    target = account.target(snapshot_timeout_minutes=10)
    first = target.begin_snapshot(1, ROOT, None)
    account.clock.sleep(10 * 60 + 1)
    assert target.snapshot_state(first.id) is SnapshotState.FAILED
    second = target.begin_snapshot(1, ROOT, None)
    assert second.id != first.id
    assert target.snapshot_state(second.id) is SnapshotState.PENDING
    assert target.begin_snapshot(1, ROOT, None) == second
    assert sorted(target.sweep(frozenset())) == sorted([first.id, second.id])


@pytest.mark.fault(38)
def test_a_snapshot_that_somebody_deleted_is_started_anew(account: Account) -> None:
    first = account.target().begin_snapshot(1, ROOT, None)
    account.ec2.delete_snapshot(SnapshotId=first.id)
    account.clock.sleep(600)
    second = account.target().begin_snapshot(1, ROOT, None)
    assert second.id != first.id
    assert account.target().snapshot_state(first.id) is SnapshotState.MISSING


def test_volumes_are_whole_gib_and_a_child_keeps_its_parents_size(account: Account) -> None:
    target = account.target()
    parent = account.snapshot(target, {0: block("a")}, disk=VmDisk("vda", 2 * GiB - 512, "nvme"))
    assert parent.size == 2 * GiB
    smaller = target.begin_snapshot(2, VmDisk("vda", 700 * MiB, "nvme"), parent)
    assert smaller.size == 2 * GiB
    with pytest.raises(TargetError, match="no longer fits the volume"):
        target.begin_snapshot(2, VmDisk("vda", 2 * GiB + 1, "nvme"), parent)


def test_what_absent_blocks_read_as(account: Account) -> None:
    plain, sealed = account.target("plain"), account.target("sealed", encrypted=True)
    later = account.target("later", launch_encrypted=True)
    expected = {plain: Unwritten.ZERO, sealed: Unwritten.UNDEFINED, later: Unwritten.UNDEFINED}
    for target, unwritten in expected.items():
        ref = account.snapshot(target, {0: block("a")})
        child = target.begin_snapshot(2, ROOT, ref)
        assert target.writer(ref, None).caps.unwritten is unwritten
        assert target.writer(child, ref).caps.unwritten is Unwritten.BASE


def test_the_accounts_default_encryption_counts(account: Account) -> None:
    account.ec2.enable_ebs_encryption_by_default()
    ref = account.target().begin_snapshot(1, ROOT, None)
    assert account.target().writer(ref, None).caps.unwritten is Unwritten.UNDEFINED
    snapshot = account.ec2.describe_snapshots(SnapshotIds=[ref.id])["Snapshots"][0]
    assert snapshot["Encrypted"] is True


def test_the_promise_about_zeroes_outlives_a_change_of_the_account(account: Account) -> None:
    ref = account.target().begin_snapshot(1, ROOT, None)
    account.ec2.enable_ebs_encryption_by_default()
    assert account.target().writer(ref, None).caps.unwritten is Unwritten.ZERO


@pytest.mark.parametrize("change", ["plan encrypts", "plan encrypts at launch", "account encrypts"])
def test_a_parent_that_left_zeroes_out_is_refused_once_encryption_is_asked_for(
    account: Account, change: str
) -> None:
    parent = account.snapshot(account.target(), {0: block("a")})
    if change == "account encrypts":
        account.ec2.enable_ebs_encryption_by_default()
    target = account.target(
        encrypted=change == "plan encrypts", launch_encrypted=change == "plan encrypts at launch"
    )
    with pytest.raises(TargetError, match="read as noise") as caught:
        target.begin_snapshot(2, ROOT, parent)
    assert "full copy" in caught.value.next_step


def test_an_unencrypted_parent_of_an_encrypted_plan_is_refused(account: Account) -> None:
    parent = account.snapshot(account.target(launch_encrypted=True), {0: block("a")})
    with pytest.raises(TargetError, match="is not encrypted and the plan wants"):
        account.target(encrypted=True).begin_snapshot(2, ROOT, parent)


@pytest.mark.fault(38)
def test_a_parent_that_is_gone_or_pending_is_refused(account: Account) -> None:
    target = account.target()
    pending = target.begin_snapshot(1, ROOT, None)
    with pytest.raises(TargetError, match="is pending"):
        target.begin_snapshot(2, ROOT, pending)
    with pytest.raises(TargetError, match="is gone"):
        target.begin_snapshot(2, ROOT, SnapshotRef("snap-0123456789abcdef0", GiB))


def test_an_encrypted_snapshot_uses_the_key_of_the_plan(account: Account) -> None:
    kms = account.target().clients.kms
    key = kms.create_key()["KeyMetadata"]
    kms.create_alias(AliasName="alias/disks", TargetKeyId=key["KeyId"])
    for seq, name in enumerate((key["KeyId"], key["Arn"], "alias/disks"), start=1):
        target = account.target(encrypted=True, kms_key_id=name)
        ref = target.begin_snapshot(seq, ROOT, None)
        snapshot = account.ec2.describe_snapshots(SnapshotIds=[ref.id])["Snapshots"][0]
        assert snapshot["KmsKeyId"] == key["Arn"]
        parent = account.snapshot(target, {0: block("a")}, seq=seq)
        child = target.begin_snapshot(seq + 10, ROOT, parent)
        described = account.ec2.describe_snapshots(SnapshotIds=[child.id])["Snapshots"][0]
        assert described["KmsKeyId"] == key["Arn"]


@pytest.mark.fault(25)
def test_too_many_pending_snapshots_are_a_quota(open_account: OpenAccount) -> None:
    quotas = dataclasses.replace(Quotas.unlimited(), pending_snapshots=3)
    target = open_account(Rules(quotas=quotas)).target()
    for seq in range(3):
        target.begin_snapshot(seq, ROOT, None)
    with pytest.raises(QuotaError, match="pending snapshots") as caught:
        target.begin_snapshot(4, ROOT, None)
    assert "clean up" in caught.value.next_step


def test_a_snapshot_that_is_not_visible_yet_is_waited_for(open_account: OpenAccount) -> None:
    account = open_account(Rules(visibility_delay_seconds=60))
    target, retrier = account.target(), account.retrier()
    ref = target.begin_snapshot(1, ROOT, None)
    writer = retrier.call(lambda: target.writer(ref, None))
    data = block("a")
    blocks = retrier.call(lambda: put(writer, {0: data}))
    retrier.call(lambda: writer.commit(blocks))
    assert target.snapshot_state(ref.id) is SnapshotState.COMPLETED
    assert retrier.retries > 0


def test_only_own_snapshots_are_deleted(account: Account) -> None:
    other = account.target("mig-2").begin_snapshot(1, ROOT, None)
    with pytest.raises(TargetError, match="does not belong to mig-1"):
        account.target("mig-1").delete_snapshot(other.id)
    assert account.target().snapshot_state(other.id) is SnapshotState.PENDING
    account.target("mig-2").delete_snapshot(other.id)
    account.target("mig-2").delete_snapshot(other.id)
    assert account.target().snapshot_state(other.id) is SnapshotState.MISSING
