"""Recovery points by the words that people have for them, and their disks as readers."""

from collections.abc import Sequence
from dataclasses import dataclass

from sealift.errors import UsageError
from sealift.repository.commits import PointRef
from sealift.repository.points import PointDisk, PointManifest
from sealift.repository.reader import RepositoryReader
from sealift.repository.session import Repository

NEWEST = "newest"
_SHORTEST_PREFIX = 4
_NEXT = "sealift points list shows the points"


def find_point(repository: Repository, text: str, replication: str | None) -> PointRef:
    """The point that is meant.

    Args:
        repository: opened.
        text: the beginning of its id, or ``newest``.
        replication: of the plan; ``newest`` is meant of it alone. None: of all.

    Raises:
        UsageError: no such point, or several.
    """
    points = repository.head.commit.points
    if text == NEWEST:
        return _newest(points, replication)
    found = [p for p in points if p.id.hex().startswith(text.lower())]
    if len(text) < _SHORTEST_PREFIX:
        raise UsageError(f"{text!r} is too short for the id of a point", next_step=_NEXT)
    if len(found) != 1:
        count = len(found) or "no"
        raise UsageError(f"{count} points begin with {text!r}", next_step=_NEXT)
    return found[0]


def _newest(points: Sequence[PointRef], replication: str | None) -> PointRef:
    ours = [p for p in points if replication is None or p.plan == replication]
    if not ours:
        of = f" of replication {replication}" if replication else ""
        raise UsageError(f"there is no point{of} yet", next_step="sealift replicate makes one")
    machines = {p.vm for p in ours}
    if len(machines) > 1:
        raise UsageError(
            f"there are points of {len(machines)} machines, so the newest is not one of one",
            next_step=f"name the point by its id; {_NEXT}",
        )
    return max(ours, key=lambda p: (p.taken_ms, p.seq))


def find_disks(manifest: PointManifest, disk_id: str | None) -> tuple[PointDisk, ...]:
    """The disk that is meant, or all of the point.

    Raises:
        UsageError: there is no such disk.
    """
    if disk_id is None:
        return manifest.disks
    found = manifest.disk(disk_id)
    if found is None:
        names = ", ".join(d.disk.id for d in manifest.disks)
        raise UsageError(f"the point has no disk {disk_id}; it has {names}", next_step="name one")
    return (found,)


@dataclass(frozen=True, slots=True)
class OpenPoint:
    """A point with its manifest, ready to be read."""

    repository: Repository
    ref: PointRef
    manifest: PointManifest

    @classmethod
    def find(cls, repository: Repository, text: str, replication: str | None) -> "OpenPoint":
        """See ``find_point``."""
        ref = find_point(repository, text, replication)
        return cls(repository, ref, repository.manifest(ref))

    def reader(self, disk: PointDisk) -> RepositoryReader:
        """One disk; its chunks are proven as they are read."""
        identity = f"point:{self.ref.id.hex()}:{disk.disk.id}"
        return RepositoryReader(self.repository, disk.tree, identity)
