"""Reads a completed EBS snapshot through the EBS direct API."""

import hashlib
from base64 import b64encode
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from connectors.aws.block_lists import BLOCK_BYTES, changed_blocks, explain, written_blocks
from connectors.aws.errors import aws_call, field_of
from sealift.errors import SealiftError, SourceReadError, TransientError
from sealift.extents import Extent, Kind, coalesce
from sealift.ratelimit import RateLimit, Unlimited

if TYPE_CHECKING:
    from mypy_boto3_ebs import EBSClient


class EbsSnapshotReader:
    """A completed snapshot as a disk (I1); incremental when a base is given.

    Absent blocks of an unencrypted snapshot are ZERO. Of an encrypted one they are DATA
    that cannot be read: a volume shows noise there, which nobody can know.
    Memory: about 5 MiB of block tokens, and one block per call of ``read_into``.

    Args:
        ebs: client with SDK retries off.
        snapshot_id: the snapshot.
        size: bytes of its volume.
        encrypted: whether it is.
        base_id: an earlier snapshot of its lineage.
        get_limit: the account's rate of GetSnapshotBlock.
    """

    def __init__(
        self,
        ebs: "EBSClient",
        snapshot_id: str,
        size: int,
        *,
        encrypted: bool,
        base_id: str | None = None,
        get_limit: RateLimit | None = None,
    ) -> None:
        self._ebs = ebs
        self._id = snapshot_id
        self._size = size
        self._encrypted = encrypted
        self._base_id = base_id
        self._limit: RateLimit = get_limit or Unlimited()
        blocks = size // BLOCK_BYTES
        self._written = written_blocks(ebs, snapshot_id, blocks)
        self._changed = changed_blocks(ebs, base_id, snapshot_id, blocks) if base_id else None

    @property
    def size(self) -> int:
        """Bytes of the volume, whole GiB."""
        return self._size

    @property
    def identity(self) -> str:
        """Region, snapshot and base."""
        since = f" since {self._base_id}" if self._base_id else ""
        return f"ebs:{self._ebs.meta.region_name}:{self._id}{since}"

    @property
    def incremental(self) -> bool:
        """Whether a base was given."""
        return self._changed is not None

    def extents(self, start: int, length: int) -> Iterator[Extent]:
        """See ``DiskReader.extents``; a listing call per 1,000 listed blocks.

        Raises:
            TrackingLostError: base and snapshot have no common lineage (I9).
            PointLostError: a snapshot is gone.
            TransientError: the listing failed or made no sense; repeat it.
        """
        self._check_range(start, length)
        end = start + length
        for extent in coalesce(self._block_extents(start // BLOCK_BYTES, -(-end // BLOCK_BYTES))):
            first, last = max(extent.start, start), min(extent.end, end)
            if last > first:
                yield Extent(first, last - first, extent.kind)

    def _block_extents(self, first: int, end: int) -> Iterator[Extent]:
        listing = self._changed or self._written
        absent, unlisted = self._kinds()
        index = first
        while index < end:
            window = listing.window(index)
            for listed, token in window.tokens.items():
                if listed < index:
                    continue
                if listed >= end:
                    break
                yield from _blocks(index, listed, unlisted)
                yield from _blocks(listed, listed + 1, Kind.DATA if token else absent)
                index = listed + 1
            yield from _blocks(index, min(window.end, end), unlisted)
            index = max(index, window.end)

    def _kinds(self) -> tuple[Kind, Kind]:
        """What a block is that this snapshot does not hold, and one that is not listed."""
        absent = Kind.DATA if self._encrypted else Kind.ZERO
        return absent, Kind.CLEAN if self._changed is not None else absent

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """See ``DiskReader.read_into``; every block is checked against its SHA-256.

        Raises:
            SourceReadError: an encrypted snapshot never had this block written.
            PointLostError: the snapshot is gone.
            TransientError: repeat it.
        """
        self._check_range(offset, len(buffer))
        done = 0
        while done < len(buffer):
            index, within = divmod(offset + done, BLOCK_BYTES)
            count = min(BLOCK_BYTES - within, len(buffer) - done)
            block = self._block(index)
            part = block[within : within + count] if block is not None else bytes(count)
            buffer[done : done + count] = part
            done += count

    def _block(self, index: int) -> memoryview | None:
        token = self._written.window(index).tokens.get(index)
        if token is None:
            if self._encrypted:
                raise SourceReadError(
                    f"block {index} of encrypted snapshot {self._id} was never written: "
                    "a volume made of it reads noise there",
                    offset=index * BLOCK_BYTES,
                )
            return None
        try:
            return memoryview(self._fetched(index, token))
        except SealiftError as error:
            known = explain(error, self._id)
            if known is not error:
                self._written.forget()
            raise known from None

    def _fetched(self, index: int, token: str) -> bytes:
        action = "ebs:GetSnapshotBlock"
        self._limit.acquire(1)
        with aws_call(action):
            answer = self._ebs.get_snapshot_block(
                SnapshotId=self._id, BlockIndex=index, BlockToken=token
            )
        stream: Any = field_of(answer, "BlockData", action)
        with aws_call(action):
            data: bytes = stream.read(BLOCK_BYTES + 1)
            stream.close()
        checksum = b64encode(hashlib.sha256(data).digest()).decode()
        if len(data) != BLOCK_BYTES or checksum != field_of(answer, "Checksum", action):
            raise TransientError(
                f"block {index} of {self._id} arrived damaged",
                snapshot_id=self._id,
                block_index=index,
                received_bytes=len(data),
            )
        return data

    def _check_range(self, start: int, length: int) -> None:
        if start < 0 or length < 0 or start + length > self._size:
            raise ValueError(f"{length} bytes at {start} are not within {self._size}")

    def close(self) -> None:
        """Forget listings; the client belongs to the target."""
        self._written.forget()
        if self._changed is not None:
            self._changed.forget()


def _blocks(first: int, end: int, kind: Kind) -> Iterator[Extent]:
    if end > first:
        yield Extent(first * BLOCK_BYTES, (end - first) * BLOCK_BYTES, kind)
