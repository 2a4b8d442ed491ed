"""Power cuts of the local state at every flush, with any part of what was written after it.

One migration runs with its state on a file system whose block writes are logged. Every state
that a power cut may have left is mounted and opened with the real code, and the migration
goes on from there, its clouds standing as they stood at that instant.
"""

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, cast

import pytest

from sealift.store import AppendLog, FileStateStore
from sealift.testing.faults import Fault, Killed, Script
from sealift.testing.scenario import Scenario
from tests.conftest import Evidence
from tests.realfaults.powercut import (
    SECTOR,
    BlockLog,
    Entry,
    after_power_cut,
    logged_file_system,
    mount,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SEED = 6
STATES = 130


@dataclass(frozen=True)
class Saved:
    """One value and when it was saved, in entries of the block log."""

    name: str
    data: bytes | None
    begun: int
    done: int


@dataclass
class Booked:
    """One life of a journal: what was appended, and how much of it was synced when."""

    records: list[tuple[int, bytes]] = field(default_factory=list)
    synced: list[tuple[int, int]] = field(default_factory=list)
    deleted: int | None = None


@dataclass
class Watch:
    """What the migration did to its state, and when."""

    log: BlockLog
    script: Script = field(default_factory=Script)
    saved: list[Saved] = field(default_factory=list)
    journals: dict[str, list["Booked"]] = field(default_factory=dict)
    calls: list[tuple[int, int]] = field(default_factory=list)

    def note(self) -> int:
        """A call to the state is through: its number, and the log's length."""
        position = self.log.position()
        self.calls.append((len(self.script.calls), position))
        return position

    def call_under_way(self, entries: int) -> int:
        """The call during which the log grew beyond ``entries``."""
        return next(number for number, position in self.calls if position > entries)


class WatchedStore(FileStateStore):
    """The real store; tells the watch what it was asked for."""

    def __init__(self, directory: Path, watch: Watch) -> None:
        super().__init__(directory)
        self._watch = watch

    def save(self, name: str, data: bytes) -> None:
        begun = self._watch.log.position()
        super().save(name, data)
        self._watch.saved.append(Saved(name, data, begun, self._watch.note()))

    def delete(self, name: str) -> None:
        begun = self._watch.log.position()
        super().delete(name)
        self._watch.saved.append(Saved(name, None, begun, self._watch.note()))
        if name in self._watch.journals:
            self._watch.journals[name][-1].deleted = begun

    def log(self, name: str) -> AppendLog:
        opened = super().log(name)
        self._watch.note()
        lives = self._watch.journals.setdefault(name, [])
        if not lives or lives[-1].deleted is not None:
            lives.append(Booked())
        return WatchedLog(opened, self._watch, lives[-1])


@dataclass
class WatchedLog:
    """The real log; tells the watch what was booked."""

    log: AppendLog
    watch: Watch
    booked: Booked

    def records(self) -> Iterator[bytes]:
        return self.log.records()

    def append(self, payload: bytes) -> None:
        self.booked.records.append((self.watch.log.position(), payload))
        self.log.append(payload)
        self.watch.note()

    def sync(self) -> None:
        self.log.sync()
        self.booked.synced.append((self.watch.note(), len(self.booked.records)))

    def close(self) -> None:
        self.log.close()


@dataclass
class Judge:
    """Compares what a power cut left with what was saved."""

    watch: Watch
    mixed: list[str] = field(default_factory=list)

    def values(self, store: FileStateStore, base: int, end: int) -> None:
        """Every value is the last one that was saved, or a later one that was being saved."""
        for name in {s.name for s in self.watch.saved if s.data is not None}:
            if name.startswith("journal-"):
                continue
            history = [s for s in self.watch.saved if s.name == name]
            settled = [s for s in history if s.done <= base]
            allowed = [settled[-1].data if settled else None]
            allowed += [s.data for s in history if s.done > base and s.begun <= end]
            if settled and settled[-1].data is None:  # a deletion may be undone, by itself
                allowed += [s.data for s in settled]
            found = store.load(name)
            if found not in allowed:
                self.mixed.append(f"{name} after {base} to {end} entries")

    def journals(self, store: FileStateStore, base: int, end: int) -> None:
        """A journal holds the beginning of what was booked, and at least what was synced."""
        for name, lives in self.watch.journals.items():
            if name not in store.names():
                continue
            log = store.log(name)
            found = list(log.records())
            log.close()
            if not any(_is_beginning(found, life, base, end) for life in lives):
                self.mixed.append(f"{name} with {len(found)} records after {base} to {end} entries")


def _is_beginning(found: list[bytes], life: Booked, base: int, end: int) -> bool:
    booked = [data for begun, data in life.records if begun <= end]
    least = max((count for done, count in life.synced if done <= base), default=0)
    return found == booked[: len(found)] and len(found) >= least


@dataclass(frozen=True)
class Cut:
    """One state that a power cut may leave.

    Attributes:
        base: so many entries of the log are all there.
        kept: what else had reached the disk.
        end: entries that had been sent by then.
    """

    base: int
    kept: tuple[Entry, ...]
    end: int


def cuts(log: BlockLog, first: int, random: Random) -> Iterator[Cut]:
    """After each flush: nothing of what follows, and a random part of it."""
    flushes = [n for n, entry in enumerate(log.entries) if entry.flush and n >= first]
    for flush, following in zip(flushes, [*flushes[1:], len(log.entries)], strict=True):
        yield Cut(flush + 1, (), flush + 1)
        pending = range(flush + 1, following)
        if pending:
            chosen = [n for n in pending if random.random() < 0.5]
            kept = [log.entries[n] for n in chosen]
            if kept and random.random() < 0.5:
                kept[-1] = _torn(kept[-1], random)
            yield Cut(flush + 1, tuple(kept), chosen[-1] + 1 if chosen else flush + 1)


def _torn(entry: Entry, random: Random) -> Entry:
    sectors = random.randrange(len(entry.data) // SECTOR + 1)
    return Entry(entry.offset, entry.data[: sectors * SECTOR], entry.flush)


def as_it_stood(call: int) -> Scenario:
    """The same migration, killed before that call: source and target as they were then."""
    scenario, script = Scenario(SEED), Script([(call, Fault.KILL_BEFORE)])
    try:
        while True:
            scenario.step(script)
    except Killed:
        return scenario


@pytest.mark.fault(4, 6, 42)
def test_any_power_cut_leaves_old_or_new_and_the_migration_goes_on(evidence: Evidence) -> None:
    random = Random(SEED)
    fast = "/dev/shm" if os.path.isdir("/dev/shm") else None  # every mount is written out
    with tempfile.TemporaryDirectory(prefix="slp", dir=fast) as short:
        folder = Path(short)
        (folder / "live").mkdir()
        with logged_file_system(folder / "live") as (mounted, log):
            log.check()
            watch = Watch(log)
            scenario, first = Scenario(SEED), log.position()
            scenario.store = cast(Any, WatchedStore(mounted / "state", watch))
            scenario.run(watch.script)
            assert scenario.differences() == []
        last = watch.calls[-1][1]
        found = [cut for cut in cuts(log, first, random) if cut.end < last]
        chosen = sorted(random.sample(found, STATES), key=lambda cut: cut.base)
        judge, unequal = Judge(watch), []
        for cut in chosen:
            image = folder / "image"
            after_power_cut(log.entries, cut.base, cut.kept, folder / "before", image)
            with mount(image, folder / "mnt", "-o", "loop") as mounted:
                store = FileStateStore(mounted / "state")
                judge.values(store, cut.base, cut.end)
                judge.journals(store, cut.base, cut.end)
                again = as_it_stood(watch.call_under_way(cut.end))
                again.store = cast(Any, store)
                again.run(Script())
                unequal += [(cut.base, cut.end)] if again.differences() else []
        evidence("power cuts", f"{len(chosen)}, mixed: {len(judge.mixed)}")
    assert judge.mixed == []
    assert unequal == []
    assert any(cut.kept for cut in chosen)
    assert watch.journals
