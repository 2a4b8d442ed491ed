"""Object locks: made with every object, extended when a point reuses it, renewed in time."""

import random
from dataclasses import replace
from datetime import timedelta

import pytest

from sealift.errors import TargetDeniedError, TransientError
from sealift.repository.prune import PruneOptions, Pruner
from sealift.repository.retention import Retention
from sealift.repository.session import RepositoryOptions
from sealift.testing.faults import Fault, Script, tapped
from sealift.testing.object_memory import MemoryObjectStore
from sealift.units import KiB
from tests.repository.conftest import CHUNK, World, memory_reader, point_of, written

DAY = 86_400.0
MONTH = 30 * DAY


@pytest.fixture
def world() -> World:
    options = RepositoryOptions(chunk_bytes=CHUNK, pack_bytes=64 * KiB, lock_seconds=MONTH)
    world = World(options=options)
    world.store = MemoryObjectStore(world.clock)
    world.init()
    return world


def noise(seed: int) -> bytes:
    return random.Random(seed).randbytes(20 * CHUNK)


def point(world: World, number: int, data: bytes) -> None:
    repository = world.open()
    tree = written(repository, memory_reader(data), world.context(), identity=str(number))
    now = int(world.clock.now().timestamp() * 1000)
    repository.publish(point_of(number, tree, taken_ms=now), {})


def locks(world: World) -> dict[str, float]:
    """Days that each object is locked from now on."""
    assert isinstance(world.store, MemoryObjectStore)
    now = world.clock.now().timestamp()
    return {n: (o.locked_until - now) / DAY for n, o in world.store.objects.items()}


@pytest.mark.fault(58)
def test_nothing_can_be_deleted_before_its_time(world: World) -> None:
    point(world, 1, noise(1))
    assert min(locks(world).values()) > 29.9
    for name in locks(world):
        with pytest.raises(TargetDeniedError):
            world.store.delete(name)


@pytest.mark.fault(58)
def test_what_a_new_point_reuses_is_locked_as_long_as_what_it_adds(world: World) -> None:
    point(world, 1, noise(1))
    packs = [n for n in locks(world) if n.startswith("packs/")]
    world.clock.sleep(5 * DAY)
    point(world, 2, noise(1))
    assert all(locks(world)[name] > 29.9 for name in packs)


@pytest.mark.fault(58)
def test_what_is_in_use_never_has_less_than_three_quarters_of_its_lock(world: World) -> None:
    point(world, 1, noise(1))
    first = {n for n in locks(world) if not n.startswith("commits/")}
    for number in range(2, 30):
        world.clock.sleep(2 * DAY)
        point(world, number, noise(number))
        assert all(locks(world)[name] > 20 for name in first)


def test_what_is_condemned_runs_out_and_is_deleted_then(world: World) -> None:
    point(world, 1, noise(1))
    first = {n for n in locks(world) if n.startswith("packs/")}
    for turn in range(2, 30):
        world.clock.sleep(2 * DAY)
        point(world, turn, noise(turn))
        pruner = Pruner(world.open(writes=False), PruneOptions(mass_removal=True))
        pruner.run(Retention(last=1))
    assert not first & locks(world).keys()


def test_without_locks_nothing_is_locked(world: World) -> None:
    world.options = RepositoryOptions(chunk_bytes=CHUNK, pack_bytes=64 * KiB)
    before = locks(world)
    point(world, 1, noise(1))
    assert all(days < 0 for name, days in locks(world).items() if name not in before)


@pytest.mark.fault(11, 58)
def test_a_clock_that_was_ahead_for_a_while_stops_no_renewal(world: World) -> None:
    """And whatever the clock says, no lock becomes shorter."""
    point(world, 1, noise(1))
    first = {n for n in locks(world) if not n.startswith("commits/")}
    world.clock.jump(timedelta(days=400))
    point(world, 2, noise(2))
    ahead = locks(world)
    world.clock.jump(timedelta(days=-400))
    point(world, 3, noise(3))
    now = locks(world)
    assert all(now[name] >= ahead[name] + 399 for name in ahead)
    world.clock.sleep(405 * DAY)
    point(world, 4, noise(4))
    assert all(locks(world)[name] > 29.9 for name in first)


@pytest.mark.fault(19, 24, 58)
def test_many_locks_are_extended_side_by_side_or_the_point_is_not_made(world: World) -> None:
    point(world, 1, noise(1))
    names = [f"packs/{n}" for n in range(100)]
    for name in names:
        world.store.put(name, b"", lock_until=0.0)
    repository = world.open()
    repository.locks.extend(names)
    assert all(locks(world)[name] > 29.9 for name in names)
    script = Script([(50, Fault.FAIL_BEFORE)])
    failing = replace(world, store=tapped(world.store, "objects", Script()))
    repository = failing.open()
    repository.locks._store = tapped(world.store, "objects", script)
    with pytest.raises(TransientError):
        repository.locks.extend(names)
    assert script.fired
