# ruff: noqa: S101 - these are tests that other packages run
"""The docstrings of ``sealift.disk`` as tests, for every reader and every writer.

Use: subclass in a test module and provide the fixture ``reader_case`` (``writer_case``)::

    class TestRawFile(ReaderContract):
        @pytest.fixture
        def reader_case(self, tmp_path: Path) -> ReaderCase: ...

Needs pytest, which the package itself does not.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field

import pytest

from sealift.disk import DiskReader, DiskWriter, Unwritten, WriterCaps
from sealift.errors import IntegrityError, SealiftError
from sealift.extents import Extent, Kind, checked_partition
from sealift.units import round_down, round_up

REFUSED = (ValueError, SealiftError)


@dataclass(frozen=True, slots=True)
class ReaderCase:
    """One disk to read.

    Attributes:
        open: opens the same instant each time it is called.
        content: its bytes; at least 4 KiB make the tests meaningful.
        base: bytes of the base, for readers that are incremental.
    """

    open: Callable[[], DiskReader]
    content: bytes
    base: bytes | None = None


@dataclass(frozen=True, slots=True)
class WriterCase:
    """One target to write, of at least 4 blocks.

    Attributes:
        open: opens the same thing under construction each time it is called; the first
            call makes it.
        content: ``caps.size`` bytes of the committed disk, as somebody else reads them.
        visible: whether anybody can see a disk; None where that cannot be asked.
        crash: kills the target as a power cut does; None where that cannot be done.
        base: what unwritten ranges read as, for BASE.
    """

    open: Callable[[], DiskWriter]
    content: Callable[[], bytes]
    visible: Callable[[], bool] | None = None
    crash: Callable[[], None] | None = None
    base: bytes = b""


def read(reader: DiskReader, offset: int, length: int) -> bytes:
    """Bytes of a range, through ``read_into``."""
    buffer = bytearray(length)
    reader.read_into(offset, memoryview(buffer))
    return bytes(buffer)


def ranges(size: int, count: int = 40) -> Iterator[tuple[int, int]]:
    """(offset, length) pairs: the corners, then seeded random ones of all sizes."""
    corners = [(0, 1), (size - 1, 1), (0, size), (1, size - 1), (1, size - 2), (511, 2)]
    yield from ((o, n) for o, n in corners if n > 0 and o + n <= size)
    rng = random.Random(size)  # noqa: S311 - test data
    for _ in range(count):
        length = rng.randrange(1, 1 << rng.randrange(1, max(2, size.bit_length())))
        length = min(length, size)
        yield rng.randrange(0, size - length + 1), length


class ReaderContract:
    """What ``DiskReader`` promises."""

    @pytest.fixture
    def reader(self, reader_case: ReaderCase) -> Iterator[DiskReader]:
        """One reader of the case, closed afterwards."""
        with closing(reader_case.open()) as reader:
            yield reader

    def test_size_is_exact(self, reader: DiskReader, reader_case: ReaderCase) -> None:
        """To the byte, whatever the server's blocks."""
        assert reader.size == len(reader_case.content)

    def test_any_range_reads_as_it_is(self, reader: DiskReader, reader_case: ReaderCase) -> None:
        """No alignment is needed, nothing is short."""
        for offset, length in ranges(reader.size):
            expected = reader_case.content[offset : offset + length]
            assert read(reader, offset, length) == expected, (offset, length)

    def test_neighbours_of_a_buffer_stay(self, reader: DiskReader, reader_case: ReaderCase) -> None:
        """Only the view that was handed over changes."""
        buffer = bytearray(b"\xee" * 3000)
        reader.read_into(100, memoryview(buffer)[1000:2000])
        assert buffer[:1000] == buffer[2000:] == b"\xee" * 1000
        assert buffer[1000:2000] == reader_case.content[100:1100]

    def test_an_empty_buffer_is_read(self, reader: DiskReader) -> None:
        """Nothing of nothing, also at the end."""
        reader.read_into(0, memoryview(bytearray()))
        reader.read_into(reader.size, memoryview(bytearray()))

    @pytest.mark.parametrize("beyond", [1, 512, 1 << 40])
    def test_a_read_past_the_end_is_refused(self, reader: DiskReader, beyond: int) -> None:
        """Never short, never filled up."""
        with pytest.raises(REFUSED):
            reader.read_into(reader.size + beyond - 1, memoryview(bytearray(1)))
        with pytest.raises(REFUSED):
            reader.read_into(-beyond, memoryview(bytearray(1)))

    def test_extents_partition_any_range(self, reader: DiskReader) -> None:
        """I2, also for ranges that begin and end anywhere."""
        for offset, length in ranges(reader.size):
            list(checked_partition(reader.extents(offset, length), offset, length))

    def test_kinds_are_true(self, reader: DiskReader, reader_case: ReaderCase) -> None:
        """ZERO reads as zeroes, CLEAN as the base, and CLEAN needs a base."""
        for offset, length in ranges(reader.size):
            for extent in reader.extents(offset, length):
                _check_kind(extent, reader_case, incremental=reader.incremental)

    def test_no_extents_of_nothing(self, reader: DiskReader) -> None:
        """An empty range has none."""
        assert not list(reader.extents(0, 0))
        assert not list(reader.extents(reader.size, 0))

    def test_extents_past_the_end_are_refused(self, reader: DiskReader) -> None:
        """They would promise what is not there."""
        with pytest.raises(REFUSED):
            list(reader.extents(0, reader.size + 1))

    def test_extents_may_be_left_half_way(
        self, reader: DiskReader, reader_case: ReaderCase
    ) -> None:
        """They are lazy; reads go on between them and after them."""
        walk = reader.extents(0, reader.size)
        next(walk)
        assert read(reader, 0, 100) == reader_case.content[:100]
        del walk
        list(checked_partition(reader.extents(0, reader.size), 0, reader.size))

    def test_reads_in_many_threads(self, reader: DiskReader, reader_case: ReaderCase) -> None:
        """No thread sees another's bytes."""
        work = list(ranges(reader.size, 200))
        with ThreadPoolExecutor(8) as threads:
            results = threads.map(lambda item: read(reader, *item), work)
        for (offset, length), result in zip(work, results, strict=True):
            assert result == reader_case.content[offset : offset + length], (offset, length)

    def test_identity_survives_reopening(self, reader_case: ReaderCase) -> None:
        """The same instant has the same name, and closing one reader leaves it alone."""
        with closing(reader_case.open()) as first, closing(reader_case.open()) as second:
            assert first.identity == second.identity != ""
            first.close()
            first.close()
            assert read(second, 0, 100) == reader_case.content[:100]


def _check_kind(extent: Extent, case: ReaderCase, *, incremental: bool) -> None:
    content = case.content[extent.start : extent.end]
    if extent.kind is Kind.ZERO:
        assert not any(content), extent
    if extent.kind is Kind.CLEAN:
        assert incremental, extent
        assert case.base is not None, "the case gives no base"
        base = case.base[extent.start : extent.end].ljust(extent.length, b"\0")
        assert content == base, extent


@dataclass
class Session:
    """A writer, with the books that the engine keeps: digests by block."""

    writer: DiskWriter
    blocks: dict[int, bytes] = field(default_factory=dict)

    @property
    def caps(self) -> WriterCaps:
        """Of the writer."""
        return self.writer.caps

    def put(self, offset: int, data: bytes) -> None:
        """Write, in operations and with digests as the caps demand."""
        caps = self.caps
        if caps.whole_blocks:
            data = data.ljust(round_up(len(data), caps.block_size), b"\0")
        for at in range(0, len(data), caps.max_op_bytes):
            part = data[at : at + caps.max_op_bytes]
            self.writer.write(offset + at, memoryview(part), self._digests(offset + at, part))

    def zero(self, offset: int, length: int) -> None:
        """Zero natively."""
        self.writer.zero(offset, length)
        if self.caps.wants_digests:
            for at in range(offset, offset + length, self.caps.block_size):
                self.blocks[at // self.caps.block_size] = self.zero_digest()

    def commit(self) -> None:
        """Commit what was booked."""
        self.writer.commit(sorted(self.blocks.items()))

    def zero_digest(self) -> bytes:
        """Digest of a block of zeroes."""
        return self.caps.digest.of(bytes(self.caps.block_size))

    def _digests(self, offset: int, data: bytes) -> Sequence[bytes]:
        if not self.caps.wants_digests:
            return []
        block = self.caps.block_size
        digests = [self.caps.digest.of(data[at : at + block]) for at in range(0, len(data), block)]
        self.blocks.update(enumerate(digests, offset // block))
        return digests


def pattern(size: int, seed: int = 7) -> bytes:
    """Seeded noise: no two places alike."""
    return random.Random(seed).randbytes(size)  # noqa: S311 - test data


class WriterContract:
    """What ``DiskWriter`` promises."""

    @pytest.fixture
    def session(self, writer_case: WriterCase) -> Iterator[Session]:
        """One writer of the case, closed afterwards."""
        with closing(writer_case.open()) as writer:
            yield Session(writer)

    def test_caps_make_sense(self, session: Session) -> None:
        """And do not change."""
        caps = session.caps
        assert caps == session.caps
        assert caps.size >= 4 * caps.block_size > 0
        assert caps.max_op_bytes > 0
        assert caps.max_op_bytes % caps.block_size == 0
        assert caps.concurrency >= 1
        assert session.writer.identity

    def test_a_whole_disk_lands(self, session: Session, writer_case: WriterCase) -> None:
        """Every byte, also in the last block when it is cut short."""
        data = pattern(session.caps.size)
        session.put(0, data)
        session.writer.flush()
        session.commit()
        assert writer_case.content() == data

    def test_unwritten_ranges_read_as_declared(
        self, session: Session, writer_case: WriterCase
    ) -> None:
        """UNDEFINED promises nothing."""
        block, size = session.caps.block_size, session.caps.size
        data = pattern(block)
        session.put(block, data)
        session.writer.flush()
        session.commit()
        content = writer_case.content()
        assert content[block : 2 * block] == data
        if session.caps.unwritten is not Unwritten.UNDEFINED:
            base = writer_case.base if session.caps.unwritten is Unwritten.BASE else b""
            rest = base[:size].ljust(size, b"\0")
            assert content[:block] == rest[:block]
            assert content[2 * block :] == rest[2 * block :]

    def test_the_buffer_is_ours_again(self, session: Session, writer_case: WriterCase) -> None:
        """What changes in it after the call is not written."""
        block = session.caps.block_size
        data = pattern(block)
        buffer = bytearray(data)
        session.writer.write(0, memoryview(buffer), session._digests(0, data))
        buffer[:] = bytes(block)
        session.commit()
        assert writer_case.content()[:block] == data

    def test_a_write_may_be_repeated(self, session: Session, writer_case: WriterCase) -> None:
        """I5: also from another thread's retry, also after a flush."""
        data = pattern(2 * session.caps.block_size)
        for _ in range(3):
            session.put(0, data)
            session.writer.flush()
        session.commit()
        assert writer_case.content()[: len(data)] == data

    def test_zero_reads_as_zeroes(self, session: Session, writer_case: WriterCase) -> None:
        """Over data, over what was there before, and longer than a write."""
        caps = session.caps
        if not caps.native_zero:
            pytest.skip("this writer does not zero by itself")
        session.put(0, pattern(caps.size))
        end = round_down(caps.size, caps.block_size)
        session.zero(caps.block_size, end - caps.block_size)
        session.commit()
        content = writer_case.content()
        assert content[: caps.block_size] == pattern(caps.size)[: caps.block_size]
        assert not any(content[caps.block_size : end])
        assert content[end:] == pattern(caps.size)[end:]

    def test_writes_in_many_threads(self, session: Session, writer_case: WriterCase) -> None:
        """Disjoint ranges at once, more threads than pay off."""
        caps = session.caps
        data = pattern(caps.size)
        starts = range(0, caps.size, caps.block_size)

        def put(start: int) -> None:
            session.put(start, data[start : start + caps.block_size])

        with ThreadPoolExecutor(2 * caps.concurrency) as threads:
            list(threads.map(put, starts))
        session.writer.flush()
        session.commit()
        assert writer_case.content() == data

    def test_another_process_goes_on(self, session: Session, writer_case: WriterCase) -> None:
        """The same identity, what was flushed is there (I5)."""
        block = session.caps.block_size
        data = pattern(2 * block)
        session.put(0, data[:block])
        session.writer.flush()
        session.writer.close()
        with closing(writer_case.open()) as again:
            assert again.identity == session.writer.identity
            assert again.caps == session.caps
            resumed = Session(again, dict(session.blocks))
            resumed.put(block, data[block:])
            again.flush()
            resumed.commit()
        assert writer_case.content()[: 2 * block] == data

    def test_nothing_is_visible_before_commit(
        self, session: Session, writer_case: WriterCase
    ) -> None:
        """I6, neither after a close."""
        if writer_case.visible is None:
            pytest.skip("visibility of this target cannot be asked for")
        session.put(0, pattern(session.caps.block_size))
        session.writer.flush()
        assert not writer_case.visible()
        session.writer.close()
        assert not writer_case.visible()
        with closing(writer_case.open()) as again:
            Session(again, session.blocks).commit()
        assert writer_case.visible()

    def test_commit_is_idempotent(self, session: Session, writer_case: WriterCase) -> None:
        """An unknown outcome is answered by another commit."""
        data = pattern(session.caps.block_size)
        session.put(0, data)
        session.commit()
        session.commit()
        assert writer_case.content()[: len(data)] == data

    def test_abort_leaves_nothing_visible(self, session: Session, writer_case: WriterCase) -> None:
        """And may be repeated."""
        session.put(0, pattern(session.caps.block_size))
        session.writer.abort()
        session.writer.abort()
        if writer_case.visible is not None:
            assert not writer_case.visible()

    def test_close_may_be_repeated(self, session: Session) -> None:
        """Also after other calls."""
        session.put(0, pattern(session.caps.block_size))
        session.writer.close()
        session.writer.close()

    def test_writes_outside_are_refused(self, session: Session) -> None:
        """Off the grid or past the end."""
        block = session.caps.block_size
        past = round_up(session.caps.size, block)
        for offset, length in [(past, block), (block // 2, block), (-block, block)]:
            data = bytes(length)
            with pytest.raises(REFUSED):
                session.writer.write(offset, memoryview(data), session._digests(0, data))

    def test_digests_are_checked(self, session: Session) -> None:
        """A block whose digest is another is refused, and so is a list that misses one."""
        if not session.caps.wants_digests:
            pytest.skip("this writer takes no digests")
        block = session.caps.block_size
        with pytest.raises(SealiftError):
            session.writer.write(0, memoryview(pattern(block)), [session.zero_digest()])
        session.put(0, pattern(2 * block))
        with pytest.raises(IntegrityError):
            session.writer.commit(sorted(session.blocks.items())[:1])

    def test_what_was_flushed_survives_a_crash(
        self, session: Session, writer_case: WriterCase
    ) -> None:
        """And with durable writes, what was written."""
        if writer_case.crash is None:
            pytest.skip("this target cannot be crashed")
        data = pattern(2 * session.caps.block_size)
        session.put(0, data)
        if not session.caps.durable_writes:
            session.writer.flush()
        writer_case.crash()
        with closing(writer_case.open()) as again:
            Session(again, session.blocks).commit()
        assert writer_case.content()[: len(data)] == data
