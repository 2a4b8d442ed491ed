"""VMDK: sparse files, and the text descriptors that name other files.

A descriptor is a program for opening files: its extent lines may name any path, any
host device, and in QEMU any protocol. Read here as loosely as any reader might, so that
whatever some reader would open is seen.
"""

import re
import struct
from collections.abc import Iterator

from converters.bounded import Read, exactly
from converters.headers.header import Header, Reference, ReferenceKind, not_of_format
from converters.image import ImageFormat
from converters.magic import claims
from sealift.errors import ImageError
from sealift.units import MiB

_SPARSE = struct.Struct("<4sIIQQQQ")  # to the descriptor's size
_SECTOR = 512
_TEXT_BYTES = MiB - 1  # QEMU reads no more of a descriptor
# QEMU looks for a parent here whatever the header says about the descriptor's place.
_FIXED_DESCRIPTOR = (0x200, 20 * _SECTOR)

# Any word, white space, a quote: QEMU's scanf wants neither a line of its own, nor a space
# before the type, nor, for some types, the closing quote (found by comparing with it). For
# a parent it wants the keyword anywhere, two characters, and a name up to a quote.
# Possessive and bounded throughout: a hostile megabyte must not take a second.
_NAMED = re.compile(r'([A-Za-z]{1,16})\s++"([^"\r\n]*+)')
_SIZED = re.compile(r"^[ \t]*+[A-Za-z]{1,16}[ \t]++(\d{1,18})[ \t]++[A-Za-z]", re.MULTILINE)
_PARENT_CID = re.compile(r"parentCID[\s=\"]*+([0-9a-z]{0,16})", re.IGNORECASE)
_PARENT_HINT = re.compile(r"parentFileNameHint[\s=\"]{0,8}([^\"\r\n]*+)", re.IGNORECASE)
_NO_PARENT = ("ffffffff", "")


def read_vmdk(read: Read, size_bytes: int) -> Header:
    """VMDK: a sparse file with its descriptor inside, or a descriptor as text.

    Raises:
        ImageError: see ``read_header``; also for a bare VMFS redo log (``COWD``), which
            holds differences only and does not say to what.
    """
    if ImageFormat.VMDK not in claims(read, size_bytes).formats:
        raise not_of_format("VMDK")
    if read(0, 4) == b"COWD":
        raise ImageError(
            "this VMDK is the redo log of a snapshot, not a whole disk",
            next_step="consolidate the snapshots of the virtual machine, then copy its disk again",
        )
    if read(0, 4) == b"KDMV":
        return _sparse(read)
    text = _text(read, 0, _TEXT_BYTES)
    return Header(_described_size(text), (*_extents(text), *_parents(text)))


def _sparse(read: Read) -> Header:
    fields = _SPARSE.unpack(exactly(read, 0, _SPARSE.size, "VMDK header"))
    capacity, described_at = fields[3], fields[5]
    texts = [_text(read, *_FIXED_DESCRIPTOR)]
    if 0 < described_at < 2**53:
        texts.append(_text(read, described_at * _SECTOR, _TEXT_BYTES))
    references = [reference for text in texts for reference in _parents(text)]
    # Without a capacity of its own the file is a descriptor in disguise.
    if capacity == 0:
        references += [reference for text in texts for reference in _extents(text)]
    size = capacity * _SECTOR if 0 < capacity < 2**54 else None
    return Header(size, tuple(dict.fromkeys(references)))


def _text(read: Read, offset: int, length: int) -> str:
    raw = read(offset, length)
    return raw.partition(b"\0")[0].decode("utf-8", "backslashreplace")


def _described_size(text: str) -> int | None:
    sectors = sum(int(match[1]) for match in _SIZED.finditer(text))
    return sectors * _SECTOR if 0 < sectors < 2**54 else None


def _extents(text: str) -> Iterator[Reference]:
    for match in _NAMED.finditer(text):
        yield Reference(ReferenceKind.EXTENT, match[2], match[1].upper())


def _parents(text: str) -> Iterator[Reference]:
    hints = [match[1] for match in _PARENT_HINT.finditer(text) if match[1]]
    for hint in hints:
        yield Reference(ReferenceKind.BACKING, hint, ImageFormat.VMDK.value)
    if hints:
        return
    for match in _PARENT_CID.finditer(text):
        if match[1].lower() not in _NO_PARENT:
            yield Reference(ReferenceKind.PARENT, f"content id {match[1]}")
