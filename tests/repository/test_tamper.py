"""Every object of a small repository, damaged in every way: found, or without effect."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from sealift.errors import SealiftError
from sealift.repository.check import Checker
from sealift.repository.reader import RepositoryReader
from sealift.repository.session import Repository
from sealift.testing.object_memory import MemoryObjectStore, StoredObject
from sealift.testing.state import MemoryStateStore
from tests.conftest import Evidence
from tests.repository.conftest import (
    CHUNK,
    World,
    memory_reader,
    point_of,
    ring_of,
    written,
)

Objects = dict[str, StoredObject]
Answer = dict[int, bytes]


def contents() -> list[bytes]:
    rng = random.Random(5)
    first = rng.randbytes(20 * CHUNK) + bytes(60 * CHUNK) + rng.randbytes(CHUNK)
    second = bytearray(first)
    second[3 * CHUNK : 4 * CHUNK] = rng.randbytes(CHUNK)
    second[7 * CHUNK : 8 * CHUNK] = bytes(CHUNK)
    third = bytearray(second)
    third[70 * CHUNK : 71 * CHUNK] = rng.randbytes(CHUNK)
    return [first, bytes(second), bytes(third)]


def build(world: World) -> list[Objects]:
    """A repository of three points; every state that it went through."""
    assert isinstance(world.store, MemoryObjectStore)
    world.init()
    states, base = [dict(world.store.objects)], None
    for number, data in enumerate(contents(), 1):
        repository = world.open()
        tree = written(repository, memory_reader(data), world.context(), base=base)
        repository.publish(point_of(number, tree), {})
        base = tree
        states.append(dict(world.store.objects))
    return states


@dataclass(frozen=True)
class Result:
    """What a host that saw the newest head sees.

    Attributes:
        points: content of every point that can be read; others are not in it.
        noticed: something was refused, or the check names damage.
    """

    points: Answer
    noticed: bool


def look(world: World, objects: Objects) -> Result:
    """Open, check and restore everything, with the witness of the host that wrote it."""
    store = MemoryObjectStore()
    store.objects.update(objects)
    state = MemoryStateStore()
    state.values = {n: v for n, v in world.state.values.items() if n.startswith("witness-")}
    try:
        repository = Repository.open(
            store, ring_of("look"), state, world.clock, None, world.options, writes=False
        )
        report = Checker(repository, read_share=1.0).run()
    except SealiftError:
        return Result({}, noticed=True)
    noticed = bool(report.damage)
    points: Answer = {}
    for ref in repository.head.commit.points:
        try:
            points[ref.seq] = restored(repository, ref.seq)
        except SealiftError:
            noticed = True
            assert ref.id in report.lost_points, "a point that does not restore was not named"
        else:
            assert ref.id not in report.lost_points, "a point that restores was called lost"
    return Result(points, noticed)


def restored(repository: Repository, seq: int) -> bytes:
    (ref,) = [p for p in repository.head.commit.points if p.seq == seq]
    tree = repository.manifest(ref).disks[0].tree
    reader = RepositoryReader(repository, tree, "restore")
    buffer = bytearray(tree.size)
    reader.read_into(0, memoryview(buffer))
    return bytes(buffer)


def replaced(objects: Objects, name: str, data: bytes) -> Objects:
    old = objects[name]
    return {**objects, name: StoredObject(data, old.info)}


def flips(data: bytes, rng: random.Random) -> Iterator[bytes]:
    """A bit at every byte of what is short, at many places of what is long."""
    places = (
        range(len(data))
        if len(data) <= 300
        else sorted(
            {*range(24), *range(len(data) - 24, len(data)), *rng.sample(range(len(data)), 60)}
        )
    )
    for at in places:
        broken = bytearray(data)
        broken[at] ^= 1 << rng.randrange(8)
        yield bytes(broken)


def cuts(data: bytes) -> Iterator[bytes]:
    for keep in (0, 1, 8, 16, len(data) // 2, len(data) - 1):
        yield data[:keep]
    yield data + b"\0"
    yield data + data
    yield bytes(len(data))


def cases(states: list[Objects], other: Objects) -> Iterator[tuple[str, Objects]]:
    """(name of the case, all objects) of every way to tamper with one object, or two."""
    whole, rng = states[-1], random.Random(9)
    for name, held in whole.items():
        for broken in flips(held.data, rng):
            yield f"flip {name}", replaced(whole, name, broken)
        for broken in cuts(held.data):
            yield f"cut {name}", replaced(whole, name, broken)
        yield f"delete {name}", {n: o for n, o in whole.items() if n != name}
        for twin, its in whole.items():
            if twin < name:
                swapped = replaced(replaced(whole, name, its.data), twin, held.data)
                yield f"swap {name} {twin}", swapped
            if twin != name:
                yield f"{twin} as {name}", replaced(whole, name, its.data)
        for foreign in other.values():
            yield f"foreign {name}", replaced(whole, name, foreign.data)
    for age, older in enumerate(states[:-1]):
        yield f"state {age}", older
        heads = {n: o for n, o in whole.items() if n not in older or not n.startswith("commits/")}
        yield (
            f"commits of {age} only",
            {n: o for n, o in whole.items() if n in older or not n.startswith("commits/")},
        )
        yield f"newest commits beside {age}", {**older, **heads}
    yield "nothing left", {}


@pytest.mark.timeout(600)
@pytest.mark.fault(45, 46)
def test_every_object_tampered_with_in_every_way(evidence: Evidence) -> None:
    world = World()
    states = build(world)
    foreign = World(seed="foreign")
    build(foreign)
    assert isinstance(foreign.store, MemoryObjectStore)
    truth = dict(enumerate(contents(), 1))
    assert look(world, states[-1]) == Result(truth, noticed=False)
    counted, silent = 0, []
    for name, objects in cases(states, foreign.store.objects):
        counted += 1
        result = look(world, objects)
        wrong = any(truth[seq] != data for seq, data in result.points.items())
        lost = truth.keys() - result.points.keys()
        if wrong or (lost and not result.noticed):
            silent.append(name)
    evidence("tamper cases", f"{counted}, silent: {len(silent)}")
    assert counted > 1000
    assert silent == []


@pytest.mark.fault(45)
def test_losing_a_pack_loses_the_points_that_need_it_and_no_other(world: World) -> None:
    states = build(world)
    lost: dict[str, set[int]] = {}
    for name in (n for n in states[-1] if n.startswith("packs/")):
        result = look(world, {n: o for n, o in states[-1].items() if n != name})
        lost[name] = set(range(1, 4)) - result.points.keys()
        assert result.noticed
    newest = [name for name in lost if name not in states[2]]
    assert [lost[name] for name in newest] == [{3}] * len(newest)
    assert set.union(*lost.values()) == {1, 2, 3}


@pytest.mark.fault(45)
def test_a_damaged_chunk_is_named_with_its_points(world: World) -> None:
    assert isinstance(world.store, MemoryObjectStore)
    build(world)
    repository = world.open(writes=False)
    tree = repository.manifest(repository.head.commit.points[0]).disks[0].tree
    reader = RepositoryReader(repository, tree, "x")
    one = reader._ids[3]  # the chunk that points 2 and 3 do not have any more
    from sealift.sealing.chunks import ChunkKind

    where = repository.index.find(ChunkKind.DATA, [one])[one]
    data = bytearray(world.store.objects[where.pack].data)
    data[where.offset + 30] ^= 1
    world.store.tamper(where.pack, bytes(data))
    damage = Checker(world.open(writes=False), read_share=1.0).run().damage
    assert [(d.what, d.points) for d in damage] == [
        (f"chunk {one.hex()}", ((1).to_bytes(16, "big"),))
    ]
    assert Checker(world.open(writes=False)).run().damage == ()


def test_a_sample_reads_a_share_of_the_packs(world: World) -> None:
    build(world)
    report = Checker(world.open(writes=False), read_share=0.3, rng=random.Random(1)).run()
    assert 0 < report.read_packs < report.packs
    everything = Checker(world.open(writes=False), read_share=1.0).run()
    assert everything.read_packs == everything.packs
    assert everything.points == 3
