"""Packs and index objects: what goes in comes out, in random order; the rest is refused."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealift.errors import IntegrityError
from sealift.repository.packs import (
    Entry,
    PackBuilder,
    Toc,
    decode_index,
    encode_index,
    read_toc,
)
from sealift.sealing.chunks import ChunkKind, ChunkSealer
from sealift.sealing.records import RecordSealer, padme
from sealift.units import KiB
from tests.repository.conftest import pseudo_random, ring_of

RING = ring_of()
SEALER, RECORDS = ChunkSealer(RING), RecordSealer(RING)


def sealed_pack(count: int, target: int = 64 * KiB) -> tuple[Toc, bytes, dict[bytes, bytes]]:
    builder = PackBuilder(ChunkKind.DATA, target)
    held: dict[bytes, bytes] = {}
    for n in range(count):
        data = pseudo_random(str(n))(1000 + n)
        chunk = SEALER.seal(ChunkKind.DATA, SEALER.content_id(data), data)
        held[chunk.id] = data
        builder.add(chunk)
    toc, whole = builder.sealed(RECORDS, pseudo_random("pack"))
    return toc, bytes(whole), held


def table_of(whole: bytes, name: str) -> Toc:
    return read_toc(name, len(whole), lambda at, length: whole[at : at + length], RECORDS)


def test_every_chunk_of_a_pack_opens() -> None:
    toc, whole, held = sealed_pack(40)
    assert toc.size == len(whole)
    assert table_of(whole, toc.pack) == toc
    found = {}
    for e in toc.entries():
        part = whole[e.offset : e.offset + e.length]
        found[e.id] = SEALER.open(
            ChunkKind.DATA, e.id, e.codec, e.plain, e.epoch, part, check_id=True
        )
    assert found == held
    assert [e.id for e in toc.entries()] != list(held)


def test_a_store_sees_a_padded_length_only() -> None:
    toc, whole, _ = sealed_pack(7)
    area = max(e.offset + e.length for e in toc.entries())
    (length,) = struct.unpack(">I", whole[-8:-4])
    assert len(whole) == padme(area) + length + 8
    assert padme(length) == length


def test_a_full_pack_takes_no_more_and_an_empty_one_takes_any() -> None:
    data = bytes(range(256)) * 8
    chunk = SEALER.seal(ChunkKind.DATA, SEALER.content_id(data), data)
    builder = PackBuilder(ChunkKind.DATA, 100)
    assert builder.takes(chunk)
    builder.add(chunk)
    assert not builder.takes(chunk)


@pytest.mark.fault(45)
def test_a_pack_that_was_cut_flipped_or_renamed_is_refused() -> None:
    toc, whole, _ = sealed_pack(3)
    for cut in (0, 1, 8, 9, len(whole) - 1):
        with pytest.raises(IntegrityError):
            table_of(whole[:cut], toc.pack)
    for at in range(len(whole) - 90, len(whole)):
        broken = bytearray(whole)
        broken[at] ^= 1
        with pytest.raises(IntegrityError):
            table_of(bytes(broken), toc.pack)
    other, _, _ = sealed_pack(4)
    with pytest.raises(IntegrityError):
        table_of(whole, "packs/00/" + "0" * 32)
    assert other.pack != "packs/00/" + "0" * 32


ENTRIES = st.builds(
    Entry,
    st.binary(min_size=32, max_size=32),
    st.integers(0, 1000),
    st.integers(41, 1000),
    st.integers(1, 4 << 20),
    st.integers(1, 9),
    st.integers(0, 1),
)


@given(st.lists(st.lists(ENTRIES, min_size=1, max_size=4), max_size=4))
def test_an_index_comes_back_as_it_was(packs: list[list[Entry]]) -> None:
    tocs = []
    for n, entries in enumerate(packs):
        body = b"".join(struct.pack(">32sIIIIB", *e) for e in entries)
        name = bytes([n]) * 16
        tocs.append(Toc(f"packs/{name[:1].hex()}/{name.hex()}", ChunkKind.NODE, 4000, body))
    data = encode_index(tocs)
    assert decode_index("index/x", data) == tocs
    for toc, entries in zip(tocs, packs, strict=True):
        assert list(toc.entries()) == entries
        assert len(toc) == len(entries)


@pytest.mark.fault(48)
@given(st.binary(max_size=300))
def test_no_bytes_make_an_index_fail_otherwise(data: bytes) -> None:
    try:
        found = decode_index("index/x", data)
    except IntegrityError:
        return
    assert encode_index(found) == data


@pytest.mark.fault(48)
@pytest.mark.parametrize(
    ("kind", "size", "count"),
    [(0, 100, 1), (3, 100, 1), (1, 0, 1), (1, 1 << 63, 1), (1, 100, 0), (1, 100, 0xFFFFFFFF)],
)
def test_heads_out_of_bounds_are_refused(kind: int, size: int, count: int) -> None:
    entry = struct.pack(">32sIIIIB", b"i" * 32, 0, 50, 50, 1, 0)
    data = struct.pack(">16sBQI", b"n" * 16, kind, size, count) + entry
    with pytest.raises(IntegrityError):
        decode_index("index/x", data)


@pytest.mark.fault(48)
@pytest.mark.parametrize(
    ("offset", "length", "plain"),
    [(60, 50, 50), (0xFFFFFFFF, 50, 50), (0, 40, 50), (0, 50, 0), (0, 50, 0xFFFFFFFF)],
)
def test_entries_that_do_not_lie_in_the_pack_are_refused(
    offset: int, length: int, plain: int
) -> None:
    entry = struct.pack(">32sIIIIB", b"i" * 32, offset, length, plain, 1, 0)
    data = struct.pack(">16sBQI", b"n" * 16, 1, 100, 1) + entry
    with pytest.raises(IntegrityError):
        decode_index("index/x", data)
