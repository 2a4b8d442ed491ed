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
        self._settled = bytearray(self.blocks.blocks)
        self._log = store.log(name)
        if not self._load(key):
            self._log.close()
            store.delete(name)
            self._log = store.log(name)
            self.blocks = BlockMap(self.blocks.blocks, key.block_size)
            self._log.append(json.dumps(asdict(key), sort_keys=True).encode())
        self.resumed_blocks = len(self.blocks)

    def _load(self, key: JournalKey) -> bool:
        records = self._log.records()
        first = next(records, None)
        if first is None or first != json.dumps(asdict(key), sort_keys=True).encode():
            return False
        for record in records:
            if record[:1] == _WRITTEN:
                for index, digest in _BLOCK.iter_unpack(record[1:]):
                    self.blocks[index] = digest
            else:
                for (index,) in _INDEX.iter_unpack(record[1:]):
                    self._settled[index] = 1
        return True

    def record(self, blocks: list[tuple[int, bytes]]) -> None:
        """Remember blocks that are durable on the target."""
        payload = _WRITTEN + b"".join(_BLOCK.pack(index, digest) for index, digest in blocks)
        with self._lock:
            self._append(payload)
            for index, digest in blocks:
                self.blocks[index] = digest

    def settle(self, index: int) -> None:
        """Remember a block that was read and needs no write."""
        with self._lock:
            self._append(_SETTLED + _INDEX.pack(index))
            self._settled[index] = 1

    def _append(self, payload: bytes) -> None:
        self._log.append(payload)
        now = self._clock.monotonic()
        if now - self._synced_at >= _SYNC_INTERVAL_SECONDS:
            self._log.sync()
            self._synced_at = now

    def done(self, index: int) -> bool:
        """Whether nothing is left to do for the block."""
        with self._lock:
            return bool(self._settled[index]) or index in self.blocks

    def close(self) -> None:
        """Free the log; it stays for the next process."""
        self._log.close()
