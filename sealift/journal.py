"""Which blocks of one sync are durable, so that a killed sync does not repeat them.

A journal belongs to one reader identity and one writer identity; with any other pair it
is void. A block is recorded only after the write of it is durable.
"""

import json
import struct
import threading
from dataclasses import asdict, dataclass

from sealift.blockmap import BlockMap
from sealift.clock import Clock
from sealift.digest import DIGEST_BYTES
from sealift.store import StateStore

_BLOCK = struct.Struct(f"<Q{DIGEST_BYTES}s")
_INDEX = struct.Struct("<Q")
_WRITTEN, _SETTLED = b"W", b"S"
_RECORD_BLOCKS = 16 * 1024
"""Most blocks in one record: 656 KiB, below the longest that a log reads back."""
_SYNC_INTERVAL_SECONDS = 1.0
"""How much work a power cut may cost; a kill costs nothing, its records are in the kernel."""


@dataclass(frozen=True, slots=True)
class JournalKey:
    """What a journal is valid for."""

    reader: str
    writer: str
    size: int
    block_size: int


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
        self.blocks = BlockMap(-(-key.size // key.block_size), key.block_size)
        self._settled = bytearray(-(-self.blocks.blocks // 8))
        self._log = store.log(name)
        if not self._load(key):
            self._log.close()
            store.delete(name)
            self._log = store.log(name)
            self.blocks = BlockMap(self.blocks.blocks, key.block_size)
            self._settled = bytearray(len(self._settled))
            self._log.append(json.dumps(asdict(key), sort_keys=True).encode())
        self.resumed_blocks = len(self.blocks)

    def _load(self, key: JournalKey) -> bool:
        records = self._log.records()
        first = next(records, None)
        if first is None or first != json.dumps(asdict(key), sort_keys=True).encode():
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
        """Remember blocks that are durable on the target."""
        for at in range(0, len(blocks), _RECORD_BLOCKS):
            part = blocks[at : at + _RECORD_BLOCKS]
            payload = _WRITTEN + b"".join([_BLOCK.pack(*block) for block in part])
            with self._lock:
                self._log.append(payload)
                for index, digest in part:
                    self.blocks[index] = digest
        self._sync_sometimes()

    def settle(self, indexes: list[int]) -> None:
        """Remember blocks that were read and need no write."""
        for at in range(0, len(indexes), _RECORD_BLOCKS):
            part = indexes[at : at + _RECORD_BLOCKS]
            payload = _SETTLED + b"".join([_INDEX.pack(index) for index in part])
            with self._lock:
                self._log.append(payload)
                for index in part:
                    self._mark_settled(index)
        self._sync_sometimes()

    def _mark_settled(self, index: int) -> None:
        self._settled[index >> 3] |= 1 << (index & 7)

    def sync(self) -> None:
        """Make what was booked survive a power cut; needed before the target is committed.

        A committed target takes no block again: one that only the lost end of the journal
        knew of could neither be trusted nor be repeated.
        """
        self._log.sync()

    def _sync_sometimes(self) -> None:
        """Outside of the lock: nobody else waits for the disk, what is appended is appended."""
        with self._lock:
            now = self._clock.monotonic()
            if now - self._synced_at < _SYNC_INTERVAL_SECONDS:
                return
            self._synced_at = now
        self.sync()

    def done(self, index: int) -> bool:
        """Whether nothing is left to do for the block."""
        with self._lock:
            settled = self._settled[index >> 3] >> (index & 7) & 1
            return bool(settled) or index in self.blocks

    def close(self) -> None:
        """Free the log; it stays for the next process."""
        self._log.close()
