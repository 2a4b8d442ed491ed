"""A disk reader and a disk writer in memory, as strict as the strictest real end.

They pass the same contract suites as the real ones (``sealift.testing.contracts``), so
what holds against them holds against a cloud. They keep every operation for assertions,
and misuse is a ``ValueError`` at once: a real end would do anything.
"""

import hashlib
import random
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum

from sealift.disk import Unwritten, WriterCaps
from sealift.errors import IntegrityError, TargetError
from sealift.extents import Extent, Kind, checked_partition
from sealift.testing.minilang import CELL_BYTES, TextDisk, parse
from sealift.units import KiB, round_up


class Verb(Enum):
    """Operations as they are recorded."""

    READ = "read"
    EXTENTS = "extents"
    WRITE = "write"
    ZERO = "zero"
    FLUSH = "flush"
    COMMIT = "commit"
    ABORT = "abort"


@dataclass(frozen=True, slots=True)
class Operation:
    """One call that took effect; ``offset`` and ``length`` in bytes, 0 where meaningless."""

    verb: Verb
    offset: int = 0
    length: int = 0


class MemoryReader:
    """A point in time in memory.

    Args:
        content: the bytes of the disk.
        extents: partition of the disk; default one DATA extent.
        incremental: whether CLEAN may appear.
        identity: default is the digest of content, so equal identities mean equal bytes.
    """

    def __init__(
        self,
        content: bytes,
        *,
        extents: Sequence[Extent] | None = None,
        incremental: bool = False,
        identity: str = "",
    ) -> None:
        whole = [Extent(0, len(content), Kind.DATA)] if content else []
        self._content = content
        self._extents = list(whole if extents is None else extents)
        list(checked_partition(self._extents, 0, len(content)))
        self._incremental = incremental
        self._identity = identity or f"memory:{hashlib.sha256(content).hexdigest()[:16]}"
        self.operations: list[Operation] = []
        self.closed = False

    @classmethod
    def of(cls, disk: TextDisk, *, identity: str = "") -> "MemoryReader":
        """Reader of a parsed disk."""
        return cls(
            disk.content,
            extents=disk.extents,
            incremental=disk.incremental,
            identity=identity,
        )

    @classmethod
    def from_text(
        cls,
        text: str,
        *,
        cell_bytes: int = CELL_BYTES,
        base: bytes | None = None,
        size: int | None = None,
        identity: str = "",
    ) -> "MemoryReader":
        """Reader of ``minilang.parse(text, ...)``."""
        return cls.of(parse(text, cell_bytes=cell_bytes, base=base, size=size), identity=identity)

    @property
    def size(self) -> int:
        """See ``DiskReader.size``."""
        return len(self._content)

    @property
    def identity(self) -> str:
        """See ``DiskReader.identity``."""
        return self._identity

    @property
    def incremental(self) -> bool:
        """See ``DiskReader.incremental``."""
        return self._incremental

    @property
    def content(self) -> bytes:
        """The whole disk, for assertions."""
        return self._content

    def extents(self, start: int, length: int) -> Iterator[Extent]:
        """See ``DiskReader.extents``."""
        _check_range(start, length, self.size)
        return self._clipped(start, start + length)

    def _clipped(self, start: int, end: int) -> Iterator[Extent]:
        self.operations.append(Operation(Verb.EXTENTS, start, end - start))
        for extent in self._extents:
            first, last = max(extent.start, start), min(extent.end, end)
            if last > first:
                yield Extent(first, last - first, extent.kind)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """See ``DiskReader.read_into``."""
        _check_range(offset, len(buffer), self.size)
        self.operations.append(Operation(Verb.READ, offset, len(buffer)))
        buffer[:] = self._content[offset : offset + len(buffer)]

    def close(self) -> None:
        """See ``DiskReader.close``."""
        self.closed = True


@dataclass
class _Store:
    """What survives the writer's process: the thing under construction."""

    durable: bytearray
    live: bytearray
    digests: dict[int, bytes] = field(default_factory=dict)
    durable_digests: dict[int, bytes] = field(default_factory=dict)
    unflushed: list[tuple[int, bytes]] = field(default_factory=list)
    committed: bool = False
    aborted: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __getstate__(self) -> dict[str, object]:
        """Without the lock, so that a whole world can be copied."""
        return {k: v for k, v in self.__dict__.items() if k != "lock"}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state, lock=threading.Lock())


class MemoryWriter:
    """A target under construction in memory.

    Args:
        size: bytes of the target.
        unwritten: what unwritten ranges read as; UNDEFINED starts as seeded noise, BASE as
            ``base``, ZERO as zeroes.
        base: content of the parent, for BASE; shorter bases read as zeroes beyond their end.
        block_size: grid in bytes.
        max_op_bytes: longest write; default 16 blocks.
        native_zero: whether ``zero`` may be called.
        whole_blocks: whether the last write is padded past ``size``.
        durable_writes: whether a write survives ``crash`` without ``flush``.
        wants_digests: whether digests are demanded, and verified.
        concurrency: see ``WriterCaps``.
        identity: see ``DiskWriter.identity``.
        seed: of the noise.
    """

    def __init__(
        self,
        size: int,
        *,
        unwritten: Unwritten = Unwritten.ZERO,
        base: bytes = b"",
        block_size: int = 64 * KiB,
        max_op_bytes: int | None = None,
        native_zero: bool = False,
        whole_blocks: bool = False,
        durable_writes: bool = False,
        wants_digests: bool = False,
        concurrency: int = 4,
        identity: str = "memory-target",
        seed: int = 1,
    ) -> None:
        self._caps = WriterCaps(
            size=size,
            block_size=block_size,
            unwritten=unwritten,
            max_op_bytes=max_op_bytes or 16 * block_size,
            native_zero=native_zero,
            whole_blocks=whole_blocks,
            durable_writes=durable_writes,
            wants_digests=wants_digests,
            concurrency=concurrency,
        )
        self._identity = identity
        first = _initial(round_up(size, block_size), unwritten, base, seed)
        self._store = _Store(durable=bytearray(first), live=bytearray(first))
        self.operations: list[Operation] = []
        self.closed = False

    @property
    def caps(self) -> WriterCaps:
        """See ``DiskWriter.caps``."""
        return self._caps

    @property
    def identity(self) -> str:
        """See ``DiskWriter.identity``."""
        return self._identity

    @property
    def content(self) -> bytes:
        """What the target holds now, ``caps.size`` bytes; visible to others once committed."""
        with self._store.lock:
            return bytes(self._store.live[: self._caps.size])

    @property
    def committed(self) -> bool:
        """Whether the disk exists."""
        return self._store.committed

    @property
    def aborted(self) -> bool:
        """Whether what was written was removed."""
        return self._store.aborted

    def reopen(self) -> "MemoryWriter":
        """A second writer of the same thing, as another process would open it."""
        twin = object.__new__(MemoryWriter)
        twin._caps, twin._identity, twin._store = self._caps, self._identity, self._store
        twin.operations, twin.closed = [], False
        return twin

    def crash(self, rng: random.Random | None = None) -> "MemoryWriter":
        """The target loses power: unflushed writes are gone; returns the reopened writer.

        Args:
            rng: lets each unflushed block survive by the toss of a coin, as a real disk does.
        """
        with self._store.lock:
            self._crash_locked(rng)
        return self.reopen()

    def write(self, offset: int, data: memoryview, digests: Sequence[bytes]) -> None:
        """See ``DiskWriter.write``."""
        self._check_open()
        self._check_write(offset, len(data))
        blocks = self._verified(offset, bytes(data), digests)
        with self._store.lock:
            self._put_locked(offset, bytes(data))
            self._store.digests.update(blocks)
            self.operations.append(Operation(Verb.WRITE, offset, len(data)))

    def zero(self, offset: int, length: int) -> None:
        """See ``DiskWriter.zero``."""
        self._check_open()
        if not self._caps.native_zero:
            raise ValueError("zero called on a writer without native_zero")
        self._check_grid(offset, length)
        block = self._caps.block_size
        with self._store.lock:
            for at in range(offset, offset + length, block):
                part = bytes(min(block, offset + length - at))
                self._put_locked(at, part)
                if self._caps.wants_digests:
                    self._store.digests[at // block] = hashlib.sha256(part).digest()
            self.operations.append(Operation(Verb.ZERO, offset, length))

    def flush(self) -> None:
        """See ``DiskWriter.flush``."""
        self._check_open()
        with self._store.lock:
            self._flush_locked()
            self.operations.append(Operation(Verb.FLUSH))

    def commit(self, blocks: Iterable[tuple[int, bytes]]) -> None:
        """See ``DiskWriter.commit``."""
        if self._store.aborted:
            raise TargetError("this target was removed")
        handed = list(blocks)
        with self._store.lock:
            self._check_blocks_locked(handed)
            self._flush_locked()
            self._store.committed = True
            self.operations.append(Operation(Verb.COMMIT))

    def abort(self) -> None:
        """See ``DiskWriter.abort``."""
        with self._store.lock:
            self._store.aborted = True
            self._store.unflushed.clear()
            self.operations.append(Operation(Verb.ABORT))

    def close(self) -> None:
        """See ``DiskWriter.close``."""
        self.closed = True

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("the writer is closed")
        if self._store.committed or self._store.aborted:
            raise TargetError("the target is committed or removed; nothing may be written")

    def _check_grid(self, offset: int, length: int) -> None:
        limit = self._caps.size
        if self._caps.whole_blocks:
            limit = round_up(limit, self._caps.block_size)
        _check_range(offset, length, limit)
        at_end = offset + length == self._caps.size and not self._caps.whole_blocks
        if offset % self._caps.block_size or (length % self._caps.block_size and not at_end):
            raise ValueError(f"{length} bytes at {offset} are not on the grid")

    def _check_write(self, offset: int, length: int) -> None:
        self._check_grid(offset, length)
        if not 0 < length <= self._caps.max_op_bytes:
            raise ValueError(f"a write of {length} bytes; at most {self._caps.max_op_bytes}")

    def _verified(self, offset: int, data: bytes, digests: Sequence[bytes]) -> dict[int, bytes]:
        block = self._caps.block_size
        if not self._caps.wants_digests:
            if digests:
                raise ValueError("digests were not asked for")
            return {}
        parts = [data[at : at + block] for at in range(0, len(data), block)]
        if [hashlib.sha256(part).digest() for part in parts] != list(digests):
            raise IntegrityError("a block differs from its digest", offset=offset)
        return dict(enumerate(digests, offset // block))

    def _put_locked(self, offset: int, data: bytes) -> None:
        self._store.live[offset : offset + len(data)] = data
        if self._caps.durable_writes:
            self._store.durable[offset : offset + len(data)] = data
        else:
            self._store.unflushed.append((offset, data))

    def _flush_locked(self) -> None:
        for offset, data in self._store.unflushed:
            self._store.durable[offset : offset + len(data)] = data
        self._store.unflushed.clear()
        self._store.durable_digests = dict(self._store.digests)

    def _crash_locked(self, rng: random.Random | None) -> None:
        store, block = self._store, self._caps.block_size
        for offset, data in store.unflushed:
            for at in range(0, len(data), block):
                if rng and rng.random() < 0.5:
                    part = data[at : at + block]
                    store.durable[offset + at : offset + at + len(part)] = part
        store.unflushed.clear()
        store.live[:] = store.durable
        if not self._caps.durable_writes:
            store.digests = dict(store.durable_digests)

    def _check_blocks_locked(self, handed: list[tuple[int, bytes]]) -> None:
        if not self._caps.wants_digests:
            if handed:
                raise ValueError("digests were not asked for")
            return
        if handed != sorted(self._store.digests.items()):
            raise IntegrityError(
                "the target holds other blocks than were acknowledged",
                held=len(self._store.digests),
                acknowledged=len(handed),
            )


def _initial(size: int, unwritten: Unwritten, base: bytes, seed: int) -> bytes:
    if unwritten is Unwritten.UNDEFINED:
        return random.Random(seed).randbytes(size)  # noqa: S311 - noise, not a secret
    if unwritten is Unwritten.BASE:
        return base[:size].ljust(size, b"\0")
    return bytes(size)


def _check_range(offset: int, length: int, size: int) -> None:
    if offset < 0 or length < 0 or offset + length > size:
        raise ValueError(f"{length} bytes at {offset} do not lie within {size} bytes")
