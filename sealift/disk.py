"""The disk port: what a reader and a writer promise. ``sync`` knows nothing else of disks.

The contract suites in ``sealift.testing.contracts`` are this text as tests; every
implementation, the in-memory ones too, passes them.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from sealift.digest import SHA256, Digest
from sealift.extents import Extent


class Unwritten(Enum):
    """What a range that nobody writes will read as, once the writer has committed."""

    UNDEFINED = "undefined"
    """Anything: an old volume, or an encrypted one, where absent blocks read as noise."""
    ZERO = "zero"
    """Zeroes: a fresh, unencrypted disk."""
    BASE = "base"
    """The bytes of the parent snapshot or previous point."""


class KnownBlocks(Protocol):
    """Digests by block index, for as much of a disk as is known. Safe in any number of threads."""

    @property
    def block_size(self) -> int:
        """Bytes of a block."""

    @property
    def digest(self) -> Digest:
        """What the digests were made with; no other's may be compared with them."""

    def __getitem__(self, index: int) -> bytes | None:
        """Digest of the block, short ones padded with zeroes; None when it is not known."""


@dataclass(frozen=True, slots=True)
class WriterCaps:
    """What a writer needs and promises; constant for its life.

    Attributes:
        size: bytes of the target; at least the reader's size. What lies beyond the
            reader is part of the plan and reads as zeroes afterwards.
        block_size: grid in bytes; every write starts on it.
        unwritten: see ``Unwritten``; decides what the planner may skip.
        max_op_bytes: longest write, a multiple of ``block_size``.
        native_zero: ``zero`` costs no transfer; otherwise the engine writes zeroes.
        whole_blocks: writes are padded with zeroes to whole blocks, also at the end.
        durable_writes: a write that returned survives a crash of either side; otherwise
            only ``flush`` makes it so.
        wants_digests: ``write`` receives the digest of each block.
        digest: what makes that digest. The engine hashes a block once, so a target that
            names what it stores by its own digest needs no second pass over the bytes.
        keeps_digests: the next writer on top of this disk knows its digests (``base``), so
            that the caller need not keep a block map for it.
        base: what a target that keeps digests knows of the disk that it stands on.
        concurrency: most ``write`` calls at once; the engine makes fewer where more are no
            faster. They must be safe in any number of threads.
        first_calls: with how many at once the engine begins; None leaves it to the executor.
    """

    size: int
    block_size: int
    unwritten: Unwritten
    max_op_bytes: int
    native_zero: bool = False
    whole_blocks: bool = False
    durable_writes: bool = False
    wants_digests: bool = False
    concurrency: int = 4
    first_calls: int | None = None
    digest: Digest = field(default=SHA256, compare=False)
    keeps_digests: bool = False
    base: KnownBlocks | None = field(default=None, compare=False, repr=False)


class DiskReader(Protocol):
    """A disk at one instant: it never changes under us (I1). Safe in any number of threads."""

    @property
    def size(self) -> int:
        """Bytes; need not be a multiple of anything."""

    @property
    def identity(self) -> str:
        """Names the instant: equal identities mean equal bytes, over processes and restarts.

        A journal of another identity is never continued.
        """

    @property
    def incremental(self) -> bool:
        """Whether ``extents`` knows a base, so that CLEAN may appear."""

    def extents(self, start: int, length: int) -> Iterator[Extent]:
        """Partition ``[start, start + length)`` (I2); kinds are never wrong, at most pessimistic.

        Pessimistic is DATA instead of ZERO or CLEAN, ZERO instead of CLEAN where it
        reads as zeroes. Asked lazily, in bounded steps.

        Raises:
            TrackingLostError: change tracking was asked for and is not there (I9).
            PointLostError, SourceReadError, TransientError.
        """

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill the whole buffer from ``offset``; never short. No alignment needed.

        Raises:
            SourceReadError: this range cannot be read; the buffer's content is undefined.
            PointLostError: the instant is gone for good.
            TransientError: repeating may help.
        """

    def close(self) -> None:
        """Free connections; idempotent. The point in time itself stays."""


class DiskWriter(Protocol):
    """A target disk under construction. Nothing is visible before ``commit`` (I6).

    Writes are idempotent (I5): the same range may be written again with the same
    bytes, also after a crash and by another process that opened the same identity.
    """

    @property
    def caps(self) -> WriterCaps:
        """See ``WriterCaps``."""

    @property
    def identity(self) -> str:
        """Names the thing under construction, the same after reopening it."""

    def write(self, offset: int, data: memoryview, digests: Sequence[bytes]) -> None:
        """Write all of ``data`` at ``offset`` (on the grid, within ``caps.size``).

        Args:
            offset: bytes, a multiple of ``caps.block_size``.
            data: a multiple of ``block_size`` long, or shorter only at the end of the
                disk and without ``whole_blocks``; valid until the call returns.
            digests: ``caps.digest`` per block when ``wants_digests``, else empty.

        Raises:
            TransientError: unknown whether it took effect; repeat it.
            TargetError, CredentialsError: stop.
        """

    def zero(self, offset: int, length: int) -> None:
        """Make the range read as zeroes; only called with ``native_zero``."""

    def flush(self) -> None:
        """Make every returned write durable."""

    def commit(self, blocks: Iterable[tuple[int, bytes]]) -> None:
        """Make the disk exist; the last call (I6). Idempotent.

        Args:
            blocks: (block index, digest) of every block written since the identity was
                created, by any process, ascending; empty unless ``wants_digests``.

        Raises:
            IntegrityError: the target holds something else than was acknowledged.
        """

    def abort(self) -> None:
        """Remove what was written, as far as it can be removed; idempotent."""

    def close(self) -> None:
        """Free connections; what was written stays for a later process. Idempotent."""
