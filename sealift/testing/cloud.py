"""A cloud in memory that keeps the rules of EBS and EC2 that a migration can trip over.

Snapshots are pending until completed and take no write afterwards; one that an image uses
is not deleted; a machine is launched once per token, whatever else has changed, and never
again once it was terminated.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sealift.disk import DiskReader, DiskWriter, Unwritten
from sealift.endpoints import (
    Check,
    Health,
    MachineConsole,
    PointInfo,
    SnapshotRef,
    SnapshotState,
    SourceVm,
    VmDisk,
)
from sealift.errors import PointLostError, TargetError, TransientError
from sealift.testing.memory import MemoryReader, MemoryWriter
from sealift.units import round_up


@dataclass
class Snapshot:
    """A snapshot and what it was begun for."""

    ref: SnapshotRef
    seq: int
    disk: str
    parent: str | None
    writer: MemoryWriter
    failed: bool = False


@dataclass
class Instance:
    """A machine that was launched; ``disks`` are its own copies."""

    image: str
    disks: dict[str, bytes]
    state: str = "ok"


class SimulatedCloud:
    """Snapshots, images and machines in memory.

    Args:
        block: bytes of a snapshot's block.
        volume_step: volumes are multiples of it, sources need not be.
        fresh: what blocks that nobody writes into a first snapshot read as.

    Attributes:
        changes: counts everything that happens to snapshots, images and machines.
        fail_launch: new launches are refused.
        next_health: what machines that are launched from now on will say.
        sealed: by point, its snapshots by disk, as they were sealed together.
    """

    def __init__(self, *, block: int, volume_step: int, fresh: Unwritten = Unwritten.ZERO) -> None:
        self.block = block
        self.volume_step = volume_step
        self.fresh = fresh
        self.snapshots: dict[str, Snapshot] = {}
        self.images: dict[str, dict[str, str]] = {}
        self.instances: dict[str, Instance] = {}
        self.tokens: dict[tuple[int, int], str] = {}
        self.sealed: dict[int, dict[str, str]] = {}
        self.changes = 0
        self.fail_launch = False
        self.next_health = "ok"
        self.shows = MachineConsole("simulated console")

    def content(self, snapshot_id: str) -> bytes:
        """Bytes of a completed snapshot."""
        return self.snapshots[snapshot_id].writer.content

    # ------------------------------------------------------------------ others

    def lose_snapshot(self) -> None:
        """Somebody deletes the newest snapshot that no image uses."""
        self.changes += 1
        del self.snapshots[self.unused()[-1]]

    def fail_pending(self) -> None:
        """EBS gives up a pending snapshot, as it does after its timeout."""
        self.changes += 1
        self.snapshots[self.pending()[-1]].failed = True

    def pending(self) -> list[str]:
        """Snapshots under construction, oldest first."""
        return [n for n, s in self.snapshots.items() if _state(s) is SnapshotState.PENDING]

    def unused(self) -> list[str]:
        """Snapshots that no image uses, oldest first."""
        used = {snapshot for image in self.images.values() for snapshot in image.values()}
        return [name for name in self.snapshots if name not in used]

    # ------------------------------------------------------------------ snapshots

    def preflight(self, vm: SourceVm) -> Sequence[Check]:
        """See ``CloudTarget.preflight``."""
        return [Check("simulated cloud", ok=True, found="ready")]

    def volume_size(self, disk_size: int) -> int:
        """See ``CloudTarget.volume_size``."""
        return round_up(disk_size, self.volume_step)

    def begin_snapshot(self, seq: int, disk: VmDisk, parent: SnapshotRef | None) -> SnapshotRef:
        """See ``CloudTarget.begin_snapshot``; found again by point, disk and parent."""
        size = self.volume_size(disk.size)
        if parent is not None and size > parent.size:
            raise TargetError(f"disk {disk.id} no longer fits the volume of {parent.id}")
        wanted = (seq, disk.id, parent.id if parent else None)
        same = [s for s in self.snapshots.values() if (s.seq, s.disk, s.parent) == wanted]
        alive = [s for s in same if not s.failed]
        if alive:
            return alive[0].ref
        return self._begun(seq, disk, parent, parent.size if parent else size)

    def _begun(self, seq: int, disk: VmDisk, parent: SnapshotRef | None, size: int) -> SnapshotRef:
        base = b""
        if parent is not None:
            if self.snapshot_state(parent.id) is not SnapshotState.COMPLETED:
                raise TargetError(f"parent {parent.id} is not complete")
            base = self.content(parent.id)
        name = f"snap-{disk.id}-{seq}"
        while name in self.snapshots:
            name += "+"
        writer = MemoryWriter(
            size,
            unwritten=self.fresh if parent is None else Unwritten.BASE,
            base=base,
            block_size=self.block,
            max_op_bytes=self.block,
            whole_blocks=True,
            durable_writes=True,
            wants_digests=True,
            concurrency=1,
            identity=name,
        )
        ref = SnapshotRef(name, size)
        self.changes += 1
        self.snapshots[name] = Snapshot(ref, seq, disk.id, parent.id if parent else None, writer)
        return ref

    def snapshot_state(self, snapshot_id: str) -> SnapshotState:
        """See ``CloudTarget.snapshot_state``."""
        found = self.snapshots.get(snapshot_id)
        return SnapshotState.MISSING if found is None else _state(found)

    def writer(self, ref: SnapshotRef, parent: SnapshotRef | None) -> DiskWriter:
        """See ``CloudTarget.writer``."""
        found = self.snapshots.get(ref.id)
        if found is None or found.failed:
            raise TargetError(f"snapshot {ref.id} is gone")
        return found.writer.reopen()

    def reader(self, ref: SnapshotRef) -> DiskReader:
        """See ``CloudTarget.reader``."""
        if self.snapshot_state(ref.id) is not SnapshotState.COMPLETED:
            raise PointLostError(f"snapshot {ref.id} is gone")
        return MemoryReader(self.content(ref.id), identity=ref.id)

    def seal_point(
        self,
        seq: int,
        vm: SourceVm,
        info: PointInfo,
        snapshots: Mapping[str, SnapshotRef],
        taken: float,
    ) -> str:
        """See ``ReplicaTarget.seal_point``; the receipt names the point."""
        for ref in snapshots.values():
            if self.snapshot_state(ref.id) is not SnapshotState.COMPLETED:
                raise TargetError(f"{ref.id} is not complete")
        self.changes += 1
        self.sealed[seq] = {disk: ref.id for disk, ref in snapshots.items()}
        return f"point {seq}"

    def delete_snapshot(self, snapshot_id: str) -> None:
        """See ``CloudTarget.delete_snapshot``."""
        if any(snapshot_id in image.values() for image in self.images.values()):
            raise TargetError(f"{snapshot_id} is in use by an image")
        self.changes += 1
        self.snapshots.pop(snapshot_id, None)

    # ------------------------------------------------------------------ images and machines

    def publish(self, seq: int, vm: SourceVm, snapshots: Mapping[str, SnapshotRef]) -> str:
        """See ``CloudTarget.publish``."""
        for ref in snapshots.values():
            if self.snapshot_state(ref.id) is not SnapshotState.COMPLETED:
                raise TargetError(f"{ref.id} is not complete")
        self.changes += 1
        self.images[f"ami-{seq}"] = {disk: ref.id for disk, ref in snapshots.items()}
        return f"ami-{seq}"

    def unpublish(self, image_id: str) -> None:
        """See ``CloudTarget.unpublish``."""
        self.changes += 1
        self.images.pop(image_id, None)

    def find_volume(self, seq: int, disk: VmDisk) -> str | None:
        """See ``CloudTarget.find_volume``."""
        return None

    def make_volume(self, seq: int, vm: SourceVm, disk: VmDisk, ref: SnapshotRef) -> str:
        """See ``CloudTarget.make_volume``; a complete snapshot is what people make disks of."""
        if self.snapshot_state(ref.id) is not SnapshotState.COMPLETED:
            raise TargetError(f"{ref.id} is not complete")
        return ref.id

    def launch(self, seq: int, attempt: int, image_id: str, vm: SourceVm) -> str:
        """See ``CloudTarget.launch``."""
        name = self.tokens.get((seq, attempt))
        if name is not None:
            if name in self.instances:
                return name
            raise TargetError(f"{name} of this token was terminated")
        if self.fail_launch:
            raise TargetError("no capacity", next_step="try another type")
        image = self.images.get(image_id)
        if image is None:
            raise TransientError(f"image {image_id} is not visible")
        name = f"i-{seq}-{attempt}"
        self.changes += 1
        self.tokens[seq, attempt] = name
        disks = {disk: self.content(snapshot) for disk, snapshot in image.items()}
        self.instances[name] = Instance(image_id, disks, self.next_health)
        return name

    def find_launched(self, seq: int, attempt: int) -> str | None:
        """See ``CloudTarget.find_launched``."""
        name = self.tokens.get((seq, attempt))
        return name if name in self.instances else None

    def health(self, instance_id: str) -> Health:
        """See ``CloudTarget.health``."""
        found = self.instances.get(instance_id)
        state = "failed" if found is None else found.state
        return Health(state, f"simulated: {state}")

    def console(self, instance_id: str) -> MachineConsole:
        """See ``CloudTarget.console``."""
        return self.shows if instance_id in self.instances else MachineConsole()

    def terminate(self, instance_id: str) -> None:
        """See ``CloudTarget.terminate``."""
        self.changes += 1
        self.instances.pop(instance_id, None)

    def owned(self) -> Sequence[str]:
        """See ``CloudTarget.owned``."""
        return sorted([*self.snapshots, *self.images, *self.instances])

    def sweep(self, keep: frozenset[str]) -> Sequence[str]:
        """See ``CloudTarget.sweep``; what a kept thing stands on stays too."""
        gone = [name for name in (*self.instances, *self.images) if name not in keep]
        kept = {s for i, image in self.images.items() if i in keep for s in image.values()}
        gone += [name for name in self.snapshots if name not in keep | kept]
        self.changes += 1
        for name in gone:
            self.instances.pop(name, None)
            self.images.pop(name, None)
            self.snapshots.pop(name, None)
        return gone


def _state(snapshot: Snapshot) -> SnapshotState:
    if snapshot.failed:
        return SnapshotState.FAILED
    return SnapshotState.COMPLETED if snapshot.writer.committed else SnapshotState.PENDING
