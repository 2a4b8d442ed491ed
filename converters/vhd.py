"""The footer of a VHD: 512 bytes that turn a raw disk into a fixed VHD. Pure.

A fixed VHD is the disk followed by its footer, and the footer depends on the size alone,
so a disk can be streamed to Azure without a local copy. Layout: "Virtual Hard Disk Image
Format Specification" 1.0, section "Hard Disk Footer Format"; big-endian throughout.

Traps that this module knows:

- The only mark of a fixed VHD is at its end. Tools that detect formats take it for a raw
  disk that is one sector longer (``qemu-img info`` without ``-f vpc`` does).
- Some readers take the size from the geometry, which is in whole cylinders and so almost
  always smaller. QEMU does it for creators that it does not know, unless the geometry is
  the largest one. ``fixed_footer`` therefore writes the largest one, as ``qemu-img
  convert -o force_size=on`` does, which is the way Azure's own documentation names.
"""

import struct
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from uuid import UUID

from converters.bounded import Read, bounded
from sealift.errors import ImageError

FOOTER_BYTES = 512
SECTOR_BYTES = 512

_COOKIE = b"conectix"
_LAYOUT = struct.Struct(">8sIIQI4sI4sQQHBBII16sB427x")
_CHECKSUM_AT = 64
_FEATURES_RESERVED = 0x00000002  # must always be set
_VERSION_1_0 = 0x00010000
_NO_HEADER = 0xFFFFFFFFFFFFFFFF
_CREATOR = b"slft"
_CREATOR_VERSION = 0x00010000
_HOST_WINDOWS = b"Wi2k"
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MAX_SIZE = 2**63 - SECTOR_BYTES


class DiskType(Enum):
    """The footer's disk types that are in use."""

    FIXED = 2
    DYNAMIC = 3
    DIFFERENCING = 4


@dataclass(frozen=True, slots=True)
class Geometry:
    """Cylinders, heads and sectors per track, as the BIOS of 1983 counted them."""

    cylinders: int
    heads: int
    sectors: int

    @property
    def size_bytes(self) -> int:
        """What this geometry can address."""
        return self.cylinders * self.heads * self.sectors * SECTOR_BYTES


LARGEST_GEOMETRY = Geometry(65535, 16, 255)
"""Means "the size is what the size field says" to every reader that looks at geometry."""


def geometry_of(size_bytes: int) -> Geometry:
    """The geometry that the specification's appendix calculates; never more than the size.

    Args:
        size_bytes: of the disk, not negative.
    """
    sectors = min(size_bytes, LARGEST_GEOMETRY.size_bytes) // SECTOR_BYTES
    if sectors >= 65535 * 16 * 63:
        return Geometry(sectors // 255 // 16, 16, 255)
    for per_track, heads_wanted in ((17, None), (31, 16), (63, 16)):
        tracks = sectors // per_track
        heads = heads_wanted or max(-(-tracks // 1024), 4)
        if heads <= 16 and tracks < heads * 1024:
            break
    return Geometry(tracks // heads, heads, per_track)


@dataclass(frozen=True, slots=True)
class Footer:
    """A footer's fields; sizes in bytes.

    Attributes:
        disk_type: fixed, dynamic or differencing.
        current_size: of the disk; what counts.
        original_size: at creation.
        geometry: see the module's text.
        created: whole seconds, UTC, from 2000 to 2136.
        unique_id: ties a differencing disk to its parent.
        creator: four bytes that name the program.
        creator_version: major and minor, 16 bits each.
        creator_host: four bytes that name the system.
        data_offset: of the dynamic header; all ones for a fixed disk.
        features: bit field.
        saved_state: the machine was suspended, not shut down.
    """

    disk_type: DiskType
    current_size: int
    original_size: int
    geometry: Geometry
    created: datetime
    unique_id: UUID
    creator: bytes = _CREATOR
    creator_version: int = _CREATOR_VERSION
    creator_host: bytes = _HOST_WINDOWS
    data_offset: int = _NO_HEADER
    features: int = _FEATURES_RESERVED
    saved_state: bool = False

    def pack(self) -> bytes:
        """The 512 bytes, with their checksum.

        Raises:
            ValueError: a field is out of its range.
        """
        raw = self._packed(0)
        return self._packed(checksum(raw))

    def _packed(self, check: int) -> bytes:
        seconds = int((self.created - _EPOCH) / timedelta(seconds=1))
        try:
            return _LAYOUT.pack(
                _COOKIE,
                self.features,
                _VERSION_1_0,
                self.data_offset,
                seconds,
                self.creator,
                self.creator_version,
                self.creator_host,
                self.original_size,
                self.current_size,
                self.geometry.cylinders,
                self.geometry.heads,
                self.geometry.sectors,
                self.disk_type.value,
                check,
                self.unique_id.bytes,
                int(self.saved_state),
            )
        except struct.error as error:
            raise ValueError(f"a footer field is out of range: {error}") from error


def fixed_footer(size_bytes: int, *, unique_id: UUID, created: datetime) -> bytes:
    """The footer of a fixed VHD; append it to the disk.

    Equal to what ``qemu-img convert -O vpc -o subformat=fixed,force_size=on`` writes,
    except for time, id and creator.

    Args:
        size_bytes: of the disk: positive whole sectors. Azure also wants whole MiB, see
            ``converters.formats``.
        unique_id: random.
        created: UTC; a fixed value makes the file reproducible.

    Raises:
        ValueError: the size or the time cannot be written.
    """
    if not 0 < size_bytes <= _MAX_SIZE or size_bytes % SECTOR_BYTES:
        raise ValueError(f"{size_bytes} bytes are not a disk of whole {SECTOR_BYTES}-byte sectors")
    footer = Footer(
        disk_type=DiskType.FIXED,
        current_size=size_bytes,
        original_size=size_bytes,
        geometry=LARGEST_GEOMETRY,
        created=created,
        unique_id=unique_id,
    )
    return footer.pack()


def checksum(raw: bytes) -> int:
    """One's complement of the sum of all bytes but the checksum's own four."""
    return ~(sum(raw) - sum(raw[_CHECKSUM_AT : _CHECKSUM_AT + 4])) & 0xFFFFFFFF


def parse_footer(raw: bytes) -> Footer:
    """Read a footer.

    Args:
        raw: exactly 512 bytes.

    Raises:
        ImageError: no footer, a wrong checksum, or fields out of bounds.
    """
    if len(raw) != FOOTER_BYTES or not raw.startswith(_COOKIE):
        raise ImageError(
            "this is not a VHD image", next_step="state the format that the file really has"
        )
    fields = _LAYOUT.unpack(raw)
    if fields[14] != checksum(raw):
        raise ImageError(
            "the checksum of the VHD footer is wrong",
            next_step="copy the image again and compare its checksum with the original's",
        )
    bounded(fields[2] >> 16, 1, 1, "VHD major version")
    return Footer(
        disk_type=_disk_type(fields[13]),
        current_size=bounded(fields[9], 1, _MAX_SIZE, "virtual size"),
        original_size=fields[8],
        geometry=Geometry(*fields[10:13]),
        created=_EPOCH + timedelta(seconds=fields[4]),
        unique_id=UUID(bytes=fields[15]),
        creator=fields[5],
        creator_version=fields[6],
        creator_host=fields[7],
        data_offset=fields[3],
        features=fields[1],
        saved_state=bool(fields[16]),
    )


def _disk_type(value: int) -> DiskType:
    try:
        return DiskType(value)
    except ValueError:
        bounded(value, DiskType.FIXED.value, DiskType.DIFFERENCING.value, "VHD disk type")
        raise


def find_footer(read: Read, size_bytes: int) -> Footer | None:
    """The footer of a file: its copy at the start, else the one at the end, else ``None``.

    In this order because QEMU looks in this order; a file with two different ones must
    not be one thing to us and another to QEMU.

    Raises:
        ImageError: there is a footer, and it is damaged.
    """
    for offset in (0, size_bytes - FOOTER_BYTES):
        raw = read(offset, FOOTER_BYTES) if offset >= 0 else b""
        if raw.startswith(_COOKIE):
            return parse_footer(raw)
    return None


def carries_fixed_disk(read: Read, size_bytes: int) -> bool:
    """Whether a file is exactly a disk and the footer of a fixed VHD; for the raw trap."""
    try:
        footer = find_footer(read, size_bytes)
    except ImageError:
        return False
    return (
        footer is not None
        and footer.disk_type is DiskType.FIXED
        and footer.current_size + FOOTER_BYTES == size_bytes
    )
