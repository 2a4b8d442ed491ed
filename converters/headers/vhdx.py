"""Header of VHDX ([MS-VHDX]): the disk's size, and whether it only holds differences."""

import struct
from collections.abc import Iterator
from uuid import UUID

from converters.bounded import Read, bounded, exactly
from converters.headers.header import Header, Reference, ReferenceKind, not_of_format
from sealift.errors import ImageError
from sealift.units import KiB

_IDENTIFIER = b"vhdxfile"
_REGION_TABLE_OFFSET = 192 * KiB
_TABLE_BYTES = 64 * KiB
_MAX_ENTRIES = 2047  # what the specification allows
_REGION_ENTRY = struct.Struct("<16sQII")
_METADATA_ENTRY = struct.Struct("<16sIIII")

_METADATA_REGION = UUID("8b7ca206-4790-4b9a-b8fe-575f050f886e")
_FILE_PARAMETERS = UUID("caa16737-fa36-4d43-b3b6-33f0aa44e76b")
_VIRTUAL_SIZE = UUID("2fa54224-cd1b-4876-b211-5dbed83bf4b8")
_PARENT_LOCATOR = UUID("a8d35f2d-b30b-454d-abf7-d3d84834ab0c")
_HAS_PARENT = 1 << 1


def read_vhdx(read: Read, size_bytes: int) -> Header:
    """VHDX.

    Raises:
        ImageError: see ``read_header``.
    """
    if read(0, len(_IDENTIFIER)) != _IDENTIFIER:
        raise not_of_format("VHDX")
    size: int | None = None
    references: list[Reference] = []
    for start in _metadata(read):
        for item, offset in _items(read, start):
            if item == _VIRTUAL_SIZE:
                raw = exactly(read, offset, 8, "VHDX disk size")
                size = bounded(int.from_bytes(raw, "little"), 0, 2**63 - 1, "virtual size")
            elif item == _PARENT_LOCATOR or (item == _FILE_PARAMETERS and _differs(read, offset)):
                references.append(Reference(ReferenceKind.PARENT, "in its parent locator"))
    if size is None:
        raise ImageError("the VHDX image states no disk size", next_step="copy it again")
    return Header(size, tuple(references[:1]))


def _differs(read: Read, offset: int) -> bool:
    _block_size, flags = struct.unpack("<II", exactly(read, offset, 8, "VHDX parameters"))
    return bool(flags & _HAS_PARENT)


def _regions(read: Read) -> Iterator[tuple[UUID, int]]:
    table = exactly(read, _REGION_TABLE_OFFSET, _TABLE_BYTES, "VHDX region table")
    count = _entry_count(table, b"regi", slice(8, 12))
    for index in range(count):
        raw, offset, _length, _required = _REGION_ENTRY.unpack_from(table, 16 + 32 * index)
        yield UUID(bytes_le=raw), offset


def _metadata(read: Read) -> list[int]:
    """Where the one metadata region is; of 2047 of them each would be 2047 entries long."""
    found = [start for region, start in _regions(read) if region == _METADATA_REGION]
    if len(found) > 1:
        raise ImageError(
            f"the VHDX image has {len(found)} metadata regions, of which there is one",
            next_step="copy the image again and compare its checksum with the original's",
        )
    return found


def _items(read: Read, start: int) -> Iterator[tuple[UUID, int]]:
    table = exactly(read, start, _TABLE_BYTES, "VHDX metadata table")
    count = _entry_count(table, b"metadata", slice(10, 12))
    for index in range(count):
        raw, offset, _length, _flags, _zero = _METADATA_ENTRY.unpack_from(table, 32 + 32 * index)
        yield UUID(bytes_le=raw), start + offset


def _entry_count(table: bytes, signature: bytes, where: slice) -> int:
    if not table.startswith(signature):
        raise ImageError(
            f"the VHDX image has no {signature.decode()} table where it should be",
            next_step="copy the image again and compare its checksum with the original's",
        )
    count = int.from_bytes(table[where], "little")
    return bounded(count, 0, _MAX_ENTRIES, "number of table entries")
