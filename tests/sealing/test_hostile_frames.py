"""Frames that lie, sealed by somebody who holds the keys: refused before memory is taken."""

import random
import struct
import tracemalloc

import pytest
import zstandard

from sealift.errors import IntegrityError
from sealift.sealing import chunks as chunks_module
from sealift.sealing.chunks import MAX_CHUNK_BYTES, ChunkKind, ChunkSealer
from sealift.sealing.compression import Codec, Compressor
from tests.sealing.conftest import ring_of

LENGTH = 65536
PLAIN = b"sixteen bytes ab" * (LENGTH // 16)
NOISE = random.Random(7).randbytes(LENGTH)
MAGIC = b"\x28\xb5\x2f\xfd"
SKIPPABLE = struct.pack("<II", 0x184D2A50, 4) + b"skip"


def compressed(data: bytes, *, write_content_size: bool = True) -> bytes:
    return zstandard.ZstdCompressor(level=3, write_content_size=write_content_size).compress(data)


def header(*, window: int, size: int, dictionary: int = 0) -> bytes:
    """A frame's header with a window descriptor, an 8-byte size and a dictionary id."""
    descriptor = 0xC0 | (3 if dictionary else 0)
    named = struct.pack("<I", dictionary) if dictionary else b""
    return MAGIC + bytes([descriptor, window]) + named + struct.pack("<Q", size)


def stating(frame: bytes, size: int) -> bytes:
    """A frame with another content size of the same width in its header."""
    found = zstandard.get_frame_parameters(frame)
    assert found.content_size == LENGTH
    for width, code, offset in ((2, "<H", 256), (4, "<I", 0)):
        old = struct.pack(code, LENGTH - offset)
        at = frame.find(old, 4, 14)
        if at >= 0:
            return frame[:at] + struct.pack(code, size - offset) + frame[at + width :]
    raise AssertionError("no size found")


def dictionary_frame() -> bytes:
    words = zstandard.train_dictionary(1024, [f"sample {n} of text".encode() for n in range(999)])
    return zstandard.ZstdCompressor(level=3, dict_data=words).compress(PLAIN)


LAST_EMPTY_BLOCK = b"\x01\x00\x00"
WINDOW_2_GIB = 21 << 3
FRAMES = {
    "a bomb that states its size": compressed(bytes(1 << 30)),
    "a bomb that states the chunk's size": header(window=0x50, size=LENGTH)
    + compressed(bytes(1 << 24), write_content_size=False)[6:],
    "more than it states": stating(compressed(PLAIN), LENGTH - 16),
    "less than it states": stating(compressed(PLAIN), LENGTH + 16),
    "no stated size": compressed(PLAIN, write_content_size=False),
    "a size of 2^63": header(window=0, size=1 << 63) + LAST_EMPTY_BLOCK,
    "a size of 2^64 - 2": header(window=0, size=2**64 - 2) + LAST_EMPTY_BLOCK,
    "a window of 2 GiB": header(window=WINDOW_2_GIB, size=LENGTH) + LAST_EMPTY_BLOCK,
    "a dictionary": dictionary_frame(),
    "a dictionary that nobody has": header(window=0, size=LENGTH, dictionary=77),
    "a second frame": compressed(PLAIN) + compressed(b"second"),
    "two halves": compressed(PLAIN[: LENGTH // 2]) * 2,
    "a skippable frame before": SKIPPABLE + compressed(PLAIN),
    "a skippable frame behind": compressed(PLAIN) + SKIPPABLE,
    "a byte behind": compressed(PLAIN) + b"\0",
    "a byte short": compressed(PLAIN)[:-1],
    "only a header": compressed(PLAIN)[:9],
    "a magic number": MAGIC,
    "a legacy frame": struct.pack("<I", 0xFD2FB522) + bytes(20),
    "another format": b"\x1f\x8b" + bytes(30),
    "nothing like it": b"\0",
}


@pytest.fixture
def chunks() -> ChunkSealer:
    return ChunkSealer(ring_of())


def sealed_as_it_is(chunks: ChunkSealer, payload: bytes, codec: int, length: int = LENGTH) -> bytes:
    """What a holder of the keys can make of any payload."""
    ring, content_id = chunks._ring, chunks.content_id(PLAIN)
    aad = chunks_module._aad(ring, ChunkKind.DATA, content_id, codec, length, 1)
    nonce = ring.nonce(aad, payload)
    return nonce + ring.chunk_key(1).seal(nonce, payload, aad)


def opened(chunks: ChunkSealer, sealed: bytes, codec: int, length: int = LENGTH) -> bytes:
    content_id = chunks.content_id(PLAIN)
    return chunks.open(ChunkKind.DATA, content_id, codec, length, 1, sealed, check_id=False)


@pytest.mark.fault(47)
@pytest.mark.parametrize("name", FRAMES)
def test_a_frame_that_is_not_what_the_chunk_says_is_refused(chunks: ChunkSealer, name: str) -> None:
    sealed = sealed_as_it_is(chunks, FRAMES[name], Codec.ZSTD)
    opened(chunks, sealed_as_it_is(chunks, compressed(PLAIN), Codec.ZSTD), Codec.ZSTD)
    tracemalloc.start()
    try:
        with pytest.raises(IntegrityError, match=r"^chunk [0-9a-f]{64}: "):
            opened(chunks, sealed, Codec.ZSTD)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < len(FRAMES[name]) + LENGTH + 200_000


@pytest.mark.fault(47)
@pytest.mark.parametrize("name", FRAMES)
def test_a_record_s_frame_is_judged_alike(name: str) -> None:
    with pytest.raises(IntegrityError):
        Compressor(3).expand(FRAMES[name], LENGTH)
    assert Compressor(3).expand(compressed(PLAIN), LENGTH) == PLAIN


@pytest.mark.fault(47)
@pytest.mark.parametrize("name", FRAMES)
def test_a_frame_among_others_is_judged_alike(name: str) -> None:
    good = compressed(PLAIN)
    tracemalloc.start()
    try:
        with pytest.raises(IntegrityError):
            Compressor(3).expand_all([good, FRAMES[name], good], [LENGTH] * 3)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < len(FRAMES[name]) + 4 * LENGTH + 200_000


@pytest.mark.parametrize("checksum", [False, True])
@pytest.mark.parametrize("data", [b"x", bytes(LENGTH), NOISE, PLAIN, (PLAIN + NOISE) * 9])
def test_the_end_of_any_good_frame_is_found(data: bytes, checksum: bool) -> None:
    """Raw, run-length and compressed blocks, one or many, with a checksum or without."""
    frames = [zstandard.ZstdCompressor(level=3, write_checksum=checksum).compress(data)] * 2
    assert [bytes(one) for one in Compressor(3).expand_all(frames, [len(data)] * 2)] == [data] * 2
    with pytest.raises(IntegrityError, match="the frame ends at"):
        Compressor(3).expand_all([frames[0], frames[0] + b"\0"], [len(data)] * 2)


def test_a_frame_of_nothing_is_not_handed_on() -> None:
    with pytest.raises(ValueError, match="without data"):
        Compressor(3).expand_all([compressed(PLAIN)] * 2, [LENGTH, 0])


@pytest.mark.fault(47)
@pytest.mark.parametrize("length", [LENGTH - 1, LENGTH + 1, 1, MAX_CHUNK_BYTES])
def test_a_raw_payload_of_another_length_is_refused(chunks: ChunkSealer, length: int) -> None:
    sealed = sealed_as_it_is(chunks, PLAIN, Codec.NONE, length)
    with pytest.raises(IntegrityError, match="bytes"):
        opened(chunks, sealed, Codec.NONE, length)


@pytest.mark.fault(47)
def test_a_frame_of_other_content_fails_where_the_id_is_checked(chunks: ChunkSealer) -> None:
    sealed = sealed_as_it_is(chunks, compressed(bytes(LENGTH)), Codec.ZSTD)
    assert opened(chunks, sealed, Codec.ZSTD) == bytes(LENGTH)
    with pytest.raises(IntegrityError, match="does not have this id"):
        chunks.open(
            *(ChunkKind.DATA, chunks.content_id(PLAIN), Codec.ZSTD, LENGTH, 1, sealed),
            check_id=True,
        )


@pytest.mark.fault(48)
@pytest.mark.parametrize("length", [-1, 0, MAX_CHUNK_BYTES + 1, 2**31, 2**63])
def test_a_length_out_of_bounds_is_refused(chunks: ChunkSealer, length: int) -> None:
    with pytest.raises(IntegrityError, match="out of bounds"):
        opened(chunks, bytes(100), Codec.ZSTD, length)
