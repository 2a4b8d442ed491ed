"""What is sealed opens to the same, and nothing else opens."""

import random
from dataclasses import replace

import pytest

from sealift.errors import IntegrityError
from sealift.sealing.chunks import MAX_CHUNK_BYTES, ChunkKind, ChunkSealer, SealedChunk
from sealift.sealing.compression import SMALL_CHUNKS, Codec, Compressor
from sealift.units import KiB, MiB
from tests.sealing.conftest import REPOSITORY, ring_of

TEXT = b"an acknowledged write is never lost; " * 2000
NOISE = random.Random(1).randbytes(65536)
OTHER_ID = bytes(32)


def opened(chunks: ChunkSealer, chunk: SealedChunk, *, check_id: bool = False) -> bytes:
    return chunks.open(
        *(chunk.kind, chunk.id, chunk.codec, chunk.plain_length, chunk.epoch, chunk.sealed),
        check_id=check_id,
    )


def sealed(chunks: ChunkSealer, data: bytes, kind: ChunkKind = ChunkKind.DATA) -> SealedChunk:
    return chunks.seal(kind, chunks.content_id(data), data)


@pytest.mark.parametrize("data", [b"x", TEXT, NOISE, bytes(4096), NOISE * 64])  # up to 4 MiB
@pytest.mark.parametrize("kind", ChunkKind)
def test_what_is_sealed_opens_to_the_same(
    chunks: ChunkSealer, kind: ChunkKind, data: bytes
) -> None:
    chunk = sealed(chunks, data, kind)
    assert opened(chunks, chunk, check_id=True) == data
    assert len(chunk.sealed) <= len(data) + 40
    assert chunk.codec == (Codec.NONE if data in (b"x", NOISE) else Codec.ZSTD)


def test_many_at_once_are_each_what_they_are_alone(chunks: ChunkSealer) -> None:
    parts = [TEXT, NOISE, b"x", bytes(4096), words(9000), NOISE * 3, TEXT[:99]]
    ids = [chunks.content_id(data) for data in parts]
    many = chunks.seal_all(ChunkKind.DATA, ids, parts)
    alone = [sealed(chunks, data) for data in parts]
    facts = [(c.id, c.kind, c.epoch, c.codec, c.plain_length, c.size) for c in many]
    assert facts == [(c.id, c.kind, c.epoch, c.codec, c.plain_length, c.size) for c in alone]
    assert {c.codec for c in many} == {Codec.NONE, Codec.ZSTD}
    assert len({c.nonce for c in many}) == len(parts)
    assert [bytes(data) for data in chunks.open_all(many)] == parts
    assert [opened(chunks, chunk, check_id=True) for chunk in many] == parts
    assert not chunks.seal_all(ChunkKind.DATA, [], [])
    assert not chunks.open_all([])


@pytest.mark.fault(45)
@pytest.mark.parametrize("place", range(3))
def test_of_many_the_damaged_one_is_named(chunks: ChunkSealer, place: int) -> None:
    parts = [TEXT, NOISE, words(5000)]
    many = chunks.seal_all(ChunkKind.DATA, [chunks.content_id(data) for data in parts], parts)
    broken = bytearray(many[place].ciphertext)
    broken[len(broken) // 2] ^= 1
    many[place] = replace(many[place], ciphertext=bytes(broken))
    with pytest.raises(IntegrityError, match=f"^chunk {many[place].id.hex()}: the tag"):
        chunks.open_all(many)


def test_a_view_of_a_buffer_is_sealed_as_its_bytes_are(chunks: ChunkSealer) -> None:
    buffer = memoryview(bytearray(TEXT))
    chunk = chunks.seal(ChunkKind.DATA, chunks.content_id(buffer), buffer)
    assert chunk.id == chunks.content_id(TEXT)
    assert opened(chunks, chunk, check_id=True) == TEXT


SWAPS = {
    "another kind": {"kind": ChunkKind.NODE},
    "another id": {"id": OTHER_ID},
    "another epoch": {"epoch": 1},
    "an epoch to come": {"epoch": 3},
    "another codec": {"codec": Codec.NONE},
    "an unknown codec": {"codec": 7},
    "a byte more": {"plain_length": len(TEXT) + 1},
    "a byte less": {"plain_length": len(TEXT) - 1},
    "no bytes": {"plain_length": 0},
    "too many bytes": {"plain_length": MAX_CHUNK_BYTES + 1},
}


@pytest.mark.fault(45)
@pytest.mark.parametrize("change", SWAPS.values(), ids=SWAPS)
def test_every_bound_field_is_needed_to_open(change: dict[str, object]) -> None:
    chunks = ChunkSealer(ring_of(epoch=2))
    chunk = sealed(chunks, TEXT)
    with pytest.raises(IntegrityError, match=r"^chunk [0-9a-f]{64}: "):
        opened(chunks, replace(chunk, **change))  # type: ignore[arg-type]
    assert opened(chunks, chunk) == TEXT


@pytest.mark.fault(45)
def test_a_chunk_of_another_repository_does_not_open() -> None:
    """Even with the same root key."""
    chunk = sealed(ChunkSealer(ring_of()), TEXT)
    other = ChunkSealer(ring_of(repository=bytes(16)))
    with pytest.raises(IntegrityError, match="tag"):
        opened(other, chunk)
    assert ring_of().content_id(TEXT) != ring_of(repository=bytes(16)).content_id(TEXT)
    assert opened(ChunkSealer(ring_of(repository=REPOSITORY)), chunk) == TEXT


@pytest.mark.parametrize("size", [1, 511, 2057, 64 * KiB, 64 * KiB + 1, MiB, MAX_CHUNK_BYTES])
def test_a_chunk_of_any_size_opens_that_was_compressed_for_small_ones(size: int) -> None:
    """Window and length of its frame are those of the chunk, which every reader insists on."""
    data = words(1 + size // 8)[:size]
    chunk = sealed(ChunkSealer(ring_of(), level=SMALL_CHUNKS), data)
    assert (chunk.codec == Codec.ZSTD) == (size > 1)
    assert opened(ChunkSealer(ring_of()), chunk, check_id=True) == data


def test_small_chunks_are_compressed_better_than_at_level_2() -> None:
    data = words(8000)[: 64 * KiB]
    small, level = (Compressor(n).compress(data) for n in (SMALL_CHUNKS, 2))
    assert len(small) < len(level)


def words(count: int) -> bytes:
    """Of 2,000 in random order."""
    known = [b"word%04d" % n for n in range(2000)]
    return b" ".join(random.Random(1).choices(known, k=count))
