"""The planner's table, the grid, and what is refused."""

import pytest

from sealift.disk import Unwritten, WriterCaps
from sealift.errors import ProtocolError, TrackingLostError
from sealift.extents import Extent, Flagged, Kind, merge
from sealift.plan import Action, Op, plan
from sealift.testing.memory import MemoryReader

CELL = 512


def caps(
    unwritten: Unwritten, size: int, *, block: int = CELL, longest: int = 1 << 20
) -> WriterCaps:
    return WriterCaps(size=size, block_size=block, unwritten=unwritten, max_op_bytes=longest)


def planned(text: str, unwritten: Unwritten, *, block_cells: int = 1, tail: int = 0) -> str:
    base = bytes(CELL * len(text)) if "." in text else None
    reader = MemoryReader.from_text(text, cell_bytes=CELL, base=base)
    ops = plan(reader, caps(unwritten, reader.size + tail, block=CELL * block_cells))
    drawn = ["."] * ((reader.size + tail) // CELL)
    for op in ops:
        letter = "c" if op.action is Action.COPY else "z"
        for cell in range(op.start // CELL, -(-op.end // CELL)):
            drawn[cell] = letter
    return "".join(drawn)


@pytest.mark.parametrize(
    ("unwritten", "expected"),
    [(Unwritten.UNDEFINED, "ccz"), (Unwritten.ZERO, "cc."), (Unwritten.BASE, "ccz")],
)
def test_table_for_data_and_zero(unwritten: Unwritten, expected: str) -> None:
    assert planned("AB-", unwritten) == expected


def test_zeroed_range_over_old_data_is_written_into_a_child() -> None:
    """What known tools skip: a guest zeroes or discards a range that had data."""
    assert planned("A.0.-.", Unwritten.BASE) == "c.c.z."


@pytest.mark.parametrize("unwritten", [Unwritten.UNDEFINED, Unwritten.ZERO])
def test_clean_ranges_need_a_base(unwritten: Unwritten) -> None:
    with pytest.raises(TrackingLostError, match="left out"):
        planned("A.B", unwritten)


def test_a_block_that_mixes_kinds_is_copied_whole() -> None:
    assert planned("A.-.....", Unwritten.BASE, block_cells=2) == "cccc...."


def test_what_lies_beyond_the_reader_reads_as_zero() -> None:
    assert planned("AB", Unwritten.UNDEFINED, tail=2 * CELL) == "cczz"
    assert planned("AB", Unwritten.ZERO, tail=2 * CELL) == "cc.."
    assert planned("A.", Unwritten.BASE, tail=2 * CELL) == "c..."
    assert planned("AB", Unwritten.BASE, tail=2 * CELL) == "cczz"


def test_operations_are_cut_at_the_longest_write() -> None:
    reader = MemoryReader.from_text("ABCDE", cell_bytes=CELL)
    ops = list(plan(reader, caps(Unwritten.ZERO, reader.size, longest=2 * CELL)))
    assert ops == [
        Op(Action.COPY, 0, 1024),
        Op(Action.COPY, 1024, 1024),
        Op(Action.COPY, 2048, 512),
    ]


def test_a_smaller_target_is_refused() -> None:
    with pytest.raises(ValueError, match="smaller"):
        list(plan(MemoryReader.from_text("AB", cell_bytes=CELL), caps(Unwritten.ZERO, CELL)))


def test_dirty_and_hole_is_zero_never_clean() -> None:
    zeroes = [Flagged(0, 10, flag=True), Flagged(10, 10, flag=False)]
    dirty = [Flagged(0, 5, flag=True), Flagged(5, 10, flag=False), Flagged(15, 5, flag=True)]
    assert list(merge(zeroes, dirty)) == [
        Extent(0, 5, Kind.ZERO),
        Extent(5, 5, Kind.CLEAN),
        Extent(10, 5, Kind.CLEAN),
        Extent(15, 5, Kind.DATA),
    ]


def test_contexts_of_different_length_are_refused() -> None:
    with pytest.raises(ProtocolError):
        list(merge([Flagged(0, 10, flag=True)], [Flagged(0, 5, flag=True)]))
