"""Sealed chunks: a content id, compression, encryption, and the proof that it can be undone."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import count

from sealift.errors import IntegrityError
from sealift.sealing.compression import Codec, Compressor
from sealift.sealing.keys import CONTENT_ID_BYTES, FRESH_BYTES, KeyRing
from sealift.sealing.version import FORMAT_VERSION, MAGIC
from sealift.sealing.xaes import NONCE_BYTES, TAG_BYTES, Data
from sealift.turns import turns

MAX_CHUNK_BYTES = 4 * 1024 * 1024
"""The largest chunk size of a disk's tree."""
OVERHEAD_BYTES = NONCE_BYTES + TAG_BYTES
"""What sealing adds to a chunk that does not compress."""

_WORTH_SHIFT = 6
"""A frame is stored if it saves a 64th: what saves less costs a restore more than it is worth."""

_AAD = struct.Struct(">8sHBBI16s32sI")
"""Magic, format version, object type, codec, epoch, repository, content id, plaintext length."""


class ChunkKind(Enum):
    """The object type of a chunk; the value is in its associated data."""

    DATA = 1
    NODE = 2


@dataclass(frozen=True, slots=True)
class SealedChunk:
    """A chunk that a store may hold.

    Attributes:
        id: content id, 32 bytes.
        kind: object type.
        epoch: whose key sealed it.
        codec: how the plaintext was compressed.
        plain_length: bytes of the plaintext.
        nonce: 24 bytes.
        ciphertext: and its tag.
    """

    id: bytes
    kind: ChunkKind
    epoch: int
    codec: int
    plain_length: int
    nonce: bytes
    ciphertext: Data

    @property
    def size(self) -> int:
        """Bytes of ``sealed``."""
        return NONCE_BYTES + len(self.ciphertext)

    @property
    def sealed(self) -> bytes:
        """Nonce, ciphertext and tag, as a pack holds them; a copy."""
        return b"".join((self.nonce, self.ciphertext))


class ChunkSealer:
    """Seals and opens chunks; may be used by many threads.

    Args:
        ring: keys of the repository.
        level: of zstd.
    """

    def __init__(self, ring: KeyRing, *, level: int = 1) -> None:
        self._ring = ring
        self._proof = ring.twin()
        self._compressor = Compressor(level)
        self.content_id = ring.content_id
        self._turns = turns()

    def seal(self, kind: ChunkKind, content_id: bytes, data: Data) -> SealedChunk:
        """Seal one chunk; see ``seal_all``."""
        return self.seal_all(kind, [content_id], [data])[0]

    def seal_all(
        self, kind: ChunkKind, ids: Sequence[bytes], parts: Sequence[Data]
    ) -> list[SealedChunk]:
        """Seal chunks, then open what came of them and compare it with their content ids.

        An id is of what the caller read, so the comparison finds a bit that flipped at any
        stage since then: in the caller's buffer, the compressor, the cipher or, since the
        proof has keys of its own, a key. Memory: frames and plaintexts once more.

        Args:
            kind: object type of all.
            ids: content ids.
            parts: plaintexts, in the same order.

        Raises:
            IntegrityError: what was sealed does not open to what an id was made of; a fault
                of this machine's memory or of the compressor. Nothing was handed on.
        """
        for content_id, data in zip(ids, parts, strict=True):
            if not 0 < len(data) <= MAX_CHUNK_BYTES or len(content_id) != CONTENT_ID_BYTES:
                raise ValueError(f"a chunk has 1 to {MAX_CHUNK_BYTES} bytes, not {len(data)}")
        if not ids:
            return []
        frames = self._compressor.compress_all(parts)
        with self._turns:
            fresh = self._ring.entropy(FRESH_BYTES * len(ids))  # one system call for all
            sealed = [
                self._sealed(kind, content_id, parts[n], frames[n], fresh[at : at + FRESH_BYTES])
                for n, (content_id, at) in enumerate(zip(ids, count(0, FRESH_BYTES)))
            ]
        try:
            self._opened(self._proof, sealed, check_ids=True)
        except IntegrityError as error:
            raise IntegrityError(
                f"a chunk that was just sealed does not open to what was read: {error.message}",
                next_step="test this machine's memory; nothing of this chunk was stored",
            ) from None
        return sealed

    def _sealed(
        self, kind: ChunkKind, content_id: bytes, data: Data, frame: Data, fresh: bytes
    ) -> SealedChunk:
        length, epoch = len(data), self._ring.epoch
        worth = len(frame) <= length - (length >> _WORTH_SHIFT)
        payload, codec = (frame, Codec.ZSTD) if worth else (data, Codec.NONE)
        aad = _aad(self._ring, kind, content_id, codec, length, epoch)
        nonce = self._ring.nonce(aad, frame if worth else b"", fresh)
        ciphertext = self._ring.chunk_key(epoch).seal(nonce, payload, aad)
        return SealedChunk(content_id, kind, epoch, codec, length, nonce, ciphertext)

    def open(
        self,
        kind: ChunkKind,
        content_id: bytes,
        codec: int,
        plain_length: int,
        epoch: int,
        sealed: Data,
        *,
        check_id: bool,
    ) -> bytes:
        """The plaintext of a chunk.

        Args:
            kind: the object type that is expected.
            content_id: from the tree or the index.
            codec: as sealed.
            plain_length: as sealed; no more memory is taken than for this.
            epoch: as sealed.
            sealed: nonce, ciphertext, tag.
            check_id: whether the plaintext is hashed again; always where a restore or a
                drill must prove something.

        Raises:
            IntegrityError: names what is wrong.
        """
        chunk = stored_chunk(kind, content_id, codec, plain_length, epoch, sealed)
        return bytes(self._named(chunk, check_id=check_id))

    def open_all(self, chunks: Sequence[SealedChunk]) -> list[Data]:
        """The plaintexts of chunks, in order, each proven by its id.

        Raises:
            IntegrityError: names a chunk, and what is wrong with it.
        """
        try:
            return self._opened(self._ring, chunks, check_ids=True)
        except IntegrityError:
            return [self._named(chunk, check_id=True) for chunk in chunks]

    def _named(self, chunk: SealedChunk, *, check_id: bool) -> Data:
        try:
            return self._opened(self._ring, [chunk], check_ids=check_id)[0]
        except IntegrityError as error:
            raise IntegrityError(
                f"chunk {chunk.id.hex()}: {error.message}", next_step=error.next_step
            ) from None

    def reseal(self, chunk: SealedChunk) -> SealedChunk:
        """The same chunk under the current epoch; the id and the plaintext stay.

        Raises:
            IntegrityError: it does not open to what its id says; nothing was sealed.
        """
        data = self.open(
            *(chunk.kind, chunk.id, chunk.codec, chunk.plain_length, chunk.epoch, chunk.sealed),
            check_id=True,
        )
        return self.seal(chunk.kind, chunk.id, data)

    def _opened(
        self, ring: KeyRing, chunks: Sequence[SealedChunk], *, check_ids: bool
    ) -> list[Data]:
        with self._turns:
            found: list[Data] = [_decrypted(ring, chunk) for chunk in chunks]
        framed = [n for n, chunk in enumerate(chunks) if chunk.codec == Codec.ZSTD]
        if framed:
            frames = [bytes(found[n]) for n in framed]  # no copy: they are bytes
            expanded = self._compressor.expand_all(frames, [chunks[n].plain_length for n in framed])
            for place, n in enumerate(framed):
                found[n] = expanded[place]
        with self._turns:
            for chunk, data in zip(chunks, found, strict=True):
                if len(data) != chunk.plain_length:
                    raise IntegrityError(f"it has {len(data)} bytes, not {chunk.plain_length}")
                if check_ids and ring.content_id(data) != chunk.id:
                    raise IntegrityError("the content does not have this id")
        return found


def stored_chunk(
    kind: ChunkKind, content_id: bytes, codec: int, plain_length: int, epoch: int, sealed: Data
) -> SealedChunk:
    """A chunk as a store holds it; no copy of the ciphertext.

    Args:
        kind: the object type that is expected.
        content_id: from the tree or the index.
        codec: as sealed.
        plain_length: as sealed.
        epoch: as sealed.
        sealed: nonce, ciphertext, tag; may be anything.
    """
    nonce, ciphertext = bytes(sealed[:NONCE_BYTES]), memoryview(sealed)[NONCE_BYTES:]
    return SealedChunk(content_id, kind, epoch, codec, plain_length, nonce, ciphertext)


def _decrypted(ring: KeyRing, chunk: SealedChunk) -> bytes:
    _check_bounds(chunk.codec, chunk.plain_length, chunk.size)
    aad = _aad(ring, chunk.kind, chunk.id, chunk.codec, chunk.plain_length, chunk.epoch)
    return ring.chunk_key(chunk.epoch).open(chunk.nonce, chunk.ciphertext, aad)


def _check_bounds(codec: int, length: int, sealed: int) -> None:
    if codec not in (Codec.NONE, Codec.ZSTD):
        raise IntegrityError(f"codec {codec} is unknown")
    if not 0 < length <= MAX_CHUNK_BYTES:
        raise IntegrityError(f"a plaintext of {length} bytes is out of bounds")
    if not OVERHEAD_BYTES < sealed <= length + OVERHEAD_BYTES:
        raise IntegrityError(f"{sealed} sealed bytes cannot hold {length} bytes")


def _aad(
    ring: KeyRing, kind: ChunkKind, content_id: bytes, codec: int, length: int, epoch: int
) -> bytes:
    return _AAD.pack(
        *(MAGIC, FORMAT_VERSION, kind.value, codec, epoch),
        *(ring.repository_id, content_id, length),
    )
