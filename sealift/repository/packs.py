"""Packs: many sealed chunks in one object, and the table of contents that an index is made of.

::

    chunks in random order ‖ random bytes up to a Padmé length ‖ sealed table ‖ length of it

A store sees objects of few sizes, and neither where a chunk begins nor which was first. The
table at the end lets an index be made anew from nothing but packs.
"""

import random
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sealift.errors import IntegrityError
from sealift.objects import Bytes
from sealift.repository.names import RANDOM_BYTES, pack_name, pack_raw
from sealift.sealing.chunks import MAX_CHUNK_BYTES, OVERHEAD_BYTES, ChunkKind, SealedChunk
from sealift.sealing.records import RecordKind, RecordSealer, padme
from sealift.sealing.xaes import NONCE_BYTES, Data
from sealift.units import MiB

PACK_BYTES = 32 * MiB
"""Chunks in a full pack; a Padmé length, so that a full pack is padded by less than a chunk."""
MAX_PACK_BYTES = 64 * MiB
MAX_INDEX_BYTES = 8 * MiB
"""Plaintext of an index object that is not made of one table alone."""
MAX_ENTRIES = 1 << 17
"""Chunks of a pack: of 64 MiB filled with the smallest nodes."""

_ENTRY = struct.Struct(">32sIIIIB")
ENTRY_BYTES = _ENTRY.size
_HEAD = struct.Struct(">BI")
_INDEX_HEAD = struct.Struct(">16sBQI")
_TRAILER = struct.Struct(">I4s")
_MAGIC = b"SLPK"
MAX_TOC_BYTES = _HEAD.size + MAX_ENTRIES * _ENTRY.size


class Entry(NamedTuple):
    """Where a chunk lies in a pack.

    Attributes:
        id: content id.
        offset: first byte in the pack.
        length: sealed bytes.
        plain: bytes of the plaintext.
        epoch: whose key sealed it.
        codec: how it was compressed.
    """

    id: bytes
    offset: int
    length: int
    plain: int
    epoch: int
    codec: int


@dataclass(frozen=True, slots=True)
class Toc:
    """What a pack holds.

    Attributes:
        pack: name of the pack.
        kind: object type of all its chunks.
        size: bytes of the object.
        body: entries, packed: 49 bytes each, and what an index object stores.
    """

    pack: str
    kind: ChunkKind
    size: int
    body: bytes

    def __len__(self) -> int:
        return len(self.body) // _ENTRY.size

    def entries(self) -> Iterator[Entry]:
        """Unpacked, in the order of the pack."""
        return map(Entry._make, _ENTRY.iter_unpack(self.body))

    def entry(self, position: int) -> Entry:
        """One of them."""
        return Entry._make(_ENTRY.unpack_from(self.body, position * ENTRY_BYTES))

    def ids(self) -> list[bytes]:
        """Content ids alone, in the order of the pack."""
        return [self.body[at : at + 32] for at in range(0, len(self.body), ENTRY_BYTES)]


class PackBuilder:
    """Collects chunks of one kind for one pack. Not thread-safe.

    Memory: the sealed chunks, up to ``PACK_BYTES``, and once more while it is sealed.
    """

    def __init__(self, kind: ChunkKind, target: int = PACK_BYTES) -> None:
        self.kind = kind
        self.size = 0
        self._target = target
        self._chunks: list[SealedChunk] = []

    def __len__(self) -> int:
        return len(self._chunks)

    def takes(self, chunk: SealedChunk) -> bool:
        """Whether there is room for it; an empty pack takes any."""
        room = self.size + chunk.size <= self._target and len(self) < MAX_ENTRIES
        return room or not self._chunks

    def add(self, chunk: SealedChunk) -> None:
        """Take a chunk."""
        self._chunks.append(chunk)
        self.size += chunk.size

    def sealed(
        self,
        records: RecordSealer,
        entropy: Callable[[int], bytes],
        join: Callable[[Sequence[Data]], Bytes] = b"".join,
    ) -> tuple[Toc, Bytes]:
        """The pack under a new random name: its table and the whole object.

        Args:
            records: seals the table.
            entropy: random bytes.
            join: makes the whole of its parts.
        """
        name = pack_name(entropy(RANDOM_BYTES))
        chunks, self._chunks, area = self._chunks, [], self.size
        random.Random(entropy(32)).shuffle(chunks)  # noqa: S311 - seeded with entropy
        entries, offset = [], 0
        for chunk in chunks:
            length = chunk.size
            entries.append(_packed(chunk, offset, length))
            offset += length
        body = b"".join(entries)
        toc = records.seal(RecordKind.TOC, name, _HEAD.pack(self.kind.value, len(entries)) + body)
        rest = (entropy(padme(area) - area), toc, _TRAILER.pack(len(toc), _MAGIC))
        parts = [part for chunk in chunks for part in (chunk.nonce, chunk.ciphertext)]
        whole = join([*parts, *rest])
        return Toc(name, self.kind, len(whole), body), whole


def _packed(chunk: SealedChunk, offset: int, length: int) -> bytes:
    return _ENTRY.pack(chunk.id, offset, length, chunk.plain_length, chunk.epoch, chunk.codec)


def repacked(toc: Toc, entry: Entry, sealed: bytes) -> SealedChunk:
    """A chunk of a pack as it is, to be put into another one: it is bound to no pack."""
    nonce, ciphertext = sealed[:NONCE_BYTES], sealed[NONCE_BYTES:]
    return SealedChunk(entry.id, toc.kind, entry.epoch, entry.codec, entry.plain, nonce, ciphertext)


def read_toc(name: str, size: int, get: Callable[[int, int], bytes], records: RecordSealer) -> Toc:
    """The table of a pack in the store.

    Args:
        name: of the pack.
        size: bytes of the object.
        get: (start, length) to those bytes of it.
        records: opens the table.

    Raises:
        IntegrityError: no pack, or its table is damaged.
    """
    if not _TRAILER.size < size <= MAX_PACK_BYTES + MAX_TOC_BYTES:
        raise IntegrityError(f"{name}: {size} bytes are no pack")
    length, magic = _TRAILER.unpack(get(size - _TRAILER.size, _TRAILER.size))
    area = size - _TRAILER.size - length
    if magic != _MAGIC or area < 0 or not length:
        raise IntegrityError(f"{name}: it does not end as a pack does")
    data = records.open(RecordKind.TOC, name, get(area, length), max_bytes=MAX_TOC_BYTES)
    if len(data) < _HEAD.size:
        raise IntegrityError(f"{name}: its table is cut short")
    kind, count = _HEAD.unpack_from(data)
    return _checked(name, kind, size, data[_HEAD.size :], count, area)


def encode_index(tocs: Iterable[Toc]) -> bytes:
    """Plaintext of an index object."""
    parts = []
    for toc in tocs:
        head = _INDEX_HEAD.pack(pack_raw(toc.pack), toc.kind.value, toc.size, len(toc))
        parts += [head, toc.body]
    return b"".join(parts)


def decode_index(name: str, data: bytes) -> list[Toc]:
    """The tables in an index object.

    Raises:
        IntegrityError: it is not what ``encode_index`` writes.
    """
    found, at = [], 0
    while at < len(data):
        if at + _INDEX_HEAD.size > len(data):
            raise IntegrityError(f"{name}: the index is cut short")
        raw, kind, size, count = _INDEX_HEAD.unpack_from(data, at)
        at += _INDEX_HEAD.size
        end = at + count * _ENTRY.size
        found.append(_checked(pack_name(raw), kind, size, data[at:end], count, size))
        at = end
    return found


def _checked(name: str, kind: int, size: int, body: bytes, count: int, area: int) -> Toc:
    if kind not in (ChunkKind.DATA.value, ChunkKind.NODE.value):
        raise IntegrityError(f"{name}: it holds objects of type {kind}")
    if not 0 < count <= MAX_ENTRIES or len(body) != count * _ENTRY.size:
        raise IntegrityError(f"{name}: its table does not hold {count} entries")
    if not 0 < size <= MAX_PACK_BYTES + MAX_TOC_BYTES:
        raise IntegrityError(f"{name}: {size} bytes are no pack")
    for entry in map(Entry._make, _ENTRY.iter_unpack(body)):
        inside = entry.offset + entry.length <= area
        if not inside or entry.length <= OVERHEAD_BYTES or not 0 < entry.plain <= MAX_CHUNK_BYTES:
            raise IntegrityError(f"{name}: chunk {entry.id.hex()} does not lie in it")
    return Toc(name, ChunkKind(kind), size, body)
