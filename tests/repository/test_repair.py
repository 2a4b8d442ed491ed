"""An index made anew from the packs, when index objects are lost."""

import random

import pytest

from sealift.errors import IntegrityError
from sealift.repository.check import Checker
from sealift.repository.repair import rebuild_index
from sealift.repository.session import Repository
from sealift.testing.object_memory import MemoryObjectStore
from tests.repository.conftest import CHUNK, World, content, memory_reader, point_of, written


def repository_of_two_points(world: World) -> list[bytes]:
    rng = random.Random(4)
    contents = [rng.randbytes(20 * CHUNK) for _ in range(2)]
    world.init()
    for number, data in enumerate(contents, 1):
        repository = world.open()
        tree = written(repository, memory_reader(data), world.context(), identity=str(number))
        repository.publish(point_of(number, tree), {})
    return contents


def lose(world: World, prefix: str) -> list[str]:
    assert isinstance(world.store, MemoryObjectStore)
    gone = [name for name in world.store.objects if name.startswith(prefix)]
    for name in gone:
        del world.store.objects[name]
    return gone


def restored(repository: Repository) -> list[bytes]:
    refs = repository.head.commit.points
    return [content(repository, repository.manifest(ref).disks[0].tree) for ref in refs]


@pytest.mark.fault(45)
def test_a_lost_index_is_made_anew(world: World) -> None:
    contents = repository_of_two_points(world)
    assert len(lose(world, "index/")) == 2
    with pytest.raises(IntegrityError) as caught:
        world.open()
    assert "repository repair" in caught.value.next_step
    report = rebuild_index(world.open(writes=False, follows=False), dry_run=False)
    assert report.published
    assert report.unreadable == ()
    fresh = world.open(writes=False)
    assert restored(fresh) == contents
    assert Checker(fresh, read_share=1.0).run().damage == ()


def test_a_dry_run_writes_nothing(world: World) -> None:
    assert isinstance(world.store, MemoryObjectStore)
    repository_of_two_points(world)
    before = dict(world.store.objects)
    report = rebuild_index(world.open(writes=False, follows=False), dry_run=True)
    assert (report.packs, report.published) == (6, False)
    assert world.store.objects == before


@pytest.mark.fault(45)
def test_a_pack_whose_table_is_damaged_is_named_and_the_rest_goes_on(world: World) -> None:
    assert isinstance(world.store, MemoryObjectStore)
    repository_of_two_points(world)
    newest = world.open(writes=False)
    packs = [row.name for row in newest.index.packs()]
    data = world.store.objects[packs[0]].data
    world.store.tamper(packs[0], data[:-1] + b"?")
    lose(world, "index/")
    report = rebuild_index(world.open(writes=False, follows=False), dry_run=False)
    assert [name for name, _ in report.unreadable] == [packs[0]]
    damage = Checker(world.open(writes=False)).run()
    assert damage.lost_points == ((1).to_bytes(16, "big"),)
