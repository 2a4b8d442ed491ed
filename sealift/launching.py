"""Points of one place that become machines in another: ``CloudTarget`` over two ports.

Rounds keep their points where a replication keeps them. A launch needs disks of the cloud, so
publishing a point copies it there first. Most of that can be done while the source still runs:
what ``prepare`` brought is what the last point is built on, and only the difference follows.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from functools import partial
from typing import Protocol

from sealift.disk import DiskReader, DiskWriter
from sealift.endpoints import (
    Check,
    CloudTarget,
    Health,
    MachineConsole,
    PointInfo,
    ReplicaTarget,
    SnapshotRef,
    SnapshotState,
    SourceVm,
    VmDisk,
)
from sealift.errors import IntegrityError, LocalStateError, PointLostError
from sealift.journal import JournalKey, SyncJournal
from sealift.progress import DiskProgress
from sealift.store import StateStore
from sealift.sync import SyncContext, sync

STATE_NAME = "landed.json"
"""Which point is in the cloud as a whole; beside the record of the replication."""
PROVEN_BLOCKS = 64
"""Of each disk, read back from the cloud and compared with the point before anything starts."""
_PROOF_BYTES = 64 * 1024
_JOURNAL = "landing-"


class PointKeeper(ReplicaTarget, Protocol):
    """A place of points that knows what differs between two of them."""

    def changes(self, ref: SnapshotRef, since: SnapshotRef) -> DiskReader:
        """A disk of a sealed point; what is equal in the earlier one is CLEAN.

        Raises:
            PointLostError: one of the two is gone.
        """


@dataclass(frozen=True, slots=True)
class Landed:
    """A point that is in the cloud as a whole.

    Attributes:
        seq: its number.
        kept: by disk id, its snapshot where points are kept.
        disks: by disk id, its snapshot in the cloud.
    """

    seq: int
    kept: Mapping[str, SnapshotRef]
    disks: Mapping[str, SnapshotRef]

    def to_bytes(self) -> bytes:
        """JSON."""
        value = {
            "seq": self.seq,
            "kept": {name: asdict(ref) for name, ref in self.kept.items()},
            "disks": {name: asdict(ref) for name, ref in self.disks.items()},
        }
        return json.dumps(value, sort_keys=True).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Landed":
        """Read ``to_bytes``.

        Raises:
            LocalStateError: it is something else.
        """
        try:
            value = json.loads(data)
            refs = [
                {str(name): SnapshotRef(str(one["id"]), int(one["size"])) for name, one in of}
                for of in (value["kept"].items(), value["disks"].items())
            ]
            return cls(int(value["seq"]), *refs)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise LocalStateError(
                f"{STATE_NAME} is damaged",
                next_step="remove it: the point is copied to the cloud as a whole then",
            ) from error


class LaunchingTarget:
    """See the module. Repeats nothing but what ``sync`` does; every call may be repeated.

    Args:
        points: where rounds keep points.
        cloud: what makes machines; all that it owns is this target's.
        store: of the replication.
        context: of the copies to the cloud.
    """

    def __init__(
        self, points: PointKeeper, cloud: CloudTarget, store: StateStore, context: SyncContext
    ) -> None:
        self._points, self._cloud, self._store, self._context = points, cloud, store, context

    # ------------------------------------------------------------------ points

    def begin_snapshot(self, seq: int, disk: VmDisk, parent: SnapshotRef | None) -> SnapshotRef:
        """See ``ReplicaTarget.begin_snapshot``: where points are kept."""
        return self._points.begin_snapshot(seq, disk, parent)

    def snapshot_state(self, snapshot_id: str) -> SnapshotState:
        """See ``ReplicaTarget.snapshot_state``."""
        return self._points.snapshot_state(snapshot_id)

    def writer(self, ref: SnapshotRef, parent: SnapshotRef | None) -> DiskWriter:
        """See ``ReplicaTarget.writer``."""
        return self._points.writer(ref, parent)

    def reader(self, ref: SnapshotRef) -> DiskReader:
        """See ``ReplicaTarget.reader``."""
        return self._points.reader(ref)

    def volume_size(self, disk_size: int) -> int:
        """See ``ReplicaTarget.volume_size``."""
        return self._points.volume_size(disk_size)

    def seal_point(
        self,
        seq: int,
        vm: SourceVm,
        info: PointInfo,
        snapshots: Mapping[str, SnapshotRef],
        taken: float,
    ) -> str:
        """See ``ReplicaTarget.seal_point``."""
        return self._points.seal_point(seq, vm, info, snapshots, taken)

    def delete_snapshot(self, snapshot_id: str) -> None:
        """See ``ReplicaTarget.delete_snapshot``."""
        self._points.delete_snapshot(snapshot_id)

    def owned(self) -> Sequence[str]:
        """See ``ReplicaTarget.owned``: in both places."""
        return [*self._points.owned(), *self._cloud.owned()]

    def sweep(self, keep: frozenset[str]) -> Sequence[str]:
        """See ``ReplicaTarget.sweep``; the disks that what is kept in the cloud stands on stay."""
        landed = self._landed()
        stands = frozenset(ref.id for ref in landed.disks.values()) if landed and keep else ()
        return [*self._points.sweep(keep), *self._cloud.sweep(keep.union(stands))]

    # ------------------------------------------------------------------ into the cloud

    def prepare(self, seq: int, vm: SourceVm, snapshots: Mapping[str, SnapshotRef]) -> None:
        """Bring a point to the cloud as a whole, while nobody waits for it.

        What is there of an earlier point is built on. A prepare that was killed goes on where
        it was.

        Raises:
            IntegrityError: what the cloud reads back is not the point.
        """
        self._bring(seq, vm, snapshots)

    def landed(self, seq: int) -> bool:
        """Whether the point is in the cloud as a whole; before that there is no image of it."""
        found = self._landed()
        return found is not None and found.seq == seq

    def clear(self) -> None:
        """Remove all that is in the cloud; only when no machine and no image of it is needed."""
        self._cloud.sweep(frozenset())
        for name in sorted(self._store.names()):
            if name == STATE_NAME or name.startswith(_JOURNAL):
                self._store.delete(name)

    def _bring(
        self, seq: int, vm: SourceVm, kept: Mapping[str, SnapshotRef]
    ) -> Mapping[str, SnapshotRef]:
        before = self._landed()
        if before is not None and before.seq == seq and self._all_there(before):
            return before.disks
        disks = {
            disk.id: self._copied(seq, disk, kept[disk.id], before)
            for disk in vm.disks
            if disk.id in kept
        }
        self._store.save(STATE_NAME, Landed(seq, kept, disks).to_bytes())
        return disks

    def _landed(self) -> Landed | None:
        data = self._store.load(STATE_NAME)
        return None if data is None else Landed.from_bytes(data)

    def _all_there(self, landed: Landed) -> bool:
        states = [self._cloud.snapshot_state(ref.id) for ref in landed.disks.values()]
        return all(state is SnapshotState.COMPLETED for state in states)

    def _copied(
        self, seq: int, disk: VmDisk, kept: SnapshotRef, before: Landed | None
    ) -> SnapshotRef:
        parent, since = self._built_on(disk, kept, before)
        ref = self._cloud.begin_snapshot(seq, disk, parent)
        if self._cloud.snapshot_state(ref.id) is not SnapshotState.COMPLETED:
            self._copy(seq, disk, kept, since, ref, parent)
        self._prove(disk, kept, ref)
        return ref

    def _built_on(
        self, disk: VmDisk, kept: SnapshotRef, before: Landed | None
    ) -> tuple[SnapshotRef | None, SnapshotRef | None]:
        """The disk of the earlier point, in the cloud and where points are kept.

        Not of another size: nobody would clear what a longer one had at its end.
        """
        parent = before.disks.get(disk.id) if before else None
        since = before.kept.get(disk.id) if before else None
        if parent is None or since is None or since.size != kept.size:
            return None, None
        usable = self._cloud.snapshot_state(parent.id) is SnapshotState.COMPLETED
        live = self._points.snapshot_state(since.id) is SnapshotState.COMPLETED
        return (parent, since) if usable and live else (None, None)

    def _copy(
        self,
        seq: int,
        disk: VmDisk,
        kept: SnapshotRef,
        since: SnapshotRef | None,
        ref: SnapshotRef,
        parent: SnapshotRef | None,
    ) -> None:
        with ExitStack() as ends:
            found = self._points.changes(kept, since) if since else self._points.reader(kept)
            reader = ends.enter_context(closing(found))
            writer = ends.enter_context(closing(self._cloud.writer(ref, parent)))
            key = JournalKey.of(reader, writer)
            name = f"{_JOURNAL}{disk.id}-{seq}"
            journal = SyncJournal(self._store, name, key, self._context.clock)
            ends.callback(journal.close)
            label = DiskProgress(disk.id, seq)
            sync(reader, writer, self._context, journal=journal, label=label)
        self._store.delete(name)

    def _prove(self, disk: VmDisk, kept: SnapshotRef, ref: SnapshotRef) -> None:
        """Read a sample back; the chunks of the point are proven by their ids."""
        retry = self._context.retrier()
        with (
            closing(self._points.reader(kept)) as point,
            closing(self._cloud.reader(ref)) as landed,
        ):
            count = -(-point.size // _PROOF_BYTES)
            for index in sorted(self._context.rng.sample(range(count), min(count, PROVEN_BLOCKS))):
                at = index * _PROOF_BYTES
                ours = bytearray(min(_PROOF_BYTES, point.size - at))
                theirs = bytearray(len(ours))
                retry.call(partial(point.read_into, at, memoryview(ours)))
                retry.call(partial(landed.read_into, at, memoryview(theirs)))
                if ours != theirs:
                    self._store.delete(STATE_NAME)  # nothing is built on what it was built on
                    self._cloud.delete_snapshot(ref.id)
                    raise IntegrityError(
                        f"disk {disk.id}: {ref.id} is not what the point has at {at}",
                        next_step="nothing was started; run it again: it is copied anew",
                        disk=disk.id,
                        snapshot=ref.id,
                    )

    # ------------------------------------------------------------------ machines

    def preflight(self, vm: SourceVm) -> Sequence[Check]:
        """See ``CloudTarget.preflight``."""
        return self._cloud.preflight(vm)

    def publish(self, seq: int, vm: SourceVm, snapshots: Mapping[str, SnapshotRef]) -> str:
        """See ``CloudTarget.publish``; the point is brought to the cloud first.

        Raises:
            PointLostError: a disk of the point is not there.
            IntegrityError: what the cloud reads back is not the point.
        """
        missing = [disk.id for disk in vm.disks if disk.id not in snapshots]
        if missing:
            raise PointLostError(f"point {seq} has no disk {missing[0]}")
        return self._cloud.publish(seq, vm, self._bring(seq, vm, snapshots))

    def unpublish(self, image_id: str) -> None:
        """See ``CloudTarget.unpublish``."""
        self._cloud.unpublish(image_id)

    def find_volume(self, seq: int, disk: VmDisk) -> str | None:
        """See ``CloudTarget.find_volume``."""
        return self._cloud.find_volume(seq, disk)

    def make_volume(self, seq: int, vm: SourceVm, disk: VmDisk, ref: SnapshotRef) -> str:
        """See ``CloudTarget.make_volume``."""
        return self._cloud.make_volume(seq, vm, disk, ref)

    def launch(self, seq: int, attempt: int, image_id: str, vm: SourceVm) -> str:
        """See ``CloudTarget.launch``."""
        return self._cloud.launch(seq, attempt, image_id, vm)

    def find_launched(self, seq: int, attempt: int) -> str | None:
        """See ``CloudTarget.find_launched``."""
        return self._cloud.find_launched(seq, attempt)

    def health(self, instance_id: str) -> Health:
        """See ``CloudTarget.health``."""
        return self._cloud.health(instance_id)

    def console(self, instance_id: str) -> MachineConsole:
        """See ``CloudTarget.console``."""
        return self._cloud.console(instance_id)

    def terminate(self, instance_id: str) -> None:
        """See ``CloudTarget.terminate``."""
        self._cloud.terminate(instance_id)
