"""Headers of VirtualBox VDI and Parallels images."""

import struct

from converters.bounded import Read, bounded, exactly
from converters.headers.header import Header, Reference, ReferenceKind, not_of_format

_VDI_SIGNATURE_OFFSET = 0x40
_VDI_SIGNATURE = 0xBEDA107F
_VDI_TYPE_OFFSET = 0x4C
_VDI_SIZE_OFFSET = 0x170
_VDI_LINKS_OFFSET = 0x1A8  # uuid_link, uuid_parent
_VDI_DYNAMIC, _VDI_FIXED = 1, 2

_PARALLELS = struct.Struct("<16sIIIIIQ")
_PARALLELS_OLD, _PARALLELS_NEW = b"WithoutFreeSpace", b"WithouFreSpacExt"


def read_vdi(read: Read, size_bytes: int) -> Header:
    """VDI; an image that was made from another one has no name for it, only its UUID.

    Raises:
        ImageError: see ``read_header``.
    """
    header = exactly(read, 0, _VDI_LINKS_OFFSET + 32, "VDI header")
    if _word(header, _VDI_SIGNATURE_OFFSET) != _VDI_SIGNATURE:
        raise not_of_format("VDI")
    size = int.from_bytes(header[_VDI_SIZE_OFFSET : _VDI_SIZE_OFFSET + 8], "little")
    bounded(size, 0, 2**63 - 1, "virtual size")
    links = header[_VDI_LINKS_OFFSET:]
    if _word(header, _VDI_TYPE_OFFSET) in (_VDI_DYNAMIC, _VDI_FIXED) and not any(links):
        return Header(size)
    return Header(size, (Reference(ReferenceKind.PARENT, f"UUID {links.hex()}"),))


def read_parallels(read: Read, size_bytes: int) -> Header:
    """Parallels; QEMU knows no references in it.

    Raises:
        ImageError: see ``read_header``.
    """
    magic, _version, _heads, _cylinders, _tracks, _entries, sectors = _PARALLELS.unpack(
        exactly(read, 0, _PARALLELS.size, "Parallels header")
    )
    if magic not in (_PARALLELS_OLD, _PARALLELS_NEW):
        raise not_of_format("Parallels")
    if magic == _PARALLELS_OLD:
        sectors &= 0xFFFFFFFF
    return Header(512 * bounded(sectors, 0, 2**54 - 1, "number of sectors"))


def _word(header: bytes, offset: int) -> int:
    return int.from_bytes(header[offset : offset + 4], "little")
