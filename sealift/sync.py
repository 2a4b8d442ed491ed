"""The one verb that moves data: make a writer equal to a reader."""

import random
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field

from sealift.blockmap import BlockMap
from sealift.cancel import CancelToken
from sealift.clock import Clock
from sealift.digest import is_zero
from sealift.disk import DiskReader, DiskWriter, KnownBlocks, Unwritten
from sealift.journal import SyncJournal
from sealift.patient import PatientReader
from sealift.pipeline import BufferPool, Executor, ThreadExecutor
from sealift.plan import Action, Op, plan
from sealift.progress import DiskMeter, DiskProgress, Sink, silent
from sealift.ratelimit import RateLimit, Unlimited
from sealift.retry import Retrier, RetryPolicy
from sealift.turns import SHORT_BYTES, turns
from sealift.units import MiB

FLUSH_INTERVAL_BYTES = 256 * MiB
"""How much a kill may make us send again to a writer that has to be flushed."""


@dataclass(frozen=True, slots=True)
class SyncContext:
    """What a sync needs from around it.

    Memory of a sync: ``writer.caps.concurrency`` x ``writer.caps.max_op_bytes`` for
    buffers and what the writer says of itself, whatever the disk's size; plus, which grows
    with the disk, the block map of what was written (32 bytes a block, at most 64 MiB, see
    ``BlockMap``), the base's when there is one, and one bit a block for the journal: for a
    full TiB of 512 KiB blocks 64 MiB, 64 MiB and 256 KiB.

    Attributes:
        clock: time.
        cancel: looked at before every operation.
        retry: patience with transient errors.
        executor: threads, or inline for simulations.
        bandwidth: bytes per second given to the writer.
        sink: receives progress.
        rng: of the jitter between retries; seeded in simulations.
    """

    clock: Clock
    cancel: CancelToken = field(default_factory=CancelToken)
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    executor: Executor = field(default_factory=ThreadExecutor)
    bandwidth: RateLimit = field(default_factory=Unlimited)
    sink: Sink = silent
    rng: random.Random = field(default_factory=random.Random)

    def retrier(self) -> Retrier:
        """A fresh retry layer for one caller."""
        return Retrier(self.retry, self.clock, self.cancel, self.rng)


@dataclass(frozen=True, slots=True)
class SyncReport:
    """What a sync did.

    Attributes:
        progress: the final counts, in bytes.
        blocks: digests of every block written since the writer's identity exists.
        seconds: duration of this run of the sync.
        retries: calls that were repeated.
    """

    progress: DiskProgress
    blocks: BlockMap
    seconds: float
    retries: int


def sync(
    reader: DiskReader,
    writer: DiskWriter,
    context: SyncContext,
    *,
    journal: SyncJournal | None = None,
    base: KnownBlocks | None = None,
    label: DiskProgress | None = None,
) -> SyncReport:
    """Make ``writer`` equal to ``reader`` and commit it.

    Args:
        reader: the source, a point in time (I1).
        writer: the target under construction.
        context: see ``SyncContext``.
        journal: blocks that an earlier run made durable; they are neither read nor sent
            again. Without one, a failed sync starts over.
        base: digests of what unwritten ranges hold when the writer is on a BASE; blocks
            that are read and equal to it are left out. What the writer itself knows when not
            given.
        label: names disk and round in progress events.

    Raises:
        SealiftError: the first failure. Nothing is visible on the target (I6), and what the
            journal holds stays durable for the next run.
    """
    run = _Sync(reader, writer, context, journal, base, label or DiskProgress("disk", 0))
    return run.run()


class _Sync:
    def __init__(
        self,
        reader: DiskReader,
        writer: DiskWriter,
        context: SyncContext,
        journal: SyncJournal | None,
        base: KnownBlocks | None,
        label: DiskProgress,
    ) -> None:
        self._retrier = context.retrier()
        self._reader = PatientReader(reader, self._retrier)
        self._writer, self._context = writer, context
        self._caps = writer.caps
        self._journal = journal
        known = base if base is not None else self._caps.base
        self._base = known if self._caps.unwritten is Unwritten.BASE else None
        self._digests = self._caps.wants_digests or journal is not None or base is not None
        self._hashing = turns() if self._caps.block_size <= SHORT_BYTES else nullcontext()
        self._zeroes: dict[int, bytes] = {}
        self._pool = BufferPool(self._caps.max_op_bytes)
        self._meter = DiskMeter(label, context.sink, context.clock)
        self._booking = threading.Lock()
        self._unflushed: list[tuple[int, bytes]] = []
        self._unflushed_bytes = 0
        self._written_since_flush = False
        self._written = (
            journal.blocks
            if journal
            else BlockMap(
                -(-self._caps.size // self._caps.block_size),
                self._caps.block_size,
                digest=self._caps.digest,
            )
        )
        for found in (self._base, self._written):
            if found is not None and found.digest.name != self._caps.digest.name:
                raise ValueError(f"{found.digest.name} digests for {self._caps.digest.name} ones")

    def run(self) -> SyncReport:
        started = self._context.clock.monotonic()
        caps, cancel = self._caps, self._context.cancel
        self._context.executor.run(
            self._todo(), self._work, caps.concurrency, cancel, caps.first_calls
        )
        self._checkpoint()
        if self._journal is not None:
            self._journal.sync()
        self._retrier.call(self._commit)
        return SyncReport(
            self._meter.finish(),
            self._written,
            self._context.clock.monotonic() - started,
            self._retrier.retries,
        )

    def _commit(self) -> None:
        self._writer.commit(self._written.items() if self._caps.wants_digests else ())

    def _todo(self) -> Iterator[Op]:
        """Operations that are not durable yet; blocks of the journal are cut out."""
        for op in plan(self._reader, self._caps):
            self._meter.add(total=op.length)
            if self._journal is None:
                yield op
            else:
                yield from self._without_done(op, self._journal)

    def _without_done(self, op: Op, journal: SyncJournal) -> Iterator[Op]:
        block = self._caps.block_size
        start = op.start
        for at in range(op.start, op.end, block):
            if journal.done(at // block):
                end = min(at + block, op.end)
                self._meter.add(done=end - at, resumed=end - at)
                if at > start:
                    yield Op(op.action, start, at - start)
                start = end
        if start < op.end:
            yield Op(op.action, start, op.end - start)

    def _work(self, op: Op) -> None:
        if op.action is Action.ZERO and self._caps.native_zero:
            self._retrier.call(lambda: self._writer.zero(op.start, self._padded(op)))
            self._finished(op.start, op.length, None)
            return
        buffer = self._pool.take()
        try:
            with memoryview(buffer) as whole, whole[: self._padded(op)] as data:
                self._fill(op, data)
                self._send(op, data)
        finally:
            self._pool.give(buffer)

    def _padded(self, op: Op) -> int:
        block = self._caps.block_size
        return -(-op.length // block) * block if self._caps.whole_blocks else op.length

    def _fill(self, op: Op, data: memoryview) -> None:
        wanted = 0
        if op.action is Action.COPY:
            wanted = max(0, min(op.length, self._reader.size - op.start))
            with data[:wanted] as part:
                self._reader.read_into(op.start, part)
            self._meter.add(read=wanted)
        data[wanted:] = bytes(len(data) - wanted)

    def _send(self, op: Op, data: memoryview) -> None:
        """Write the parts of ``data`` that the target does not hold yet.

        Judged by content alone, never by what the reader called the range, so that an
        interrupted and resumed sync judges each block the same way twice.
        """
        block = self._caps.block_size
        digests = self._block_digests(op, data) if self._digests else []
        held = self._held(op, data, digests)
        start = 0
        for at in held:
            self._write(op, data, start, at, digests)
            start = min(at + block, len(data))
        self._write(op, data, start, len(data), digests)
        if held:
            self._settle(op, held)

    def _held(self, op: Op, data: memoryview, digests: list[bytes]) -> list[int]:
        """Where in ``data`` the blocks are that the target reads as when nobody writes."""
        block = self._caps.block_size
        if self._caps.unwritten is Unwritten.ZERO:
            starts = range(0, len(data), block)
            return [at for at in starts if not data[at] and is_zero(data[at : at + block])]
        if self._base is None:
            return []
        first, base = op.start // block, self._base
        return [n * block for n, digest in enumerate(digests) if base[first + n] == digest]

    def _settle(self, op: Op, held: list[int]) -> None:
        block = self._caps.block_size
        if self._journal is not None:
            self._journal.settle([(op.start + at) // block for at in held])
        length = sum(self._clipped(op, at, at + block) for at in held)
        self._meter.add(done=length, unchanged=length)

    def _write(self, op: Op, data: memoryview, start: int, end: int, digests: list[bytes]) -> None:
        if end <= start:
            return
        block = self._caps.block_size
        part_digests = digests[start // block : -(-end // block)]
        handed = part_digests if self._caps.wants_digests else []
        with data[start:end] as part:
            self._context.bandwidth.acquire(len(part))
            self._retrier.call(lambda: self._writer.write(op.start + start, part, handed))
        self._meter.add(sent=end - start)
        self._finished(op.start + start, self._clipped(op, start, end), part_digests)

    def _clipped(self, op: Op, start: int, end: int) -> int:
        return min(end, op.length) - min(start, op.length)

    def _block_digests(self, op: Op, data: memoryview) -> list[bytes]:
        block = self._caps.block_size
        parts = [data[at : at + block] for at in range(0, len(data), block)]
        if op.action is Action.ZERO:
            return [self._zero_digest(len(part)) for part in parts]
        digest = self._caps.digest.of
        with self._hashing:
            return [self._zero_digest(len(p)) if is_zero(p) else digest(p) for p in parts]

    def _zero_digest(self, size: int) -> bytes:
        found = self._zeroes.get(size)
        if found is None:
            found = self._zeroes[size] = self._caps.digest.of(bytes(size))
        return found

    def _finished(self, offset: int, length: int, digests: list[bytes] | None) -> None:
        """Book a durable range; for writers that need a flush, book it after the next one."""
        self._written_since_flush = True
        if self._digests:
            self._book(offset, length, digests)
        self._meter.add(done=length)

    def _book(self, offset: int, length: int, digests: list[bytes] | None) -> None:
        block = self._caps.block_size
        starts = range(offset, offset + length, block)
        if digests is None:
            end = offset + self._padded(Op(Action.ZERO, offset, length))
            digests = [self._zero_digest(min(block, end - at)) for at in starts]
        booked = [(at // block, digest) for at, digest in zip(starts, digests, strict=True)]
        if self._journal is not None and self._caps.durable_writes:
            self._journal.record(booked)
            return
        with self._booking:
            if self._journal is None:
                for index, digest in booked:
                    self._written[index] = digest
                return
            self._unflushed.extend(booked)
            self._unflushed_bytes += length
            full = self._unflushed_bytes >= FLUSH_INTERVAL_BYTES
        if full:
            self._checkpoint()

    def _checkpoint(self) -> None:
        """Flush, and only then book what was written before the flush.

        Without a write since the last flush there is nothing to do; a target that an
        earlier run committed already would refuse it. The others go on writing meanwhile:
        what they finish is booked after the next flush.
        """
        with self._booking:
            due, self._written_since_flush = self._written_since_flush, False
            written, self._unflushed, self._unflushed_bytes = self._unflushed, [], 0
        if due and not self._caps.durable_writes:
            self._retrier.call(self._writer.flush)
        if self._journal is not None and written:
            self._journal.record(written)
