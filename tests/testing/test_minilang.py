import pytest

from sealift.extents import Extent, Kind
from sealift.testing.minilang import parse, render


def test_every_character_has_its_bytes_and_its_kind() -> None:
    base = parse("XXXXX", cell_bytes=4).content
    disk = parse("AB0-.", cell_bytes=4, base=base)
    assert disk.content == b"AAAABBBB" + bytes(8) + b"XXXX"
    assert disk.extents == (
        Extent(0, 12, Kind.DATA),
        Extent(12, 4, Kind.ZERO),
        Extent(16, 4, Kind.CLEAN),
    )
    assert disk.incremental


def test_a_disk_may_end_inside_its_last_cell() -> None:
    disk = parse("A-", cell_bytes=4, size=5)
    assert disk.content == b"AAAA\0"
    assert disk.extents[-1] == Extent(4, 1, Kind.ZERO)


@pytest.mark.parametrize("text", ["a", "A.", "?", "1"])
def test_unknown_cells_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not one of"):
        parse(text)


def test_a_size_that_ends_in_another_cell_is_refused() -> None:
    with pytest.raises(ValueError, match="do not end"):
        parse("AA", cell_bytes=4, size=4)


def test_render_shows_cells_and_marks_mixed_ones() -> None:
    assert render(b"AAAA\0\0\0\0AB\0\0\1\1\1\1", cell_bytes=4) == "A0??"
