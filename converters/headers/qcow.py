"""Headers of QEMU's own formats: qcow2 (docs/interop/qcow2.txt), qcow and QED (qed_spec.txt)."""

import struct
from collections.abc import Iterator

from converters.bounded import Read, bounded, exactly
from converters.headers.header import (
    NAME_BYTES,
    Header,
    Reference,
    ReferenceKind,
    decoded,
    not_of_format,
)

_MAGIC = b"QFI\xfb"
_QCOW2 = struct.Struct(">4sIQIIQIIQ")  # to the L1 table's offset
_QCOW = struct.Struct(">4sIQIIQBBHI")  # to the crypt method
_QED = struct.Struct("<4sIIIQQQQQII")

_V2_LENGTH = 72
_V3_LENGTH = 104
_FEATURES_OFFSET = 72
_LENGTH_OFFSET = 100
_MAX_L1_ENTRIES = 32 * 1024 * 1024 // 8  # QEMU's QCOW_MAX_L1_SIZE

_INCOMPATIBLE_DATA_FILE = 1 << 2
_EXTENSION_END = 0
_EXTENSION_BACKING_FORMAT = 0xE2792ACA
_EXTENSION_DATA_FILE = 0x44415441

_QED_BACKING = 1 << 0
_QED_BACKING_RAW = 1 << 2


def read_qcow2(read: Read, size_bytes: int) -> Header:
    """qcow2, versions 2 and 3.

    Raises:
        ImageError: see ``read_header``.
    """
    magic, version, name_at, name_length, cluster_bits, size, crypt, l1_size, _l1_at = (
        _QCOW2.unpack(exactly(read, 0, _QCOW2.size, "qcow2 header"))
    )
    if magic != _MAGIC or version not in (2, 3):
        raise not_of_format("qcow2")
    bounded(cluster_bits, 9, 21, "cluster size (bits)")
    bounded(size, 0, 2**63 - 1, "virtual size")
    bounded(l1_size, 0, _MAX_L1_ENTRIES, "number of L1 entries")
    extensions = dict(_extensions(read, version, cluster_bits))
    stated = extensions.get(_EXTENSION_BACKING_FORMAT)
    backing = _named(read, name_at, name_length, decoded(stated) if stated else None)
    data = _data_file(read, version, extensions)
    return Header(size, (*backing, *data), encrypted=crypt != 0)


def _data_file(read: Read, version: int, extensions: dict[int, bytes]) -> Iterator[Reference]:
    # The feature bit makes QEMU open it; the name alone does not.
    if version == 3 and _number(read, _FEATURES_OFFSET, 8) & _INCOMPATIBLE_DATA_FILE:
        yield Reference(ReferenceKind.DATA_FILE, decoded(extensions.get(_EXTENSION_DATA_FILE, b"")))


def _extensions(read: Read, version: int, cluster_bits: int) -> Iterator[tuple[int, bytes]]:
    """Header extensions; they end with the first cluster, which is at most 2 MiB."""
    area = read(0, 1 << cluster_bits)
    position = _V2_LENGTH
    if version == 3:
        length = _number(read, _LENGTH_OFFSET, 4)
        position = bounded(length, _V3_LENGTH, 1 << cluster_bits, "header length")
    while position + 8 <= len(area):
        kind, length = struct.unpack_from(">II", area, position)
        if kind == _EXTENSION_END:
            return
        position += 8
        bounded(length, 0, len(area) - position, "header extension's length")
        yield kind, area[position : position + length]
        position += -(-length // 8) * 8


def _number(read: Read, offset: int, length: int) -> int:
    return int.from_bytes(exactly(read, offset, length, "qcow2 header"), "big")


def read_qcow(read: Read, size_bytes: int) -> Header:
    """Qcow version 1.

    Raises:
        ImageError: see ``read_header``.
    """
    magic, version, name_at, name_length, _time, size, _cluster, _l2, _pad, crypt = _QCOW.unpack(
        exactly(read, 0, _QCOW.size, "qcow header")
    )
    if magic != _MAGIC or version != 1:
        raise not_of_format("qcow")
    bounded(size, 0, 2**63 - 1, "virtual size")
    return Header(size, tuple(_named(read, name_at, name_length, None)), encrypted=crypt != 0)


def read_qed(read: Read, size_bytes: int) -> Header:
    """QED.

    Raises:
        ImageError: see ``read_header``.
    """
    fields = _QED.unpack(exactly(read, 0, _QED.size, "QED header"))
    magic, features, size, name_at, name_length = fields[0], fields[4], *fields[8:]
    if magic != b"QED\0":
        raise not_of_format("QED")
    bounded(size, 0, 2**63 - 1, "virtual size")
    if not features & _QED_BACKING:
        return Header(size)
    stated = "raw" if features & _QED_BACKING_RAW else None
    return Header(size, tuple(_named(read, name_at, name_length, stated)))


def _named(read: Read, offset: int, length: int, stated: str | None) -> Iterator[Reference]:
    if offset == 0 or length == 0:
        return
    bounded(length, 1, NAME_BYTES, "backing file name's length")
    name = exactly(read, offset, length, "backing file name")
    yield Reference(ReferenceKind.BACKING, decoded(name), stated)
