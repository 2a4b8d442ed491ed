"""From a disk into a repository and back: points, increments, deduplication, resume."""

import hashlib
import os
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sealift.errors import (
    IntegrityError,
    ObjectExistsError,
    RepositoryRolledBackError,
    TargetError,
)
from sealift.extents import Extent, Kind
from sealift.objects import StoreCaps
from sealift.repository.commits import Witness
from sealift.repository.reader import RepositoryReader
from sealift.repository.session import Repository
from sealift.repository.tree import Tree, runs
from sealift.sealing.keys import KeyRing, RootKey
from sealift.store import FileStateStore
from sealift.testing.object_memory import MemoryObjectStore
from tests.repository.conftest import (
    CHUNK,
    World,
    content,
    memory_reader,
    point_of,
    ring_of,
    written,
)  # fmt: skip


def noise(chunks: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(chunks * CHUNK)


def test_a_disk_comes_back_as_it_was(world: World) -> None:
    data = noise(100) + bytes(30 * CHUNK) + noise(7, 2) + b"end"
    repository = world.init()
    tree = written(repository, memory_reader(data), world.context())
    head = repository.publish(point_of(1, tree), {})
    assert [p.seq for p in head.commit.points] == [1]
    fresh = world.open()
    manifest = fresh.manifest(fresh.head.commit.points[0])
    assert manifest.disks[0].tree == tree
    assert content(fresh, manifest.disks[0].tree) == data


def test_a_second_point_shares_what_did_not_change(world: World) -> None:
    old = noise(200)
    new = bytearray(old)
    new[50 * CHUNK : 51 * CHUNK] = noise(1, 9)
    new[60 * CHUNK : 64 * CHUNK] = bytes(4 * CHUNK)
    repository = world.init()
    context = world.context()
    first = written(repository, memory_reader(old), context)
    repository.publish(point_of(1, first), {})
    before = repository.packer.stored_bytes
    extents = [
        Extent(0, 50 * CHUNK, Kind.CLEAN),
        Extent(50 * CHUNK, CHUNK, Kind.DATA),
        Extent(51 * CHUNK, 9 * CHUNK, Kind.CLEAN),
        Extent(60 * CHUNK, 4 * CHUNK, Kind.ZERO),
        Extent(64 * CHUNK, 136 * CHUNK, Kind.CLEAN),
    ]
    reader = memory_reader(bytes(new), extents=extents, incremental=True)
    second = written(repository, reader, context, base=first, identity="second")
    repository.publish(point_of(2, second), {"disk0": (point_of(1, first).id, first)})
    assert content(repository, second) == new
    assert content(repository, first) == old
    assert repository.packer.stored_bytes - before < 5 * CHUNK
    fresh = world.open()
    kinds = RepositoryReader(fresh, second, "second", first).extents(0, len(new))
    assert [(e.start // CHUNK, e.length // CHUNK, e.kind) for e in kinds] == [
        (0, 50, Kind.CLEAN),
        (50, 1, Kind.DATA),
        (51, 9, Kind.CLEAN),
        (60, 4, Kind.ZERO),
        (64, 136, Kind.CLEAN),
    ]


def test_what_the_base_holds_already_is_not_stored(world: World) -> None:
    data = noise(64)
    repository = world.init()
    first = written(repository, memory_reader(data), world.context())
    repository.publish(point_of(1, first), {})
    before = repository.packer.stored_bytes
    second = written(repository, memory_reader(data), world.context(), base=first)
    assert second == first
    assert repository.packer.stored_bytes == before


def test_equal_chunks_are_stored_once_over_disks_and_processes(world: World) -> None:
    data = noise(64)
    repository = world.init()
    first = written(repository, memory_reader(data + data), world.context())
    stored = repository.packer.stored_bytes
    assert stored < 80 * CHUNK
    repository.publish(point_of(1, first), {})
    again = world.open()
    second = written(again, memory_reader(data), world.context(), identity="other")
    assert again.packer.stored_bytes < 5 * CHUNK
    assert content(again, second) == data


def test_an_empty_disk_stores_nothing(world: World) -> None:
    repository = world.init()
    tree = written(repository, memory_reader(bytes(1000 * CHUNK)), world.context())
    assert repository.packer.stored_bytes == 0
    repository.publish(point_of(1, tree), {})
    assert content(world.open(), tree) == bytes(1000 * CHUNK)


def test_a_disk_that_grew_keeps_its_chunks(world: World) -> None:
    old = noise(63) + b"tail"
    new = old.ljust(64 * CHUNK * 2, b"\0") + noise(1, 5)
    repository = world.init()
    first = written(repository, memory_reader(old), world.context())
    repository.publish(point_of(1, first), {})
    before = repository.packer.stored_bytes
    second = written(repository, memory_reader(new), world.context(), base=first)
    assert repository.packer.stored_bytes - before < 4 * CHUNK
    assert content(repository, second) == new


@pytest.mark.fault(1)
def test_a_killed_process_does_not_send_again_what_is_durable(world: World) -> None:
    data = noise(200)
    repository = world.init()
    tree = written(repository, memory_reader(data), world.context())
    sent = repository.packer.stored_bytes
    again = world.open()  # the first process is gone, nothing was published
    assert written(again, memory_reader(data), world.context()) == tree
    assert again.packer.stored_bytes == 0 < sent
    again.publish(point_of(1, tree), {})
    assert content(world.open(), tree) == data


def test_a_closed_repository_holds_no_file(world: World, tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    state = FileStateStore(tmp_path / "state")
    for begin in (Repository.init, Repository.open):
        repository = begin(world.store, ring_of(begin.__name__), state, world.clock)
        data = noise(20, seed=len(begin.__name__))
        written(repository, memory_reader(data), world.context())
        repository.close()
        assert len(os.listdir("/proc/self/fd")) == before
    again = Repository.open(world.store, ring_of("again"), state, world.clock)
    assert again.packer.packs(), "what is pending stays for the next process"
    again.close()


def test_publishing_twice_is_publishing_once(world: World) -> None:
    repository = world.init()
    tree = written(repository, memory_reader(noise(5)), world.context())
    first = repository.publish(point_of(1, tree), {})
    second = repository.publish(point_of(1, tree), {})
    assert first == second
    third = world.open().publish(point_of(1, tree), {})
    assert third == first


def test_each_node_is_opened_once_however_few_are_kept(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is nearly empty has thousands of nodes in one small pack: reading all of it
    for each of them, as once was done, never ends."""
    monkeypatch.setattr("sealift.repository.session.NODES_CACHED", 8)
    repository = world.init()
    data = b"".join(noise(1, n) + bytes(63 * CHUNK) for n in range(40))
    tree = written(repository, memory_reader(data), world.context())
    repository.publish(point_of(1, tree), {})
    fresh, opened, asked = world.open(), 0, 0
    real_opened, real_get = fresh.opened, fresh.store.get

    def count_opened(*arguments: Any) -> bytes:
        nonlocal opened
        opened += 1
        return real_opened(*arguments)

    def count_asked(*arguments: Any) -> bytes:
        nonlocal asked
        asked += 1
        return real_get(*arguments)

    monkeypatch.setattr(fresh, "opened", count_opened)
    monkeypatch.setattr(fresh.store, "get", count_asked)
    ids = [run.start for run in runs(tree, fresh.load_node) if run.ids]
    assert len(ids) == 40
    assert opened == 40 + 1
    assert asked == 1


def test_a_small_pack_that_is_damaged_elsewhere_costs_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that answered wrongly once is asked for the node alone."""
    repository = world.init()
    tree = written(repository, memory_reader(noise(200)), world.context())
    repository.publish(point_of(1, tree), {})
    fresh = world.open()
    real = fresh.store.get

    def get(name: str, start: int = 0, length: int | None = None) -> bytes:
        found = real(name, start, length)
        return bytes(len(found)) if length is None else found

    monkeypatch.setattr(fresh.store, "get", get)
    assert sum(run.count for run in runs(tree, fresh.load_node)) == 200


def test_a_repository_is_begun_once(world: World) -> None:
    world.init()
    with pytest.raises(ObjectExistsError):
        world.init()
    with pytest.raises(IntegrityError, match="no commit"):
        World(MemoryObjectStore()).open()


@pytest.mark.fault(46)
def test_an_older_repository_is_refused_by_whoever_saw_a_newer_one(world: World) -> None:
    assert isinstance(world.store, MemoryObjectStore)
    repository = world.init()
    tree = written(repository, memory_reader(noise(5)), world.context())
    repository.publish(point_of(1, tree), {})
    old = dict(world.store.objects)
    receipt = repository.publish(point_of(2, tree), {}).receipt
    world.store.objects.clear()
    world.store.objects.update(old)
    with pytest.raises(RepositoryRolledBackError):
        world.open()
    stranger = world.other_host("stranger")
    with pytest.raises(RepositoryRolledBackError):
        stranger.open(witness=Witness.from_receipt(receipt))
    assert len(world.other_host("no witness").open().head.commit.points) == 1


@pytest.mark.fault(46)
def test_another_history_of_the_same_length_is_refused(world: World) -> None:
    assert isinstance(world.store, MemoryObjectStore)
    repository = world.init()
    tree = written(repository, memory_reader(noise(5)), world.context())
    old = dict(world.store.objects)
    repository.publish(point_of(1, tree), {})
    world.store.objects.clear()
    world.store.objects.update(old)
    other = world.other_host("fork")
    fork = other.open()
    twin = written(fork, memory_reader(noise(5, 7)), other.context())
    fork.publish(point_of(2, twin), {})
    fork.publish(point_of(3, twin), {})
    with pytest.raises(RepositoryRolledBackError):
        world.open()


@pytest.mark.fault(28)
def test_two_writers_both_have_their_point(world: World) -> None:
    world.init()
    here, there = world.other_host("here"), world.other_host("there")
    one, two = here.open(), there.open()
    first = written(one, memory_reader(noise(9, 1)), here.context())
    second = written(two, memory_reader(noise(9, 2)), there.context())
    one.publish(point_of(1, first), {})
    two.publish(point_of(2, second), {})
    fresh = world.open()
    assert [p.seq for p in fresh.head.commit.points] == [1, 2]
    assert content(fresh, first) == noise(9, 1)
    assert content(fresh, second) == noise(9, 2)


def test_a_read_needs_no_alignment(world: World) -> None:
    data = noise(40)
    repository = world.init()
    tree: Tree = written(repository, memory_reader(data), world.context())
    reader = RepositoryReader(repository, tree, "test")
    buffer = bytearray(9000)
    for at in (0, 1, 4095, 4097, 12_345, len(data) - 9000):
        reader.read_into(at, memoryview(buffer))
        assert buffer == data[at : at + 9000]


def test_who_reads_in_order_reads_each_pack_once_and_whole(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Packs of 15 chunks, windows of 16: the few of a pack that a window wants are its rest."""
    assert isinstance(world.store, MemoryObjectStore)
    monkeypatch.setattr("sealift.repository.fetch.WINDOW_BYTES", 16 * CHUNK)
    data = random.Random(4).randbytes(160 * CHUNK)
    tree = written(world.init(), memory_reader(data), world.context())
    ranges: list[tuple[str, int]] = []
    get = world.store.get

    def part(name: str, start: int = 0, length: int | None = None) -> bytes:
        if length is not None:
            ranges.append((name, start))
        return get(name, start, length)

    reader = RepositoryReader(world.open(), tree, "test")
    asked = parts_asked(world.store, monkeypatch)
    monkeypatch.setattr(world.store, "get", part)
    read_in_order(reader, data, 8 * CHUNK)
    assert set(ranges) <= set(asked)  # the store's get_into gets
    assert len(asked) == len(set(asked)) > 8


def read_in_order(reader: RepositoryReader, data: bytes, step: int) -> None:
    buffer = bytearray(step)
    for at in range(0, len(data), step):
        reader.read_into(at, memoryview(buffer))
        assert buffer == data[at : at + step]


def parts_asked(store: MemoryObjectStore, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Pack and place of each part that is read into memory from now on."""
    asked: list[tuple[str, int]] = []
    get_into = store.get_into

    def part(name: str, start: int, buffer: memoryview) -> None:
        asked.append((name, start))
        get_into(name, start, buffer)

    monkeypatch.setattr(store, "get_into", part)
    return asked


@pytest.mark.parametrize(("span", "early"), [(32, True), (128, False)])
def test_who_reads_in_order_gets_the_next_packs_before_he_needs_them(
    world: World, monkeypatch: pytest.MonkeyPatch, span: int, early: bool
) -> None:
    """But not where both windows together want more packs than are kept."""
    assert isinstance(world.store, MemoryObjectStore)
    monkeypatch.setattr("sealift.repository.fetch.WINDOW_BYTES", span * CHUNK)
    data = random.Random(5).randbytes(2 * span * CHUNK)
    tree = written(world.init(), memory_reader(data), world.context())
    reader = RepositoryReader(world.open(), tree, "test")
    asked = parts_asked(world.store, monkeypatch)
    first = data[: span * CHUNK]
    read_in_order(reader, first, 8 * CHUNK)
    packs = -(-span // 15)  # 15 chunks are a pack
    assert (len(set(asked)) > packs) == early
    read_in_order(reader, data, 8 * CHUNK)


def test_what_cannot_be_read_ahead_is_tried_once_and_told_to_who_needs_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is there is read as ever: a point that lost a pack still gives the rest."""
    assert isinstance(world.store, MemoryObjectStore)
    monkeypatch.setattr("sealift.repository.fetch.WINDOW_BYTES", 32 * CHUNK)
    data = random.Random(6).randbytes(128 * CHUNK)
    tree = written(world.init(), memory_reader(data), world.context())
    repository, first = world.open(), data[: 32 * CHUNK]
    asked = parts_asked(world.store, monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr("sealift.repository.fetch.ChunkFetcher._read_ahead", lambda *_: None)
        reader = RepositoryReader(repository, tree, "test")
        read_in_order(reader, first, CHUNK)
        there = {name for name, _ in asked}
        read_in_order(reader, data, CHUNK)
    for name in {name for name, _ in asked} - there:
        world.store.delete(name)
    asked.clear()
    reader = RepositoryReader(repository, tree, "test")
    read_in_order(reader, first, CHUNK)
    assert len([name for name, _ in asked if name not in there]) == 1
    with pytest.raises(IntegrityError, match="is missing"):
        read_in_order(reader, data, 8 * CHUNK)


def ring_with_epochs(epochs: int) -> KeyRing:
    roots = [RootKey(hashlib.sha256(str(n).encode()).digest()) for n in range(epochs)]
    return KeyRing(roots[-1], bytes(16), epochs, past=roots[:-1])


def test_a_writer_seals_with_the_epoch_of_the_head_and_not_with_a_newer_one(world: World) -> None:
    def opened(epochs: int) -> Repository:
        return Repository.open(
            world.store, ring_with_epochs(epochs), world.state, world.clock, None, world.options
        )

    Repository.init(
        world.store, ring_with_epochs(1), world.state, world.clock, None, world.options
    ).close()
    early = opened(2)  # its slot is ahead of the repository
    assert early.ring.epoch == 1
    tree = written(early, memory_reader(noise(5)), world.context())
    early.publish(point_of(1, tree), {})
    early.begin_epoch(2)
    late = opened(2)
    assert late.ring.epoch == 2
    second = written(late, memory_reader(noise(5) + noise(3, 4)), world.context())
    late.publish(point_of(2, second), {})
    assert content(opened(3), second) == noise(5) + noise(3, 4)
    with pytest.raises(IntegrityError, match="epoch"):
        opened(1)


def test_a_writer_that_a_new_epoch_overtook_publishes_nothing(world: World) -> None:
    ring = ring_with_epochs(1)
    old = Repository.init(world.store, ring, world.state, world.clock, None, world.options)
    tree = written(old, memory_reader(noise(5)), world.context())
    old.begin_epoch(2)
    with pytest.raises(IntegrityError, match="newer epoch"):
        old.publish(point_of(1, tree), {})


@pytest.mark.fault(22)
def test_a_store_that_ignores_conditions_is_found_out_at_init() -> None:
    caps = StoreCaps(conditional_put=False, conditional_replace=False)
    world = World(MemoryObjectStore(caps=caps))
    with pytest.raises(TargetError, match="second object"):
        world.init()


@pytest.mark.parametrize("damage", ["the end is cut off", "a bit of the table is another"])
def test_a_pack_that_is_damaged_elsewhere_still_gives_its_chunks(world: World, damage: str) -> None:
    """Read as a stretch, packs come whole; what nobody asked for keeps nobody from the rest."""
    assert isinstance(world.store, MemoryObjectStore)
    data = random.Random(3).randbytes(40 * CHUNK)
    repository = world.init()
    tree = written(repository, memory_reader(data), world.context())
    repository.publish(point_of(1, tree), {})
    for name, stored in list(world.store.objects.items()):
        if name.startswith("packs/"):
            body = bytearray(stored.data)
            if damage == "the end is cut off":
                del body[-2:]
            else:
                body[-20] ^= 1
            world.store.objects[name] = replace(stored, data=bytes(body))
    repository = world.open()
    assert content(repository, tree) == data
