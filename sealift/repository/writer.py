"""A disk of a new point, written chunk by chunk: ``DiskWriter``."""

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

from sealift.digest import Digest, is_zero
from sealift.disk import Unwritten, WriterCaps
from sealift.errors import ChunksGoneError, IntegrityError, TargetError
from sealift.repository.blocks import TreeBlocks
from sealift.repository.session import Repository
from sealift.repository.tree import ZERO_ID, Tree, built
from sealift.sealing.chunks import ChunkKind
from sealift.units import MiB

OPERATION_BYTES = 2 * MiB
"""One write: 32 chunks of 64 KiB share its overhead; a seed took a twentieth more time with 16, and
no less with 64."""
_PROCESSORS = os.cpu_count() or 2
WORKERS = max(2, min(8, _PROCESSORS + 1))
"""Sealing takes a processor each, and one worker waits for the store; with more, a seed on two
processors took a tenth more of their time. A store that is a folder here takes so little time that
one for each processor is enough; so they begin without the last one."""
_BATCH = 4096


class RepositoryWriter:
    """Stores a disk's chunks, and at ``commit`` the tree over them.

    A committed disk is whole and durable, and yet not visible: that is the point, which
    ``Repository.publish`` makes of all disks at once.

    Memory: one bit a chunk, and what ``Repository`` needs.

    Args:
        repository: opened.
        identity: names this disk of this point over processes.
        size: bytes of the disk.
        base: the disk of the point before; None for a new disk.
        finished: takes the tree at ``commit``.
        done: the tree, when an earlier call or process committed already.
        abandoned: told of ``abort``.
        gone: told when something that it stands on was pruned, so that it can never be whole.
    """

    def __init__(
        self,
        repository: Repository,
        *,
        identity: str,
        size: int,
        base: Tree | None,
        finished: Callable[[Tree], None],
        done: Tree | None = None,
        abandoned: Callable[[], None] = lambda: None,
        gone: Callable[[], None] = lambda: None,
    ) -> None:
        chunk = base.chunk_size if base else repository.options.chunk_bytes
        self._repository, self._identity = repository, identity
        self._base, self._finished, self._abandoned = base, finished, abandoned
        self._done, self._gone = done, gone
        self._aborted = False
        digest = Digest("content-id", repository.sealer.content_id)
        self._zero = digest.of(bytes(chunk))
        known = TreeBlocks(base, repository.load_node, digest) if base else None
        self._caps = WriterCaps(
            size=size,
            block_size=chunk,
            unwritten=Unwritten.BASE if base else Unwritten.ZERO,
            max_op_bytes=max(chunk, OPERATION_BYTES),
            native_zero=True,
            whole_blocks=True,
            wants_digests=True,
            concurrency=max(1, min(WORKERS, repository.store.caps.concurrency)),
            first_calls=max(1, min(WORKERS - 1, _PROCESSORS)),
            digest=digest,
            keeps_digests=True,
            base=known,
        )
        self._chunks = -(-size // chunk)
        self._lock = threading.Lock()
        self._touched = bytearray(-(-self._chunks // 8))

    @property
    def caps(self) -> WriterCaps:
        """See ``DiskWriter.caps``."""
        return self._caps

    @property
    def identity(self) -> str:
        """See ``DiskWriter.identity``."""
        return self._identity

    def write(self, offset: int, data: memoryview, digests: Sequence[bytes]) -> None:
        """See ``DiskWriter.write``; stores those chunks that are not stored yet.

        Raises:
            IntegrityError: a digest is not that of its block.
        """
        chunk = self._caps.block_size
        indexes = self._checked(offset, len(data))
        if len(data) > self._caps.max_op_bytes or len(digests) != len(indexes):
            raise ValueError(f"{len(data)} bytes with {len(digests)} digests")
        ids, parts = [], []
        for n, digest in enumerate(digests):
            part = data[n * chunk : (n + 1) * chunk]
            if digest != self._zero:
                ids.append(digest)
                parts.append(part)
            elif not is_zero(part):
                raise IntegrityError(f"block {indexes[n]} does not have the digest of zeroes")
        if ids:
            self._repository.packer.put(ChunkKind.DATA, ids, parts)
        self._touch(indexes)

    def zero(self, offset: int, length: int) -> None:
        """See ``DiskWriter.zero``; zeroes are not stored."""
        self._touch(self._checked(offset, length))

    def flush(self) -> None:
        """See ``DiskWriter.flush``."""
        self._check_open()
        self._repository.packer.flush()

    def commit(self, blocks: Iterable[tuple[int, bytes]]) -> None:
        """See ``DiskWriter.commit``.

        Raises:
            ChunksGoneError: chunks that a killed process had stored were pruned since.
        """
        if self._aborted:
            raise TargetError("this disk was given up")
        if self._done is not None:
            return
        self._repository.packer.flush()
        try:
            tree = self._built(blocks)
        except ChunksGoneError:
            self._gone()
            raise
        self._repository.packer.flush()
        self._finished(tree)
        self._done = tree

    def _built(self, blocks: Iterable[tuple[int, bytes]]) -> Tree:
        start = self._base or Tree(self._caps.size, self._caps.block_size, ZERO_ID)
        changes = _Changes(blocks, self._zero, self._check_stored)
        load, store = self._repository.load_node, self._repository.store_node
        tree = built(start, changes, load, store, self._caps.size)
        self._check_all_named(changes.named)
        return tree

    def abort(self) -> None:
        """See ``DiskWriter.abort``; what was stored already is garbage that prune removes."""
        self._aborted = True
        self._abandoned()

    def close(self) -> None:
        """See ``DiskWriter.close``; the repository is the caller's."""

    def _check_open(self) -> None:
        if self._done is not None or self._aborted:
            raise TargetError("this disk is committed or given up; nothing may be written")

    def _checked(self, offset: int, length: int) -> range:
        self._check_open()
        chunk = self._caps.block_size
        first, after = offset // chunk, (offset + length) // chunk
        if offset % chunk or length % chunk or not 0 <= first < after <= self._chunks:
            raise ValueError(f"{length} bytes at {offset} are not on the grid")
        return range(first, after)

    def _touch(self, indexes: range) -> None:
        with self._lock:
            for index in indexes:
                self._touched[index >> 3] |= 1 << (index & 7)

    def _check_stored(self, ids: list[bytes]) -> None:
        known = self._repository.index.known(ChunkKind.DATA, ids)
        missing = next((one for one in ids if one not in known), None)
        if missing is not None:
            raise ChunksGoneError(
                f"chunk {missing.hex()} was stored by an earlier run and is gone",
                next_step="run the same command again: what is missing is read and sent anew",
            )

    def _check_all_named(self, named: bytearray) -> None:
        named.extend(bytes(max(0, len(self._touched) - len(named))))
        with self._lock:
            written = int.from_bytes(self._touched, "little")
        if written & ~int.from_bytes(named, "little"):
            raise IntegrityError("blocks were written that the commit does not name")


class _Changes:
    """(chunk index, chunk id) of the blocks of a commit, proven to be stored in batches."""

    def __init__(
        self,
        blocks: Iterable[tuple[int, bytes]],
        zero: bytes,
        check: Callable[[list[bytes]], None],
    ) -> None:
        self._blocks, self._zero, self._check = iter(blocks), zero, check
        self.named = bytearray()

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        while batch := list(islice(self._blocks, _BATCH)):
            self._check(list({one for _, one in batch if one != self._zero}))
            for index, one in batch:
                if index >> 3 >= len(self.named):
                    self.named.extend(bytes((index >> 3) + 1 - len(self.named)))
                self.named[index >> 3] |= 1 << (index & 7)
                yield index, ZERO_ID if one == self._zero else one
