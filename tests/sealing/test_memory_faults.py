"""Bits that flip while a chunk is sealed, and random bytes that repeat."""

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from sealift.errors import IntegrityError
from sealift.sealing.chunks import ChunkKind, ChunkSealer
from sealift.sealing.compression import Compressor
from sealift.sealing.keys import KeyRing, RootKey
from sealift.sealing.records import RecordKind, RecordSealer
from sealift.sealing.secrets import KeyFile
from sealift.sealing.slots import make_slot
from sealift.sealing.xaes import XaesKey
from tests.sealing.conftest import REPOSITORY, ring_of

Evidence = Callable[[str, str], None]
Plant = Callable[[pytest.MonkeyPatch, "Flip"], None]
DATA = b"what the guest wrote and was told is safe " * 1560
FLIPS = 40


class Flip:
    """Flips one bit of whatever passes it, once."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.done = 0

    def __call__(self, data: bytes) -> bytes:
        if self.done:
            return data
        self.done = 1
        flipped = bytearray(data)
        bit = self._random.randrange(len(flipped) * 8)
        flipped[bit // 8] ^= 1 << bit % 8
        return bytes(flipped)


def _result(owner: type, name: str) -> Plant:
    """What a method returns is flipped."""

    def plant(patch: pytest.MonkeyPatch, flip: Flip) -> None:
        whole = getattr(owner, name)
        patch.setattr(owner, name, lambda self, *a: flip(whole(self, *a)))

    return plant


def _message_key(patch: pytest.MonkeyPatch, flip: Flip) -> None:
    """The key of one message, between its derivation and its use."""
    patch.setattr("sealift.sealing.xaes.AESGCM", lambda key: AESGCM(flip(key)))


def _payload(patch: pytest.MonkeyPatch, flip: Flip) -> None:
    """What goes into the cipher, after the nonce was made of it."""
    whole = XaesKey.seal

    def sealing(self: XaesKey, nonce: bytes, data: bytes, aad: bytes) -> bytes:
        return whole(self, nonce, flip(data), aad)

    patch.setattr(XaesKey, "seal", sealing)


def _bound(patch: pytest.MonkeyPatch, flip: Flip) -> None:
    """The associated data on its way into the cipher."""
    whole = XaesKey.seal

    def sealing(self: XaesKey, nonce: bytes, data: bytes, aad: bytes) -> bytes:
        return whole(self, nonce, data, flip(aad))

    patch.setattr(XaesKey, "seal", sealing)


def _nonce(patch: pytest.MonkeyPatch, flip: Flip) -> None:
    """The nonce on its way into the cipher; another one is stored."""
    whole = XaesKey.seal

    def sealing(self: XaesKey, nonce: bytes, data: bytes, aad: bytes) -> bytes:
        return whole(self, flip(nonce), data, aad)

    patch.setattr(XaesKey, "seal", sealing)


STAGES: dict[str, Plant] = {
    "compressed bytes": _result(Compressor, "compress"),
    "payload": _payload,
    "associated data": _bound,
    "nonce": _nonce,
    "message key": _message_key,
    "sealed bytes": _result(XaesKey, "seal"),
}


@pytest.mark.fault(9)
@pytest.mark.parametrize("stage", STAGES)
def test_a_bit_that_flips_while_a_chunk_is_sealed_is_found(
    stage: str, monkeypatch: pytest.MonkeyPatch, evidence: Evidence
) -> None:
    found = 0
    for seed in range(FLIPS):
        flip, chunks = Flip(seed), ChunkSealer(ring_of())
        content_id = chunks.content_id(DATA)
        with monkeypatch.context() as patch:
            STAGES[stage](patch, flip)
            with pytest.raises(IntegrityError, match="that was just sealed does not open"):
                chunks.seal(ChunkKind.DATA, content_id, DATA)
        found += flip.done
    assert found == FLIPS
    evidence(f"bits flipped in {stage}", f"{FLIPS}, sealed: 0")


def _frames(patch: pytest.MonkeyPatch, flip: Flip) -> None:
    """One of the frames that were compressed at once."""
    whole = Compressor.compress_all

    def compressing(self: Compressor, parts: Sequence[bytes]) -> list[bytes]:
        frames = [bytes(frame) for frame in whole(self, parts)]
        return [*frames[:-1], flip(frames[-1])]

    patch.setattr(Compressor, "compress_all", compressing)


@pytest.mark.fault(9)
@pytest.mark.parametrize("stage", STAGES)
def test_a_bit_that_flips_while_many_are_sealed_is_found(
    stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = [DATA, DATA[: len(DATA) // 2], DATA[7:]]
    stages = {**STAGES, "compressed bytes": _frames}
    for seed in range(FLIPS):
        flip, chunks = Flip(seed), ChunkSealer(ring_of())
        ids = [chunks.content_id(data) for data in parts]
        with monkeypatch.context() as patch:
            stages[stage](patch, flip)
            with pytest.raises(IntegrityError, match="that was just sealed does not open"):
                chunks.seal_all(ChunkKind.DATA, ids, parts)
        assert flip.done


@pytest.mark.fault(9)
@pytest.mark.parametrize("stage", STAGES)
def test_a_bit_that_flips_while_a_record_is_sealed_is_found(
    stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(FLIPS):
        flip, records = Flip(seed), RecordSealer(ring_of())
        with monkeypatch.context() as patch:
            STAGES[stage](patch, flip)
            with pytest.raises(IntegrityError, match="that was just sealed does not open"):
                records.seal(RecordKind.TOC, "packs/1", DATA)
        assert flip.done


@pytest.mark.fault(9)
def test_a_bit_that_flips_in_the_buffer_after_hashing_is_found(evidence: Evidence) -> None:
    chunks, draw = ChunkSealer(ring_of()), random.Random(1)
    for _ in range(FLIPS):
        buffer = bytearray(DATA)
        content_id = chunks.content_id(buffer)
        buffer[draw.randrange(len(buffer))] ^= 1 << draw.randrange(8)
        with pytest.raises(IntegrityError, match="does not have this id"):
            chunks.seal(ChunkKind.DATA, content_id, buffer)
    evidence("bits flipped in the buffer", f"{FLIPS}, sealed: 0")


@pytest.mark.fault(9)
def test_a_bit_that_flips_in_an_id_is_found() -> None:
    chunks, draw = ChunkSealer(ring_of()), random.Random(2)
    for _ in range(FLIPS):
        content_id = bytearray(chunks.content_id(DATA))
        content_id[draw.randrange(32)] ^= 1 << draw.randrange(8)
        with pytest.raises(IntegrityError, match="does not have this id"):
            chunks.seal(ChunkKind.DATA, bytes(content_id), DATA)


@pytest.mark.fault(9)
@pytest.mark.parametrize("part", ["_mask", "_first", "_second"])
def test_a_bit_that_flips_in_a_key_that_is_kept_is_found_by_the_next_chunk(part: str) -> None:
    """Else every later chunk would be under a key that nobody has."""
    chunks = ChunkSealer(ring_of())
    chunks.seal(ChunkKind.DATA, chunks.content_id(DATA), DATA)
    kept = chunks._ring.chunk_key(1)
    value: Any = getattr(kept, part)
    setattr(kept, part, value ^ 4 if isinstance(value, int) else bytes([value[0] ^ 4]) + value[1:])
    with pytest.raises(IntegrityError, match="that was just sealed does not open"):
        chunks.seal(ChunkKind.DATA, chunks.content_id(DATA), DATA)


@pytest.mark.fault(9)
@pytest.mark.parametrize("part", ["_id_key", "repository_id"])
def test_a_bit_that_flips_in_what_the_ring_keeps_is_found(part: str) -> None:
    chunks = ChunkSealer(ring_of())
    value: bytes = getattr(chunks._ring, part)
    setattr(chunks._ring, part, bytes([value[0] ^ 1]) + value[1:])
    with pytest.raises(IntegrityError, match="that was just sealed does not open"):
        chunks.seal(ChunkKind.DATA, chunks.content_id(DATA), DATA)


@pytest.mark.fault(9)
def test_a_bit_that_flips_in_a_root_key_is_found_before_it_is_used() -> None:
    ring = ring_of()
    ring.root._raw = bytes([ring.root._raw[0] ^ 1]) + ring.root._raw[1:]
    with pytest.raises(IntegrityError, match="changed in memory"):
        make_slot(ring, KeyFile(bytes(32)))
    with pytest.raises(IntegrityError, match="changed in memory"):
        ring.twin()


# ---------------------------------------------------------------------- repeating random bytes


def _cloned() -> ChunkSealer:
    """A sealer of a machine whose random bytes are always the same."""
    root = RootKey(b"\x11" * 32)
    return ChunkSealer(KeyRing(root, REPOSITORY, 1, entropy=lambda n: b"\x22" * n))


def _pairs(count: int) -> int:
    """How many pairs of key and nonce the seals of ``count`` different messages have."""
    nonces = set()
    machines = [_cloned(), _cloned()]
    for number in range(count):
        chunks = machines[number % 2]
        data = number.to_bytes(8, "big") * 4
        kind = ChunkKind.NODE if number % 3 else ChunkKind.DATA
        chunk = chunks.seal(kind, chunks.content_id(data), data)
        nonces.add(chunk.sealed[:24])
    return len(nonces)


@pytest.mark.fault(10)
def test_no_nonce_repeats_with_repeating_random_bytes() -> None:
    assert _pairs(5_000) == 5_000


@pytest.mark.slow
@pytest.mark.fault(10)
@pytest.mark.timeout(600)
def test_no_nonce_repeats_over_a_million_seals(evidence: Evidence) -> None:
    assert _pairs(1_000_000) == 1_000_000
    evidence("seals with repeating random bytes", "1000000, nonces that repeat: 0")


@pytest.mark.fault(10)
def test_equal_nonces_mean_equal_messages() -> None:
    one, two = _cloned(), _cloned()
    content_id = one.content_id(DATA)
    first = one.seal(ChunkKind.DATA, content_id, DATA)
    assert two.seal(ChunkKind.DATA, content_id, DATA) == first
    other_kind = two.seal(ChunkKind.NODE, content_id, DATA)
    assert other_kind.sealed[:24] != first.sealed[:24]


@pytest.mark.fault(10)
def test_another_compression_of_one_chunk_has_another_nonce() -> None:
    """zstd's output is not canonical: one id, two payloads."""
    ring = _cloned()._ring
    nonces, payloads = set(), set()
    for level in (1, 3, 19):
        chunks = ChunkSealer(ring, level=level)
        nonces.add(chunks.seal(ChunkKind.DATA, chunks.content_id(DATA), DATA).sealed[:24])
        payloads.add(Compressor(level).compress(DATA))
    assert len(nonces) == len(payloads) > 1


@pytest.mark.fault(10)
def test_a_raw_chunk_that_is_another_s_frame_has_another_nonce() -> None:
    """The same payload under other associated data; two tags would give GCM's key away."""
    ring = _cloned()._ring
    payload = b"the very same payload"
    nonces = {ring.nonce(aad, payload) for aad in (b"raw", b"frame")}
    assert len(nonces) == 2


@pytest.mark.fault(10)
def test_two_seals_of_one_chunk_differ_where_random_bytes_do_not_repeat(
    chunks: ChunkSealer,
) -> None:
    content_id = chunks.content_id(DATA)
    first, second = (chunks.seal(ChunkKind.DATA, content_id, DATA) for _ in range(2))
    assert first.sealed != second.sealed
