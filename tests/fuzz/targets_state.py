"""What Sealift reads back of its own, after whatever happened to the disk under it."""

import fcntl
import hashlib
import json
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path

from flows import beat, status
from sealift.blockmap import BlockMap
from sealift.errors import LocalStateError, LockedError
from sealift.journal import JournalKey, SyncJournal
from sealift.migration import Migration
from sealift.store import FileStateStore, StateLock
from sealift.testing.clock import VirtualClock
from sealift.testing.faults import Script
from sealift.testing.scenario import Scenario
from sealift.testing.world import MemoryStateStore
from sealift.units import MiB
from tests.fuzz.engine import Target
from tests.fuzz.mutate import Parts, mutated_json, mutated_parts

_JSON = (mutated_json, mutated_json, mutated_json, mutated_parts)
_KEY = JournalKey("reader", "writer", 64 * 4096, 4096)
_FRAME = struct.Struct("<II")


class _Folder:
    """A state folder in memory for as long as a parser runs."""

    store: FileStateStore
    path: Path

    @contextmanager
    def around(self) -> Iterator[None]:
        memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
        with tempfile.TemporaryDirectory(prefix="sealift-fuzz-", dir=memory) as folder:
            self.path = Path(folder)
            self.store = FileStateStore(self.path)
            yield


def _with_checksums(data: bytes) -> bytes:
    """Every frame that is there in length gets the checksum that makes it count."""
    found, at = bytearray(data), 0
    while at + _FRAME.size <= len(data):
        length, _ = _FRAME.unpack_from(found, at)
        payload = bytes(found[at + _FRAME.size : at + _FRAME.size + length])
        _FRAME.pack_into(found, at, length, zlib.crc32(payload))
        at += _FRAME.size + length
    return bytes(found)


def _frames(*payloads: bytes) -> Parts:
    return tuple(_FRAME.pack(len(p), zlib.crc32(p)) + p for p in payloads)


def _log() -> Target:
    held = _Folder()

    def parse(data: bytes) -> object:
        (held.path / "log").write_bytes(data)
        log = held.store.log("log")
        kept = list(log.records())
        log.append(b"next")
        log.close()
        assert (held.path / "log").read_bytes().startswith(b"".join(_frames(*kept)))
        again = held.store.log("log")
        assert list(again.records()) == [*kept, b"next"]
        again.close()
        return min(len(kept), 5)

    seeds = (_frames(b"first", b"second", b"third record"), _frames(b"y", b"x" * 70_000))
    return Target(
        *("append-log", parse, seeds, (LocalStateError,)),
        weight=30,
        repair=_with_checksums,
        around=held.around,
    )


def _journal() -> Target:
    held = _Folder()

    def opened() -> SyncJournal:
        return SyncJournal(held.store, "journal", _KEY, VirtualClock())

    def parse(data: bytes) -> object:
        (held.path / "journal").write_bytes(data)
        with closing(opened()) as journal:
            before = {n: journal.blocks[n] for n in range(64)}
            journal.record([(3, b"d" * 32)])
        with closing(opened()) as again:
            assert {n: again.blocks[n] for n in range(64)} == {**before, 3: b"d" * 32}
        return min(journal.resumed_blocks, 5)

    with held.around():
        first = opened()
        first.record([(0, b"a" * 32), (63, b"b" * 32)])
        first.settle([7])
        first.record([(8, b"c" * 32)])
        first.close()
        payloads = list(held.store.log("journal").records())
    seeds = (_frames(*payloads),)
    return Target(
        *("sync-journal", parse, seeds, (LocalStateError,)),
        weight=30,
        repair=_with_checksums,
        around=held.around,
    )


def _block_map() -> Target:
    header = struct.Struct("<6sQIB32s")

    def parse(data: bytes) -> object:
        found = BlockMap.from_bytes(data)
        known = list(found.items())
        assert len(found) == len(known)
        assert all(0 <= n < found.blocks and len(digest) == 32 for n, digest in known)
        assert [found[n] for n, _ in known[:8]] == [digest for _, digest in known[:8]]
        assert list(BlockMap.from_bytes(found.to_bytes()).items()) == known
        return min(len(known), 3)

    def repaired(data: bytes) -> bytes:
        if len(data) < header.size:
            return data
        magic, blocks, size, zero, _ = header.unpack_from(data)
        body = data[header.size :]
        check = hashlib.sha256(header.pack(magic, blocks, size, zero, b"") + body).digest()
        return header.pack(magic, blocks, size, zero, check) + body

    blocks = BlockMap(10_000, 4096, absent_is_zero=True)
    for n in (0, 4096, 9_999):
        blocks[n] = bytes([n % 256 or 1]) * 32
    whole = blocks.to_bytes()
    page = 8 + 4096 * 32
    body = (whole[header.size + n * page : header.size + (n + 1) * page] for n in range(3))
    seeds = ((whole[: header.size], *body), (BlockMap(9, 512).to_bytes(),))
    return Target(
        *("block-map", parse, seeds, (LocalStateError,)),
        weight=2,
        repair=repaired,
        memory_bytes=32 * MiB,
    )


class _Recording(MemoryStateStore):
    """Remembers every record of the migration that was saved."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[bytes] = []

    def save(self, name: str, data: bytes) -> None:
        if name == "migration.json":
            self.records.append(data)
        super().save(name, data)


@cache
def migration_records() -> tuple[bytes, ...]:
    """Every record of a whole migration, from the first round to the cutover."""
    store = _Recording()
    Scenario(1, store=store).run(Script())
    return tuple(dict.fromkeys(store.records))


def _migration() -> Target:
    def parse(data: bytes) -> object:
        found = Migration.from_bytes(data)
        whole = found.to_bytes()
        assert Migration.from_bytes(whole).to_bytes() == whole  # as text: NaN is unlike itself
        return found.phase.value

    seeds = tuple((record,) for record in migration_records()[::3])
    return Target("migration-record", parse, seeds, (LocalStateError,), weight=25, mutators=_JSON)


def _signs_of_life() -> Target:
    """The beat and the lock's text, which ``status`` reads of another process."""
    held = _Folder()

    @contextmanager
    def around() -> Iterator[None]:
        with held.around(), (held.path / "lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def parse(data: bytes) -> object:
        first, _, second = data.partition(b"\n")
        (held.path / beat.BEAT_NAME).write_bytes(first)
        (held.path / "lock").write_bytes(second)
        known = beat.load_beat(held.store)
        holder = status.lock_holder(held.path)
        assert holder is not None
        try:
            with StateLock(held.path, "another"):
                raise AssertionError("the lock was taken twice")
        except LockedError:
            pass
        return known is not None

    sign = {"at": 1.5, "pid": 7, "run": "migrate", "phase": "round 1", "seq": 1}
    sign |= {"quiet_seconds": 0.5, "disks": [{"id": "vda", "total": 9, "done": 3, "rate": 1.5}]}
    owner = json.dumps({"pid": 7, "run": "sealift migrate"}).encode()
    seeds = ((json.dumps(sign).encode() + b"\n", owner),)
    return Target("signs-of-life", parse, seeds, (), weight=15, mutators=_JSON, around=around)


BUILDERS: Mapping[str, Callable[[], Target]] = {
    "append-log": _log,
    "sync-journal": _journal,
    "block-map": _block_map,
    "migration-record": _migration,
    "signs-of-life": _signs_of_life,
}
"""Local state."""
