"""Resealing: nothing live is under old keys afterwards, whoever dies or writes meanwhile."""

import random
import threading
from collections.abc import Callable
from typing import Any

import pytest

from sealift.errors import IntegrityError, ObjectMissingError, StoppedError, TransientError
from sealift.objects import Bytes, ObjectInfo
from sealift.pipeline import InlineExecutor
from sealift.repository.check import Checker
from sealift.repository.packer import read_index
from sealift.repository.packs import Toc
from sealift.repository.prune import PruneOptions, Pruner
from sealift.repository.reseal import Resealer, ResealReport
from sealift.repository.retention import Retention
from sealift.repository.session import MAX_INDEX_OBJECT_BYTES, Repository
from sealift.repository.tree import Tree
from sealift.sealing.chunks import ChunkSealer
from sealift.sealing.keys import KeyRing
from sealift.sealing.records import epoch_of
from sealift.testing.object_memory import MemoryObjectStore
from sealift.testing.state import MemoryStateStore
from tests.repository.conftest import (
    CHUNK,
    World,
    content,
    memory_reader,
    point_of,
    ring_of,
    written,
)
from tests.repository.test_epochs import Interrupted, Killed, killed

Evidence = Callable[[str, str], None]
DAY = 86_400.0
LAST = Retention(last=9)


def noise(seed: int, chunks: int = 12) -> bytes:
    return random.Random(seed).randbytes(chunks * CHUNK)


class Rotated:
    """Two points of the first epoch, then a second epoch."""

    def __init__(self) -> None:
        self.world = World()
        self.world.init().close()
        self.data = {1: noise(1), 2: noise(1, 11) + noise(2, 1)}
        self.old = ring_of("old")
        self.new = self.old.next_epoch()
        self.trees = {n: self.point(n, self.data[n], self.old) for n in (1, 2)}
        self.open(self.old).begin_epoch(2)

    def open(self, ring: KeyRing, store: Any = None) -> Repository:
        """As a process of another host."""
        world, state = self.world, MemoryStateStore()
        over = store or world.store
        return Repository.open(*(over, ring, state, world.clock, None, world.options), writes=False)

    def point(self, number: int, data: bytes, ring: KeyRing) -> Tree:
        self.world.clock.sleep(3600)
        repository = self.open(ring)
        tree = written(repository, memory_reader(data), self.world.context(), identity=f"d{number}")
        now = int(self.world.clock.now().timestamp() * 1000)
        repository.publish(point_of(number, tree, taken_ms=now), {})
        return tree

    def reseal(self, store: Any = None) -> ResealReport:
        """In one thread, so that the n-th call is the same each time."""
        return Resealer(self.open(self.new, store), executor=InlineExecutor()).run()

    def prune(self) -> None:
        Pruner(self.open(self.new), PruneOptions()).run(LAST)

    def tocs(self, repository: Repository) -> list[Toc]:
        leaving = {c.name for c in repository.head.commit.condemned}
        found = [
            toc
            for ref in repository.head.commit.indexes
            for toc in read_index(repository.store, repository.records, ref, MAX_INDEX_OBJECT_BYTES)
        ]
        return [toc for toc in found if toc.pack not in leaving]

    def check(self, epoch: int = 2) -> None:
        """Everything is there, whole, and nothing live is of an epoch before."""
        repository = self.open(self.new)
        assert Checker(repository, read_share=1.0).run().damage == ()
        for number, data in self.data.items():
            assert content(repository, self.trees[number]) == data
        if epoch == 2:
            epochs = {e.epoch for toc in self.tocs(repository) for e in toc.entries()}
            commit, store = repository.head.commit, repository.store
            names = [ref.name for ref in commit.indexes] + [p.manifest for p in commit.points]
            assert epochs | {epoch_of(store.get(name)) for name in names} == {2}


def test_everything_live_is_under_the_new_keys() -> None:
    rotated = Rotated()
    rotated.check(epoch=1)
    report = rotated.reseal()
    assert (report.epoch, report.manifests) == (2, 2)
    assert report.chunks == sum(len(toc) for toc in rotated.tocs(rotated.open(rotated.new)))
    rotated.check()


def test_old_keys_open_nothing_of_it() -> None:
    rotated = Rotated()
    rotated.reseal()
    repository, old = rotated.open(rotated.new), ChunkSealer(rotated.old)
    for toc in rotated.tocs(repository):
        whole = repository.store.get(toc.pack)
        for e in toc.entries():
            sealed = whole[e.offset : e.offset + e.length]
            with pytest.raises(IntegrityError, match="epoch 2 is unknown"):
                old.open(toc.kind, e.id, e.codec, e.plain, e.epoch, sealed, check_id=True)
            with pytest.raises(IntegrityError, match="tag"):
                old.open(toc.kind, e.id, e.codec, e.plain, 1, sealed, check_id=True)


def test_what_was_replaced_goes_with_the_quarantine_and_not_before() -> None:
    rotated = Rotated()
    store = rotated.world.store
    before = {i.name for i in store.list("packs/")} | {i.name for i in store.list("points/")}
    rotated.reseal()
    rotated.prune()
    assert before <= {i.name for i in store.list("")}
    rotated.world.clock.sleep(8 * DAY)
    rotated.prune()
    rotated.prune()
    assert not before & {i.name for i in store.list("")}
    rotated.check()


def test_a_second_run_finds_nothing_to_do() -> None:
    rotated = Rotated()
    rotated.reseal()
    head = rotated.open(rotated.new).head
    assert rotated.reseal() == ResealReport(2)
    assert rotated.open(rotated.new).head == head


def test_the_chain_of_manifests_holds() -> None:
    rotated = Rotated()
    rotated.reseal()
    repository = rotated.open(rotated.new)
    first, second = repository.head.commit.points
    assert repository.manifest(second).previous == first.digest


def test_a_sync_after_it_stores_nothing_twice() -> None:
    rotated = Rotated()
    rotated.reseal()
    packs = {i.name for i in rotated.world.store.list("packs/")}
    rotated.data[3] = rotated.data[2]
    rotated.trees[3] = rotated.point(3, rotated.data[3], rotated.new)
    assert {i.name for i in rotated.world.store.list("packs/")} == packs
    rotated.check()


def test_a_damaged_chunk_stops_it_by_name_and_changes_nothing() -> None:
    rotated = Rotated()
    store = rotated.world.store
    assert isinstance(store, MemoryObjectStore)
    repository = rotated.open(rotated.new)
    toc = rotated.tocs(repository)[0]
    entry = next(toc.entries())
    raw = bytearray(store.get(toc.pack))
    raw[entry.offset + 30] ^= 1
    store.put(toc.pack, bytes(raw))
    with pytest.raises(IntegrityError, match=entry.id.hex()):
        rotated.reseal()
    assert rotated.open(rotated.new).head.commit.points == repository.head.commit.points


def test_a_stop_is_kept_to_between_packs() -> None:
    rotated = Rotated()
    resealer = Resealer(rotated.open(rotated.new))
    resealer.cancel.cancel("asked to")
    with pytest.raises(StoppedError):
        resealer.run()
    rotated.check(epoch=1)


class Meeting:
    """A store in which a pack is put only once another is about to be put, too."""

    def __init__(self, inner: MemoryObjectStore) -> None:
        self._inner, self._second = inner, threading.Event()
        self._begun: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def put(self, name: str, data: Bytes, **options: Any) -> ObjectInfo:
        if name.startswith("packs/"):
            self._begun.append(name)
            if len(self._begun) > 1:
                self._second.set()
            assert self._second.wait(60), "no other pack was under way"
        return self._inner.put(name, data, **options)


def test_several_packs_are_resealed_at_once() -> None:
    rotated = Rotated()
    repository = rotated.open(rotated.new, Meeting(_memory(rotated)))
    report = Resealer(repository).run()
    assert report.packs > 1
    assert report.chunks == sum(len(toc) for toc in rotated.tocs(rotated.open(rotated.new)))
    rotated.check()


@pytest.mark.fault(1, 5)
@pytest.mark.parametrize("turn", range(1, 9))
def test_an_error_of_one_of_several_threads_is_finished_by_the_next_run(turn: int) -> None:
    rotated = Rotated()
    store = Interrupted(_memory(rotated), turn, _refuse, late=turn % 2 == 0)
    with pytest.raises(TransientError, match="refused"):
        Resealer(rotated.open(rotated.new, store)).run()
    Resealer(rotated.open(rotated.new)).run()
    rotated.check()


def _refuse() -> None:
    raise TransientError("refused")


def _calls() -> int:
    rotated = Rotated()
    counted = Interrupted(_memory(rotated), 0, killed, late=False)
    rotated.reseal(counted)
    return counted.calls


def _memory(rotated: Rotated) -> MemoryObjectStore:
    assert isinstance(rotated.world.store, MemoryObjectStore)
    return rotated.world.store


@pytest.mark.fault(1, 2)
def test_a_death_at_any_call_is_finished_by_the_next_run(evidence: Evidence) -> None:
    tried = 0
    for at in range(1, _calls() + 1):
        for late in (False, True):
            rotated = Rotated()
            with pytest.raises(Killed):
                rotated.reseal(Interrupted(_memory(rotated), at, killed, late=late))
            rotated.check(epoch=1)
            rotated.reseal()
            rotated.check()
            tried += 1
    evidence("deaths while resealing", f"{tried}, lost: 0")


@pytest.mark.fault(29)
@pytest.mark.parametrize("other", ["sync", "prune", "reseal"])
def test_others_at_work_between_any_two_calls(other: str, evidence: Evidence) -> None:
    tried = 0
    for at in range(1, _calls() + 1):
        rotated = Rotated()

        def meanwhile(rotated: Rotated = rotated) -> None:
            if other == "sync":
                rotated.data[3] = noise(1, 10) + noise(3, 2)
                rotated.trees[3] = rotated.point(3, rotated.data[3], rotated.new)
            elif other == "reseal":
                rotated.reseal()
            else:
                rotated.prune()

        rotated.reseal(Interrupted(_memory(rotated), at, meanwhile, late=False))
        rotated.reseal()
        rotated.check()
        rotated.world.clock.sleep(8 * DAY)
        rotated.prune()
        rotated.prune()
        rotated.check()
        tried += 1
    evidence(f"resealing beside a {other}", f"{tried} orders, lost: 0")


@pytest.mark.fault(29)
@pytest.mark.parametrize("prunes", [2, 3, 4])
def test_a_reseal_that_slept_longer_than_the_quarantine_begins_again(
    prunes: int, evidence: Evidence
) -> None:
    """What it had put is condemned, given up, or gone: it never names what may not be there."""
    again = tried = 0
    for at in range(1, _calls() + 1):
        rotated = Rotated()

        def meanwhile(rotated: Rotated = rotated) -> None:
            for _ in range(prunes):
                rotated.prune()
                rotated.world.clock.sleep(8 * DAY)

        try:
            rotated.reseal(Interrupted(_memory(rotated), at, meanwhile, late=False))
        except (TransientError, IntegrityError, ObjectMissingError):
            again += 1
            rotated.reseal()
        rotated.check()
        tried += 1
    assert 0 < again < tried
    evidence(f"resealing that slept over {prunes} prunes", f"{tried}, lost: 0")
