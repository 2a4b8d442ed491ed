"""Names of the objects of a repository. They are random or a count; they say nothing of content.

Names that a store lists are untrusted: only what ``parsed`` recognises is ever used, and no
name becomes a path of this machine.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

RANDOM_BYTES = 16
"""Of a name; two of 2^40 objects are named alike with probability 2^-49."""
MAX_SEQ = (1 << 63) - 1

Entropy = Callable[[int], bytes]


class ObjectKind(Enum):
    """What an object is; the value is the first part of its name."""

    PACK = "packs"
    INDEX = "index"
    MANIFEST = "points"
    COMMIT = "commits"


@dataclass(frozen=True, slots=True)
class ObjectName:
    """A name of ours, taken apart.

    Attributes:
        kind: of the object.
        seq: of a commit; 0 for others.
    """

    kind: ObjectKind
    seq: int = 0


_RANDOM = re.compile(r"(index|points)/[0-9a-f]{32}")
_PACK = re.compile(r"packs/([0-9a-f]{2})/\1[0-9a-f]{30}")
_COMMIT = re.compile(r"commits/([0-9a-f]{16})")


def pack_name(raw: bytes) -> str:
    """Name of a pack; in 256 folders, because file systems slow down in crowded ones."""
    return f"packs/{raw[:1].hex()}/{raw.hex()}"


def pack_raw(name: str) -> bytes:
    """The random bytes of a pack's name.

    Raises:
        ValueError: not a pack's name.
    """
    if not _PACK.fullmatch(name):
        raise ValueError(f"{name[:80]!r} is not the name of a pack")
    return bytes.fromhex(name[-2 * RANDOM_BYTES :])


def index_name(raw: bytes) -> str:
    """Name of an index object."""
    return f"index/{raw.hex()}"


def manifest_name(raw: bytes) -> str:
    """Name of a point's manifest."""
    return f"points/{raw.hex()}"


def commit_name(seq: int) -> str:
    """Name of a commit; ascending names are ascending commits."""
    if not 0 <= seq <= MAX_SEQ:
        raise ValueError(f"{seq} is not the number of a commit")
    return f"commits/{seq:016x}"


def parsed(name: str) -> ObjectName | None:
    """What an object is by its name; None for one that is not ours."""
    if _PACK.fullmatch(name):
        return ObjectName(ObjectKind.PACK)
    if found := _RANDOM.fullmatch(name):
        return ObjectName(ObjectKind(found[1]))
    found = _COMMIT.fullmatch(name)
    if found and int(found[1], 16) <= MAX_SEQ:
        return ObjectName(ObjectKind.COMMIT, int(found[1], 16))
    return None
