"""What a store may hand back in the place of sealed objects, with and without our keys."""

import hashlib
import json
import re
from collections.abc import Callable
from functools import cache

import pytest

from sealift.errors import IntegrityError, NewerFormatError, SlotDamagedError, UsageError
from sealift.sealing.chunks import MAX_CHUNK_BYTES, ChunkKind, ChunkSealer, stored_chunk
from sealift.sealing.compression import Compressor
from sealift.sealing.config import Config
from sealift.sealing.kdf import LEAST_ARGON2
from sealift.sealing.keys import KeyRing, RootKey
from sealift.sealing.records import RecordKind, RecordSealer
from sealift.sealing.secrets import KeyFile, Passphrase, RecoveryCode
from sealift.sealing.slots import SlotKind, make_slot, open_slot, parse_slot
from sealift.units import MiB
from tests.fuzz.engine import Target
from tests.fuzz.mutate import Parts, mutated_json, mutated_parts

_REPOSITORY = bytes(range(16))
_PLAIN = b"a record of a repository " * 80
_NAME = "indexes/fuzz"
_KEY_FILE = KeyFile(b"f" * 32)
_CHECKSUM_BYTES = 32


@cache
def _ring() -> KeyRing:
    return KeyRing(RootKey(b"2" * 32), _REPOSITORY, 2, past=[RootKey(b"1" * 32)])


def _cut(data: bytes, *widths: int) -> Parts:
    """The fields of an object, so that mutations meet their edges."""
    parts, at = [], 0
    for width in widths:
        parts.append(data[at : at + width])
        at += width
    return (*parts, data[at:])


def _why(error: IntegrityError) -> str:
    """An outcome of its own for each reason: the line that raised is the same for all."""
    return re.sub(r"[0-9a-f]{64}|\d+", "N", error.message)[:70]


def _slots() -> Target:
    """Also with a checksum that fits; those of a key file are opened too."""

    class Service:
        provider, key_id = "aws-kms", "arn:aws:kms:eu-central-1:1:key/2"

        def wrap(self, secret: bytes, context: object) -> bytes:
            return secret * 5

        def unwrap(self, wrapped: bytes, context: object) -> bytes:
            return wrapped[:32]

    secrets = (Passphrase("words"), _KEY_FILE, RecoveryCode(b"r" * 16), Service())
    made = [make_slot(_ring(), secret, cost=LEAST_ARGON2).raw for secret in secrets]
    widths = (8, 2, 1, 1, 4, 16, 16, 2, 1, 4, 4, 4, 16, 24)

    def parse(data: bytes) -> object:
        slot = parse_slot(data, _REPOSITORY)
        assert slot.raw == data
        assert slot.repository_id == _REPOSITORY
        assert slot.description
        if slot.kind is SlotKind.KEY_FILE:
            # What a store changed has no commitment; only what we made may open.
            try:
                roots = open_slot(slot, _KEY_FILE)
            except Exception as error:
                return type(error).__name__
            assert data in made
            assert list(_ring().roots) == roots
        return slot.kind.name

    def repaired(data: bytes) -> bytes:
        body = data[:-_CHECKSUM_BYTES]
        return body + hashlib.sha256(body).digest()

    return Target(
        *("key-slots", parse, tuple(_cut(raw, *widths) for raw in made)),
        (SlotDamagedError, NewerFormatError),
        weight=25,
        repair=repaired,
    )


def _config() -> Target:
    config = Config.new(_ring().at_epoch(1)).to_bytes()
    features = json.dumps({**json.loads(config), "features": ["x"], "version": 2}).encode()

    def parse(data: bytes) -> object:
        found = Config.from_bytes(data)
        assert found.to_bytes() == data
        try:
            found.check(_ring().roots)
        except IntegrityError:
            return "another's"
        assert data == config
        return "ours"

    return Target(
        *("repository-config", parse, ((config,), (features,)), (IntegrityError, NewerFormatError)),
        weight=15,
        mutators=(mutated_json, mutated_json, mutated_parts),
    )


def _sealed_records() -> Target:
    """As a store hands them back: nothing opens but what was sealed."""
    records = RecordSealer(_ring())
    sealed = records.seal(RecordKind.INDEX, _NAME, _PLAIN)

    def parse(data: bytes) -> object:
        try:
            found = records.open(RecordKind.INDEX, _NAME, data, max_bytes=MiB)
        except IntegrityError as error:
            return _why(error)
        assert data == sealed
        assert found == _PLAIN
        return "opened"

    seeds = (_cut(sealed, 8, 2, 1, 1, 4, 24, 40),)
    return Target(*("sealed-records", parse, seeds, (IntegrityError, NewerFormatError)), weight=20)


def _sealed_chunks() -> Target:
    """The bytes of a pack and what an index says of them, both wrong."""
    chunks = ChunkSealer(_ring())
    chunk = chunks.seal(ChunkKind.DATA, chunks.content_id(_PLAIN), _PLAIN)
    head = bytes([chunk.codec, chunk.epoch]) + chunk.plain_length.to_bytes(8, "big", signed=True)

    def parse(data: bytes) -> object:
        claims, sealed = data[:10].ljust(10, b"\0"), data[10:]
        length = int.from_bytes(claims[2:], "big", signed=True)
        told = (ChunkKind.DATA, chunk.id, claims[0], length, claims[1], sealed)
        try:
            found = chunks.open(*told, check_id=True)
        except IntegrityError as error:
            with pytest.raises(IntegrityError, match=re.escape(error.message)):
                chunks.open_all([chunk, stored_chunk(*told)])
            return _why(error)
        assert found == _PLAIN
        assert all(data == _PLAIN for data in chunks.open_all([stored_chunk(*told), chunk]))
        return "opened"

    seeds = (_cut(head + chunk.sealed, 1, 1, 8, 24, 40),)
    return Target("sealed-chunks", parse, seeds, (IntegrityError,), weight=20)


def _frames() -> Target:
    """What a holder of the keys may have sealed: the frames inside."""
    compressor = Compressor(1)
    good = compressor.compress(_PLAIN)

    def parse(data: bytes) -> object:
        length = int.from_bytes(data[:4].ljust(4, b"\0"), "big") % (MAX_CHUNK_BYTES + 1)
        among = [good, data[4:], good], [len(_PLAIN), length, len(_PLAIN)]
        try:
            found = compressor.expand(data[4:], length)
        except IntegrityError:
            if length:
                with pytest.raises(IntegrityError):
                    compressor.expand_all(*among)
            raise
        assert len(found) == length
        if length:
            expanded = [bytes(one) for one in compressor.expand_all(*among)]
            assert expanded == [_PLAIN, found, _PLAIN]
        return "expanded"

    seeds = tuple(
        _cut(len(plain).to_bytes(4, "big") + compressor.compress(plain), 4, 4, 1, 4)
        for plain in (_PLAIN, bytes(65536), b"", b"x" * 300)
    )
    return Target("zstd-frames", parse, seeds, (IntegrityError,), weight=20)


def _payloads() -> Target:
    """What a holder of the keys may have sealed as a record: lengths, frame and padding."""
    ring, records = _ring(), RecordSealer(_ring())
    head = b"sealift\0\0\1" + bytes([RecordKind.INDEX.value, 0]) + (2).to_bytes(4, "big")
    encoded = _NAME.encode()
    aad = head + _REPOSITORY + len(encoded).to_bytes(2, "big") + encoded

    def sealed(payload: bytes) -> bytes:
        nonce = ring.nonce(aad, payload)
        return head + nonce + ring.record_key(2).seal(nonce, payload, aad)

    def parse(data: bytes) -> object:
        try:
            found = records.open(RecordKind.INDEX, _NAME, sealed(data), max_bytes=MiB)
        except IntegrityError as error:
            return _why(error)
        assert len(found) == int.from_bytes(data[:4], "big")
        return "opened"

    frame = Compressor(3).compress(_PLAIN)
    whole = len(_PLAIN).to_bytes(4, "big") + len(frame).to_bytes(4, "big") + frame + bytes(9)
    seeds = (_cut(whole, 4, 4, len(frame)),)
    return Target("record-payloads", parse, seeds, (IntegrityError,), weight=20)


def _secrets() -> Target:
    """What people type or keep in files."""

    def parse(data: bytes) -> object:
        try:
            return f"file {KeyFile.parse(data) is not None}"
        except UsageError:
            text = data.decode("utf-8", "surrogateescape")
            code = RecoveryCode.parse(text)
            assert RecoveryCode.parse(code.to_text()).material == code.material
            return "code"

    seeds = (_cut(_KEY_FILE.to_text(), 19, 65), (RecoveryCode(b"r" * 16).to_text().encode(),))
    return Target("key-files-and-codes", parse, seeds, (UsageError,), weight=10)


BUILDERS: dict[str, Callable[[], Target]] = {
    "key-slots": _slots,
    "repository-config": _config,
    "sealed-records": _sealed_records,
    "sealed-chunks": _sealed_chunks,
    "zstd-frames": _frames,
    "record-payloads": _payloads,
    "key-files-and-codes": _secrets,
}
"""Sealing."""
