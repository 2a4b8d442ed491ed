"""Pruning: two commits with a quarantine between, beside writers that build on what goes."""

import random
from dataclasses import replace
from datetime import timedelta

import pytest

from sealift.errors import (
    ChunksGoneError,
    IntegrityError,
    PruneRefusedError,
    TargetDeniedError,
    UsageError,
)
from sealift.repository.check import Checker
from sealift.repository.commits import Head
from sealift.repository.prune import PruneOptions, Pruner, PruneReport, drop_points, pin_point
from sealift.repository.retention import Retention
from sealift.repository.session import Repository
from sealift.repository.tree import Tree
from sealift.testing.object_memory import MemoryObjectStore
from tests.repository.conftest import CHUNK, World, content, memory_reader, point_of, written

DAY = 86_400.0
LAST = Retention(last=1)


def noise(seed: int, chunks: int = 30) -> bytes:
    return random.Random(seed).randbytes(chunks * CHUNK)


def now_ms(world: World) -> int:
    return int(world.clock.now().timestamp() * 1000)


def add_point(world: World, number: int, data: bytes) -> Tree:
    """A point of its own process, an hour after the one before."""
    world.clock.sleep(3600)
    repository = world.open()
    tree = written(repository, memory_reader(data), world.context(), identity=f"disk-{number}")
    repository.publish(point_of(number, tree, taken_ms=now_ms(world)), {})
    return tree


def prune(world: World, policy: Retention = LAST, **options: object) -> PruneReport:
    repository = world.open(writes=False)
    return Pruner(repository, PruneOptions(**options)).run(policy)  # type: ignore[arg-type]


def objects(world: World, prefix: str) -> set[str]:
    assert isinstance(world.store, MemoryObjectStore)
    return {name for name in world.store.objects if name.startswith(prefix)}


def healthy(world: World) -> Repository:
    repository = world.open(writes=False)
    assert Checker(repository, read_share=1.0).run().damage == ()
    return repository


def test_what_no_point_needs_goes_after_the_quarantine_and_not_before(world: World) -> None:
    world.init()
    add_point(world, 1, noise(1))
    old = objects(world, "packs/")
    tree = add_point(world, 2, noise(2))
    report = prune(world)
    assert [p.seq for p in report.dropped] == [1]
    assert old <= set(report.condemned)
    assert old <= objects(world, "packs/")
    world.clock.sleep(6.9 * DAY)
    assert prune(world).doomed == ()
    world.clock.sleep(0.2 * DAY)
    report = prune(world)
    assert old <= set(report.doomed)
    assert not old & objects(world, "packs/")
    assert content(healthy(world), tree) == noise(2)


def test_a_prune_that_finds_nothing_to_do_writes_nothing(world: World) -> None:
    world.init()
    add_point(world, 1, noise(1))
    before = objects(world, "")
    report = prune(world)
    assert (report.dropped, report.condemned, report.doomed) == ((), (), ())
    assert objects(world, "") == before


def test_a_preview_changes_nothing(world: World) -> None:
    world.init()
    add_point(world, 1, noise(1))
    add_point(world, 2, noise(2))
    before = objects(world, "")
    report = Pruner(world.open(writes=False)).preview(LAST)
    assert [p.seq for p in report.dropped] == [1]
    assert report.condemned_bytes > 20 * CHUNK
    assert objects(world, "") == before


@pytest.mark.fault(29)
def test_a_sync_that_builds_on_condemned_packs_rescues_them(world: World) -> None:
    world.init()
    add_point(world, 1, noise(1))
    old = objects(world, "packs/")
    add_point(world, 2, noise(2))
    prune(world)
    tree = add_point(world, 3, noise(1))  # the same content again: nothing is sent
    assert not {c.name for c in world.open().head.commit.condemned} & old
    world.clock.sleep(8 * DAY)
    report = prune(world)
    assert not set(report.doomed) & old
    assert content(healthy(world), tree) == noise(1)


@pytest.mark.fault(29)
def test_a_sync_that_began_before_and_commits_after_the_doom_is_refused(world: World) -> None:
    world.init()
    first = add_point(world, 1, noise(1))
    add_point(world, 2, noise(2))
    slow = world.other_host("slow")
    repository = slow.open()
    tree = written(repository, memory_reader(noise(1)), slow.context())
    assert tree == first
    prune(world)
    world.clock.sleep(8 * DAY)
    prune(world)
    with pytest.raises(ChunksGoneError):
        repository.publish(point_of(3, tree, taken_ms=now_ms(world)), {})
    tree = written(repository, memory_reader(noise(1)), slow.context(), identity="again")
    repository.publish(point_of(4, tree, taken_ms=now_ms(world)), {})
    assert content(healthy(world), tree) == noise(1)


@pytest.mark.fault(29)
def test_a_base_that_was_dropped_meanwhile_is_rescued_with_all_that_is_shared(
    world: World,
) -> None:
    world.init()
    base = add_point(world, 1, noise(1))
    slow = world.other_host("slow")
    repository = slow.open()
    data = noise(3, 1) + noise(1)[CHUNK:]
    tree = written(repository, memory_reader(data), slow.context(), base=base)
    add_point(world, 2, noise(2))
    prune(world)
    bases = {"disk0": (point_of(1, base).id, base)}
    repository.publish(point_of(3, tree, taken_ms=now_ms(world)), bases)
    world.clock.sleep(8 * DAY)
    prune(world)
    assert content(healthy(world), tree) == data


@pytest.mark.fault(29)
def test_packs_of_a_sync_under_way_are_condemned_and_rescued(world: World) -> None:
    world.init()
    add_point(world, 1, noise(1))
    slow = world.other_host("slow")
    repository = slow.open()
    tree = written(repository, memory_reader(noise(2)), slow.context())
    assert prune(world).condemned
    repository.publish(point_of(2, tree, taken_ms=now_ms(world)), {})
    world.clock.sleep(8 * DAY)
    prune(world)
    assert content(healthy(world), tree) == noise(2)


def test_what_a_dead_sync_left_is_removed(world: World) -> None:
    world.init()
    add_point(world, 1, noise(1))
    before = objects(world, "packs/")
    dead = world.other_host("dead")
    written(dead.open(), memory_reader(noise(2)), dead.context())
    assert objects(world, "packs/") > before
    prune(world)
    world.clock.sleep(8 * DAY)
    prune(world)
    assert objects(world, "packs/") == before
    tree = written(dead.open(), memory_reader(noise(2)), dead.context(), identity="later")
    late = dead.open()
    late.publish(point_of(2, tree, taken_ms=now_ms(world)), {})
    assert content(healthy(world), tree) == noise(2)


@pytest.mark.fault(58)
def test_removing_many_points_at_once_has_to_be_allowed(world: World) -> None:
    world.init()
    for number in range(1, 9):
        add_point(world, number, noise(number, 2))
    with pytest.raises(PruneRefusedError, match="7 of 8"):
        prune(world)
    assert len(world.open().head.commit.points) == 8
    assert len(prune(world, mass_removal=True).dropped) == 7


@pytest.mark.fault(58, 11)
def test_a_point_or_commit_of_the_future_stops_a_prune(world: World) -> None:
    world.init()
    add_point(world, 1, noise(1))
    repository = world.open()
    tree = written(repository, memory_reader(noise(2)), world.context(), identity="planted")
    year = 365 * 86_400_000
    repository.publish(point_of(2, tree, taken_ms=now_ms(world) + year), {})
    with pytest.raises(PruneRefusedError, match="future"):
        prune(world)
    drop_points(world.open(), [(2).to_bytes(16, "big")])
    prune(world)
    world.clock.jump(timedelta(days=-3653))
    with pytest.raises(PruneRefusedError, match="future"):
        prune(world)


def test_pinned_points_stay_until_they_are_unpinned(world: World) -> None:
    world.init()
    add_point(world, 1, noise(1))
    add_point(world, 2, noise(2))
    first = (1).to_bytes(16, "big")
    pin_point(world.open(), first, pinned=True)
    assert prune(world).dropped == ()
    with pytest.raises(UsageError, match="pinned"):
        drop_points(world.open(), [first])
    pin_point(world.open(), first, pinned=False)
    assert [p.seq for p in prune(world).dropped] == [1]
    with pytest.raises(UsageError, match="no point"):
        pin_point(world.open(), first, pinned=True)


def test_a_pin_that_comes_between_looking_and_dropping_counts(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.init()
    add_point(world, 1, noise(1))
    add_point(world, 2, noise(2))
    first = (1).to_bytes(16, "big")
    repository, other = world.open(), world.other_host("other").open()
    looked = repository.log.head

    def pinned_meanwhile() -> Head:
        head = looked()
        monkeypatch.setattr(repository.log, "head", looked)
        pin_point(other, first, pinned=True)
        return head

    monkeypatch.setattr(repository.log, "head", pinned_meanwhile)
    with pytest.raises(UsageError, match="pinned"):
        drop_points(repository, [first])
    assert len(world.open().head.commit.points) == 2


@pytest.mark.fault(29)
def test_a_base_that_is_dropped_by_hand_beside_a_running_sync_keeps_what_both_share(
    world: World,
) -> None:
    world.init()
    base = add_point(world, 1, noise(1))
    add_point(world, 2, noise(2))
    slow = world.other_host("slow")
    repository = slow.open()
    data = noise(3, 1) + noise(1)[CHUNK:]
    tree = written(repository, memory_reader(data), slow.context(), base=base)
    first = point_of(1, base).id
    drop_points(world.open(), [first])
    prune(world)
    repository.publish(point_of(3, tree, taken_ms=now_ms(world)), {"disk0": (first, base)})
    world.clock.sleep(8 * DAY)
    prune(world, Retention())
    assert content(healthy(world), tree) == data


def test_what_the_store_has_under_a_lock_is_dropped_when_that_ends(world: World) -> None:
    assert isinstance(world.store, MemoryObjectStore)
    world.options = replace(world.options, lock_seconds=30 * DAY)
    world.init()
    add_point(world, 1, noise(1))
    add_point(world, 2, noise(2))
    first = (1).to_bytes(16, "big")
    world.clock.sleep(29 * DAY)
    with pytest.raises(UsageError, match="under a lock"):
        drop_points(world.open(), [first])
    planted = written(world.open(), memory_reader(noise(3)), world.context(), identity="planted")
    year = 365 * 86_400_000
    world.open().publish(point_of(3, planted, taken_ms=now_ms(world) + year), {})
    drop_points(world.open(), [(3).to_bytes(16, "big")])
    world.clock.sleep(1 * DAY)
    drop_points(world.open(), [first])
    assert [p.seq for p in world.open().head.commit.points] == [2]


@pytest.mark.fault(45)
def test_nothing_is_pruned_while_a_live_point_cannot_be_read(world: World) -> None:
    assert isinstance(world.store, MemoryObjectStore)
    world.init()
    before = objects(world, "points/")
    add_point(world, 1, noise(1))
    add_point(world, 2, noise(2))
    newest = world.open().head.commit.points[-1].manifest
    assert newest not in before
    world.store.tamper(newest, b"damaged")
    with pytest.raises(IntegrityError):
        prune(world)
    assert len(world.open().head.commit.points) == 2


class LockedStore(MemoryObjectStore):
    def delete(self, name: str) -> None:
        raise TargetDeniedError(f"{name} is locked")


def test_what_a_lock_holds_stays_doomed_until_it_is_gone(world: World) -> None:
    assert isinstance(world.store, MemoryObjectStore)
    world.init()
    add_point(world, 1, noise(1))
    add_point(world, 2, noise(2))
    prune(world)
    world.clock.sleep(8 * DAY)
    world.store.__class__ = LockedStore
    denied = prune(world).denied
    assert denied
    assert set(prune(world).denied) == set(denied)
    world.store.__class__ = MemoryObjectStore
    assert prune(world).deleted == len(denied)
    assert not set(denied) & objects(world, "")
    assert world.open().head.commit.doomed == ()


def test_old_commits_go(world: World) -> None:
    world.init()
    add_point(world, 1, noise(1, 2))
    first = (1).to_bytes(16, "big")
    for n in range(70):
        pin_point(world.open(), first, pinned=n % 2 == 0)
    prune(world)
    assert len(objects(world, "commits/")) <= 66
    assert content(
        healthy(world), world.open().manifest(world.open().head.commit.points[0]).disks[0].tree
    ) == noise(1, 2)
