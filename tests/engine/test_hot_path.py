"""What was made fast: the journal's records, the block map, the queue's wake-ups, the counts."""

import hashlib
import random
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sealift.blockmap import BlockMap
from sealift.clock import SystemClock
from sealift.disk import Unwritten
from sealift.errors import OutOfSpaceError, TargetError
from sealift.journal import JournalKey, SyncJournal
from sealift.pipeline import BoundedQueue, Closed
from sealift.progress import DiskMeter, DiskProgress, silent
from sealift.store import FileStateStore
from sealift.sync import SyncContext, sync
from sealift.testing.memory import MemoryReader, MemoryWriter


def digest(index: int) -> bytes:
    return hashlib.sha256(index.to_bytes(8, "little")).digest()


def test_more_blocks_at_once_than_fit_a_record_are_all_there_again(tmp_path: Path) -> None:
    blocks, settled = 40_000, list(range(40_000, 60_000))
    key = JournalKey("reader", "writer", 65_536 * 512, 512)
    store = FileStateStore(tmp_path / "state")
    journal = SyncJournal(store, "journal", key, SystemClock())
    journal.record([(index, digest(index)) for index in range(blocks)])
    journal.settle(settled)
    journal.close()
    again = SyncJournal(store, "journal", key, SystemClock())
    assert again.resumed_blocks == blocks
    assert list(again.blocks.items()) == [(index, digest(index)) for index in range(blocks)]
    assert [i for i in range(65_536) if again.done(i)] == [*range(blocks), *settled]
    again.close()


@given(st.sets(st.integers(0, 9_999)), st.sets(st.integers(0, 9_999)))
@settings(max_examples=50)
def test_a_map_is_a_dictionary(base: set[int], newer: set[int]) -> None:
    old, new = BlockMap(10_000, 512), BlockMap(10_000, 512)
    for index in base:
        old[index] = digest(index)
    for index in newer:
        new[index] = digest(-index % 2**32)
    expected = {i: digest(i) for i in base} | {i: digest(-i % 2**32) for i in newer}
    merged = BlockMap.from_bytes(old.overlay(new).to_bytes())
    assert list(merged.items()) == sorted(expected.items())
    assert len(merged) == len(expected)
    assert list(old.items()) == [(i, digest(i)) for i in sorted(base)]


def test_every_waiting_taker_and_putter_gets_on() -> None:
    queue: BoundedQueue[int] = BoundedQueue(2)
    taken: list[int] = []
    lock = threading.Lock()

    def take() -> None:
        while True:
            try:
                item = queue.get()
            except Closed:
                return
            with lock:
                taken.append(item)

    def put(start: int) -> None:
        for item in range(start, start + 500):
            queue.put(item)

    takers = [threading.Thread(target=take) for _ in range(16)]
    putters = [threading.Thread(target=put, args=(n * 500,)) for n in range(8)]
    for thread in takers + putters:
        thread.start()
    for thread in putters:
        thread.join(60)
    queue.close()
    for thread in takers:
        thread.join(60)
    assert not any(thread.is_alive() for thread in takers + putters)
    assert sorted(taken) == list(range(4000))


def test_counts_of_many_threads_add_up() -> None:
    meter = DiskMeter(DiskProgress("disk", 3), silent, SystemClock())

    def count() -> None:
        for _ in range(1000):
            meter.add(read=3, done=2, sent=1)

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seen = meter.progress
    assert (seen.disk_id, seen.seq, seen.finished) == ("disk", 3, False)
    assert (seen.read, seen.done, seen.sent) == (24_000, 16_000, 8_000)
    assert meter.finish() == replace(seen, total=16_000, finished=True)


class Dying:
    """A writer that fails for good after some writes."""

    def __init__(self, writer: MemoryWriter, writes: int) -> None:
        self._writer = writer
        self._left = writes
        self.identity, self.caps = writer.identity, writer.caps
        self.zero, self.flush, self.commit = writer.zero, writer.flush, writer.commit
        self.abort, self.close = writer.abort, writer.close

    def write(self, offset: int, data: memoryview, digests: Sequence[bytes]) -> None:
        self._left -= 1
        if self._left < 0:
            raise TargetError("gone")
        self._writer.write(offset, data, digests)


@pytest.mark.parametrize("seed", range(20))
def test_what_the_journal_calls_durable_survives_a_crash_of_the_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr("sealift.sync.FLUSH_INTERVAL_BYTES", 3 * 512)
    rng = random.Random(seed)
    content = rng.randbytes(200 * 512)
    reader, context = MemoryReader(content), SyncContext(SystemClock())
    writer = MemoryWriter(
        len(content), unwritten=Unwritten.UNDEFINED, block_size=512, max_op_bytes=512, concurrency=8
    )
    store = FileStateStore(tmp_path / "state")
    key = JournalKey.of(reader, writer)
    journal = SyncJournal(store, "journal", key, SystemClock())
    with pytest.raises(TargetError):
        sync(reader, Dying(writer, rng.randrange(20, 200)), context, journal=journal)
    journal.close()
    after = writer.crash(rng)
    booked = SyncJournal(store, "journal", key, SystemClock())
    for index, known in booked.blocks.items():
        held = after.content[index * 512 : (index + 1) * 512]
        assert hashlib.sha256(held).digest() == known
    assert len(booked.blocks) > 0
    sync(reader, after, context, journal=booked)
    assert after.content == content
    booked.close()


def test_blocks_of_many_threads_are_all_in_the_log_when_they_have_returned(tmp_path: Path) -> None:
    key = JournalKey("reader", "writer", 16 * 400 * 512, 512)
    store = FileStateStore(tmp_path / "state")
    journal = SyncJournal(store, "journal", key, SystemClock())

    def work(number: int) -> None:
        for index in range(number * 400, number * 400 + 400):
            if index % 3:
                journal.record([(index, digest(index))])
            else:
                journal.settle([index])

    threads = [threading.Thread(target=work, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    again = SyncJournal(store, "journal", key, SystemClock())  # as after a kill: nobody closed
    expected = [(i, digest(i)) for i in range(16 * 400) if i % 3]
    assert list(again.blocks.items()) == list(journal.blocks.items()) == expected
    assert all(again.done(i) for i in range(16 * 400))
    again.close()
    journal.close()


def test_a_full_disk_reaches_a_worker_and_the_next_record_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = JournalKey("reader", "writer", 100 * 512, 512)
    store = FileStateStore(tmp_path / "state")
    journal = SyncJournal(store, "journal", key, SystemClock())
    with monkeypatch.context() as patched:
        patched.setattr("os.pwrite", _no_room)
        with pytest.raises(OutOfSpaceError):
            journal.record([(1, digest(1))])
    journal.record([(2, digest(2))])
    journal.close()
    again = SyncJournal(store, "journal", key, SystemClock())
    assert list(again.blocks.items()) == [(2, digest(2))]
    again.close()


def _no_room(*_: object) -> int:
    raise OSError(28, "No space left on device")
