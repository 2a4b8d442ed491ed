"""One snapshot: its states, its blocks, and who may do what when.

States: pending -> (completing) -> completed, or pending -> error when it timed out.
``completing`` is shown as ``pending``. All times are on the sandbox's clock.
"""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from sandbox.aws.blocks import BLOCKS_PER_GIB, BlockMap, Layer
from sandbox.aws.digests import encoded
from sandbox.aws.errors import Reason, validation
from sealift.clock import Clock


class SnapshotState(Enum):
    """What EC2 and the EBS direct API show."""

    PENDING = "pending"
    COMPLETED = "completed"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class SnapshotFacts:
    """What never changes about a snapshot.

    Args:
        snapshot_id: ``snap-...``.
        size_gib: volume size.
        lineage: equal for snapshots that ListChangedBlocks may compare.
        started_at: wall clock.
        description: free text.
        parent_id: the snapshot it inherits from.
        kms_key_arn: key of an encrypted snapshot.
        encrypted: whether its volumes are.
        timeout_seconds: how long without a block before it is cancelled; ``None`` never.
    """

    snapshot_id: str
    size_gib: int
    lineage: str
    started_at: datetime
    description: str = ""
    parent_id: str | None = None
    kms_key_arn: str | None = None
    encrypted: bool = False
    timeout_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """The arguments of CompleteSnapshot."""

    changed_blocks: int
    linear_checksum: str | None


class SnapshotRecord:
    """A snapshot that holds its layers until ``close()``; safe from several threads."""

    def __init__(
        self, facts: SnapshotFacts, own: Layer | None, inherited: tuple[Layer, ...], clock: Clock
    ) -> None:
        self.facts = facts
        self.listing = 0
        self._own = own
        self._clock = clock
        self._blocks = BlockMap((() if own is None else (own,)) + inherited)
        self._state = SnapshotState.COMPLETED if own is None else SnapshotState.PENDING
        self._completes_at: float | None = None
        self._written_at = clock.monotonic()
        self._busy: set[int] = set()
        self._changed = threading.Condition()
        self.visible_at = clock.monotonic()

    @property
    def snapshot_id(self) -> str:
        """``snap-...``."""
        return self.facts.snapshot_id

    @property
    def end_index(self) -> int:
        """First block index past the volume."""
        return self.facts.size_gib * BLOCKS_PER_GIB

    @property
    def state(self) -> SnapshotState:
        """The state as of now."""
        with self._changed:
            return self._settle()

    @property
    def visible(self) -> bool:
        """Whether calls other than StartSnapshot can see it yet."""
        return self._clock.monotonic() >= self.visible_at

    @property
    def blocks(self) -> BlockMap:
        """The content; stable once the state is completed."""
        return self._blocks

    def put(self, index: int, data: bytes, digest: bytes) -> None:
        """Write one block while pending; the same index may be written again.

        Raises:
            ApiError: not pending, or another write of this index is under way.
        """
        with self.writing(index) as layer:
            layer.store(index, data, digest)

    @contextmanager
    def writing(self, index: int) -> Iterator[Layer]:
        """Mark a block as being written; refused unless pending and nobody else writes it."""
        with self._changed:
            layer = self._pending_layer()
            if index in self._busy:
                message = f"Block {index} is being written by another request"
                raise validation(message, Reason.CONFLICTING_BLOCK_UPDATE)
            self._busy.add(index)
        try:
            yield layer
        finally:
            with self._changed:
                self._busy.discard(index)
                self._written_at = self._clock.monotonic()
                self._changed.notify_all()

    def complete(self, completion: Completion, delay_seconds: float) -> None:
        """Seal the snapshot when count and checksum are right; else it stays pending.

        Waits for writes under way, so that what is counted is what is stored.
        """
        with self._changed:
            layer = self._pending_layer()
            while self._busy:
                self._changed.wait()
                layer = self._pending_layer()
            _check_completion(completion, layer)
            self._completes_at = self._clock.monotonic() + delay_seconds
            self._settle()

    def close(self) -> None:
        """Give up the blocks; every later call finds the snapshot in error."""
        with self._changed:
            self._state = SnapshotState.ERROR
            while self._busy:
                self._changed.wait()
            self._fail()

    def _pending_layer(self) -> Layer:
        state = self._settle()
        if state is not SnapshotState.PENDING or self._completes_at is not None:
            name = "completing" if state is SnapshotState.PENDING else state.value
            message = f"The snapshot '{self.snapshot_id}' is {name}, not pending"
            raise validation(message, Reason.INVALID_SNAPSHOT_ID)
        if self._own is None:
            raise AssertionError("a pending snapshot has a layer of its own")
        return self._own

    def _settle(self) -> SnapshotState:
        now_seconds = self._clock.monotonic()
        if self._state is SnapshotState.PENDING:
            if self._completes_at is not None:
                if now_seconds >= self._completes_at:
                    self._state = SnapshotState.COMPLETED
            elif self._timed_out(now_seconds):
                self._fail()
        return self._state

    def _timed_out(self, now_seconds: float) -> bool:
        limit = self.facts.timeout_seconds
        return limit is not None and not self._busy and now_seconds - self._written_at >= limit

    def _fail(self) -> None:
        self._state = SnapshotState.ERROR
        self._blocks.close()


def _check_completion(completion: Completion, layer: Layer) -> None:
    if completion.changed_blocks != layer.count:
        raise validation(
            f"ChangedBlocksCount is {completion.changed_blocks}, "
            f"but {layer.count} blocks were written"
        )
    expected = completion.linear_checksum
    if expected is not None and expected != encoded(layer.linear_checksum()):
        raise validation("The aggregated checksum does not match the blocks that were written")


def changed_blocks(
    first: SnapshotRecord, second: SnapshotRecord
) -> Mapping[int, tuple[bool, bool]]:
    """Where two snapshots of a lineage differ: index -> (in first, in second), ascending.

    A block counts as changed when it was written again in between, whatever its content.
    """
    union = sorted(set(first.blocks.ordered()) | set(second.blocks.ordered()))
    changed: dict[int, tuple[bool, bool]] = {}
    for index in union:
        one, two = first.blocks.find(index), second.blocks.find(index)
        if one is not two:
            changed[index] = (one is not None, two is not None)
    return changed
