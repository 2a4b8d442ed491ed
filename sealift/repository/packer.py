"""Stores chunks once: claims those that are new, seals them, and puts full packs into the store.

The hot path of every seed. What a worker hands over is looked at as one batch under one lock;
hashing, compression, encryption and uploads happen outside of it.
"""

import hashlib
import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence

from sealift.errors import IntegrityError, ObjectMissingError, SealiftError
from sealift.objects import Bytes, ObjectStore
from sealift.repository.buffers import LARGE_BYTES, PageBuffers
from sealift.repository.commits import IndexRef
from sealift.repository.index import ChunkIndex
from sealift.repository.names import RANDOM_BYTES, Entropy, index_name
from sealift.repository.packs import (
    MAX_INDEX_BYTES,
    PACK_BYTES,
    PackBuilder,
    Toc,
    decode_index,
    encode_index,
)
from sealift.sealing.chunks import ChunkKind, ChunkSealer, SealedChunk
from sealift.sealing.records import RecordKind, RecordSealer
from sealift.sealing.xaes import Data
from sealift.store import AppendLog, StateStore

_PART = struct.Struct(">cI")
_PART_BYTES = 512 * 1024
"""A record of the local log holds at most 1 MiB."""


class Packer:
    """Packs under construction, and those that no commit names yet. Thread-safe.

    A pack that could not be put stays in memory and is put before anything else is taken, so
    that a caller who repeats his call loses nothing. What was put is noted in a local log: a
    process that was killed does not send it again.

    Memory: one open pack of each kind, and for each thread that calls a full one twice; buffers
    for two packs more, where the store takes pages.

    Args:
        store: of the repository.
        sealer: of chunks.
        records: of tables and index objects.
        index: learns what was put.
        entropy: random bytes.
        state: keeps the log.
        log_name: of the log.
        pack_bytes: chunks of a full pack.
        lock_until: when the store may let an object that is put now be deleted; None = at once.
    """

    def __init__(
        self,
        store: ObjectStore,
        sealer: ChunkSealer,
        records: RecordSealer,
        index: ChunkIndex,
        entropy: Entropy,
        state: StateStore,
        log_name: str = "pending",
        pack_bytes: int = PACK_BYTES,
        lock_until: Callable[[], float | None] = lambda: None,
    ) -> None:
        self._store, self._sealer, self._records = store, sealer, records
        self._index, self._entropy, self._state = index, entropy, state
        self._pack_bytes, self._lock_until = pack_bytes, lock_until
        self._lock = threading.Lock()
        self._done = threading.Condition(self._lock)
        self._open = {kind: PackBuilder(kind, pack_bytes) for kind in ChunkKind}
        self._claimed: dict[ChunkKind, set[bytes]] = {kind: set() for kind in ChunkKind}
        self._unsent: list[tuple[Toc, Bytes]] = []
        self._buffers = PageBuffers() if store.caps.takes_pages else None
        self._busy: set[int] = set()
        self._tickets = 0
        self._failed: BaseException | None = None
        self._tocs: list[Toc] = []
        self._toc_bytes = 0
        self._refs: list[IndexRef] = []
        self._packs: dict[str, int] = {}
        self._log_name = log_name
        self._log: AppendLog | None = None
        self.stored_bytes = 0

    # ------------------------------------------------------------------ storing

    def put(self, kind: ChunkKind, ids: Sequence[bytes], parts: Sequence[Data]) -> None:
        """Store chunks that are not stored yet; durable after ``flush``.

        Args:
            kind: object type of all.
            ids: content ids.
            parts: plaintexts; the caller's again on return.

        Raises:
            TransientError: a full pack could not be put; repeat the call.
            IntegrityError: this machine's memory or the compressor is faulty.
        """
        self._resend()
        ticket, fresh = self._claim(kind, ids)
        try:
            fresh_ids, fresh_parts = [ids[n] for n in fresh], [parts[n] for n in fresh]
            sealed = self._sealer.seal_all(kind, fresh_ids, fresh_parts)
            full = self._collect(kind, sealed)
        except BaseException as error:
            self._fail(error)  # others rely on these chunks by now
            raise
        finally:
            self._finish(ticket)
        for builder, upload in full:
            self._upload(builder, upload)

    def _claim(self, kind: ChunkKind, ids: Sequence[bytes]) -> tuple[int, list[int]]:
        with self._lock:
            self._check()
            claimed = self._claimed[kind]
            fresh: dict[bytes, int] = {one: n for n, one in enumerate(ids) if one not in claimed}
            if fresh:
                for one in self._index.known(kind, list(fresh)):
                    del fresh[one]
                claimed.update(fresh)
            return self._ticket(), list(fresh.values())

    def _collect(
        self, kind: ChunkKind, sealed: Iterable[SealedChunk]
    ) -> list[tuple[PackBuilder, int]]:
        full = []
        with self._lock:
            for chunk in sealed:
                builder = self._open[kind]
                if not builder.takes(chunk):
                    full.append((builder, self._ticket()))
                    builder = self._open[kind] = PackBuilder(kind, self._pack_bytes)
                builder.add(chunk)
        return full

    def _upload(self, builder: PackBuilder, ticket: int) -> None:
        try:
            toc, whole = self._sealed(builder)
            self._put_or_keep(toc, whole)
        except IntegrityError as error:
            self._fail(error)
            raise
        finally:
            self._finish(ticket)

    def _sealed(self, builder: PackBuilder) -> tuple[Toc, Bytes]:
        if self._buffers is None or builder.size < LARGE_BYTES:
            return builder.sealed(self._records, self._entropy)
        return builder.sealed(self._records, self._entropy, self._buffers.joined)

    def _put_or_keep(self, toc: Toc, whole: Bytes) -> None:
        try:
            self._put(toc, whole)
        except BaseException:
            with self._lock:
                self._unsent.append((toc, whole))
            raise
        if self._buffers is not None:
            self._buffers.give(whole)

    def _put(self, toc: Toc, whole: Bytes) -> None:
        info = self._store.put(toc.pack, whole, lock_until=self._lock_until())
        if info.size != len(whole):
            raise IntegrityError(
                f"{toc.pack}: the store says it took {info.size} of {len(whole)} bytes",
                next_step="run repository check-store",
            )
        self._index.add(toc)
        with self._lock:
            self._claimed[toc.kind].difference_update(e.id for e in toc.entries())
            self._tocs.append(toc)
            self._toc_bytes += len(toc.body)
            self._packs[toc.pack] = toc.size
            self._note(encode_index([toc]))
            self.stored_bytes += toc.size
            tocs = self._due_tocs(least=MAX_INDEX_BYTES)
        self._write_index(tocs)

    def _resend(self) -> None:
        while True:
            with self._lock:
                if not self._unsent:
                    return
                toc, whole = self._unsent.pop()
                ticket = self._ticket()
            try:
                self._put_or_keep(toc, whole)
            finally:
                self._finish(ticket)

    # ------------------------------------------------------------------ making it last

    def flush(self) -> None:
        """Make durable what every ``put`` that returned has taken; raises as ``put`` does."""
        with self._lock:
            self._check()
            self._wait_older(self._tickets)
            full = [(b, self._ticket()) for b in self._open.values() if len(b)]
            self._open = {kind: PackBuilder(kind, self._pack_bytes) for kind in ChunkKind}
            last = self._tickets
        for builder, ticket in full:
            self._upload(builder, ticket)
        with self._lock:
            self._wait_older(last)
        self._resend()
        with self._lock:
            self._check()
            if self._log is not None:
                self._log.sync()

    def _wait_older(self, last: int) -> None:
        """Wait for what others were at when ticket ``last`` was given; they wait for nobody."""
        while any(ticket <= last for ticket in self._busy):
            self._done.wait()

    def _ticket(self) -> int:
        self._tickets += 1
        self._busy.add(self._tickets)
        return self._tickets

    def _finish(self, ticket: int) -> None:
        with self._lock:
            self._busy.discard(ticket)
            self._done.notify_all()

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            self._failed = self._failed or error

    def _check(self) -> None:
        if self._failed is not None:
            reason = self._failed.message if isinstance(self._failed, SealiftError) else "a stop"
            raise IntegrityError(
                f"chunks were lost before they were stored: {reason}",
                next_step="run the same command again",
            )

    # ------------------------------------------------------------------ tables and indexes

    def indexed(self) -> tuple[IndexRef, ...]:
        """Index objects over every pack that no commit names yet, all stored; after ``flush``."""
        with self._lock:
            tocs = self._due_tocs(least=0)
        self._write_index(tocs)
        return tuple(self._refs)

    def packs(self) -> dict[str, int]:
        """Name and size of every pack that no commit names yet."""
        with self._lock:
            return dict(self._packs)

    def committed(self) -> None:
        """A commit names all of it now; nothing is pending any more."""
        with self._lock:
            self._tocs, self._toc_bytes, self._refs, self._packs = [], 0, [], {}
            if self._log is not None:
                self._log.close()
                self._log = None
            self._state.delete(self._log_name)
        if self._buffers is not None:
            self._buffers.clear()

    def close(self) -> None:
        """Free the file that names what is pending; what it says stays for the next process."""
        with self._lock:
            if self._log is not None:
                self._log.close()
                self._log = None

    def _due_tocs(self, least: int) -> list[Toc]:
        if not self._tocs or self._toc_bytes < least:
            return []
        tocs, self._tocs, self._toc_bytes = self._tocs, [], 0
        return tocs

    def _write_index(self, tocs: list[Toc]) -> None:
        if not tocs:
            return
        name = index_name(self._entropy(RANDOM_BYTES))
        sealed = self._records.seal(RecordKind.INDEX, name, encode_index(tocs))
        try:
            self._store.put(name, sealed, lock_until=self._lock_until())
        except BaseException:
            with self._lock:
                self._tocs += tocs
                self._toc_bytes += sum(len(toc.body) for toc in tocs)
            raise
        with self._lock:
            self._refs.append(IndexRef(name, hashlib.sha256(sealed).digest()))

    # ------------------------------------------------------------------ after a kill

    def _note(self, data: bytes) -> None:
        log = self._opened_log()
        parts = range(0, len(data), _PART_BYTES)
        for at in parts:
            last = at == parts[-1]
            head = _PART.pack(b"L" if last else b"M", len(data))
            log.append(head + data[at : at + _PART_BYTES])

    def _opened_log(self) -> AppendLog:
        if self._log is None:
            self._log = self._state.log(self._log_name)
        return self._log

    def resume(self) -> int:
        """Take over the packs that a process before put and never committed; how many.

        Only those that are still there as they were put.
        """
        found = 0
        for toc in self._noted():
            if self._index.has_pack(toc.pack):
                continue  # killed between the commit and the end of this log
            info = self._store.head(toc.pack)
            if info is None or info.size != toc.size:
                continue
            self._index.add(toc)
            self._tocs.append(toc)
            self._toc_bytes += len(toc.body)
            self._packs[toc.pack] = toc.size
            self._write_index(self._due_tocs(least=MAX_INDEX_BYTES))
            found += 1
        return found

    def _noted(self) -> Iterator[Toc]:
        data = b""
        for record in self._opened_log().records():
            kind, length = _PART.unpack_from(record)
            data += record[_PART.size :]
            if kind == b"L":
                if len(data) == length:
                    yield from decode_index(self._log_name, data)
                data = b""


def read_index(store: ObjectStore, records: RecordSealer, ref: IndexRef, limit: int) -> list[Toc]:
    """The tables in an index object.

    Raises:
        IntegrityError: it is missing, damaged or another one.
    """
    try:
        sealed = store.get(ref.name)
    except ObjectMissingError as error:
        raise IntegrityError(
            f"{ref.name} is missing; its packs can be listed anew",
            next_step="run sealift repository repair --preview, then without --preview",
        ) from error
    if hashlib.sha256(sealed).digest() != ref.digest:
        raise IntegrityError(f"{ref.name}: it is not the object that the commit names")
    return decode_index(ref.name, records.open(RecordKind.INDEX, ref.name, sealed, max_bytes=limit))
