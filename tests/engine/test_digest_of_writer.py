"""A target that names what it stores by its own digest: the engine hashes a block once, with it."""

import hashlib
import random
from collections import Counter
from dataclasses import replace

import pytest

from sealift.audit import AuditingReader
from sealift.blockmap import BlockMap
from sealift.digest import BLAKE3, SHA256, Digest
from sealift.disk import Unwritten, WriterCaps
from sealift.errors import TrackingWrongError
from sealift.extents import Extent, Kind
from sealift.journal import JournalKey, SyncJournal
from sealift.pipeline import InlineExecutor
from sealift.sync import SyncContext, sync
from sealift.testing.clock import VirtualClock
from sealift.testing.memory import MemoryReader, MemoryWriter
from sealift.testing.state import MemoryStateStore

BLOCK = 4096


class KeyedWriter(MemoryWriter):
    """As ``MemoryWriter``, but it is handed digests of its own kind."""

    hashed: Counter[int]
    base: BlockMap | None = None
    handed: dict[int, bytes]

    def hash(self, data: memoryview | bytes) -> bytes:
        self.hashed[len(data)] += 1
        return hashlib.blake2s(data, key=b"owner").digest()

    @property
    def caps(self) -> WriterCaps:
        plain = replace(super().caps, wants_digests=False)
        self.handed_caps = plain
        return replace(plain, digest=Digest("owner", self.hash), base=self.base, keeps_digests=True)


def context() -> SyncContext:
    return SyncContext(clock=VirtualClock(), executor=InlineExecutor())


def keyed(size: int, **options: object) -> KeyedWriter:
    writer = KeyedWriter(size, block_size=BLOCK, max_op_bytes=4 * BLOCK, **options)  # type: ignore[arg-type]
    writer.hashed = Counter()
    return writer


def journal_of(reader: MemoryReader, writer: KeyedWriter) -> SyncJournal:
    key = JournalKey.of(reader, writer)
    return SyncJournal(MemoryStateStore(), "journal", key, VirtualClock())


def test_every_block_is_hashed_once_with_the_writers_digest() -> None:
    content = random.Random(3).randbytes(16 * BLOCK)
    reader, writer = MemoryReader(content), keyed(len(content), unwritten=Unwritten.UNDEFINED)
    report = sync(reader, writer, context(), journal=journal_of(reader, writer))
    assert writer.content == content
    assert writer.hashed == {BLOCK: 16}
    expected = hashlib.blake2s(content[5 * BLOCK : 6 * BLOCK], key=b"owner").digest()
    assert report.blocks[5] == expected


def test_what_the_writer_knows_of_its_base_is_not_sent() -> None:
    old = random.Random(4).randbytes(8 * BLOCK)
    new = old[: 3 * BLOCK] + b"changed!" * (BLOCK // 8) + old[4 * BLOCK :]
    reader = MemoryReader(new)
    writer = keyed(len(new), unwritten=Unwritten.BASE, base=old)
    writer.base = known = BlockMap(8, BLOCK, digest=writer.caps.digest)
    for n in range(8):
        part = old[n * BLOCK : (n + 1) * BLOCK]
        known[n] = hashlib.blake2s(part, key=b"owner").digest()
    report = sync(reader, writer, context(), journal=journal_of(reader, writer))
    assert writer.content == new
    assert (report.progress.sent, report.progress.unchanged) == (BLOCK, 7 * BLOCK)


def test_zeroes_are_booked_with_the_writers_digest_too() -> None:
    reader = MemoryReader(bytes(4 * BLOCK), extents=[Extent(0, 4 * BLOCK, Kind.ZERO)])
    writer = keyed(4 * BLOCK, unwritten=Unwritten.UNDEFINED)
    report = sync(reader, writer, context(), journal=journal_of(reader, writer))
    zero = hashlib.blake2s(bytes(BLOCK), key=b"owner").digest()
    assert [digest for _, digest in report.blocks.items()] == [zero] * 4


def test_the_audit_compares_with_the_digest_that_the_base_was_made_with() -> None:
    content = random.Random(5).randbytes(4 * BLOCK)

    def digest(data: memoryview | bytes) -> bytes:
        return hashlib.blake2s(data, key=b"owner").digest()

    def walk(known: BlockMap) -> int:
        clean = MemoryReader(content, extents=[Extent(0, 4 * BLOCK, Kind.CLEAN)], incremental=True)
        rng = random.Random(1)
        audit = AuditingReader(clean, known, blocks=None, disk_id="d", rng=rng)
        list(audit.extents(0, 4 * BLOCK))
        return audit.compared

    known = BlockMap(4, BLOCK, digest=Digest("owner", digest))
    for n in range(4):
        known[n] = digest(content[n * BLOCK : (n + 1) * BLOCK])
    assert walk(known) == 4
    known[2] = digest(bytes(BLOCK))
    with pytest.raises(TrackingWrongError, match="block 2"):
        walk(known)


def test_a_journal_of_another_digest_is_void() -> None:
    """Its digests would be taken for those of the target's blocks, and say nothing of them."""
    store, reader = MemoryStateStore(), MemoryReader(bytes(4 * BLOCK))
    plain = JournalKey(reader.identity, "w", 4 * BLOCK, BLOCK)
    assert b"digest" not in plain.line(), "as versions before this one wrote it"
    for key in (plain, replace(plain, digest=BLAKE3), plain):
        journal = SyncJournal(store, "journal", key, VirtualClock())
        assert journal.resumed_blocks == 0
        journal.record([(2, key.digest.of(b"x" * BLOCK))])
        journal.close()
        again = SyncJournal(store, "journal", key, VirtualClock())
        assert (again.resumed_blocks, again.blocks.digest) == (1, key.digest)
        again.close()


def test_digests_of_another_algorithm_are_never_compared() -> None:
    """The old bytes, known by SHA-256: by BLAKE3 none of them would match, or worse, one would."""
    content = random.Random(6).randbytes(2 * BLOCK)
    writer = keyed(len(content), unwritten=Unwritten.BASE, base=content)
    known = BlockMap(2, BLOCK, digest=SHA256)
    with pytest.raises(ValueError, match="sha256 digests for owner ones"):
        sync(MemoryReader(content), writer, context(), base=known)
