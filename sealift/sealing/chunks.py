"""Sealed chunks: a content id, compression, encryption, and the proof that it can be undone."""

import struct
from dataclasses import dataclass
from enum import Enum

from sealift.errors import IntegrityError
from sealift.sealing.compression import Codec, Compressor
from sealift.sealing.keys import CONTENT_ID_BYTES, KeyRing
from sealift.sealing.version import FORMAT_VERSION, MAGIC
from sealift.sealing.xaes import NONCE_BYTES, TAG_BYTES, Data

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
    ciphertext: bytes

    @property
    def size(self) -> int:
        """Bytes of ``sealed``."""
        return NONCE_BYTES + len(self.ciphertext)

    @property
    def sealed(self) -> bytes:
        """Nonce, ciphertext and tag, as a pack holds them; a copy."""
        return self.nonce + self.ciphertext


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

    def seal(self, kind: ChunkKind, content_id: bytes, data: Data) -> SealedChunk:
        """Seal a chunk, then open what came of it and compare it with its content id.

        The id is of what the caller read, so the comparison finds a bit that flipped at any
        stage since then: in the caller's buffer, the compressor, the cipher or, since the
        proof has keys of its own, a key.

        Raises:
            IntegrityError: what was sealed does not open to what the id was made of; a fault
                of this machine's memory or of the compressor. Nothing was handed on.
        """
        length = len(data)
        if not 0 < length <= MAX_CHUNK_BYTES or len(content_id) != CONTENT_ID_BYTES:
            raise ValueError(f"a chunk has 1 to {MAX_CHUNK_BYTES} bytes, not {length}")
        payload, codec = self._packed(data, length)
        epoch = self._ring.epoch
        aad = _aad(self._ring, kind, content_id, codec, length, epoch)
        hashed = b"" if codec is Codec.NONE else bytes(payload)  # no copy: a frame is bytes
        nonce = self._ring.nonce(aad, hashed)
        ciphertext = self._ring.chunk_key(epoch).seal(nonce, payload, aad)
        try:
            self._open(self._proof, kind, content_id, codec, length, epoch, nonce, ciphertext, True)
        except IntegrityError as error:
            raise IntegrityError(
                f"a chunk that was just sealed does not open to what was read: {error.message}",
                next_step="test this machine's memory; nothing of this chunk was stored",
            ) from None
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
        nonce, ciphertext = bytes(sealed[:NONCE_BYTES]), memoryview(sealed)[NONCE_BYTES:]
        try:
            return self._open(
                *(self._ring, kind, content_id, codec, plain_length, epoch),
                *(nonce, ciphertext, check_id),
            )
        except IntegrityError as error:
            raise IntegrityError(
                f"chunk {content_id.hex()}: {error.message}", next_step=error.next_step
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

    def _open(
        self,
        ring: KeyRing,
        kind: ChunkKind,
        content_id: bytes,
        codec: int,
        length: int,
        epoch: int,
        nonce: bytes,
        ciphertext: Data,
        check_id: bool,
    ) -> bytes:
        _check_bounds(codec, length, len(nonce) + len(ciphertext))
        aad = _aad(ring, kind, content_id, codec, length, epoch)
        payload = ring.chunk_key(epoch).open(nonce, ciphertext, aad)
        data = self._unpacked(codec, payload, length)
        if check_id and ring.content_id(data) != content_id:
            raise IntegrityError("the content does not have this id")
        return data

    def _packed(self, data: Data, length: int) -> tuple[Data, Codec]:
        frame = self._compressor.compress(data)
        if len(frame) <= length - (length >> _WORTH_SHIFT):
            return frame, Codec.ZSTD
        return data, Codec.NONE

    def _unpacked(self, codec: int, payload: bytes, length: int) -> bytes:
        if codec == Codec.ZSTD:
            return self._compressor.expand(payload, length)
        if len(payload) != length:
            raise IntegrityError(f"it has {len(payload)} bytes, not {length}")
        return payload


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
