"""Which blocks of one sync are durable, so that a killed sync does not repeat them.

A journal belongs to one reader identity and one writer identity; with any other pair it
is void. A block is recorded only after the write of it is durable.
"""

import json
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from sealift.blockmap import BlockMap
from sealift.clock import Clock
from sealift.digest import DIGEST_BYTES, SHA256, Digest
from sealift.disk import DiskReader, DiskWriter
from sealift.store import StateStore

_BLOCK = struct.Struct(f"<Q{DIGEST_BYTES}s")
_INDEX = struct.Struct("<Q")
_WRITTEN, _SETTLED = b"W", b"S"
_RECORD_BYTES = 640 * 1024
"""Longest record, in which 16,384 blocks fit; a log reads back up to 1 MiB."""
_SYNC_INTERVAL_SECONDS = 1.0
"""How much work a power cut may cost. A kill costs what workers handed over while one write to
the log was under way; the rest is in the kernel."""


@dataclass(frozen=True, slots=True)
class JournalKey:
    """What a journal is valid for.

    Attributes:
        reader: identity of the instant.
        writer: identity of the thing under construction.
        size: bytes of the target.
        block_size: bytes of a block.
        digest: what its digests are made with.
    """

    reader: str
    writer: str
    size: int
    block_size: int
    digest: Digest = SHA256

    @classmethod
    def of(cls, reader: DiskReader, writer: DiskWriter) -> "JournalKey":
        """The key of a sync of these two."""
        caps = writer.caps
        return cls(reader.identity, writer.identity, caps.size, caps.block_size, caps.digest)

    def line(self) -> bytes:
        """The first record of a journal; one that names no digest has SHA-256, as all once had."""
        facts: dict[str, str | int] = {
            "reader": self.reader,
            "writer": self.writer,
            "size": self.size,
            "block_size": self.block_size,
        }
        if self.digest.name != SHA256.name:
            facts["digest"] = self.digest.name
        return json.dumps(facts, sort_keys=True).encode()


class SyncJournal:
    """Durable blocks of one sync with their digests. Thread-safe.

    Memory: the block map, and one bit for each block of the disk.

    Args:
        store: where the log lives.
        name: of the log.
        key: what is being synced; a log with another key is thrown away.
        clock: paces the fsyncs.
    """

    def __init__(self, store: StateStore, name: str, key: JournalKey, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._synced_at = clock.monotonic()
        self._pending: list[tuple[bytes, bytes]] = []
        self._writing = False
        blocks = -(-key.size // key.block_size)
        self.blocks = BlockMap(blocks, key.block_size, digest=key.digest)
        self._settled = bytearray(-(-self.blocks.blocks // 8))
        self._log = store.log(name)
        if not self._load(key):
            self._log.close()
            store.delete(name)
            self._log = store.log(name)
            self.blocks = BlockMap(blocks, key.block_size, digest=key.digest)
            self._settled = bytearray(len(self._settled))
            self._log.append(key.line())
        self.resumed_blocks = len(self.blocks)

    def _load(self, key: JournalKey) -> bool:
        records = self._log.records()
        first = next(records, None)
        if first is None or first != key.line():
            return False
        try:
            for record in records:
                self._take(record)
        except (ValueError, IndexError, struct.error):
            return False  # whole by its checksum, and yet not ours: believe none of it
        return True

    def _take(self, record: bytes) -> None:
        if record[:1] == _WRITTEN:
            for index, digest in _BLOCK.iter_unpack(record[1:]):
                self.blocks[index] = digest
        elif record[:1] == _SETTLED:
            for (index,) in _INDEX.iter_unpack(record[1:]):
                self._mark_settled(index)
        else:
            raise ValueError("a record of an unknown kind")

    def record(self, blocks: list[tuple[int, bytes]]) -> None:
        """Remember blocks that are durable on the target.

        Raises:
            LocalStateError, OutOfSpaceError: they, or what others handed over meanwhile, are
                not in the log; the sync has to end.
        """
        body = b"".join([_BLOCK.pack(*block) for block in blocks])
        with self._lock:
            for index, digest in blocks:
                self.blocks[index] = digest
            self._pending.extend(_cut(_WRITTEN, body, _BLOCK.size))
        self._write_pending()

    def settle(self, indexes: list[int]) -> None:
        """Remember blocks that were read and need no write; raises as ``record`` does."""
        body = b"".join([_INDEX.pack(index) for index in indexes])
        with self._lock:
            for index in indexes:
                self._mark_settled(index)
            self._pending.extend(_cut(_SETTLED, body, _INDEX.size))
        self._write_pending()

    def _write_pending(self) -> None:
        """Write what is pending, unless another thread is at it and takes this along.

        No system call under the lock: who makes one gives up the interpreter, has to get it
        back from dozens of workers, and would keep them all from the journal until then.
        """
        with self._lock:
            if self._writing:
                return
            self._writing = True
        try:
            while payloads := self._take_pending():
                for payload in payloads:
                    self._log.append(payload)
                self._sync_sometimes()
        except BaseException:
            self._writing = False
            raise

    def _take_pending(self) -> list[bytes]:
        """Everything pending in as few records as it fits in; without any, nobody writes."""
        with self._lock:
            pending, self._pending = self._pending, []
            self._writing = bool(pending)
        joined: list[bytearray] = []
        for kind, body in pending:
            if joined and joined[-1][:1] == kind and len(joined[-1]) + len(body) < _RECORD_BYTES:
                joined[-1] += body
            else:
                joined.append(bytearray(kind + body))
        return [bytes(record) for record in joined]

    def _mark_settled(self, index: int) -> None:
        self._settled[index >> 3] |= 1 << (index & 7)

    def sync(self) -> None:
        """Make what was booked survive a power cut; needed before the target is committed.

        A committed target takes no block again: one that only the lost end of the journal
        knew of could neither be trusted nor be repeated.
        """
        self._log.sync()

    def _sync_sometimes(self) -> None:
        now = self._clock.monotonic()
        if now - self._synced_at >= _SYNC_INTERVAL_SECONDS:
            self._synced_at = now
            self._log.sync()

    def done(self, index: int) -> bool:
        """Whether nothing is left to do for the block."""
        with self._lock:
            settled = self._settled[index >> 3] >> (index & 7) & 1
            return bool(settled) or index in self.blocks

    def close(self) -> None:
        """Free the log; it stays for the next process."""
        self._log.close()


def _cut(kind: bytes, body: bytes, step: int) -> Iterator[tuple[bytes, bytes]]:
    """Parts of whole entries, none longer than a record may be."""
    longest = _RECORD_BYTES // step * step
    for at in range(0, len(body), longest):
        yield kind, body[at : at + longest]
