"""What changed between two points."""

from collections.abc import Iterator
from dataclasses import dataclass

from sealift.repository.points import PointManifest
from sealift.repository.session import Repository
from sealift.repository.tree import Tree, changed


@dataclass(frozen=True, slots=True)
class DiskDiff:
    """One disk in two points.

    Attributes:
        disk: its id.
        old_size: bytes in the older point; None when it was not there.
        new_size: bytes in the newer point; None when it is gone.
        changed_bytes: of chunks that differ, in the newer point.
        ranges: how many stretches they are.
    """

    disk: str
    old_size: int | None
    new_size: int | None
    changed_bytes: int
    ranges: int


def changed_ranges(repository: Repository, old: Tree, new: Tree) -> Iterator[tuple[int, int]]:
    """(offset, length) in bytes of what differs, in order; equal subtrees are not looked at."""
    for start, count in changed(old, new, repository.load_node):
        offset = start * new.chunk_size
        yield offset, min(count * new.chunk_size, new.size - offset)


def diff(repository: Repository, old: PointManifest, new: PointManifest) -> list[DiskDiff]:
    """Every disk of either point, in the order of the newer one."""
    names = dict.fromkeys([*(d.disk.id for d in new.disks), *(d.disk.id for d in old.disks)])
    return [_disk(repository, name, old, new) for name in names]


def _disk(repository: Repository, name: str, old: PointManifest, new: PointManifest) -> DiskDiff:
    was, now = old.disk(name), new.disk(name)
    if was is None or now is None or was.tree.chunk_size != now.tree.chunk_size:
        size = now.tree.size if now else 0
        return DiskDiff(
            name, was.tree.size if was else None, now.tree.size if now else None, size, bool(size)
        )
    ranges = list(changed_ranges(repository, was.tree, now.tree))
    total = sum(length for _, length in ranges)
    return DiskDiff(name, was.tree.size, now.tree.size, total, len(ranges))
