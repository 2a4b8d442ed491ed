"""Names, lease ids and tags: how an object in Azure says whose it is.

All of it follows from the migration, the point's number and the disk alone, so that a
process that was killed and started again finds what it had made.
"""

import hashlib
import re
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

MIGRATION = "sealift-migration"
"""Tag of ARM resources."""
POINT = "sealift-point"
DISK = "sealift-disk"
ATTEMPT = "sealift-attempt"

_NAMESPACE = uuid.UUID("6f1f1f0e-3a5c-5b0a-9d0c-5ea11f7b10b5")
_UNSAFE = re.compile(r"[^A-Za-z0-9-]+")
_OF_A_POINT = re.compile(
    r"-(?P<seq>[0-9]{1,9})-(?P<made>disk|up|[0-9]{1,9}(?:-nic|-disk[0-9]{1,3})?)$", re.IGNORECASE
)
_NAME_MAX = 64  # of a Linux machine; disks and cards may have 80 ("Naming rules for resources")


@dataclass(frozen=True, slots=True)
class Owner:
    """The migration that owns what is made.

    Attributes:
        migration_id: unique over all migrations of the subscription.
        extra: tags of the user's own, on everything.
    """

    migration_id: str
    extra: Mapping[str, str]

    def tags(self, own: Mapping[str, str]) -> dict[str, str]:
        """All tags of one resource; Sealift's own win over the user's."""
        return {**self.extra, MIGRATION: self.migration_id, **own}

    def owns(self, tags: Mapping[str, str] | None) -> bool:
        """Whether a resource with these tags is ours to change or delete."""
        return (tags or {}).get(MIGRATION) == self.migration_id

    def blob_name(self, disk_id: str) -> str:
        """The staging blob of a disk."""
        return f"{self.migration_id}/{disk_id}.vhd"

    def image_id(self, seq: int) -> str:
        """The image of a point: a prefix of blob names."""
        return f"{self.migration_id}/images/{seq}"

    def image_blob_name(self, image_id: str, disk_id: str) -> str:
        """The blob of one disk of an image."""
        return f"{image_id}/{disk_id}.vhd"

    def lease_id(self, blob_name: str, seq: int) -> str:
        """The lease under which point ``seq`` is written.

        Every point has another one, so that whoever still writes to an earlier point, be it a
        process that was thought to be dead, is refused by the service. Any process that goes
        on with the same point holds the same one.
        """
        return str(uuid.uuid5(_NAMESPACE, f"{self.migration_id}\n{blob_name}\n{seq}"))

    def machine_name(self, seq: int, attempt: int) -> str:
        """The machine of an attempt; other resources of it are called after it."""
        return resource_name(self.migration_id, f"-{seq}-{attempt}")

    def restored_name(self, seq: int, disk_id: str) -> str:
        """The managed disk that a disk of a point is restored to."""
        return resource_name(f"{self.migration_id}-{disk_id}", f"-{seq}-disk")

    def upload_name(self, seq: int, disk_id: str) -> str:
        """The managed disk that a disk of a point is uploaded to."""
        return resource_name(f"{self.migration_id}-{disk_id}", f"-{seq}-up")

    def may_take(self, name: str, disk_ids: Iterable[str]) -> bool:
        """Whether some point or attempt of the migration would make a resource of this name.

        Resource Manager compares names without case ("Naming rules and restrictions").
        """
        match = _OF_A_POINT.search(name)
        if match is None:
            return False
        seq, made = int(match["seq"]), match["made"].lower()
        if made == "disk":
            would = {self.restored_name(seq, disk_id) for disk_id in disk_ids}
        elif made == "up":
            would = {self.upload_name(seq, disk_id) for disk_id in disk_ids}
        else:
            attempt, _, part = made.partition("-")
            would = {self.machine_name(seq, int(attempt)) + (part and f"-{part}")}
        return name.lower() in {one.lower() for one in would}


def resource_name(migration_id: str, suffix: str) -> str:
    """At most 64 letters, digits and dashes, unique for the migration."""
    mark = hashlib.sha256(migration_id.encode()).hexdigest()[:8]
    tail = f"-{mark}{suffix}"
    readable = _UNSAFE.sub("-", f"sealift-{migration_id}")
    return readable[: _NAME_MAX - len(tail)].rstrip("-") + tail


def footer_id(blob_name: str) -> uuid.UUID:
    """The unique id in the VHD footer of a blob: the same each time it is written."""
    return uuid.uuid5(_NAMESPACE, f"footer\n{blob_name}")


def snapshot_id(blob_name: str, seq: int) -> str:
    """The name of a point of one disk, known before there is a blob snapshot."""
    return f"{blob_name}@{seq}"


def parse_snapshot_id(text: str) -> tuple[str, int] | None:
    """Blob name and point's number; None when it is not such a name."""
    name, _, seq = text.rpartition("@")
    return (name, int(seq)) if name and seq.isdigit() else None
