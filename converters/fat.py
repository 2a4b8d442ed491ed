"""Is there a file of this name on a FAT file system. Pure, read-only, bounded.

Enough of FAT12, FAT16 and FAT32 (Microsoft's "FAT: General Overview", 1.03) to walk
directories by short names, which is what the fallback path of UEFI consists of. Long
names are skipped over.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from converters.bounded import Read

_BOOT = struct.Struct("<3s8sHBHBHHBHHHII")
_BOOT_BYTES = 512
_ENTRY_BYTES = 32
_MAX_DIRECTORY_BYTES = 2 * 1024 * 1024  # 65,536 entries, FAT's own limit
_MAX_CLUSTER_BYTES = 256 * 1024
_FAT12_CLUSTERS = 4085
_FAT16_CLUSTERS = 65525
_ATTRIBUTE_LONG = 0x0F
_ATTRIBUTE_LABEL = 0x08
_ATTRIBUTE_DIRECTORY = 0x10
_DELETED = 0xE5


@dataclass(frozen=True, slots=True)
class _Volume:
    """Where things are; offsets and lengths in bytes, offsets from the disk's start."""

    read: Read
    fat_at: int
    fat_bytes: int
    root_at: int
    root_bytes: int
    root_cluster: int
    data_at: int
    cluster_bytes: int
    clusters: int

    @property
    def bits(self) -> int:
        """12, 16 or 32: FAT decides it by the number of clusters and nothing else."""
        if self.clusters < _FAT12_CLUSTERS:
            return 12
        return 16 if self.clusters < _FAT16_CLUSTERS else 32

    def root(self) -> Iterator[bytes]:
        """The root directory, in pieces."""
        if self.bits == 32:
            yield from self.chain(self.root_cluster)
        else:
            yield self.read(self.root_at, self.root_bytes)

    def chain(self, cluster: int) -> Iterator[bytes]:
        """A directory's clusters; a chain may be a ring, so it is cut at FAT's limit."""
        for _ in range(max(1, _MAX_DIRECTORY_BYTES // self.cluster_bytes)):
            if not 2 <= cluster < self.clusters + 2:
                return
            yield self.read(self.data_at + (cluster - 2) * self.cluster_bytes, self.cluster_bytes)
            cluster = self._next(cluster)

    def _next(self, cluster: int) -> int:
        at = cluster * self.bits // 8
        width = 4 if self.bits == 32 else 2
        if at + width > self.fat_bytes:
            return 0
        value = int.from_bytes(self.read(self.fat_at + at, width), "little")
        if self.bits == 12:
            return value >> 4 if cluster & 1 else value & 0xFFF
        return value & 0x0FFFFFFF if self.bits == 32 else value


def has_file(
    read: Read, offset: int, length: int, directory: Sequence[str], names: Sequence[str]
) -> bool:
    """Whether ``directory`` holds one of ``names`` as a file that is not empty.

    Reads at most 2 MiB for each directory on the way.

    Args:
        read: of the disk.
        offset: of the file system, bytes.
        length: of the file system, bytes.
        directory: the path from the root, in short names, upper case.
        names: short names, upper case.

    Returns:
        False also when this is no FAT file system.
    """
    volume = _volume(read, offset, length)
    if volume is None:
        return False
    pieces = volume.root()
    for name in directory:
        cluster = next(_found(pieces, {_short(name)}, directory=True), None)
        if cluster is None:
            return False
        pieces = volume.chain(cluster)
    wanted = {_short(name) for name in names}
    return next(_found(pieces, wanted, directory=False), None) is not None


def _volume(read: Read, offset: int, length: int) -> _Volume | None:
    boot = read(offset, _BOOT_BYTES)
    if len(boot) != _BOOT_BYTES or not boot.endswith(b"\x55\xaa"):
        return None
    fields = _BOOT.unpack_from(boot)
    sector, per_cluster, reserved, fats, root_entries, small, _media, small_fat = fields[2:10]
    large, large_fat, root_cluster = fields[13], *struct.unpack_from("<I4xI", boot, 36)
    cluster_bytes = sector * per_cluster
    if sector not in (512, 1024, 2048, 4096) or not 0 < cluster_bytes <= _MAX_CLUSTER_BYTES:
        return None
    sectors, fat_bytes = small or large, (small_fat or large_fat) * sector
    root_bytes = -(-root_entries * _ENTRY_BYTES // sector) * sector
    root_at = reserved * sector + fats * fat_bytes
    clusters = (min(sectors * sector, length) - root_at - root_bytes) // cluster_bytes
    if not fats or not fat_bytes or clusters <= 0:
        return None
    return _Volume(
        read=read,
        fat_at=offset + reserved * sector,
        fat_bytes=fat_bytes,
        root_at=offset + root_at,
        root_bytes=root_bytes,
        root_cluster=root_cluster,
        data_at=offset + root_at + root_bytes,
        cluster_bytes=cluster_bytes,
        clusters=clusters,
    )


def _found(pieces: Iterator[bytes], wanted: set[bytes], *, directory: bool) -> Iterator[int]:
    """First clusters of the entries that match."""
    for piece in pieces:
        for start in range(0, len(piece) - _ENTRY_BYTES + 1, _ENTRY_BYTES):
            entry = piece[start : start + _ENTRY_BYTES]
            if entry[0] == 0:  # nothing was ever written from here on
                return
            if entry[:11] in wanted and _is(entry, directory=directory):
                high, low = struct.unpack_from("<H4xH", entry, 20)
                yield high << 16 | low


def _is(entry: bytes, *, directory: bool) -> bool:
    attributes = entry[11]
    if entry[0] == _DELETED or attributes & _ATTRIBUTE_LONG == _ATTRIBUTE_LONG:
        return False
    if attributes & _ATTRIBUTE_LABEL:
        return False
    if directory:
        return bool(attributes & _ATTRIBUTE_DIRECTORY)
    return not attributes & _ATTRIBUTE_DIRECTORY and any(entry[28:32])


def _short(name: str) -> bytes:
    stem, _dot, extension = name.partition(".")
    return stem.encode("ascii").ljust(8) + extension.encode("ascii").ljust(3)
