"""Which block of a disk has which digest: what is known about a target without reading it.

Kept per disk for its newest complete point. It answers "is this block already there?",
which turns tracking loss into a comparison instead of a full transfer (I9) and leaves
out blocks that were written with the bytes they already had.
"""

import hashlib
import mmap
import os
import struct
import tempfile
from collections import OrderedDict
from collections.abc import Iterator
from typing import IO

from sealift.digest import BLAKE3, DIGEST_BYTES, SHA256, Digest, zero_digest
from sealift.errors import LocalStateError, OutOfSpaceError

_PAGE_BLOCKS = 4096
_PAGE_BYTES = _PAGE_BLOCKS * DIGEST_BYTES
PAGES_IN_MEMORY = 512
"""64 MiB of digests: 1 TiB of blocks of 512 KiB, 128 GiB of chunks of 64 KiB."""
_EMPTY = bytes(128 * DIGEST_BYTES)
_MAGIC = {b"SLBM\x01\n": SHA256, b"SLBM\x02\n": BLAKE3}
"""By what a file begins with, the algorithm of its digests."""
_HEADER = struct.Struct("<6sQIB32s")  # magic, blocks, block size, absent is zero, SHA-256 of rest
_PAGE_HEADER = struct.Struct("<Q")
_ABSENT = bytes(DIGEST_BYTES)  # no input is known to give it
_DIGEST = struct.Struct(f"{DIGEST_BYTES}s")


class BlockMap:
    """Digests by block index.

    Args:
        blocks: how many the disk has.
        block_size: bytes of each.
        absent_is_zero: blocks that were never set are known to read as zeroes (a fresh
            disk); otherwise nothing is known of them.
        digest: what the digests are made with.

    Memory: 32 bytes for each known block in pages of 4096 blocks, so 64 MiB for a full
    TiB of 512 KiB blocks, and nothing for ranges that were never written; never more than
    ``PAGES_IN_MEMORY`` pages: the rest waits in a temporary file without a name.
    """

    def __init__(
        self,
        blocks: int,
        block_size: int,
        *,
        absent_is_zero: bool = False,
        digest: Digest = SHA256,
    ) -> None:
        self.blocks = blocks
        self.block_size = block_size
        self.digest = digest
        self.absent_is_zero = absent_is_zero
        self._pages = _Pages()
        self.known = 0

    def __getitem__(self, index: int) -> bytes | None:
        found = self._stored(index)
        if found is None and self.absent_is_zero:
            return zero_digest(self.digest, self.block_size)
        return found

    def _stored(self, index: int) -> bytes | None:
        page = self._pages.get(index // _PAGE_BLOCKS)
        if page is None:
            return None
        at = index % _PAGE_BLOCKS * DIGEST_BYTES
        digest = bytes(page[at : at + DIGEST_BYTES])
        return None if digest == _ABSENT else digest

    def __setitem__(self, index: int, digest: bytes) -> None:
        if not 0 <= index < self.blocks or len(digest) != DIGEST_BYTES:
            raise ValueError(f"block {index} of {self.blocks}, digest of {len(digest)} bytes")
        number, slot = divmod(index, _PAGE_BLOCKS)
        page = self._pages.get(number)
        if page is None:
            page = self._pages.put(number, _new_page())
        at = slot * DIGEST_BYTES
        self.known += page[at : at + DIGEST_BYTES] == _ABSENT
        page[at : at + DIGEST_BYTES] = digest

    def __contains__(self, index: int) -> bool:
        return self._stored(index) is not None

    def __len__(self) -> int:
        return self.known

    def items(self) -> Iterator[tuple[int, bytes]]:
        """(index, digest) of the known blocks, ascending."""
        for number, page in self._pages.items():
            for at in range(0, len(page), len(_EMPTY)):
                part = page[at : at + len(_EMPTY)]
                if part == _EMPTY:
                    continue  # pages are sparse more often than not: 32 comparisons, not 4096
                first = number * _PAGE_BLOCKS + at // DIGEST_BYTES
                for slot, (digest,) in enumerate(_DIGEST.iter_unpack(part), first):
                    if digest != _ABSENT:
                        yield slot, digest

    def overlay(self, newer: "BlockMap") -> "BlockMap":
        """A map with everything of this one, and ``newer`` on top; of one algorithm."""
        if newer.digest.name != self.digest.name:
            raise ValueError(f"{newer.digest.name} digests on top of {self.digest.name} ones")
        result = BlockMap(
            newer.blocks,
            newer.block_size,
            absent_is_zero=self.absent_is_zero,
            digest=self.digest,
        )
        for number, page in self._pages.items():
            result._pages.put(number, _new_page(page[:]))
        result.known = self.known
        for number, page in newer._pages.items():
            if number not in result._pages:
                result._pages.put(number, _new_page(page[:]))
                result.known += sum(1 for _ in _known(page))
                continue
            for slot, digest in _known(page):
                result[number * _PAGE_BLOCKS + slot] = digest
        return result

    def to_bytes(self) -> bytes:
        """Self-checking serial form.

        Raises:
            ValueError: the digests are of a target's own algorithm.
        """
        magic = next((m for m, one in _MAGIC.items() if one.name == self.digest.name), None)
        if magic is None:
            raise ValueError(f"{self.digest.name} digests are the target's to keep")
        body = b"".join(_PAGE_HEADER.pack(number) + page[:] for number, page in self._pages.items())
        facts = (magic, self.blocks, self.block_size, self.absent_is_zero)
        return _HEADER.pack(*facts, _check(*facts, body)) + body

    @classmethod
    def from_bytes(cls, data: bytes) -> "BlockMap":
        """Read ``to_bytes``.

        Raises:
            LocalStateError: the data is damaged or of another version.
        """
        if len(data) < _HEADER.size:
            raise LocalStateError("block map is cut short")
        magic, blocks, block_size, absent_is_zero, check = _HEADER.unpack_from(data)
        body = memoryview(data)[_HEADER.size :]
        digest = _MAGIC.get(magic)
        if digest is None or _check(magic, blocks, block_size, absent_is_zero, body) != check:
            raise LocalStateError("block map is damaged or of an unknown version")
        result = cls(blocks, block_size, absent_is_zero=bool(absent_is_zero), digest=digest)
        step = _PAGE_HEADER.size + _PAGE_BLOCKS * DIGEST_BYTES
        if len(body) % step:
            raise LocalStateError("block map is cut short")
        for at in range(0, len(body), step):
            (number,) = _PAGE_HEADER.unpack_from(body, at)
            page = _new_page(body[at + _PAGE_HEADER.size : at + step])
            if number in result._pages or not result._fits(number, page):
                raise LocalStateError("block map has digests of blocks that the disk has not")
            result._pages.put(number, page)
        result.known = sum(1 for _, page in result._pages.items() for _ in _known(page))
        return result

    def _fits(self, number: int, page: mmap.mmap) -> bool:
        """Whether a page holds digests of this disk's blocks only."""
        first = number * _PAGE_BLOCKS
        beyond = page[max(0, self.blocks - first) * DIGEST_BYTES :]
        return first < self.blocks and not any(beyond)


class _Pages:
    """Pages by number: the ones used last in memory, the others in a temporary file.

    A page that was handed out is in memory until another ``PAGES_IN_MEMORY`` were.
    """

    def __init__(self) -> None:
        self._held: OrderedDict[int, mmap.mmap] = OrderedDict()
        self._spilled: set[int] = set()
        self._file: IO[bytes] | None = None

    def get(self, number: int) -> mmap.mmap | None:
        page = self._held.get(number)
        if page is not None:
            if self._spilled:
                self._held.move_to_end(number)
            return page
        return self._fetch(number) if number in self._spilled else None

    def put(self, number: int, page: mmap.mmap) -> mmap.mmap:
        self._held[number] = page
        if len(self._held) > PAGES_IN_MEMORY:
            self._spill()
        return page

    def __contains__(self, number: int) -> bool:
        return number in self._held or number in self._spilled

    def items(self) -> Iterator[tuple[int, mmap.mmap]]:
        """Ascending; nothing may be put meanwhile."""
        for number in sorted(self._held.keys() | self._spilled):
            page = self.get(number)
            if page is not None:
                yield number, page

    def _spill(self) -> None:
        number, page = self._held.popitem(last=False)
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile()  # noqa: SIM115 - goes with the map
            os.pwrite(self._descriptor(), page, number * _PAGE_BYTES)
        except OSError as error:
            self._held[number] = page
            raise OutOfSpaceError(
                f"the block map does not fit into the temporary folder: {error.strerror}",
                next_step="make room there, or name another folder in TMPDIR; then run again",
            ) from error
        self._spilled.add(number)

    def _fetch(self, number: int) -> mmap.mmap:
        data = os.pread(self._descriptor(), _PAGE_BYTES, number * _PAGE_BYTES)
        if len(data) != _PAGE_BYTES:
            raise LocalStateError("the temporary file of the block map was cut short")
        return self.put(number, _new_page(data))

    def _descriptor(self) -> int:
        if self._file is None:
            raise ValueError("nothing was spilled")
        return self._file.fileno()


def _new_page(data: bytes | memoryview = b"") -> mmap.mmap:
    """A page with these digests in it, and nothing behind them.

    Of memory of its own: in the heap, between what the threads of a sync take and free, a
    thousand pages left holes larger than themselves.
    """
    page = mmap.mmap(-1, _PAGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    page[: len(data)] = bytes(data)
    return page


def _known(page: mmap.mmap) -> Iterator[tuple[int, bytes]]:
    """(slot, digest) of what a page knows."""
    for slot, (digest,) in enumerate(_DIGEST.iter_unpack(page)):
        if digest != _ABSENT:
            yield slot, digest


def _check(
    magic: bytes, blocks: int, block_size: int, absent_is_zero: int, body: bytes | memoryview
) -> bytes:
    digest = hashlib.sha256(_HEADER.pack(magic, blocks, block_size, absent_is_zero, b""))
    digest.update(body)
    return digest.digest()
