import hashlib
import random

import pytest

from sealift.disk import Unwritten
from sealift.errors import IntegrityError
from sealift.testing.memory import MemoryReader, MemoryWriter
from sealift.testing.minilang import parse, render

CELL = 4


def writer(
    unwritten: Unwritten = Unwritten.ZERO,
    *,
    durable_writes: bool = False,
    wants_digests: bool = False,
) -> MemoryWriter:
    return MemoryWriter(
        4 * CELL,
        unwritten=unwritten,
        base=b"XXXXYYYYZZZZWWWW",
        block_size=CELL,
        durable_writes=durable_writes,
        wants_digests=wants_digests,
    )


def put(target: MemoryWriter, offset: int, data: bytes) -> None:
    target.write(offset, memoryview(data), [])


def test_unwritten_ranges_read_as_declared() -> None:
    assert render(writer(Unwritten.ZERO).content, cell_bytes=CELL) == "0000"
    assert render(writer(Unwritten.BASE).content, cell_bytes=CELL) == "XYZW"
    assert render(writer(Unwritten.UNDEFINED).content, cell_bytes=CELL) == "????"


def test_a_crash_loses_what_was_not_flushed() -> None:
    target = writer()
    put(target, 0, b"AAAA")
    target.flush()
    put(target, 4, b"BBBB")
    assert render(target.content, cell_bytes=CELL) == "AB00"
    assert render(target.crash().content, cell_bytes=CELL) == "A000"


def test_a_crash_may_keep_some_blocks() -> None:
    seen = set()
    for seed in range(20):
        target = writer()
        put(target, 0, b"AAAABBBB")
        seen.add(render(target.crash(random.Random(seed)).content, cell_bytes=CELL))
    assert seen == {"0000", "A000", "0B00", "AB00"}


def test_durable_writes_survive_a_crash() -> None:
    target = writer(durable_writes=True)
    put(target, 4, b"BBBB")
    assert render(target.crash().content, cell_bytes=CELL) == "0B00"


def test_a_wrong_digest_is_refused() -> None:
    target = writer(wants_digests=True)
    with pytest.raises(IntegrityError):
        target.write(0, memoryview(b"AAAA"), [hashlib.sha256(b"BBBB").digest()])


def test_commit_refuses_a_list_that_misses_a_block() -> None:
    target = writer(wants_digests=True)
    target.write(0, memoryview(b"AAAA"), [hashlib.sha256(b"AAAA").digest()])
    with pytest.raises(IntegrityError):
        target.commit([])
    assert not target.committed


@pytest.mark.parametrize(("offset", "data"), [(2, b"AAAA"), (0, b"AAA"), (16, b"AAAA"), (0, b"")])
def test_misuse_is_refused(offset: int, data: bytes) -> None:
    with pytest.raises(ValueError, match=r"grid|within|at most"):
        put(writer(), offset, data)


def test_a_reader_of_text_has_its_extents_and_bytes() -> None:
    reader = MemoryReader.from_text("A-.", cell_bytes=CELL, base=b"XXXXYYYYZZZZ")
    buffer = bytearray(12)
    reader.read_into(0, memoryview(buffer))
    assert buffer == b"AAAA\0\0\0\0ZZZZ"
    disk = parse("A-.", cell_bytes=CELL, base=b"XXXXYYYYZZZZ")
    assert tuple(reader.extents(0, 12)) == disk.extents
