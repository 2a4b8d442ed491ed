"""A repository as the target of a replication: ``ReplicaTarget``.

A snapshot is one disk of a point that is not sealed yet: its packs are in the store, its root is
kept here, and nobody else can see it. ``seal_point`` makes all disks of the point visible as one.
"""

import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import sealift
from sealift.disk import DiskReader, DiskWriter
from sealift.endpoints import PointInfo, SnapshotRef, SnapshotState, SourceVm, VmDisk
from sealift.errors import ChunksGoneError, PointLostError, TargetError, UsageError
from sealift.repository.canonical import Fields, Json, decode, encode
from sealift.repository.commits import Head
from sealift.repository.points import POINT_ID_BYTES, PointDisk, PointManifest
from sealift.repository.reader import RepositoryReader
from sealift.repository.session import Repository
from sealift.repository.tree import ID_BYTES, Tree
from sealift.repository.writer import RepositoryWriter
from sealift.store import StateStore

STATE_NAME = "replica.json"
_TOKEN_BYTES = 16


@dataclass(frozen=True, slots=True)
class Pending:
    """A disk of a point that is not sealed yet.

    Attributes:
        id: of the snapshot.
        point: id of the point that it shall belong to.
        disk: id of the disk.
        size: bytes.
        parent: snapshot that it stands on; "" for none.
        chunk_size: of its tree; 0 until it is complete.
        root: of its tree; b"" until it is complete.
        failed: what it stands on is gone, it can never be complete.
    """

    id: str
    point: bytes
    disk: str
    size: int
    parent: str
    chunk_size: int = 0
    root: bytes = b""
    failed: bool = False

    @property
    def tree(self) -> Tree | None:
        """The disk's content, once it is complete."""
        return Tree(self.size, self.chunk_size, self.root) if self.root else None


class RepositoryTarget:
    """Points of one replication in a repository. Thread-safe as far as disks go side by side.

    Args:
        repository: opened.
        plan: id of the replication.
        state: of the replication; holds what is not sealed yet.
    """

    def __init__(self, repository: Repository, plan: str, state: StateStore) -> None:
        self._repository, self._plan, self._state = repository, plan, state
        self._lock = threading.Lock()
        self._token, self._pending = self._load()

    def refuse_other_machine(self, vm: str) -> None:
        """Refuse to begin under a name that another machine's points have already.

        The newest point of a replication, and with it its age, would be now of one machine and
        now of the other.

        Args:
            vm: UUID of the machine.

        Raises:
            UsageError: another host, or an earlier machine, has used the name.
        """
        points = self._repository.head.commit.points
        others = {p.vm for p in points if p.plan == self._plan and p.vm != vm}
        if others:
            raise UsageError(
                f"the repository has points of machine {min(others)} of a replication "
                f"{self._plan}; this is machine {vm}",
                next_step="choose another name for this replication; or, if that machine is no "
                "more, drop its points",
            )

    # ------------------------------------------------------------------ snapshots

    def volume_size(self, disk_size: int) -> int:
        """See ``ReplicaTarget.volume_size``: to the byte."""
        return disk_size

    def begin_snapshot(self, seq: int, disk: VmDisk, parent: SnapshotRef | None) -> SnapshotRef:
        """See ``ReplicaTarget.begin_snapshot``; nothing is made in the store yet."""
        if parent is not None and parent.size > disk.size:
            raise TargetError(f"disk {disk.id} no longer fits the tree of {parent.id}")
        point = self._point_id(seq)
        on = parent.id if parent else ""
        with self._lock:
            ours = [p for p in self._pending.values() if (p.point, p.disk) == (point, disk.id)]
            found = next((p for p in ours if p.parent == on and not p.failed), None)
            if found is None:
                name = f"{point.hex()}.{len(ours)}.{disk.id}"
                found = Pending(name, point, disk.id, disk.size, on)
                self._save({**self._pending, name: found})
        return SnapshotRef(found.id, found.size)

    def snapshot_state(self, snapshot_id: str) -> SnapshotState:
        """See ``ReplicaTarget.snapshot_state``."""
        found = self._pending.get(snapshot_id)
        if found is not None and found.failed:
            return SnapshotState.FAILED
        if found is not None:
            return SnapshotState.COMPLETED if found.root else SnapshotState.PENDING
        live = self._repository.refresh().commit.point(_point_of(snapshot_id))
        return SnapshotState.MISSING if live is None else SnapshotState.COMPLETED

    def writer(self, ref: SnapshotRef, parent: SnapshotRef | None) -> DiskWriter:
        """See ``ReplicaTarget.writer``.

        Raises:
            TargetError: the snapshot or its parent is gone.
        """
        found = self._pending.get(ref.id)
        if found is None or found.failed:
            raise TargetError(f"snapshot {ref.id} is gone")
        return RepositoryWriter(
            self._repository,
            identity=f"{self._repository.ring.repository_id.hex()}/{ref.id}",
            size=ref.size,
            base=self._parent_tree(found, parent) if parent else None,
            finished=lambda tree: self._complete(ref.id, tree),
            done=found.tree,
            abandoned=lambda: self.delete_snapshot(ref.id),
            gone=lambda: self._fail([ref.id]),
        )

    def _parent_tree(self, found: Pending, parent: SnapshotRef) -> Tree:
        try:
            return self._sealed_tree(parent.id)
        except PointLostError as error:
            self._fail([found.id])
            raise TargetError(
                f"snapshot {found.id} stands on a point that is gone",
                next_step="run the same command again: the disk is read in full",
            ) from error

    def reader(self, ref: SnapshotRef) -> DiskReader:
        """See ``ReplicaTarget.reader``."""
        found = self._pending.get(ref.id)
        tree = found.tree if found else self._sealed_tree(ref.id)
        if tree is None:
            raise PointLostError(f"snapshot {ref.id} is not complete")
        return RepositoryReader(self._repository, tree, ref.id)

    def changes(self, ref: SnapshotRef, since: SnapshotRef) -> DiskReader:
        """See ``PointKeeper.changes``; by the trees alone."""
        base = self._sealed_tree(since.id)
        return RepositoryReader(
            self._repository, self._sealed_tree(ref.id), f"{ref.id} since {since.id}", base
        )

    def delete_snapshot(self, snapshot_id: str) -> None:
        """See ``ReplicaTarget.delete_snapshot``; sealed points are for the retention to drop."""
        with self._lock:
            if snapshot_id in self._pending:
                self._save({k: v for k, v in self._pending.items() if k != snapshot_id})

    def owned(self) -> Sequence[str]:
        """See ``ReplicaTarget.owned``: what was begun and not sealed."""
        return sorted(self._pending)

    def sweep(self, keep: frozenset[str]) -> Sequence[str]:
        """See ``ReplicaTarget.sweep``; packs that no commit names are for prune to remove."""
        with self._lock:
            gone = sorted(self._pending.keys() - keep)
            self._save({k: v for k, v in self._pending.items() if k in keep})
        return gone

    # ------------------------------------------------------------------ points

    def seal_point(
        self,
        seq: int,
        vm: SourceVm,
        info: PointInfo,
        snapshots: Mapping[str, SnapshotRef],
        taken: float,
    ) -> str:
        """See ``ReplicaTarget.seal_point``; the receipt is that of the commit.

        Raises:
            ChunksGoneError: something was pruned meanwhile; the snapshots have failed, and the
                next round reads and sends again what is missing.
        """
        point = self._point_id(seq)
        parts = [self._pending.get(ref.id) for ref in snapshots.values()]
        if not any(parts):
            head = self._repository.refresh()
            if head.commit.point(point) is not None:
                return head.receipt
        complete = [part for part in parts if part is not None and part.tree is not None]
        if len(complete) != len(vm.disks) or len(complete) != len(snapshots):
            raise TargetError(f"point {seq}: not every disk is complete")
        head = self._publish(self._manifest(point, seq, vm, info, complete, taken), complete)
        self.sweep(frozenset(self._pending.keys() - {part.id for part in complete}))
        return head.receipt

    def _manifest(
        self,
        point: bytes,
        seq: int,
        vm: SourceVm,
        info: PointInfo,
        parts: Sequence[Pending],
        taken: float,
    ) -> PointManifest:
        trees = {part.disk: part.tree for part in parts}
        disks = [PointDisk(disk, tree) for disk in vm.disks if (tree := trees.get(disk.id))]
        return PointManifest(
            id=point,
            plan=self._plan,
            seq=seq,
            vm=vm,
            consistency=info.consistency,
            note=info.note,
            taken_ms=int(taken * 1000),
            previous=bytes(32),
            tool=f"sealift {sealift.__version__}",
            disks=tuple(disks),
        )

    def _publish(self, manifest: PointManifest, parts: Sequence[Pending]) -> Head:
        bases: dict[str, tuple[bytes, Tree]] = {}
        for part in parts:
            with suppress(PointLostError):  # dropped meanwhile: then everything is looked at
                if part.parent:
                    bases[part.disk] = _point_of(part.parent), self._sealed_tree(part.parent)
        try:
            return self._repository.publish(manifest, bases)
        except ChunksGoneError:
            self._fail([part.id for part in parts])
            raise

    def _sealed_tree(self, snapshot_id: str) -> Tree:
        """The disk of a live point.

        Raises:
            PointLostError: the point, or the disk in it, is not there.
        """
        live = self._repository.refresh().commit.point(_point_of(snapshot_id))
        disk = snapshot_id.split(".", 2)[-1]
        found = self._repository.manifest(live).disk(disk) if live else None
        if found is None:
            raise PointLostError(f"the repository has no point of snapshot {snapshot_id}")
        return found.tree

    # ------------------------------------------------------------------ what is kept

    def _point_id(self, seq: int) -> bytes:
        """Of a number in this replication, the same in every process that has its state."""
        data = b"point\0" + self._token + seq.to_bytes(8, "big")
        return self._repository.sealer.content_id(data)[:POINT_ID_BYTES]

    def _complete(self, snapshot_id: str, tree: Tree) -> None:
        with self._lock:
            found = self._pending.get(snapshot_id)
            if found is None:
                raise TargetError(f"snapshot {snapshot_id} was given up")
            done = replace(found, chunk_size=tree.chunk_size, root=tree.root)
            self._save({**self._pending, snapshot_id: done})

    def _fail(self, ids: Sequence[str]) -> None:
        with self._lock:
            failed = {n: replace(self._pending[n], failed=True) for n in ids if n in self._pending}
            self._save({**self._pending, **failed})

    def _load(self) -> tuple[bytes, dict[str, Pending]]:
        data = self._state.load(STATE_NAME)
        if data is None:
            token = self._repository.ring.entropy(_TOKEN_BYTES)
            self._state.save(STATE_NAME, _encoded(token, {}))
            return token, {}
        fields = decode(data, STATE_NAME)
        pending = [_read(one) for one in fields.objects("pending")]
        return fields.raw("token", _TOKEN_BYTES), {p.id: p for p in pending}

    def _save(self, pending: dict[str, Pending]) -> None:
        if pending != self._pending:
            self._state.save(STATE_NAME, _encoded(self._token, pending))
            self._pending = pending


def _point_of(snapshot_id: str) -> bytes:
    try:
        return bytes.fromhex(snapshot_id.split(".", 1)[0])
    except ValueError:
        return b""


def _encoded(token: bytes, pending: dict[str, Pending]) -> bytes:
    return encode({"token": token.hex(), "pending": [_value(p) for p in pending.values()]})


def _value(p: Pending) -> Json:
    return {
        "id": p.id,
        "point": p.point.hex(),
        "disk": p.disk,
        "size": p.size,
        "parent": p.parent,
        "chunk_size": p.chunk_size,
        "root": p.root.hex(),
        "failed": p.failed,
    }


def _read(fields: Fields) -> Pending:
    return Pending(
        id=fields.text("id"),
        point=fields.raw("point", POINT_ID_BYTES),
        disk=fields.text("disk"),
        size=fields.integer("size"),
        parent=fields.text("parent"),
        chunk_size=fields.integer("chunk_size"),
        root=fields.raw("root", ID_BYTES if fields.integer("chunk_size") else 0),
        failed=fields.flag("failed"),
    )
