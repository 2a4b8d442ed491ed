"""Which image format do these bytes claim to be. Pure; never runs a tool.

A claim, no more: whoever can write to a raw disk can put the header of any format on it.
``converters.untrusted`` decides what a claim is worth.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from converters.bounded import Read
from converters.image import ImageFormat

HEAD_BYTES = 4096
TAIL_BYTES = 512
_ISO_OFFSET = 32769

_PREFIXES = (
    (b"QED\0", ImageFormat.QED),
    (b"KDMV", ImageFormat.VMDK),
    (b"COWD", ImageFormat.VMDK),
    (b"vhdxfile", ImageFormat.VHDX),
    (b"conectix", ImageFormat.VHD),
    (b"WithoutFreeSpace", ImageFormat.PARALLELS),
    (b"WithouFreSpacExt", ImageFormat.PARALLELS),
)
_QCOW_MAGIC = b"QFI\xfb"
_VDI_MAGIC = b"\x7f\x10\xda\xbe"
_VDI_OFFSET = 64
_VHD_COOKIE = b"conectix"

# QEMU takes a text for a VMDK descriptor when only comments and blank lines come before
# its version; VMware writes the comment of the first alternative.
_DESCRIPTOR = re.compile(
    rb"\A(?:# Disk DescriptorFile"
    rb"|(?:[ \t]*\r?\n|#[^\n]*\n)*version=[123]\r?\n)"
)

_FOREIGN = (
    (0, b"LUKS\xba\xbe", "a LUKS container"),
    (0, b"\x1f\x8b", "a gzip file"),
    (0, b"\xfd7zXZ\0", "an xz file"),
    (0, b"BZh", "a bzip2 file"),
    (0, b"\x28\xb5\x2f\xfd", "a zstd file"),
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (257, b"ustar", "a tar archive (an OVA is one: unpack it)"),
    (0, b"Bochs Virtual HD Image", "a Bochs image"),
    (0, b"#!/bin/sh\n#V2.0 Format", "a cloop image"),
    (_ISO_OFFSET, b"CD001", "an ISO 9660 image"),
)


@dataclass(frozen=True, slots=True)
class Claims:
    """What a file looks like.

    Attributes:
        formats: image formats whose mark is there; usually none or one. A raw disk has
            no mark, so ``RAW`` is never among them.
        foreign: what else it looks like, for messages only.
    """

    formats: tuple[ImageFormat, ...]
    foreign: str | None


def claims(read: Read, size_bytes: int) -> Claims:
    """Look at the first 4 KiB, the last 512 bytes and the mark of ISO 9660.

    Args:
        read: of the file.
        size_bytes: of the file.
    """
    head = read(0, HEAD_BYTES)
    tail = read(size_bytes - TAIL_BYTES, TAIL_BYTES) if size_bytes >= TAIL_BYTES else b""
    found = dict.fromkeys(_formats(head, tail))
    return Claims(tuple(found), _foreign(read, tail))


def _formats(head: bytes, tail: bytes) -> Iterator[ImageFormat]:
    if head[:4] == _QCOW_MAGIC:
        version = int.from_bytes(head[4:8], "big")
        yield ImageFormat.QCOW if version == 1 else ImageFormat.QCOW2
    yield from (known for prefix, known in _PREFIXES if head.startswith(prefix))
    if head[_VDI_OFFSET : _VDI_OFFSET + 4] == _VDI_MAGIC:
        yield ImageFormat.VDI
    if _DESCRIPTOR.match(head):
        yield ImageFormat.VMDK
    # A fixed VHD has its only mark at the end: QEMU's detection takes it for raw, and the
    # footer for the last sector of the disk.
    if tail.startswith(_VHD_COOKIE):
        yield ImageFormat.VHD


def _foreign(read: Callable[[int, int], bytes], tail: bytes) -> str | None:
    if tail.startswith(b"koly"):
        return "an Apple disk image"
    for offset, mark, name in _FOREIGN:
        if read(offset, len(mark)) == mark:
            return name
    return None
