"""Disks as text: ``"AB0-."`` is a disk of five cells.

=========  ==============================  ==================  ==============
character  bytes of the cell               extent kind          after ``render``
=========  ==============================  ==================  ==============
``A-Z``    that letter, repeated           DATA                the letter
``0``      zeroes that somebody wrote      DATA                ``0``
``-``      a hole, reads as zeroes         ZERO                ``0``
``.``      same as the base's cell         CLEAN               the base's cell
``?``      cannot be written                                   mixed content
=========  ==============================  ==================  ==============

``0`` is reported as DATA because an allocated zero is what a reader cannot see without
reading. Two more combinations come from choosing letters: a cell that is dirty and
unchanged is the base's own letter.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from sealift.extents import Extent, Kind, coalesce
from sealift.units import KiB

CELL_BYTES = 64 * KiB
"""Default cell: QEMU's default dirty-bitmap granularity and qcow2 cluster size."""


@dataclass(frozen=True, slots=True)
class TextDisk:
    """A parsed disk.

    Attributes:
        content: the bytes, all of them.
        extents: a coalesced partition of the disk (I2).
        incremental: whether it was written over a base.
    """

    content: bytes
    extents: tuple[Extent, ...]
    incremental: bool


def parse(
    text: str,
    *,
    cell_bytes: int = CELL_BYTES,
    base: bytes | None = None,
    size: int | None = None,
) -> TextDisk:
    """The disk that ``text`` describes; spaces are ignored.

    Args:
        text: one character per cell, see above.
        cell_bytes: size of a cell.
        base: what ``.`` stands for; without it ``.`` is refused. Shorter bases read as zeroes
            beyond their end.
        size: bytes of the disk when its last cell is cut short.

    Raises:
        ValueError: an unknown character, or ``size`` does not end in the last cell.
    """
    cells = text.replace(" ", "")
    size = len(cells) * cell_bytes if size is None else size
    if -(-size // cell_bytes) != len(cells):
        raise ValueError(f"{size} bytes do not end in cell {len(cells)} of {cell_bytes} bytes")
    content = b"".join(_cell(c, n, cell_bytes, base) for n, c in enumerate(cells))[:size]
    return TextDisk(content, tuple(_extents(cells, cell_bytes, size)), base is not None)


def render(content: bytes | memoryview, *, cell_bytes: int = CELL_BYTES) -> str:
    """One character per cell: the letter, ``0`` for zeroes, ``?`` for anything else."""
    whole = bytes(content)
    return "".join(
        _character(whole[at : at + cell_bytes]) for at in range(0, len(whole), cell_bytes)
    )


def _cell(character: str, index: int, cell_bytes: int, base: bytes | None) -> bytes:
    if "A" <= character <= "Z":
        return character.encode() * cell_bytes
    if character in "0-":
        return bytes(cell_bytes)
    if character == "." and base is not None:
        return base[index * cell_bytes : (index + 1) * cell_bytes].ljust(cell_bytes, b"\0")
    raise ValueError(f"cell {index}: {character!r} is not one of A-Z, 0, - (and . over a base)")


def _extents(cells: str, cell_bytes: int, size: int) -> Iterator[Extent]:
    kinds = {"-": Kind.ZERO, ".": Kind.CLEAN}
    starts = range(0, size, cell_bytes)
    return coalesce(
        Extent(start, min(cell_bytes, size - start), kinds.get(character, Kind.DATA))
        for character, start in zip(cells, starts, strict=True)
    )


def _character(cell: bytes) -> str:
    first = cell[:1]
    if cell != first * len(cell):
        return "?"
    if first == b"\0":
        return "0"
    return first.decode() if b"A" <= first <= b"Z" else "?"
