"""Names, tags and client tokens: how an object in the cloud says whose it is.

All of it follows from the migration, the point's number and the disk alone, so that a
process that was killed and started again finds what it had made.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mypy_boto3_ec2.type_defs import FilterTypeDef, TagTypeDef

MIGRATION = "sealift:migration"
POINT = "sealift:point"
DISK = "sealift:disk"
PARENT = "sealift:parent"
ATTEMPT = "sealift:attempt"
ZEROES = "sealift:zeroes"
"""Whether the chain wrote its zero blocks: ``written``, or ``skipped`` and then unsafe to
launch encrypted, because absent blocks of an encrypted volume read as noise."""
SEALED = "sealift:sealed"
"""Count and LINEAR total that ``commit`` was asked for, set before CompleteSnapshot."""

NO_PARENT = "none"
ZEROES_WRITTEN = "written"
ZEROES_SKIPPED = "skipped"

_NOT_IN_IMAGE_NAMES = re.compile(r"[^A-Za-z0-9()\[\] ./\-'@_]")
_IMAGE_NAME_MAX = 128


@dataclass(frozen=True, slots=True)
class Owner:
    """The migration that owns what is made.

    Attributes:
        migration_id: unique over all migrations of the account.
        extra: tags of the user's own, on everything.
    """

    migration_id: str
    extra: Mapping[str, str]

    def tags(self, name: str, own: Mapping[str, str]) -> "list[TagTypeDef]":
        """All tags of one object; Sealift's own win over the user's."""
        merged = {**self.extra, "Name": name, MIGRATION: self.migration_id, **own}
        return [{"Key": key, "Value": value} for key, value in sorted(merged.items())]

    def filters(self, own: Mapping[str, str] | None = None) -> "list[FilterTypeDef]":
        """EC2 filters that match exactly what this migration made (with tags ``own``)."""
        wanted = {MIGRATION: self.migration_id, **(own or {})}
        return [{"Name": f"tag:{key}", "Values": [value]} for key, value in wanted.items()]

    def owns(self, tags: Mapping[str, str]) -> bool:
        """Whether an object with these tags is ours to change or delete."""
        return tags.get(MIGRATION) == self.migration_id


def tag_map(tags: "Iterable[TagTypeDef] | None") -> dict[str, str]:
    """Tags of an answer by key."""
    return {tag.get("Key", ""): tag.get("Value", "") for tag in tags or ()}


def client_token(*parts: object) -> str:
    """Idempotency token of 64 characters, the longest that EBS and EC2 both take."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def image_name(migration_id: str, seq: int, parameters: object) -> str:
    """Name of an image, unique by what it is made of; at most 128 characters."""
    suffix = f" point {seq} {client_token(migration_id, seq, parameters)[:12]}"
    readable = _NOT_IN_IMAGE_NAMES.sub("-", f"sealift {migration_id}")
    return readable[: _IMAGE_NAME_MAX - len(suffix)] + suffix


def device_names(count: int, root: str) -> Sequence[str]:
    """Device names of ``count`` disks in order, the first being the root's.

    ``/dev/sdf`` to ``/dev/sdp`` are what EC2 recommends for data volumes, the others are
    allowed (EC2 user guide, "Device names for volumes"); 47 in all.

    Raises:
        ValueError: more disks than names.
    """
    letters = "fghijklmnopqrstuvwxyzbcde"
    data = [f"/dev/sd{c}" for c in letters]
    data += [f"/dev/xvdb{c}" for c in "abcdefghijklmnopqrstu"]
    if not 1 <= count <= len(data) + 1:
        raise ValueError(f"{count} disks: EC2 has device names for 1 to {len(data) + 1}")
    return [root, *data[: count - 1]]
