"""Names of everything that Sealift makes inside QEMU; whatever is named otherwise is not ours.

Bitmaps carry the name under which changes are tracked in full, since people and other tools
see them, and they may be stored in the image. Nodes, exports and records carry a hash: QEMU
allows a node name 31 characters only. Files and sockets lie in folders that several machines
may share, so they also carry a mark of the one QEMU that makes them.
"""

import re
from dataclasses import dataclass
from enum import Enum
from hashlib import blake2s

from sealift.errors import UsageError

BOOT_RECORD = "sealift-boot"
"""Marks one QEMU process; shared by all migrations."""
SERVER_RECORD = "sealift-nbd"
"""Says where the NBD server listens that Sealift started; shared by all migrations."""

_MIGRATION_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_NODE = re.compile(r"sl-([0-9a-f]{8})-(\d{1,6})-([0-9a-f]{6})-([a-z]{3})")
_MAX_SEQ = 999_999


class Part(Enum):
    """What a node of a point is for; from the guest's device down to the host's file."""

    FILTER = "cbw"
    """copy-before-write, between the guest's device and its disk."""
    PROBE = "acc"
    """snapshot-access on the filter: fails once the instant is broken."""
    SCRATCH = "qcw"
    """qcow2 that holds what the guest overwrote, over the disk itself."""
    LIMIT = "lim"
    """raw with a fixed size: what does not fit in it fails."""
    FILE = "fil"
    """The host's file."""


@dataclass(frozen=True, slots=True)
class NodeName:
    """A node name of any Sealift migration, taken apart."""

    migration: str
    seq: int
    disk: str
    part: Part


def parse_node(name: str) -> NodeName | None:
    """The parts of a node name, or None when Sealift did not make the node."""
    match = _NODE.fullmatch(name)
    if match is None or match[4] not in {part.value for part in Part}:
        return None
    return NodeName(match[1], int(match[2]), match[3], Part(match[4]))


class Names:
    """The names of one migration or replication.

    Args:
        migration_id: up to 64 letters, digits, dots, dashes and underscores; of a plan its
            ``tracking_name``, which is unique over both kinds.
        machine: what tells this QEMU from all others of the host, such as the path of its
            monitor; part of the names of files and sockets.

    Raises:
        UsageError: the id does not fit in names.
    """

    def __init__(self, migration_id: str, machine: str = "") -> None:
        if not _MIGRATION_ID.fullmatch(migration_id):
            raise UsageError(
                f"{migration_id!r} cannot be a migration id",
                next_step="use up to 64 letters, digits, dots, dashes and underscores",
            )
        self.migration_id = migration_id
        self.short = _short(migration_id, 8)
        self._mark = _short(machine, 8)
        self._bitmap_prefix = f"sealift-{migration_id}-since-"

    def bitmap(self, since: int) -> str:
        """The bitmap that records what changed since a point."""
        return f"{self._bitmap_prefix}{_checked(since)}"

    def since(self, bitmap: str) -> int | None:
        """The point of one of our bitmaps; None when it is not ours."""
        rest = bitmap.removeprefix(self._bitmap_prefix)
        return int(rest) if rest != bitmap and re.fullmatch(r"\d{1,6}", rest) else None

    def node(self, seq: int, disk_id: str, part: Part) -> str:
        """A node of a point: at most 29 characters, QEMU allows 31."""
        return f"sl-{self.short}-{_checked(seq)}-{short_disk(disk_id)}-{part.value}"

    def is_ours(self, node: str) -> bool:
        """Whether a node belongs to this migration."""
        parsed = parse_node(node)
        return parsed is not None and parsed.migration == self.short

    def export(self, seq: int, disk_id: str, part: Part, nonce: str) -> str:
        """An export; the nonce is new each time a point is opened, so a name never lies."""
        return f"{self.node(seq, disk_id, part)}-{nonce}"

    def record(self, seq: int) -> str:
        """The record that a point is completely open."""
        return f"sl-{self.short}-{_checked(seq)}-point"

    def seq_of_record(self, name: str) -> int | None:
        """The point of a record; None when it is something else."""
        match = re.fullmatch(rf"sl-{self.short}-(\d{{1,6}})-point", name)
        return int(match[1]) if match else None

    @property
    def throttle_group(self) -> str:
        """The group in which our write limit counts, over all disks."""
        return f"sl-{self.short}-throttle"

    @property
    def socket(self) -> str:
        """Name of the NBD server's socket; 24 characters."""
        return f"sl-{self.short}-{self._mark}.nbd"

    def scratch_file(self, seq: int, disk_id: str) -> str:
        """Name of a file in the scratch directory."""
        return f"{self.node(seq, disk_id, Part.FILE)}-{self._mark}.scratch"

    def scratch_pattern(self, seq: int | None = None) -> str:
        """Matches our files in the scratch directory: of a point, or all."""
        point = "*" if seq is None else f"{seq}-*"
        return f"sl-{self.short}-{point}-{self._mark}.scratch"


def short_disk(disk_id: str) -> str:
    """Six hexadecimal digits for a disk id."""
    return _short(disk_id, 6)


def _short(value: str, digits: int) -> str:
    return blake2s(value.encode()).hexdigest()[:digits]


def _checked(seq: int) -> int:
    if not 0 <= seq <= _MAX_SEQ:
        raise ValueError(f"point {seq} is out of range")
    return seq
