"""A hypervisor, a cloud and local state in memory, as strict as their contracts allow.

With ``VirtualClock`` and ``InlineExecutor`` a whole migration runs in one thread. The
simulated hypervisor keeps bitmaps as QEMU does (granules, stopped and recording ones,
merging back); the simulated cloud keeps snapshots as EBS does (parents, pending and
completed, refusing late writes).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from sealift.disk import DiskReader, DiskWriter, Unwritten
from sealift.endpoints import (
    Check,
    Consistency,
    Fenced,
    Firmware,
    Health,
    MachineConsole,
    PointInfo,
    SnapshotRef,
    SnapshotState,
    SourceVm,
    Tracking,
    TrackingState,
    VmDisk,
)
from sealift.errors import PointLostError, TargetError, TrackingLostError
from sealift.extents import Extent, Kind, coalesce
from sealift.testing.memory import MemoryReader, MemoryWriter
from sealift.units import round_up


class MemoryStateStore:
    """Local state in memory; survives a simulated kill, as files do."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.logs: dict[str, list[bytes]] = {}

    def load(self, name: str) -> bytes | None:
        """See ``StateStore.load``."""
        return self.values.get(name)

    def save(self, name: str, data: bytes) -> None:
        """See ``StateStore.save``."""
        self.values[name] = data

    def delete(self, name: str) -> None:
        """See ``StateStore.delete``."""
        self.values.pop(name, None)
        self.logs.pop(name, None)

    def names(self) -> frozenset[str]:
        """See ``StateStore.names``."""
        return frozenset(self.values) | frozenset(self.logs)

    def log(self, name: str) -> "MemoryLog":
        """See ``StateStore.log``."""
        return MemoryLog(self.logs.setdefault(name, []))


class MemoryLog:
    """An append-only log in memory."""

    def __init__(self, stored: list[bytes]) -> None:
        self._stored = stored

    def records(self) -> Iterator[bytes]:
        """See ``AppendLog.records``."""
        return iter(list(self._stored))

    def append(self, payload: bytes) -> None:
        """See ``AppendLog.append``."""
        self._stored.append(payload)

    def sync(self) -> None:
        """See ``AppendLog.sync``."""

    def close(self) -> None:
        """See ``AppendLog.close``."""


@dataclass
class _Bitmap:
    granules: set[int] = field(default_factory=set)
    recording: bool = True


@dataclass
class _Point:
    bases: dict[str, int | None]
    frozen: dict[str, bytes]
    dirty: dict[str, set[int]]
    lost: bool = False


class SimulatedHypervisor:
    """A VM whose disks are byte arrays.

    Args:
        disks: content by disk id, in device order.
        granule: bytes that one bit of a bitmap stands for.
    """

    def __init__(self, disks: Mapping[str, bytes], *, granule: int) -> None:
        self.disks = {name: bytearray(content) for name, content in disks.items()}
        self.granule = granule
        self.boot_id = "boot-1"
        self.running = True
        self.powered_off = False
        self.throttled: int | None = None
        self.bitmaps: dict[tuple[str, int], _Bitmap] = {}
        self.points: dict[int, _Point] = {}
        self.refuses_shutdown = False

    # ------------------------------------------------------------------ the guest

    def guest_write(self, disk_id: str, offset: int, data: bytes) -> None:
        """The guest writes; only a running guest can."""
        if not self.running:
            raise AssertionError("a stopped guest does not write")
        self.disks[disk_id][offset : offset + len(data)] = data
        first, last = offset // self.granule, (offset + len(data) - 1) // self.granule
        for (disk, _), bitmap in self.bitmaps.items():
            if disk == disk_id and bitmap.recording:
                bitmap.granules.update(range(first, last + 1))

    def restart(self) -> None:
        """The hypervisor's process is killed and started again: all it kept in memory is gone."""
        self.boot_id = f"boot-{int(self.boot_id.split('-')[1]) + 1}"
        self.bitmaps.clear()
        self.points.clear()
        self.running, self.powered_off, self.throttled = True, False, None

    # ------------------------------------------------------------------ Hypervisor

    def describe(self) -> SourceVm:
        """See ``Hypervisor.describe``."""
        disks = tuple(VmDisk(name, len(data), "virtio-blk") for name, data in self.disks.items())
        return SourceVm(
            uuid="11111111-2222-3333-4444-555555555555",
            name="simulated",
            boot_id=self.boot_id,
            firmware=Firmware.BIOS,
            architecture="x86_64",
            vcpus=2,
            memory_bytes=1 << 30,
            disks=disks,
            running=self.running,
        )

    def tracking(self) -> Sequence[Tracking]:
        """See ``Hypervisor.tracking``."""
        return [
            Tracking(
                disk,
                since,
                TrackingState.RECORDING if b.recording else TrackingState.STOPPED,
                len(b.granules) * self.granule,
            )
            for (disk, since), b in sorted(self.bitmaps.items())
        ]

    def open_point(self, seq: int, bases: Mapping[str, int | None]) -> PointInfo:
        """See ``Hypervisor.open_point``."""
        if seq not in self.points:
            for disk, since in bases.items():
                if since is not None and (disk, since) not in self.bitmaps:
                    raise TrackingLostError(f"no bitmap of {disk} since {since}")
            dirty = {}
            for disk, since in bases.items():
                if since is not None:
                    old = self.bitmaps[disk, since]
                    old.recording = False
                    dirty[disk] = set(old.granules)
                self.bitmaps[disk, seq] = _Bitmap()
            frozen = {disk: bytes(self.disks[disk]) for disk in bases}
            self.points[seq] = _Point(dict(bases), frozen, dirty)
        return self._info(seq)

    def _info(self, seq: int) -> PointInfo:
        point = self.points[seq]
        return PointInfo(
            seq, self.boot_id, Consistency.CRASH, "simulated", 0.0, tuple(point.bases), point.bases
        )

    def find_point(self, seq: int) -> PointInfo | None:
        """See ``Hypervisor.find_point``."""
        point = self.points.get(seq)
        return None if point is None or point.lost else self._info(seq)

    def reader(self, seq: int, disk_id: str) -> DiskReader:
        """See ``Hypervisor.reader``."""
        point = self.points.get(seq)
        if point is None or point.lost:
            raise PointLostError(f"point {seq} is not open")
        content = point.frozen[disk_id]
        dirty = point.dirty.get(disk_id)
        return MemoryReader(
            content,
            extents=list(_extents(content, dirty, self.granule)),
            incremental=dirty is not None,
            identity=f"{self.boot_id}:{seq}:{disk_id}",
        )

    def commit_point(self, seq: int) -> None:
        """See ``Hypervisor.commit_point``."""
        self.points.pop(seq, None)
        self.bitmaps = {k: b for k, b in self.bitmaps.items() if k[1] >= seq}

    def abort_point(self, seq: int) -> None:
        """See ``Hypervisor.abort_point``."""
        self.points.pop(seq, None)
        for disk, since in [k for k in self.bitmaps if k[1] == seq]:
            newer = self.bitmaps.pop((disk, since))
            older = [k for k in self.bitmaps if k[0] == disk]
            if older:
                base = self.bitmaps[max(older, key=lambda k: k[1])]
                base.granules |= newer.granules
                base.recording = True

    def forget(self) -> None:
        """See ``Hypervisor.forget``."""
        self.points.clear()
        self.bitmaps.clear()
        self.throttled = None

    def throttle(self, write_bytes_per_second: int | None) -> None:
        """See ``Hypervisor.throttle``."""
        self.throttled = write_bytes_per_second

    def shutdown(self, timeout_seconds: float) -> bool:
        """See ``Hypervisor.shutdown``."""
        if self.refuses_shutdown:
            return False
        self.running, self.powered_off = False, True
        return True

    def pause(self) -> None:
        """See ``Hypervisor.pause``."""
        self.running = False

    def fence(self, seq: int | None = None) -> Fenced:
        """See ``Hypervisor.fence``."""
        if self.running:
            return Fenced.NO
        written = any(b.granules for (_, since), b in self.bitmaps.items() if since == seq)
        return Fenced.NO if written else Fenced.YES

    def resume(self) -> None:
        """See ``Hypervisor.resume``."""
        self.running, self.powered_off, self.throttled = True, False, None

    def close(self) -> None:
        """See ``Hypervisor.close``."""


def _extents(content: bytes, dirty: set[int] | None, granule: int) -> Iterator[Extent]:
    def each() -> Iterator[Extent]:
        for start in range(0, len(content), granule):
            part = content[start : start + granule]
            if dirty is not None and start // granule not in dirty:
                kind = Kind.CLEAN
            else:
                kind = Kind.DATA if any(part) else Kind.ZERO
            yield Extent(start, len(part), kind)

    return coalesce(each())


@dataclass
class _Snapshot:
    ref: SnapshotRef
    parent: str | None
    writer: MemoryWriter


@dataclass
class _Instance:
    image: str
    disks: dict[str, bytes]
    state: str = "ok"


class SimulatedCloud:
    """Snapshots, images and machines in memory.

    Args:
        block: bytes of a snapshot's block.
        volume_step: volumes are multiples of it, sources need not be.
    """

    def __init__(self, *, block: int, volume_step: int) -> None:
        self.block = block
        self.volume_step = volume_step
        self.snapshots: dict[str, _Snapshot] = {}
        self.images: dict[str, dict[str, str]] = {}
        self.instances: dict[str, _Instance] = {}
        self.writes = 0
        self.fail_launch = False
        self.next_health = "ok"
        self.shows = MachineConsole("simulated console")

    def content(self, snapshot_id: str) -> bytes:
        """Bytes of a completed snapshot."""
        return self.snapshots[snapshot_id].writer.content

    def preflight(self, vm: SourceVm) -> Sequence[Check]:
        """See ``CloudTarget.preflight``."""
        return [Check("simulated cloud", ok=True, found="ready")]

    def volume_size(self, disk_size: int) -> int:
        """See ``CloudTarget.volume_size``."""
        return round_up(disk_size, self.volume_step)

    def begin_snapshot(self, seq: int, disk: VmDisk, parent: SnapshotRef | None) -> SnapshotRef:
        """See ``CloudTarget.begin_snapshot``."""
        name = f"snap-{disk.id}-{seq}"
        if name not in self.snapshots:
            size = self.volume_size(disk.size)
            base = b""
            if parent is not None:
                if self.snapshot_state(parent.id) is not SnapshotState.COMPLETED:
                    raise TargetError(f"parent {parent.id} is not complete")
                base = self.content(parent.id)
            writer = MemoryWriter(
                size,
                unwritten=Unwritten.ZERO if parent is None else Unwritten.BASE,
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
            self.snapshots[name] = _Snapshot(ref, parent.id if parent else None, writer)
        return self.snapshots[name].ref

    def snapshot_state(self, snapshot_id: str) -> SnapshotState:
        """See ``CloudTarget.snapshot_state``."""
        found = self.snapshots.get(snapshot_id)
        if found is None:
            return SnapshotState.MISSING
        return SnapshotState.COMPLETED if found.writer.committed else SnapshotState.PENDING

    def writer(self, ref: SnapshotRef, parent: SnapshotRef | None) -> DiskWriter:
        """See ``CloudTarget.writer``."""
        return self.snapshots[ref.id].writer.reopen()

    def reader(self, ref: SnapshotRef) -> DiskReader:
        """See ``CloudTarget.reader``."""
        return MemoryReader(self.content(ref.id), identity=ref.id)

    def delete_snapshot(self, snapshot_id: str) -> None:
        """See ``CloudTarget.delete_snapshot``."""
        if any(snapshot_id in image.values() for image in self.images.values()):
            raise TargetError(f"{snapshot_id} is in use by an image")
        self.snapshots.pop(snapshot_id, None)

    def publish(self, seq: int, vm: SourceVm, snapshots: Mapping[str, SnapshotRef]) -> str:
        """See ``CloudTarget.publish``."""
        for ref in snapshots.values():
            if self.snapshot_state(ref.id) is not SnapshotState.COMPLETED:
                raise TargetError(f"{ref.id} is not complete")
        self.images[f"ami-{seq}"] = {disk: ref.id for disk, ref in snapshots.items()}
        return f"ami-{seq}"

    def unpublish(self, image_id: str) -> None:
        """See ``CloudTarget.unpublish``."""
        self.images.pop(image_id, None)

    def launch(self, seq: int, attempt: int, image_id: str, vm: SourceVm) -> str:
        """See ``CloudTarget.launch``."""
        if self.fail_launch:
            raise TargetError("no capacity", next_step="try another type")
        name = f"i-{seq}-{attempt}"
        disks = {disk: self.content(snap) for disk, snap in self.images[image_id].items()}
        self.instances.setdefault(name, _Instance(image_id, disks, self.next_health))
        return name

    def health(self, instance_id: str) -> Health:
        """See ``CloudTarget.health``."""
        state = self.instances[instance_id].state
        return Health(state, f"simulated: {state}")

    def console(self, instance_id: str) -> MachineConsole:
        """See ``CloudTarget.console``."""
        return self.shows if instance_id in self.instances else MachineConsole()

    def terminate(self, instance_id: str) -> None:
        """See ``CloudTarget.terminate``."""
        self.instances.pop(instance_id, None)

    def owned(self) -> Sequence[str]:
        """See ``CloudTarget.owned``."""
        return sorted([*self.snapshots, *self.images, *self.instances])

    def sweep(self, keep: frozenset[str]) -> Sequence[str]:
        """See ``CloudTarget.sweep``."""
        gone = [name for name in self.owned() if name not in keep]
        for name in gone:
            self.instances.pop(name, None)
            self.images.pop(name, None)
            self.snapshots.pop(name, None)
        return gone


def running_machines(hypervisor: SimulatedHypervisor, cloud: SimulatedCloud) -> int:
    """How many copies of the machine run now; more than one breaks I10."""
    return int(hypervisor.running) + len(cloud.instances)
