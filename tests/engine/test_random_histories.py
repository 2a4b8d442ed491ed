"""Random disks, guest writes, rounds, writers and interruptions: the target equals the source."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sealift.blockmap import BlockMap
from sealift.disk import Unwritten
from sealift.errors import TransientError
from sealift.extents import Extent, Kind, coalesce
from sealift.journal import JournalKey, SyncJournal
from sealift.pipeline import InlineExecutor, ThreadExecutor
from sealift.retry import RetryPolicy
from sealift.sync import SyncContext, sync
from sealift.testing.clock import VirtualClock
from sealift.testing.faults import Fault, Killed, Script, tapped
from sealift.testing.memory import MemoryReader, MemoryWriter, Verb
from sealift.testing.world import MemoryStateStore

HISTORIES = 2000
FAULTS = (Fault.KILL_BEFORE, Fault.KILL_AFTER, Fault.FAIL_BEFORE, Fault.FAIL_AFTER)


class Evidence(Protocol):
    def __call__(self, name: str, figures: str) -> None: ...


@dataclass
class Guest:
    """A disk with a history, tracked in granules."""

    rng: random.Random
    granule: int
    content: bytearray
    dirty: set[int]

    def write(self) -> None:
        length = min(self.rng.choice((1, 512, 700, 4096)), len(self.content))
        offset = self.rng.randrange(0, len(self.content) - length + 1)
        data = bytes(length) if self.rng.random() < 0.4 else self.rng.randbytes(length)
        self.content[offset : offset + length] = data
        self.dirty |= set(range(offset // self.granule, (offset + length - 1) // self.granule + 1))

    def extents(self, *, incremental: bool) -> Iterator[Extent]:
        return coalesce(self._granules(incremental=incremental))

    def _granules(self, *, incremental: bool) -> Iterator[Extent]:
        for start in range(0, len(self.content), self.granule):
            part = self.content[start : start + self.granule]
            kind = Kind.DATA
            if incremental and start // self.granule not in self.dirty:
                kind = Kind.CLEAN
            elif not any(part) and self.rng.random() < 0.8:
                kind = Kind.ZERO
            yield Extent(start, len(part), kind)


def make_guest(rng: random.Random) -> Guest:
    size = rng.randrange(1, 20_000)
    content = b"".join(
        bytes(512) if rng.random() < 0.5 else rng.randbytes(512) for _ in range(size // 512 + 1)
    )[:size]
    return Guest(rng, rng.choice((512, 1024, 4096)), bytearray(content), set())


def make_writer(
    rng: random.Random, size: int, base: bytes | None, block: int, number: int
) -> MemoryWriter:
    fresh = rng.choice((Unwritten.UNDEFINED, Unwritten.ZERO))
    return MemoryWriter(
        size,
        unwritten=fresh if base is None else Unwritten.BASE,
        base=base or b"",
        block_size=block,
        max_op_bytes=block * rng.choice((1, 2, 5)),
        native_zero=rng.random() < 0.5,
        whole_blocks=rng.random() < 0.5,
        durable_writes=rng.random() < 0.5,
        wants_digests=rng.random() < 0.7,
        concurrency=rng.choice((1, 3)),
        identity=f"writer-{number}",
        seed=number,
    )


def synced(
    rng: random.Random,
    reader: MemoryReader,
    writer: MemoryWriter,
    base: BlockMap | None,
    store: MemoryStateStore,
) -> BlockMap:
    """Sync with a journal, killed or failing at random calls, until it ends."""
    key = JournalKey.of(reader, writer)
    threads = rng.random() < 0.1
    faults = [] if threads else _faults(rng)
    while True:
        clock = VirtualClock()
        script = Script(faults)
        executor = ThreadExecutor() if threads else InlineExecutor()
        context = SyncContext(clock, executor=executor, retry=RetryPolicy(0.1, 1.0, 60.0))
        journal = SyncJournal(store, "journal", key, clock)
        try:
            source, target = tapped(reader, "reader", script), tapped(writer, "writer", script)
            return sync(source, target, context, journal=journal, base=base).blocks
        except (Killed, TransientError):
            faults = []
            writer = writer.crash(rng) if rng.random() < 0.5 else writer.reopen()


def _faults(rng: random.Random) -> list[tuple[int, Fault]]:
    if rng.random() < 0.5:
        return []
    return [(rng.randrange(1, 30), rng.choice(FAULTS))]


def run_history(seed: int) -> bool:
    """One disk over several rounds; whether every round's target equals the source."""
    rng = random.Random(seed)
    guest = make_guest(rng)
    block = rng.choice((512, 1024, 4096))
    size = len(guest.content) + rng.choice((0, 0, 1, 512, 3000))
    landed: bytes | None = None
    blocks: BlockMap | None = None
    for number in range(rng.randrange(1, 5)):
        incremental = landed is not None and rng.random() < 0.7
        reader = MemoryReader(
            bytes(guest.content),
            extents=list(guest.extents(incremental=incremental)),
            incremental=incremental,
            identity=f"point-{number}",
        )
        parent = landed if incremental or rng.random() < 0.6 else None
        writer = make_writer(rng, size, parent, block, number)
        base = blocks if parent is not None and rng.random() < 0.8 else None
        written = synced(rng, reader, writer, base, MemoryStateStore())
        expected = bytes(guest.content) + bytes(size - len(guest.content))
        if not writer.committed or writer.content != expected:
            return False
        blocks = _known(base, written, writer)
        landed = writer.content
        guest.dirty.clear()
        for _ in range(rng.randrange(0, 8)):
            guest.write()
    return True


def _known(base: BlockMap | None, written: BlockMap, writer: MemoryWriter) -> BlockMap | None:
    """Digests that may be trusted afterwards: padded blocks only, as with EBS."""
    if not writer.caps.whole_blocks:
        return None
    fresh = writer.caps.unwritten is Unwritten.ZERO
    start = base or BlockMap(written.blocks, written.block_size, absent_is_zero=fresh)
    return start.overlay(written)


def test_random_histories_end_equal(evidence: Evidence) -> None:
    counted = {"runs": 0, "unequal": 0}

    @settings(
        max_examples=HISTORIES,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(st.integers(0, 2**64))
    def histories(seed: int) -> None:
        counted["runs"] += 1
        equal = run_history(seed)
        counted["unequal"] += not equal
        assert equal, f"seed {seed}"

    try:
        histories()
        for seed in range(HISTORIES - counted["runs"]):
            counted["runs"] += 1
            counted["unequal"] += not run_history(seed)
    finally:
        figures = f"{counted['runs']}, unequal: {counted['unequal']}"
        evidence("random histories", figures)
    assert counted["unequal"] == 0
    assert counted["runs"] >= HISTORIES


def test_a_resumed_sync_neither_reads_nor_sends_what_is_durable() -> None:
    content = random.Random(1).randbytes(64 * 512)
    store, clock = MemoryStateStore(), VirtualClock()
    reader = MemoryReader(content)
    writer = MemoryWriter(
        len(content), block_size=512, max_op_bytes=512, durable_writes=True, wants_digests=True
    )
    key = JournalKey.of(reader, writer)
    context = SyncContext(clock, executor=InlineExecutor())
    script = Script([(40, Fault.KILL_BEFORE)])
    journal = SyncJournal(store, "journal", key, clock)
    try:
        sync(tapped(reader, "r", script), tapped(writer, "w", script), context, journal=journal)
        raise AssertionError("not killed")
    except Killed:
        pass
    durable = len(journal.blocks)
    assert durable > 10
    again, resumed = MemoryReader(content), writer.reopen()
    report = sync(again, resumed, context, journal=SyncJournal(store, "journal", key, clock))
    assert report.progress.resumed == durable * 512
    assert sum(o.verb is Verb.READ for o in again.operations) == 64 - durable
    assert sum(o.verb is Verb.WRITE for o in resumed.operations) == 64 - durable
    assert resumed.content == content
