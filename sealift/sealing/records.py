"""Sealed records: tables of contents, indexes, manifests, commits; bound to kind and name.

A record says in clear which version, kind and epoch it is of, and nothing else. Its length
is padded (Padmé), its content and the content's length are inside.
"""

import struct
from enum import Enum

from sealift.errors import IntegrityError, SealiftError
from sealift.sealing.compression import Compressor
from sealift.sealing.keys import KeyRing
from sealift.sealing.version import FORMAT_VERSION, MAGIC, newer_format
from sealift.sealing.xaes import NONCE_BYTES, TAG_BYTES

MAX_RECORD_BYTES = 64 * 1024 * 1024
"""Plaintext of the largest record; an index object is split long before."""

_HEAD = struct.Struct(">8sHBBI")
"""Magic, format version, object type, zero, epoch."""
_BOUND = struct.Struct(">16sH")
"""Repository and length of the name, which follows."""
_LENGTHS = struct.Struct(">II")
"""Of the plaintext and of its frame, which follows; then zeroes."""
_LEVEL = 3
_OVERHEAD_BYTES = _HEAD.size + NONCE_BYTES + _LENGTHS.size + TAG_BYTES


class RecordKind(Enum):
    """The object type of a record; the value is in its head."""

    TOC = 16
    INDEX = 17
    MANIFEST = 18
    COMMIT = 19


def padme(size: int) -> int:
    """The padded length of ``size`` bytes: at most 12 % more, few distinct lengths.

    Padmé of Nikitin et al., "Reducing Metadata Leakage from Encrypted Files" (PETS 2019):
    the mantissa keeps as many bits as the exponent needs.
    """
    if size < 2:
        return size
    exponent = size.bit_length() - 1
    free = exponent - exponent.bit_length()
    mask = (1 << free) - 1
    return (size + mask) & ~mask


class RecordSealer:
    """Seals and opens records; may be used by many threads.

    Args:
        ring: keys of the repository.
    """

    def __init__(self, ring: KeyRing) -> None:
        self._ring = ring
        self._proof = ring.twin()
        self._compressor = Compressor(_LEVEL)

    def seal(self, kind: RecordKind, name: str, data: bytes) -> bytes:
        """The object of a record that is stored under ``name``; opened and compared.

        Raises:
            IntegrityError: what was sealed does not open to ``data``.
        """
        if len(data) > MAX_RECORD_BYTES:
            raise ValueError(f"a record of {len(data)} bytes is out of bounds")
        epoch = self._ring.epoch
        head = _HEAD.pack(MAGIC, FORMAT_VERSION, kind.value, 0, epoch)
        payload = self._payload(data)
        aad = _aad(self._ring, head, name)
        nonce = self._ring.nonce(aad, payload)
        sealed = head + nonce + self._ring.record_key(epoch).seal(nonce, payload, aad)
        self._prove(kind, name, sealed, data)
        return sealed

    def open(self, kind: RecordKind, name: str, sealed: bytes, *, max_bytes: int) -> bytes:
        """The content of a record.

        Args:
            kind: the object type that is expected.
            name: under which it was found.
            sealed: the whole object.
            max_bytes: of content; more is refused before memory is taken for it.

        Raises:
            IntegrityError: names the record and what is wrong.
            NewerFormatError: it is of a version to come.
        """
        try:
            return self._opened(self._ring, kind, name, sealed, max_bytes)
        except IntegrityError as error:
            raise IntegrityError(f"{name}: {error.message}", next_step=error.next_step) from None

    def _opened(
        self, ring: KeyRing, kind: RecordKind, name: str, sealed: bytes, max_bytes: int
    ) -> bytes:
        if len(sealed) < _OVERHEAD_BYTES:
            raise IntegrityError(f"{len(sealed)} bytes are too few for a record")
        epoch = _epoch(kind, sealed)
        nonce_at, at = _HEAD.size, _HEAD.size + NONCE_BYTES
        aad = _aad(ring, bytes(sealed[:nonce_at]), name)
        key = ring.record_key(epoch)
        payload = key.open(bytes(sealed[nonce_at:at]), memoryview(sealed)[at:], aad)
        length, packed = _LENGTHS.unpack_from(payload)
        end = _LENGTHS.size + packed
        if length > max_bytes:
            raise IntegrityError(f"it holds {length} bytes, more than the {max_bytes} allowed")
        if end > len(payload) or payload[end:].strip(b"\0"):
            raise IntegrityError("its length and its padding do not fit")
        return self._compressor.expand(payload[_LENGTHS.size : end], length)

    def _prove(self, kind: RecordKind, name: str, sealed: bytes, data: bytes) -> None:
        try:
            if self._opened(self._proof, kind, name, sealed, len(data)) == data:
                return
            why = "it opens to something else"
        except SealiftError as error:
            why = error.message
        raise IntegrityError(
            f"{name}: a record that was just sealed does not open to what was sealed: {why}",
            next_step="test this machine's memory; nothing of this record was stored",
        )

    def _payload(self, data: bytes) -> bytes:
        frame = self._compressor.compress(data)
        exact = _OVERHEAD_BYTES + len(frame)
        return _LENGTHS.pack(len(data), len(frame)) + frame + bytes(padme(exact) - exact)


def epoch_of(sealed: bytes) -> int:
    """Of which epoch a record says that it is; proven only when it opens.

    Raises:
        IntegrityError: it is too short for a record.
    """
    if len(sealed) < _OVERHEAD_BYTES:
        raise IntegrityError(f"{len(sealed)} bytes are too few for a record")
    return int(_HEAD.unpack_from(sealed)[4])


def _aad(ring: KeyRing, head: bytes, name: str) -> bytes:
    encoded = name.encode()
    return head + _BOUND.pack(ring.repository_id, len(encoded)) + encoded


def _epoch(kind: RecordKind, sealed: bytes) -> int:
    """Which epoch's key is needed, if the head is one of ours.

    Raises:
        IntegrityError: it is not.
        NewerFormatError: it is of a version to come.
    """
    magic, version, found, zero, epoch = _HEAD.unpack_from(sealed)
    if magic != MAGIC:
        raise IntegrityError("it does not begin as a record does")
    if version != FORMAT_VERSION:
        raise newer_format("a record", version)
    if found != kind.value or zero:
        raise IntegrityError(f"it is of object type {found}, not {kind.value} ({kind.name})")
    return int(epoch)
