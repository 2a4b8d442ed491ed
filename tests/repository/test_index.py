"""The local index answers what the followed tables say, however its files came about."""

import gc
import hashlib
import os
import random
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sealift.errors import LocalStateError
from sealift.repository import index as index_module
from sealift.repository import sorted_runs, walk
from sealift.repository.check import Checker, CheckReport
from sealift.repository.commits import IndexRef
from sealift.repository.index import ChunkIndex, Location
from sealift.repository.names import index_name, pack_name
from sealift.repository.packs import Entry, Toc
from sealift.repository.prune import PruneOptions, Pruner, PruneReport
from sealift.repository.retention import Retention
from sealift.repository.tree import nodes
from sealift.sealing.chunks import ChunkKind
from tests.conftest import Evidence
from tests.repository.conftest import CHUNK, World, memory_reader, point_of, written

IDS = [hashlib.sha256(bytes([n % 256, n // 256])).digest() for n in range(600)]


def table(rng: random.Random, ids: Sequence[bytes]) -> Toc:
    """A pack of these chunks; where they lie in it is made up."""
    kind = rng.choice(list(ChunkKind))
    body = b"".join(one + rng.randbytes(17) for one in ids)
    return Toc(pack_name(rng.randbytes(16)), kind, 1000 + len(body), body)


@dataclass
class Model:
    """What an index has to answer: tables by source, and those that are pending."""

    sources: dict[IndexRef, list[Toc]] = field(default_factory=dict)
    pending: list[Toc] = field(default_factory=list)

    def tables(self, kind: ChunkKind, *, committed: bool) -> list[Toc]:
        found = {toc.pack: toc for tocs in self.sources.values() for toc in tocs}
        if not committed:
            found |= {toc.pack: toc for toc in self.pending}
        return [toc for toc in found.values() if toc.kind is kind]

    def entries(self, kind: ChunkKind, one: bytes) -> list[tuple[str, Entry]]:
        tables = self.tables(kind, committed=False)
        return [(toc.pack, e) for toc in tables for e in toc.entries() if e.id == one]


def assert_answers(index: ChunkIndex, model: Model, ids: Sequence[bytes]) -> None:
    names = {toc.pack for tocs in model.sources.values() for toc in tocs}
    assert {row.name for row in index.packs()} == names
    numbers = {row.no: row.name for row in index.packs()}
    for kind in ChunkKind:
        there = {one: model.entries(kind, one) for one in ids}
        held = {one for one in ids if there[one]}
        assert index.known(kind, ids) == held
        packs, lost = index.packs_of(kind, ids)
        assert lost == [one for one in ids if one not in held]
        assert all(packs & {pack for pack, _ in there[one]} for one in held)
        for one, where in index.find(kind, ids).items():
            assert where in [Location(pack, *entry[1:]) for pack, entry in there[one]]
        wanted = [
            (one, toc.pack, n)
            for one in ids
            for toc in model.tables(kind, committed=True)
            for n, entry in enumerate(toc.entries())
            if entry.id == one
        ]
        found = [(one, numbers[no], n) for one, no, n in index.places(kind, ids)]
        assert sorted(found) == sorted(wanted)


@dataclass
class History:
    """Steps of one index, each checked against the model."""

    folder: Path | None
    rng: random.Random
    model: Model = field(default_factory=Model)

    def __post_init__(self) -> None:
        self.index = ChunkIndex(self.folder, "index")

    def step(self) -> None:
        work = self.rng.choice([self.store, self.store, self.commit, self.prune, self.reopen])
        work()
        assert_answers(self.index, self.model, self.rng.sample(IDS, 40))

    def store(self) -> None:
        toc = table(self.rng, self.rng.sample(IDS, self.rng.randrange(1, 30)))
        self.model.pending.append(toc)
        self.index.add(toc)

    def commit(self) -> None:
        tocs = [*self.model.pending, table(self.rng, self.rng.sample(IDS, 5))]
        raw = self.rng.randbytes(16)
        self.model.sources[IndexRef(index_name(raw), hashlib.sha256(raw).digest())] = tocs
        self.model.pending = []
        self.follow()

    def prune(self) -> None:
        if self.model.sources:
            ref = self.rng.choice(list(self.model.sources))
            left = self.model.sources.pop(ref)[1:]
            if left:
                raw = self.rng.randbytes(16)
                self.model.sources[IndexRef(index_name(raw), raw * 2)] = left
        self.follow()

    def reopen(self) -> None:
        self.index.close()
        self.index = ChunkIndex(self.folder, "index")
        for toc in self.model.pending:
            self.index.add(toc)
        self.follow()

    def follow(self) -> None:
        sources = self.model.sources
        pending = [toc.pack for toc in self.model.pending]
        self.index.follow(list(sources), lambda ref: sources[ref], pending)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds so low that a history of some steps spills and merges."""
    monkeypatch.setattr(index_module, "PENDING_ENTRIES", 25)
    monkeypatch.setattr(sorted_runs, "MOST_RUNS", 3)
    monkeypatch.setattr(sorted_runs, "MERGED_AT_ONCE", 2)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("kept", [False, True])
def test_an_index_answers_as_its_tables_do(
    *, kept: bool, tmp_path: Path, evidence: Evidence
) -> None:
    steps = 0
    for seed in range(12):
        history = History(tmp_path / str(seed) if kept else None, random.Random(seed))
        for _ in range(25):
            history.step()
            steps += 1
        history.index.close()
    evidence("histories of the local index", f"{steps} steps, wrong answers: 0")


def filled(folder: Path) -> History:
    history = History(folder, random.Random(5))
    for _ in range(4):
        history.store()
    history.commit()
    history.index.close()
    return history


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


@pytest.mark.parametrize("harm", [truncated, Path.unlink])
def test_a_damaged_or_missing_run_is_made_anew(tmp_path: Path, harm: object) -> None:
    history = filled(tmp_path)
    (run,) = tmp_path.glob("*.run")
    assert callable(harm)
    harm(run)
    history.reopen()
    assert_answers(history.index, history.model, IDS)
    history.index.close()


def test_a_database_of_the_release_before_is_made_anew(tmp_path: Path) -> None:
    history = filled(tmp_path)
    with closing(sqlite3.connect(tmp_path / "index.sqlite")) as db:
        db.execute("PRAGMA user_version = 1")
    history.reopen()
    assert_answers(history.index, history.model, IDS)
    history.index.close()


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    history = filled(tmp_path)
    left = tmp_path / "index.0123456789abcdef.run"
    left.write_bytes(b"half a run")
    history.reopen()
    assert not left.exists()
    assert_answers(history.index, history.model, IDS)
    history.index.close()


def test_a_run_cut_short_while_it_is_open_is_an_error_and_not_an_answer(tmp_path: Path) -> None:
    history = filled(tmp_path)
    history.reopen()
    (run,) = tmp_path.glob("*.run")
    os.truncate(run, 0)
    toc = next(iter(history.model.sources.values()))[0]
    with pytest.raises(LocalStateError, match="local index"):
        history.index.known(toc.kind, toc.ids())
    history.reopen()
    assert_answers(history.index, history.model, IDS)
    history.index.close()


def test_a_full_disk_leaves_the_index_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = filled(tmp_path)
    history.reopen()
    before = Model(dict(history.model.sources))
    with monkeypatch.context() as full:

        def no_room(fd: int) -> None:
            raise OSError(28, "No space left on device")

        full.setattr(os, "fsync", no_room)
        with pytest.raises(LocalStateError, match="No space left"):
            history.commit()
    assert_answers(history.index, before, IDS)
    assert len(list(tmp_path.glob("*.run"))) == 1
    history.commit()
    assert_answers(history.index, history.model, IDS)
    history.index.close()


def test_nodes_beyond_the_bound_are_told_apart_by_their_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Check and prune find the same with room for two nodes as with room for all."""
    world, rng = World(), random.Random(8)
    data = bytearray(rng.randbytes(300 * CHUNK))
    repository = world.init()
    for number in range(1, 9):
        at = number * 30 * CHUNK
        data[at : at + 3 * CHUNK] = rng.randbytes(3 * CHUNK)
        tree = written(repository, memory_reader(bytes(data)), world.context())
        repository.publish(point_of(number, tree), {})
    repository.refresh()
    options = PruneOptions(mass_removal=True)

    def looked_at() -> tuple[CheckReport, PruneReport]:
        preview = Pruner(repository, options).preview(Retention(last=2))
        return Checker(repository).run(), preview

    expected = looked_at()
    assert expected[1].condemned
    monkeypatch.setattr(walk, "NODES_SEEN", 2)
    assert looked_at() == expected
    seen = walk.SeenNodes(repository)
    found = nodes(tree, repository.load_node, lambda node: True)
    ids = list(dict.fromkeys(one for _, one, _ in found))
    assert len(ids) > 3
    assert [seen.add(one) for one in ids * 2] == [True] * len(ids) + [False] * len(ids)


def test_an_index_that_is_not_closed_keeps_no_file(tmp_path: Path) -> None:
    """As of a process that is killed, in a simulation of many in one."""
    before = len(os.listdir("/proc/self/fd"))
    for number in range(20):
        history = History(None if number % 2 else tmp_path / str(number), random.Random(number))
        history.store()
        history.commit()
        del history
        gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before + 12
