"""Blocks that a change list calls unchanged, read all the same: tracking is audited, not believed.

Change lists of others have left changed blocks out for years before anybody noticed. A
round that trusts one reads a few of the blocks it would leave out and compares them with
the digests of what the target holds.
"""

import math
import random
from collections import deque
from collections.abc import Iterator

from sealift.disk import DiskReader, KnownBlocks
from sealift.errors import TrackingWrongError
from sealift.extents import Extent, Kind
from sealift.units import round_down, round_up


class AuditingReader:
    """A reader that compares a sample of its CLEAN blocks with what the target holds there.

    The sample is drawn uniformly from the extent stream as it passes, whatever its length
    (reservoir sampling with skips, Li's Algorithm L, ACM TOMS 20(4), 1994), and read before
    the last extent is handed out: a sync over this reader ends before its commit when a
    block is found that changed and was not listed. Only blocks of the writer's grid that are
    CLEAN as a whole count; the others are copied anyway.

    The extent stream may be asked for again from where it broke off; a block is neither
    drawn nor compared twice. Memory: one block, and the sample; for ``blocks`` None what one
    run of CLEAN blocks needs, which does not grow with its length.

    Args:
        reader: the point in time; incremental.
        base: digests of what the target holds; blocks that it does not know are not compared.
        blocks: how many to compare; None = every one.
        disk_id: for the error.
        rng: draws the sample; seeded in simulations.

    Attributes:
        compared: how many blocks were read and found equal.
    """

    def __init__(
        self,
        reader: DiskReader,
        base: KnownBlocks,
        *,
        blocks: int | None,
        disk_id: str,
        rng: random.Random,
    ) -> None:
        self._reader, self._base = reader, base
        self._disk_id = disk_id
        self.size, self.identity = reader.size, reader.identity
        self.incremental = reader.incremental
        self.compared = 0
        self._sample = None if blocks is None else _Reservoir(blocks, rng)
        self._walked_to = 0
        self._clean_from: int | None = None
        self._due: deque[range] = deque()

    def extents(self, start: int, length: int) -> Iterator[Extent]:
        """See ``DiskReader.extents``.

        Raises:
            TrackingWrongError: a block that is called unchanged has changed.
        """
        for extent in self._reader.extents(start, length):
            self._walk(extent)
            self._compare_due()
            yield extent

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """See ``DiskReader.read_into``."""
        self._reader.read_into(offset, buffer)

    def close(self) -> None:
        """See ``DiskReader.close``."""
        self._reader.close()

    def _walk(self, extent: Extent) -> None:
        if extent.end <= self._walked_to:
            return
        if extent.kind is not Kind.CLEAN:
            self._end_run(extent.start)
        elif self._clean_from is None:
            self._clean_from = extent.start
        self._walked_to = extent.end
        if extent.end == self.size:
            self._end_run(round_up(self.size, self._base.block_size))
            if self._sample is not None:
                self._due.extend(range(n, n + 1) for n in sorted(self._sample.drawn))

    def _end_run(self, end: int) -> None:
        """A run of CLEAN bytes is over; its whole blocks count."""
        if self._clean_from is None:
            return
        block = self._base.block_size
        first = round_up(self._clean_from, block) // block
        run = range(first, max(first, round_down(end, block) // block))
        self._clean_from = None
        if self._sample is None:
            self._due.append(run)
        else:
            self._sample.offer(run)

    def _compare_due(self) -> None:
        """Nothing is struck off before it was compared: a read that fails is read again."""
        while self._due:
            run = self._due[0]
            for index in run:
                self._compare(index)
                self._due[0] = range(index + 1, run.stop)
            self._due.popleft()

    def _compare(self, index: int) -> None:
        known = self._base[index]
        if known is None:
            return
        block = self._base.block_size
        start = index * block
        buffer = bytearray(block)  # beyond the disk's end the target holds zeroes
        with memoryview(buffer) as whole, whole[: min(block, self.size - start)] as part:
            self._reader.read_into(start, part)
        if self._base.digest.of(bytes(buffer)) != known:
            raise TrackingWrongError(
                f"disk {self._disk_id}: block {index} (at byte {start}) has changed, but the "
                "hypervisor does not say so",
                next_step="run the same command again: the whole disk is compared; report it to "
                "whoever maintains the hypervisor",
                disk=self._disk_id,
                block=index,
                offset=start,
            )
        self.compared += 1


class _Reservoir:
    """A uniform sample of ``size`` numbers out of runs whose number nobody knows yet."""

    def __init__(self, size: int, rng: random.Random) -> None:
        self._size, self._rng = size, rng
        self._seen = 0
        self._next = size
        self._weight = 1.0
        self.drawn: list[int] = []
        self._skip(at_least=0)

    def offer(self, run: range) -> None:
        """Let every number of the run have its chance, in time of the order of what is drawn."""
        filling = run[: max(0, self._size - len(self.drawn))]
        self.drawn += filling
        seen_before, self._seen = self._seen, self._seen + len(run)
        while self._size and self._next < self._seen:
            self.drawn[self._rng.randrange(self._size)] = run[self._next - seen_before]
            self._skip(at_least=1)

    def _skip(self, *, at_least: int) -> None:
        """Choose the next number that is drawn."""
        if not self._size:
            return
        self._weight *= (1.0 - self._rng.random()) ** (1 / self._size)
        passed = 0.0
        if self._weight < 1.0:  # always, but for a random number of exactly 0
            passed = math.log(1.0 - self._rng.random()) / math.log1p(-max(self._weight, 1e-300))
        self._next += at_least + int(passed)
