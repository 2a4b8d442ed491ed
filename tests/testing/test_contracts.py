"""The in-memory ends pass the suites, and ends that break a promise do not."""

from collections.abc import Callable, Iterator, Sequence

import pytest

from sealift.disk import Unwritten
from sealift.errors import IntegrityError
from sealift.extents import Extent, Kind
from sealift.testing.contracts import (
    ReaderCase,
    ReaderContract,
    Session,
    WriterCase,
    WriterContract,
    pattern,
)
from sealift.testing.memory import MemoryReader, MemoryWriter
from sealift.testing.minilang import parse
from sealift.units import KiB

CELL = 4 * KiB
BASE = parse("XYZXYZXY", cell_bytes=CELL).content


class TestMemoryReader(ReaderContract):
    @pytest.fixture(params=["AB0-", "-", "A", "0--A0BBA", "A.0-..BZ"])
    def reader_case(self, request: pytest.FixtureRequest) -> ReaderCase:
        text: str = request.param
        base = BASE if "." in text else None
        disk = parse(text, cell_bytes=CELL, base=base, size=len(text) * CELL - 7)
        return ReaderCase(lambda: MemoryReader.of(disk), disk.content, base)


WRITERS: dict[str, Callable[[], MemoryWriter]] = {
    "zero": lambda: MemoryWriter(6 * CELL, block_size=CELL, native_zero=True),
    "base": lambda: MemoryWriter(
        6 * CELL, block_size=CELL, unwritten=Unwritten.BASE, base=BASE, native_zero=True
    ),
    "undefined": lambda: MemoryWriter(6 * CELL, block_size=CELL, unwritten=Unwritten.UNDEFINED),
    "cut-short": lambda: MemoryWriter(6 * CELL - 512, block_size=CELL, native_zero=True),
    "whole-blocks": lambda: MemoryWriter(6 * CELL - 512, block_size=CELL, whole_blocks=True),
    "durable": lambda: MemoryWriter(6 * CELL, block_size=CELL, durable_writes=True),
    "like-a-cloud": lambda: MemoryWriter(
        6 * CELL,
        block_size=CELL,
        max_op_bytes=CELL,
        unwritten=Unwritten.BASE,
        base=BASE,
        whole_blocks=True,
        durable_writes=True,
        wants_digests=True,
    ),
}


def memory_case(first: MemoryWriter) -> WriterCase:
    def crash() -> None:
        first.crash()

    return WriterCase(
        open=first.reopen,
        content=lambda: first.content,
        visible=lambda: first.committed,
        crash=crash,
        base=BASE,
    )


class TestMemoryWriter(WriterContract):
    @pytest.fixture(params=WRITERS)
    def writer_case(self, request: pytest.FixtureRequest) -> WriterCase:
        return memory_case(WRITERS[request.param]())


class ShortReader(MemoryReader):
    def read_into(self, offset: int, buffer: memoryview) -> None:
        super().read_into(offset, buffer[:-1])


class LyingReader(MemoryReader):
    def extents(self, start: int, length: int) -> Iterator[Extent]:
        yield Extent(start, length, Kind.ZERO)


class GappyReader(MemoryReader):
    def extents(self, start: int, length: int) -> Iterator[Extent]:
        yield Extent(start + 1, length - 1, Kind.DATA)


def test_the_reader_suite_catches_broken_readers() -> None:
    suite, content = ReaderContract(), pattern(CELL)
    case = ReaderCase(lambda: MemoryReader(content), content)
    with pytest.raises(AssertionError):
        suite.test_any_range_reads_as_it_is(ShortReader(content), case)
    with pytest.raises(AssertionError):
        suite.test_kinds_are_true(LyingReader(content), case)
    with pytest.raises(Exception, match="not a partition"):
        suite.test_extents_partition_any_range(GappyReader(content))


class ForgetfulWriter(MemoryWriter):
    def flush(self) -> None:
        """Says it is durable, and it is not."""

    def commit(self, blocks: object) -> None:
        """Makes visible what is not durable."""
        self._store.committed = True


class KeepingWriter(MemoryWriter):
    """Keeps a reference to the buffer instead of the bytes."""

    kept: tuple[int, memoryview] | None = None

    def write(self, offset: int, data: memoryview, digests: Sequence[bytes]) -> None:
        self.kept = offset, data

    def commit(self, blocks: object) -> None:
        assert self.kept is not None
        super().write(self.kept[0], self.kept[1], [])
        super().commit([])


def test_the_writer_suite_catches_broken_writers() -> None:
    suite = WriterContract()
    forgetful = ForgetfulWriter(6 * CELL, block_size=CELL)
    with pytest.raises(AssertionError):
        suite.test_what_was_flushed_survives_a_crash(Session(forgetful), memory_case(forgetful))
    keeping = KeepingWriter(6 * CELL, block_size=CELL)
    with pytest.raises(AssertionError):
        suite.test_the_buffer_is_ours_again(Session(keeping), memory_case(keeping))


def test_a_memory_writer_that_lost_a_block_refuses_to_commit() -> None:
    target = MemoryWriter(6 * CELL, block_size=CELL, wants_digests=True)
    session = Session(target)
    session.put(0, pattern(CELL))
    survivor = Session(target.crash(), session.blocks)
    with pytest.raises(IntegrityError):
        survivor.commit()
