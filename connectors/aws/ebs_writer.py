"""Writes one EBS snapshot block by block through the EBS direct API."""

import hashlib
import logging
from base64 import b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from connectors.aws.block_lists import BLOCK_BYTES
from connectors.aws.block_put import BlockSender
from connectors.aws.errors import MissingError, aws_call, code_of, field_of
from connectors.aws.snapshots import Snapshots
from connectors.aws.tags import SEALED
from connectors.aws.wait import VISIBLE_SECONDS
from sealift.disk import Unwritten, WriterCaps
from sealift.endpoints import SnapshotRef, SnapshotState
from sealift.errors import IntegrityError, TargetError, TransientError
from sealift.ratelimit import RateLimit, Unlimited
from sealift.wait import Waiter

if TYPE_CHECKING:
    from mypy_boto3_ebs import EBSClient

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Total:
    """What CompleteSnapshot is asked to confirm."""

    blocks: int
    checksum: str

    @property
    def tag(self) -> str:
        return f"{self.blocks}:{self.checksum}"


class EbsSnapshotWriter:
    """A pending snapshot under construction.

    Put blocks are durable when the call returns, and the same block may be put again. The
    snapshot can neither be read nor launched before ``commit`` (I6). Memory: beside the
    callers' buffers a copy of one block during each call. Safe in any number of threads.

    Args:
        ebs: client with SDK retries off.
        blocks: sends the blocks.
        snapshots: finds and changes snapshots of the migration.
        ref: the pending snapshot; its size is a whole number of GiB.
        unwritten: what absent blocks will read as.
        waiter: clock and stop token for the wait in ``commit``.
        put_limit: the account's rate of PutSnapshotBlock, shared by all writers.
        concurrency: most calls in flight.
        complete_timeout_seconds: longest wait for the state ``completed``.
    """

    def __init__(
        self,
        ebs: "EBSClient",
        blocks: BlockSender,
        snapshots: Snapshots,
        ref: SnapshotRef,
        *,
        unwritten: Unwritten,
        waiter: Waiter,
        put_limit: RateLimit | None = None,
        concurrency: int = 32,
        complete_timeout_seconds: float = 900.0,
    ) -> None:
        self._ebs = ebs
        self._blocks = blocks
        self._snapshots = snapshots
        self._id = ref.id
        self._waiter = waiter
        self._limit: RateLimit = put_limit or Unlimited()
        self._complete_timeout_seconds = complete_timeout_seconds
        self._opened_at = waiter.clock.monotonic()
        self._caps = WriterCaps(
            size=ref.size,
            block_size=BLOCK_BYTES,
            unwritten=unwritten,
            max_op_bytes=BLOCK_BYTES,
            native_zero=False,
            whole_blocks=True,
            durable_writes=True,
            wants_digests=True,
            concurrency=concurrency,
        )

    @property
    def caps(self) -> WriterCaps:
        """See ``DiskWriter.caps``."""
        return self._caps

    @property
    def identity(self) -> str:
        """The region and the snapshot's id."""
        return f"ebs:{self._ebs.meta.region_name}:{self._id}"

    def write(self, offset: int, data: memoryview, digests: Sequence[bytes]) -> None:
        """Put whole blocks; each is confirmed by the service with its SHA-256.

        Raises:
            TransientError: unknown whether it took effect; repeat it.
            TargetError: the snapshot no longer takes blocks: timed out, deleted, complete.
        """
        if offset % BLOCK_BYTES or len(data) != len(digests) * BLOCK_BYTES or not digests:
            raise ValueError(f"write of {len(data)} bytes at {offset} is not on the block grid")
        if offset < 0 or offset + len(data) > self._caps.size:
            raise ValueError(f"write of {len(data)} bytes at {offset} exceeds {self._caps.size}")
        for number, digest in enumerate(digests):
            start = number * BLOCK_BYTES
            self._put(offset // BLOCK_BYTES + number, data[start : start + BLOCK_BYTES], digest)

    def _put(self, index: int, data: memoryview, digest: bytes) -> None:
        checksum = b64encode(digest).decode()
        self._limit.acquire(1)
        try:
            with aws_call("ebs:PutSnapshotBlock"):
                confirmed = self._blocks.put(self._id, index, bytes(data), checksum)
        except MissingError as error:
            raise self._not_there(error) from None
        if confirmed != checksum:
            raise TransientError(
                f"EBS did not confirm the checksum of block {index} of {self._id}",
                snapshot_id=self._id,
                block_index=index,
            )

    def zero(self, offset: int, length: int) -> None:
        """Never called: ``native_zero`` is False, zero blocks are written like others."""
        raise NotImplementedError("EBS has no native zero; write zero blocks")

    def flush(self) -> None:
        """Nothing to do: a confirmed block is durable."""

    def commit(self, blocks: Iterable[tuple[int, bytes]]) -> None:
        """Complete the snapshot over exactly these blocks and wait until it is completed.

        EBS compares count and LINEAR total with what it holds. Both are written to the
        snapshot as a tag before, so that a repeated ``commit``, by any process, proves
        that the snapshot was completed over the same blocks.

        Raises:
            IntegrityError: EBS holds other blocks than these.
            TargetError: the snapshot failed or is gone.
            TransientError: not completed yet; call it again.
        """
        total = _total(blocks)
        facts = self._snapshots.facts(self._id)
        if facts is None:
            raise self._not_there(MissingError(f"snapshot {self._id} does not exist"))
        if facts.state is SnapshotState.PENDING:
            self._seal(total, asked_before=facts.tags.get(SEALED) == total.tag)
        self._await_completed(self._complete_timeout_seconds)
        self._check_seal(total)
        log.info("snapshot %s is complete: %d blocks", self._id, total.blocks)

    def _seal(self, total: _Total, *, asked_before: bool) -> None:
        try:
            self._snapshots.tag(self._id, {SEALED: total.tag})
            self._complete(total)
        except MissingError as error:
            raise self._not_there(error) from None
        except TargetError as error:
            if code_of(error) != "ValidationException":
                raise
            # An answer to an earlier request may have been lost: then EBS refuses this one
            # because the snapshot is already on its way.
            if asked_before and self._completes_anyway():
                return
            raise IntegrityError(
                f"EBS refuses to complete {self._id} over {total.blocks} blocks: {error.message}",
                next_step="keep the journal and start this disk again with a full copy",
                snapshot_id=self._id,
                blocks=total.blocks,
                checksum=total.checksum,
                **error.operands,
            ) from None

    def _completes_anyway(self) -> bool:
        try:
            self._await_completed(self._complete_timeout_seconds)
        except TransientError:
            return False
        return True

    def _complete(self, total: _Total) -> None:
        with aws_call("ebs:CompleteSnapshot"):
            answer = self._ebs.complete_snapshot(
                SnapshotId=self._id,
                ChangedBlocksCount=total.blocks,
                Checksum=total.checksum,
                ChecksumAlgorithm="SHA256",
                ChecksumAggregationMethod="LINEAR",
            )
        field_of(answer, "Status", "ebs:CompleteSnapshot")

    def _await_completed(self, timeout_seconds: float) -> None:
        def completed() -> bool | None:
            state = self._snapshots.state(self._id)
            if state is SnapshotState.FAILED:
                raise TargetError(
                    f"snapshot {self._id} ended in state error",
                    next_step="run the same command again: it starts a new snapshot",
                    snapshot_id=self._id,
                )
            if state is SnapshotState.MISSING:
                raise self._not_there(MissingError(f"snapshot {self._id} does not exist"))
            return True if state is SnapshotState.COMPLETED else None

        self._waiter.until(completed, timeout_seconds, f"completing snapshot {self._id}")

    def _check_seal(self, total: _Total) -> None:
        def sealed() -> str | None:
            facts = self._snapshots.facts(self._id)
            return facts.tags.get(SEALED) if facts else None

        found = self._waiter.until(sealed, VISIBLE_SECONDS, f"the seal of snapshot {self._id}")
        if found != total.tag:
            raise IntegrityError(
                f"snapshot {self._id} was completed over other blocks than this run wrote",
                next_step="keep the journal and start this disk again with a full copy",
                snapshot_id=self._id,
                expected=total.tag,
                found=found,
            )

    def _not_there(self, error: MissingError) -> TargetError | TransientError:
        """Young snapshots may not be visible yet; later on it is gone for good."""
        age = self._waiter.clock.monotonic() - self._opened_at
        if age <= VISIBLE_SECONDS:
            return TransientError(error.message, next_step="", **error.operands)
        return TargetError(
            f"snapshot {self._id} is gone: it timed out or was deleted",
            next_step="run the same command again: it starts a new snapshot",
            **{"snapshot_id": self._id, **error.operands},
        )

    def abort(self) -> None:
        """Delete the snapshot; fine when it is gone."""
        self._snapshots.delete(self._id)

    def close(self) -> None:
        """Nothing is held; the client belongs to the target."""


def _total(blocks: Iterable[tuple[int, bytes]]) -> _Total:
    """Count and LINEAR total in one pass; memory does not grow with the disk."""
    total, count, last = hashlib.sha256(), 0, -1
    for index, digest in blocks:
        if index <= last:
            raise ValueError(f"block {index} after {last}: blocks must be ascending")
        total.update(digest)
        count, last = count + 1, index
    return _Total(count, b64encode(total.digest()).decode())
