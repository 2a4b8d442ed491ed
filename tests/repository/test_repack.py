"""Packs that are mostly needed no more: what is needed moves, the rest goes; killed anywhere."""

import random

import pytest

from sealift.errors import IntegrityError, TransientError
from sealift.repository.prune import PruneOptions, Pruner
from sealift.repository.reader import RepositoryReader
from sealift.repository.repack import Repacker, RepackReport
from sealift.repository.retention import Retention
from sealift.repository.session import Repository
from sealift.repository.tree import Tree
from sealift.sealing.chunks import ChunkKind
from sealift.testing.faults import Fault, Killed, Script, tapped
from sealift.testing.object_memory import MemoryObjectStore
from tests.conftest import Evidence
from tests.repository.conftest import CHUNK, World, content, memory_reader, point_of, written
from tests.repository.test_prune import DAY, add_point, healthy, noise, now_ms, objects, prune


def thinned() -> tuple[World, Tree, bytes]:
    """One live point that needs a third of the packs of an earlier one that is gone."""
    world = World()
    world.init()
    add_point(world, 1, noise(1, 60))
    kept = b"".join(noise(1, 60)[n * CHUNK : (n + 1) * CHUNK] for n in range(0, 60, 3))
    tree = add_point(world, 2, kept)
    prune(world)
    return world, tree, kept


def repack(world: World) -> RepackReport:
    return Repacker(world.open(writes=False)).run()


def stored(world: World) -> int:
    assert isinstance(world.store, MemoryObjectStore)
    return sum(i.size for i in world.store.list("packs/"))


def settle(world: World) -> None:
    """The quarantine passes, twice."""
    for _ in range(2):
        world.clock.sleep(8 * DAY)
        prune(world)


def test_what_is_needed_moves_and_the_rest_goes_after_the_quarantine() -> None:
    world, tree, kept = thinned()
    settle(world)
    before, old = stored(world), objects(world, "packs/")
    report = repack(world)
    assert report.chunks >= 20
    assert set(report.packs) <= old
    assert old <= objects(world, "packs/")  # nothing is deleted yet
    assert content(healthy(world), tree) == kept
    settle(world)
    assert not set(report.packs) & objects(world, "packs/")
    assert stored(world) < before / 2
    assert content(healthy(world), tree) == kept
    again = repack(world)
    assert (again.packs, again.stored_bytes) == ([], 0)


def test_a_sync_that_needs_what_was_not_copied_keeps_the_old_packs() -> None:
    world, _, _ = thinned()
    assert repack(world).packs
    whole = add_point(world, 3, noise(1, 60))
    settle(world)
    prune(world, Retention())
    assert content(healthy(world), whole) == noise(1, 60)


def test_a_point_that_is_published_meanwhile_makes_it_void() -> None:
    world, _, _ = thinned()
    repacker = Repacker(world.open(writes=False))
    put, other = repacker._put_index, world.other_host("other")

    def meanwhile(*args: object) -> object:
        repository = other.open()
        late = written(repository, memory_reader(noise(1, 60)), other.context())
        repository.publish(point_of(3, late, taken_ms=now_ms(world)), {})
        return put(*args)  # type: ignore[arg-type]

    repacker._put_index = meanwhile  # type: ignore[method-assign, assignment]
    with pytest.raises(TransientError, match="faster"):
        repacker.run()
    settle(world)
    repository = healthy(world)
    newest = repository.manifest(repository.head.commit.points[-1]).disks[0].tree
    assert content(repository, newest) == noise(1, 60)


def test_a_pack_with_a_damaged_chunk_is_left_as_it_is() -> None:
    world, _, _ = thinned()
    assert isinstance(world.store, MemoryObjectStore)
    packs = {row.name for row in world.open().index.packs() if row.kind is ChunkKind.DATA}
    for name in packs:
        data = bytearray(world.store.get(name))
        data[: len(data) // 2] = bytes(len(data) // 2)
        world.store.tamper(name, bytes(data))
    report = repack(world)
    assert report.damaged
    assert packs.isdisjoint(report.packs)
    assert packs <= objects(world, "packs/")


def test_killed_at_every_call_it_loses_nothing_and_the_next_one_goes_on(
    evidence: Evidence,
) -> None:
    number = done = 0
    while True:
        number += 1
        finished = True
        for fault in (Fault.KILL_BEFORE, Fault.KILL_AFTER):
            world, tree, kept = thinned()
            real, script = world.store, Script([(number, fault)])
            world.store = tapped(real, "objects", script)
            try:
                Repacker(world.open(writes=False)).run()
            except Killed:
                finished = False
            world.store = real
            if script.pending:
                continue
            assert content(healthy(world), tree) == kept
            repack(world)
            settle(world)
            assert content(healthy(world), tree) == kept
            live = {row.name for row in world.open().index.packs()}
            assert objects(world, "packs/") == live
            done += 1
        if finished:
            break
    assert done > 20
    evidence("repack kill points", f"{done}, unequal: 0")


@pytest.mark.fault(29)
def test_a_restore_goes_on_while_its_point_is_dropped_and_pruned() -> None:
    """What it reads stays for the quarantine; then it fails by name, never with other bytes."""
    world = World()
    world.init()
    first = add_point(world, 1, noise(1, 60))
    reader_host = world.other_host("restore")
    reader = RepositoryReader(reader_host.open(writes=False), first, "restore")
    half = bytearray(30 * CHUNK)
    reader.read_into(0, memoryview(half))
    add_point(world, 2, noise(2, 60))
    prune(world)
    repack(world)
    world.clock.sleep(6 * DAY)
    prune(world)
    rest = bytearray(30 * CHUNK)
    reader.read_into(30 * CHUNK, memoryview(rest))
    assert bytes(half + rest) == noise(1, 60)
    settle(world)
    opened_before = RepositoryReader(reader._repository, first, "opened before")
    opened_after = RepositoryReader(reader_host.open(writes=False), first, "opened after")
    for late in (opened_before, opened_after):
        with pytest.raises(IntegrityError, match=r"missing|no pack"):
            late.read_into(0, memoryview(half))


def test_random_histories_of_points_prunes_and_repacks_keep_every_live_point() -> None:
    for seed in range(6):
        rng, world = random.Random(seed), World()
        world.init()
        contents: dict[int, bytes] = {}
        for number in range(1, 9):
            data = b"".join(noise(rng.randrange(12), 6) for _ in range(8))
            add_point(world, number, data)
            contents[number] = data
            options = PruneOptions(quarantine_seconds=rng.choice([DAY, 7 * DAY]))
            Pruner(world.open(writes=False), options).run(Retention(last=3))
            if rng.random() < 0.6:
                Repacker(world.open(writes=False), below=rng.choice([0.3, 0.9])).run()
            world.clock.sleep(rng.choice([0.1, 3, 9]) * DAY)
        _equal(healthy(world), contents)


def _equal(repository: Repository, contents: dict[int, bytes]) -> None:
    assert len(repository.head.commit.points) == 3
    for ref in repository.head.commit.points:
        assert content(repository, repository.manifest(ref).disks[0].tree) == contents[ref.seq]
