"""What a raw disk's first and last sectors say: partitions, and which firmware can boot it.

Pure over a ``Read``, so it works on a file, an image under qemu-nbd or a ``DiskReader``.
The bytes are the guest's own and may be anything: every count and length is bounded, and
at most 32 MiB are read from the most hostile disk, some 100 KiB from an ordinary one.

It answers preflight's question before the first byte is copied: "the source says UEFI,
but its disk has no EFI system partition". A cloud starts with empty UEFI variables, so
for UEFI a disk counts as bootable only with a loader at the fallback path.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from uuid import UUID

from converters.bounded import Read
from converters.fat import has_file
from sealift.endpoints import Firmware

_MBR_BYTES = 512
_BOOT_CODE_BYTES = 440
_SIGNATURE = b"\x55\xaa"
_ENTRIES_AT = 446
_MBR_ENTRY = struct.Struct("<B3sB3sII")
_ACTIVE = 0x80
_EXTENDED = frozenset({0x05, 0x0F, 0x85})
_PROTECTIVE = 0xEE
_MBR_ESP = 0xEF
_MAX_LOGICAL = 128

_GPT_HEADER = struct.Struct("<8sIIIIQQQQ16sQIII")
_GPT_ENTRY = struct.Struct("<16s16sQQQ72s")
_GPT_MARK = b"EFI PART"
_MAX_GPT_ENTRIES = 4096
_MAX_GPT_ENTRY_BYTES = 4096
_MAX_GPT_TABLE_BYTES = 1024 * 1024
_SECTOR_SIZES = (512, 4096)

_ESP_TYPE = UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
_BIOS_BOOT_TYPE = UUID("21686148-6449-6e6f-744e-656564454649")
_UNUSED_TYPE = UUID(int=0)

_FALLBACK_DIRECTORY = ("EFI", "BOOT")
_FALLBACK_LOADERS = ("BOOTX64.EFI", "BOOTAA64.EFI", "BOOTIA32.EFI")
_MAX_ESPS = 4


class Table(Enum):
    """How a disk is divided."""

    NONE = "none"
    """No partition table: empty, one file system over all, or LVM over all."""
    MBR = "mbr"
    GPT = "gpt"
    DAMAGED_GPT = "damaged gpt"
    """The MBR says GPT, and neither GPT header is intact."""


class Encryption(Enum):
    """Encryption that shows at a partition's start."""

    LUKS = "luks"
    BITLOCKER = "bitlocker"


@dataclass(frozen=True, slots=True)
class Partition:
    """One partition; offset and length in bytes, within the disk.

    Attributes:
        offset: of its first byte.
        length: bytes; cut at the disk's end.
        type_id: GPT type GUID, or the MBR type as two hex digits.
        active: marked bootable (MBR only).
        esp: an EFI system partition by its type.
        bios_boot: GRUB's place on GPT disks.
        encryption: what its first bytes show.
    """

    offset: int
    length: int
    type_id: str
    active: bool
    esp: bool
    bios_boot: bool
    encryption: Encryption | None


@dataclass(frozen=True, slots=True)
class DiskLayout:
    r"""What was found.

    Attributes:
        table: kind of partition table.
        sector_bytes: that the table counts in.
        partitions: in the table's order, logical ones last.
        boot_code: the MBR is signed and its first 440 bytes are not empty.
        fallback_loader: an ESP has a loader at ``\EFI\BOOT``, where firmware without
            variables looks.
        backup_table_at_end: GPT only: the backup header is in the last sector. False
            after a disk grew, also when a target rounded it up; harmless for booting.
    """

    table: Table
    sector_bytes: int
    partitions: tuple[Partition, ...]
    boot_code: bool
    fallback_loader: bool
    backup_table_at_end: bool

    @property
    def esp(self) -> bool:
        """Whether there is an EFI system partition."""
        return any(partition.esp for partition in self.partitions)

    @property
    def encrypted(self) -> bool:
        """Whether a partition is encrypted by the guest."""
        return any(partition.encryption for partition in self.partitions)

    @property
    def bootable_by(self) -> frozenset[Firmware]:
        """Firmware that finds something to start; necessary, not sufficient, for booting.

        A Windows data disk also has boot code, so BIOS here may be too hopeful; it is
        never too strict.
        """
        found = set()
        if self.boot_code:
            found.add(Firmware.BIOS)
        if self.fallback_loader:
            found.add(Firmware.UEFI)
        return frozenset(found)


def read_layout(read: Read, size_bytes: int) -> DiskLayout:
    """Look at a disk. Never raises for what the disk holds.

    Args:
        read: of the disk (not of an image file); its own errors pass through.
        size_bytes: of the disk.
    """
    read = _within(read, size_bytes)
    mbr = read(0, _MBR_BYTES)
    if len(mbr) != _MBR_BYTES or not mbr.endswith(_SIGNATURE):
        return _layout(read, Table.NONE, 512, (), boot_code=False, at_end=False)
    boot_code = any(mbr[:_BOOT_CODE_BYTES])
    # Without the protective entry a GPT is a leftover that every system ignores.
    if all(kind != _PROTECTIVE for _status, kind, _first, _count in _entries(mbr)):
        table, partitions = _mbr(read, size_bytes, mbr)
        return _layout(read, table, 512, partitions, boot_code=boot_code, at_end=False)
    for sector in _SECTOR_SIZES:
        found = _gpt(read, size_bytes, sector)
        if found is not None:
            return _layout(read, Table.GPT, sector, found[0], boot_code=boot_code, at_end=found[1])
    return _layout(read, Table.DAMAGED_GPT, 512, (), boot_code=boot_code, at_end=False)


def _within(read: Read, size: int) -> Read:
    def clipped(offset: int, length: int) -> bytes:
        end = min(offset + length, size)
        return read(offset, end - offset) if 0 <= offset < end else b""

    return clipped


def _layout(
    read: Read,
    table: Table,
    sector: int,
    partitions: tuple[Partition, ...],
    *,
    boot_code: bool,
    at_end: bool,
) -> DiskLayout:
    esps = [partition for partition in partitions if partition.esp][:_MAX_ESPS]
    loader = any(
        has_file(read, esp.offset, esp.length, _FALLBACK_DIRECTORY, _FALLBACK_LOADERS)
        for esp in esps
    )
    return DiskLayout(table, sector, partitions, boot_code, loader, at_end)


def _mbr(read: Read, size: int, mbr: bytes) -> tuple[Table, tuple[Partition, ...]]:
    entries = list(_entries(mbr))
    # A file system's boot sector is signed too; where it has code, a table has entries.
    if any(status not in (0, _ACTIVE) for status, _kind, _first, _count in entries):
        return Table.NONE, ()
    found: list[Partition] = []
    logical: list[Partition] = []
    for status, kind, first, count in entries:
        if kind in _EXTENDED:
            logical.extend(_logical(read, size, first))
        else:
            found.extend(_partition(read, size, first, count, kind, active=status == _ACTIVE))
    return (Table.MBR, (*found, *logical)) if found or logical else (Table.NONE, ())


def _entries(sector: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Status, type, first sector and count of the used ones among the four entries."""
    for index in range(4):
        status, _chs, kind, _chs_end, first, count = _MBR_ENTRY.unpack_from(
            sector, _ENTRIES_AT + 16 * index
        )
        if kind and count:
            yield status, kind, first, count


def _logical(read: Read, size: int, base: int) -> Iterator[Partition]:
    """Walk the chain of extended boot records; it may be a ring, so steps are counted."""
    at = base
    for _ in range(_MAX_LOGICAL):
        sector = read(at * 512, _MBR_BYTES)
        if len(sector) != _MBR_BYTES or not sector.endswith(_SIGNATURE):
            return
        following = None
        for _status, kind, first, count in list(_entries(sector))[:2]:
            if kind in _EXTENDED:
                following = base + first
            else:
                yield from _partition(read, size, at + first, count, kind, active=False)
        if following is None or following <= at:
            return
        at = following


def _partition(
    read: Read, size: int, first: int, count: int, kind: int, *, active: bool
) -> Iterator[Partition]:
    offset = first * 512
    if 0 < offset < size:
        yield Partition(
            offset=offset,
            length=min(count * 512, size - offset),
            type_id=f"{kind:02x}",
            active=active,
            esp=kind == _MBR_ESP,
            bios_boot=False,
            encryption=_encryption(read, offset),
        )


def _gpt(read: Read, size: int, sector: int) -> tuple[tuple[Partition, ...], bool] | None:
    last = size // sector - 1
    at_end = last > 1 and _header(read, last, sector) is not None
    for number in (1, last):
        header = _header(read, number, sector) if number > 0 else None
        table = _table(read, header, sector) if header else None
        if header and table is not None:
            return tuple(_gpt_partitions(read, size, sector, header.entry_bytes, table)), at_end
    return None


@dataclass(frozen=True, slots=True)
class _GptHeader:
    table_sector: int
    count: int
    entry_bytes: int
    table_crc: int


def _header(read: Read, number: int, sector: int) -> _GptHeader | None:
    raw = read(number * sector, sector)
    if len(raw) != sector or not raw.startswith(_GPT_MARK):
        return None
    fields = _GPT_HEADER.unpack_from(raw)
    length, crc, here = fields[2], fields[3], fields[5]
    if not _GPT_HEADER.size <= length <= sector or here != number:
        return None
    if zlib.crc32(raw[:16] + bytes(4) + raw[20:length]) != crc:
        return None
    table_sector, count, entry_bytes, table_crc = fields[10:]
    if count > _MAX_GPT_ENTRIES or not _GPT_ENTRY.size <= entry_bytes <= _MAX_GPT_ENTRY_BYTES:
        return None
    return _GptHeader(table_sector, count, entry_bytes, table_crc)


def _table(read: Read, header: _GptHeader, sector: int) -> bytes | None:
    length = header.count * header.entry_bytes
    if length > _MAX_GPT_TABLE_BYTES:
        return None
    table = read(header.table_sector * sector, length)
    intact = len(table) == length and zlib.crc32(table) == header.table_crc
    return table if intact else None


def _gpt_partitions(
    read: Read, size: int, sector: int, entry_bytes: int, table: bytes
) -> Iterator[Partition]:
    for start in range(0, len(table), entry_bytes):
        raw_type, _id, first, last, _flags, _name = _GPT_ENTRY.unpack_from(table, start)
        kind = UUID(bytes_le=raw_type)
        offset = first * sector
        if kind == _UNUSED_TYPE or last < first or not 0 < offset < size:
            continue
        yield Partition(
            offset=offset,
            length=min((last - first + 1) * sector, size - offset),
            type_id=str(kind),
            active=False,
            esp=kind == _ESP_TYPE,
            bios_boot=kind == _BIOS_BOOT_TYPE,
            encryption=_encryption(read, offset),
        )


def _encryption(read: Read, offset: int) -> Encryption | None:
    start = read(offset, 16)
    if start.startswith(b"LUKS\xba\xbe"):
        return Encryption.LUKS
    if start[3:11] == b"-FVE-FS-":
        return Encryption.BITLOCKER
    return None
