"""Rounds on a staging blob: what is given up is never built upon, and nobody else writes."""

import itertools

import pytest
from azure.storage.blob import BlobLeaseClient

from connectors.azure.chain import Chain, Chains, State
from connectors.azure.staging import Staging
from connectors.azure.target import AzureTarget
from sealift.endpoints import SnapshotState, VmDisk
from sealift.errors import (
    IntegrityError,
    LockedError,
    PointLostError,
    TargetError,
    TransientError,
)
from sealift.units import MiB, TiB

from .conftest import ROOT, ZERO, Subscription, block, joined, put

pytestmark = pytest.mark.sandbox

FIRST = {0: block("a"), 1: block("b"), 5: block("f")}
NUMBERS = itertools.count(1)


@pytest.fixture
def target(subscription: Subscription) -> AzureTarget:
    return subscription.target(f"staging-{next(NUMBERS)}")


def same(subscription: Subscription, target: AzureTarget) -> AzureTarget:
    """The same migration in another process."""
    return subscription.target(target._owner.migration_id)


def requests_of(target: AzureTarget) -> str:
    base = target._staging.chains.of(target._owner.blob_name("vda")).base
    assert base is not None
    assert base.label is not None
    return base.label.state.value


def test_what_an_aborted_round_wrote_is_not_built_upon(
    subscription: Subscription, target: AzureTarget
) -> None:
    """The guest put the old bytes back, so the engine leaves the block out: it must be old."""
    parent = subscription.snapshot(target, FIRST)
    given_up = target.begin_snapshot(2, ROOT, parent)
    put(target.writer(given_up, parent), {1: block("never"), 7: block("never")})
    target.delete_snapshot(given_up.id)
    child = subscription.snapshot(target, {2: block("c")}, seq=3, parent=parent)
    assert subscription.content(target, child) == joined(FIRST, {2: block("c")})
    assert subscription.content(target, parent) == joined(FIRST)


def test_what_a_killed_round_wrote_is_not_built_upon(
    subscription: Subscription, target: AzureTarget
) -> None:
    """Killed before it could give anything up."""
    parent = subscription.snapshot(target, FIRST)
    lost = target.begin_snapshot(2, ROOT, parent)
    put(target.writer(lost, parent), {1: block("never")})
    child = subscription.snapshot(same(subscription, target), {}, seq=3, parent=parent)
    assert subscription.content(target, child) == joined(FIRST)


def test_a_complete_point_that_was_given_up_is_not_built_upon(
    subscription: Subscription, target: AzureTarget
) -> None:
    """Another disk of its round failed."""
    parent = subscription.snapshot(target, FIRST)
    subscription.snapshot(target, {1: block("never")}, seq=2, parent=parent)
    child = subscription.snapshot(target, {}, seq=3, parent=parent)
    assert subscription.content(target, child) == joined(FIRST)


def test_an_aborted_first_round_leaves_nothing(
    subscription: Subscription, target: AzureTarget
) -> None:
    ref = target.begin_snapshot(1, ROOT, None)
    put(target.writer(ref, None), {1: block("never")})
    again = target.begin_snapshot(2, ROOT, None)
    target.writer(again, None).commit(())
    assert subscription.content(target, again) == joined({})


def test_zero_over_the_parent_is_zero(subscription: Subscription, target: AzureTarget) -> None:
    """Cleared, written as zeroes, and discarded at the end of the disk (Get Blob of each)."""
    parent = subscription.snapshot(target, {i: block(str(i)) for i in range(48)})
    ref = target.begin_snapshot(2, ROOT, parent)
    writer = target.writer(ref, parent)
    writer.zero(0, 3 * 65536)
    put(writer, {10: ZERO})
    writer.zero(40 * 65536, 8 * 65536)
    writer.commit(())
    expected = {i: block(str(i)) for i in range(48) if 2 < i < 40 and i != 10}
    assert subscription.content(target, ref) == joined(expected)
    kinds = [
        (e.start // 65536, e.end // 65536, e.kind.name)
        for e in target.reader(ref).extents(0, ROOT.size)
    ]
    assert kinds == [
        (0, 3, "ZERO"),
        (3, 10, "DATA"),
        (10, 11, "ZERO"),
        (11, 40, "DATA"),
        (40, 48, "ZERO"),
    ]
    assert subscription.content(target, parent) == joined({i: block(str(i)) for i in range(48)})


def test_a_straight_chain_copies_nothing(subscription: Subscription, target: AzureTarget) -> None:
    """The blob goes on being written in place: the generation of the base says so."""
    parent = subscription.snapshot(target, FIRST)
    name = target._owner.blob_name("vda")
    target.begin_snapshot(2, ROOT, parent)
    base = target._staging.chains.of(name).base
    assert base is not None
    assert base.copy_status == ""


def test_the_same_round_goes_on_after_a_kill(
    subscription: Subscription, target: AzureTarget
) -> None:
    ref = target.begin_snapshot(1, ROOT, None)
    writer = target.writer(ref, None)
    put(writer, {0: block("a")})
    other = same(subscription, target)
    assert other.begin_snapshot(1, ROOT, None) == ref
    again = other.writer(ref, None)
    assert again.identity == writer.identity
    put(again, {1: block("b")})
    again.commit(())
    assert subscription.content(target, ref) == joined({0: block("a"), 1: block("b")})


@pytest.mark.fault(28)
def test_a_process_thought_dead_cannot_write_to_the_next_round(
    subscription: Subscription, target: AzureTarget
) -> None:
    parent = subscription.snapshot(target, FIRST)
    old_ref = target.begin_snapshot(2, ROOT, parent)
    zombie = target.writer(old_ref, parent)
    child = same(subscription, target).begin_snapshot(3, ROOT, parent)
    with pytest.raises(LockedError):
        put(zombie, {1: block("late")})
    with pytest.raises(LockedError):
        zombie.zero(0, 65536)
    with pytest.raises(TargetError):
        zombie.commit(())
    same(subscription, target).writer(child, parent).commit(())
    assert subscription.content(target, child) == joined(FIRST)


@pytest.mark.fault(28)
def test_a_lease_that_another_writer_took_stops_us(
    subscription: Subscription, target: AzureTarget
) -> None:
    ref = target.begin_snapshot(1, ROOT, None)
    writer = target.writer(ref, None)
    with subscription.box.blob_service() as service:
        blob = service.get_blob_client(subscription.spec.container, target._owner.blob_name("vda"))
        BlobLeaseClient(blob).break_lease(0)
        BlobLeaseClient(blob).acquire()
        with pytest.raises(LockedError, match="another writer") as caught:
            put(writer, {0: block("a")})
        assert target._owner.blob_name("vda") in str(caught.value)
        with pytest.raises(LockedError):
            target.writer(ref, None)
        with pytest.raises(LockedError):
            target.begin_snapshot(1, ROOT, None)


@pytest.mark.fault(44)
def test_a_broken_lease_is_the_end_of_trust(
    subscription: Subscription, target: AzureTarget
) -> None:
    """Somebody wrote to the base between two rounds: the next one does not stand on that."""
    parent = subscription.snapshot(target, FIRST)
    with subscription.box.blob_service() as service:
        blob = service.get_blob_client(subscription.spec.container, target._owner.blob_name("vda"))
        BlobLeaseClient(blob).break_lease(0)
        blob.upload_page(block("stranger"), 65536, 65536)
    child = subscription.snapshot(target, {}, seq=2, parent=parent)
    assert subscription.content(target, child) == joined(FIRST)


def test_a_round_whose_lease_was_broken_is_given_up(
    subscription: Subscription, target: AzureTarget
) -> None:
    ref = target.begin_snapshot(1, ROOT, None)
    before = target.writer(ref, None).identity
    with subscription.box.blob_service() as service:
        blob = service.get_blob_client(subscription.spec.container, target._owner.blob_name("vda"))
        BlobLeaseClient(blob).break_lease(0)
    assert target.snapshot_state(ref.id) is SnapshotState.MISSING
    with pytest.raises(TargetError, match="lease"):
        target.writer(ref, None)
    assert target.begin_snapshot(1, ROOT, None) == ref
    assert target.writer(ref, None).identity != before  # no journal of the old bytes goes on


@pytest.mark.fault(1)
def test_a_lease_that_had_a_gap_confirms_nothing(
    subscription: Subscription, target: AzureTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another wrote meanwhile, and a run was killed once it had the lease again.

    The next one finds the lease its own, over bytes that are not the parent's.
    """
    parent = subscription.snapshot(target, FIRST)
    with subscription.box.blob_service() as service:
        blob = service.get_blob_client(subscription.spec.container, target._owner.blob_name("vda"))
        BlobLeaseClient(blob).break_lease(0)
        blob.upload_page(block("x"), 0, len(block("x")))

    def killed(*_: object) -> None:
        raise TransientError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(Staging, "_put_back", killed)
        with pytest.raises(TransientError, match="killed"):
            target.begin_snapshot(2, ROOT, parent)
    child = subscription.snapshot(same(subscription, target), {2: block("c")}, seq=2, parent=parent)
    assert subscription.content(target, child) == joined(FIRST, {2: block("c")})


@pytest.mark.fault(1)
def test_a_lease_of_a_round_that_never_came_to_write(
    subscription: Subscription, target: AzureTarget
) -> None:
    """Two runs in a row were killed after they had changed the lease and before the label."""
    parent = subscription.snapshot(target, FIRST)
    name = target._owner.blob_name("vda")
    base = target._staging.chains.of(name).base
    assert base is not None
    for seq in (2, 3):
        assert target._staging.leases.kept(name, seq, base.label)
    child = subscription.snapshot(target, {}, seq=4, parent=parent)
    assert subscription.content(target, child) == joined(FIRST)


def test_a_strangers_blob_is_never_overwritten(
    subscription: Subscription, target: AzureTarget
) -> None:
    with subscription.box.blob_service() as service:
        blob = service.get_blob_client(subscription.spec.container, target._owner.blob_name("vda"))
        blob.create_page_blob(MiB)
    with pytest.raises(TargetError, match="not made by this migration"):
        target.begin_snapshot(1, ROOT, None)
    target.delete_snapshot(f"{target._owner.blob_name('vda')}@1")
    with subscription.box.blob_service() as service:
        assert service.get_blob_client(
            subscription.spec.container, target._owner.blob_name("vda")
        ).exists()


@pytest.mark.fault(19)
def test_a_lost_answer_to_the_snapshot_makes_no_second_point(
    subscription: Subscription, target: AzureTarget
) -> None:
    """Two snapshots of one number: the first counts, the other is removed."""
    ref = subscription.snapshot(target, FIRST)
    name = target._owner.blob_name("vda")
    point = target._staging.point(ref.id)
    assert point is not None
    with subscription.box.blob_service() as service:
        blob = service.get_blob_client(subscription.spec.container, name)
        blob.create_snapshot(metadata=point.label.metadata(), lease=target._owner.lease_id(name, 1))
    assert len(target._staging.chains.of(name).points[1]) == 2
    target._staging.commit(ref.id, point.label.generation)
    assert target._staging.chains.of(name).points[1] == (point,)


def test_a_point_of_other_bytes_is_not_confirmed(
    subscription: Subscription, target: AzureTarget
) -> None:
    ref = subscription.snapshot(target, FIRST)
    with pytest.raises(IntegrityError):
        target._staging.commit(ref.id, "another")


@pytest.mark.fault(38)
def test_deleting_points(subscription: Subscription, target: AzureTarget) -> None:
    first = subscription.snapshot(target, FIRST)
    second = subscription.snapshot(target, {2: block("c")}, seq=2, parent=first)
    target.delete_snapshot(first.id)
    target.delete_snapshot(first.id)
    assert target.snapshot_state(first.id) is SnapshotState.MISSING
    with pytest.raises(PointLostError):
        target.reader(first)
    with pytest.raises(TargetError, match="gone"):
        target.begin_snapshot(3, ROOT, first)
    third = subscription.snapshot(target, {}, seq=4, parent=second)
    assert subscription.content(target, third) == joined(FIRST, {2: block("c")})
    target.delete_snapshot(second.id)
    target.delete_snapshot(third.id)
    assert target._staging.chains.below(f"{target._owner.migration_id}/") == {}


def test_deleting_an_old_point_does_not_disturb_the_round_under_way(
    subscription: Subscription, target: AzureTarget
) -> None:
    first = subscription.snapshot(target, FIRST)
    second = target.begin_snapshot(2, ROOT, first)
    writer = target.writer(second, first)
    put(writer, {2: block("c")})
    target.delete_snapshot(first.id)
    put(writer, {3: block("d")})
    writer.commit(())
    assert subscription.content(target, second) == joined(FIRST, {2: block("c"), 3: block("d")})
    assert requests_of(target) == State.DONE.value


@pytest.mark.fault(34)
def test_sizes(subscription: Subscription, target: AzureTarget) -> None:
    """Whole MiB, at most 8 TiB with the footer, and a child as large as its parent."""
    odd = VmDisk("odd", 2 * MiB + 512, "scsi-hd")
    assert target.begin_snapshot(1, odd, None).size == 3 * MiB == target.volume_size(odd.size)
    with pytest.raises(TargetError, match=r"8\.0 TiB"):
        target.begin_snapshot(1, VmDisk("huge", 8 * TiB, "scsi-hd"), None)
    parent = subscription.snapshot(target, FIRST)
    grown = VmDisk("vda", ROOT.size + 1, "virtio-blk")
    with pytest.raises(TargetError, match="parent"):
        target.begin_snapshot(2, grown, parent)


def test_of_another_migration(target: AzureTarget) -> None:
    with pytest.raises(TargetError, match="does not belong"):
        target.delete_snapshot("other/vda.vhd@1")


def test_a_snapshot_that_is_deleted_at_once_is_taken_again(subscription: Subscription) -> None:
    """Between Snapshot Blob and the look at it; a point without its snapshot is none."""
    target = subscription.target(f"deleted-{next(NUMBERS)}")
    ref = target.begin_snapshot(1, ROOT, None)
    writer = target.writer(ref, None)
    put(writer, {0: block("a")})
    staging, listed, looks = target._staging, Chains.of, 0

    def of(self: Chains, name: str) -> Chain:
        nonlocal looks
        looks += 1
        if looks == 2:
            for blob in subscription.clients.container.list_blobs(name, include=["snapshots"]):
                if blob.snapshot:
                    subscription.clients.blob(name, blob.snapshot).delete_blob()
        return listed(self, name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Chains, "of", of)
        with pytest.raises(TransientError, match="is not there"):
            writer.commit(())
    writer.commit(())
    assert staging.state(ref.id) is SnapshotState.COMPLETED
    assert subscription.content(target, ref) == joined({0: block("a")})
