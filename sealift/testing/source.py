"""A hypervisor in memory that keeps bitmaps as QEMU does, and refuses what QEMU refuses."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from sealift.disk import DiskReader
from sealift.endpoints import (
    Consistency,
    Fenced,
    Firmware,
    PointInfo,
    SourceVm,
    Tracking,
    TrackingState,
    VmDisk,
)
from sealift.errors import PointLostError, SourceError, TrackingLostError
from sealift.extents import Extent, Kind, coalesce
from sealift.testing.memory import MemoryReader

_UUID = "11111111-2222-3333-4444-555555555555"


@dataclass
class Bitmap:
    """Changed granules since a point."""

    granules: set[int] = field(default_factory=set)
    recording: bool = True


@dataclass
class Point:
    """An instant that is open for reading."""

    bases: dict[str, int | None]
    frozen: dict[str, bytes]
    dirty: dict[str, set[int]]
    opening: int
    lost: bool = False


class SimulatedHypervisor:
    """A VM whose disks are byte arrays.

    Args:
        disks: content by disk id, in device order.
        granule: bytes that one bit of a bitmap stands for.

    Attributes:
        instants: what every disk held when a point was last opened, for the model.
        changes: counts everything that happens to disks, bitmaps and points.
        lies: (disk, granule) that a bitmap was made to forget.
    """

    def __init__(self, disks: Mapping[str, bytes], *, granule: int) -> None:
        self.disks = {name: bytearray(content) for name, content in disks.items()}
        self.granule = granule
        self.boot_id = "boot-1"
        self.running = True
        self.powered_off = False
        self.throttled: int | None = None
        self.bitmaps: dict[tuple[str, int], Bitmap] = {}
        self.points: dict[int, Point] = {}
        self.refuses_shutdown = False
        self.instants: dict[tuple[int, str], bytes] = {}
        self.lies: set[tuple[str, int]] = set()
        self.changes = 0
        self._openings = 0

    # ------------------------------------------------------------------ the guest and others

    def guest_write(self, disk_id: str, offset: int, data: bytes) -> None:
        """The guest writes; only a running guest can."""
        if not self.running:
            raise AssertionError("a stopped guest does not write")
        self.changes += 1
        self.disks[disk_id][offset : offset + len(data)] = data
        first, last = offset // self.granule, (offset + len(data) - 1) // self.granule
        touched = range(first, last + 1)
        self.lies -= {(disk_id, granule) for granule in touched}
        for (disk, _), bitmap in self.bitmaps.items():
            if disk == disk_id and bitmap.recording:
                bitmap.granules.update(touched)

    def restart(self) -> None:
        """The hypervisor's process is killed and started again: all it kept in memory is gone."""
        self.changes += 1
        self.boot_id = f"boot-{int(self.boot_id.split('-')[1]) + 1}"
        self.bitmaps.clear()
        self.points.clear()
        self.running, self.powered_off, self.throttled = True, False, None

    def start(self) -> None:
        """Somebody puts the stopped machine back to work."""
        self.running, self.powered_off = True, False

    def grow(self, length: int) -> None:
        """The last disk grows; the bitmaps of a resized disk keep their marks."""
        self.changes += 1
        list(self.disks.values())[-1].extend(bytes(length))

    def lose_points(self) -> None:
        """What the guest overwrites can no longer be kept: open points break."""
        for point in self.points.values():
            point.lost = True

    def drop_bitmap(self) -> None:
        """Somebody removes the newest bitmap that is not in use by a point."""
        self.changes += 1
        del self.bitmaps[max(self._idle_bitmaps(), key=lambda key: key[1])]

    def stop_bitmap(self) -> None:
        """Somebody stops the newest bitmap that is not in use by a point."""
        self.changes += 1
        self.bitmaps[max(self._idle_bitmaps(), key=lambda key: key[1])].recording = False

    def _idle_bitmaps(self) -> list[tuple[str, int]]:
        return [key for key, bitmap in self.bitmaps.items() if bitmap.recording]

    def lie(self) -> None:
        """A recording bitmap forgets one changed granule, as tracking with a defect does."""
        disk = next(key[0] for key, b in sorted(self.bitmaps.items()) if b.recording and b.granules)
        self.changes += 1
        granule = min(g for (d, _), b in self.bitmaps.items() if d == disk for g in b.granules)
        for (other, _), each in self.bitmaps.items():
            if other == disk:
                each.granules.discard(granule)
        self.lies.add((disk, granule))

    # ------------------------------------------------------------------ Hypervisor

    def describe(self) -> SourceVm:
        """See ``Hypervisor.describe``."""
        disks = tuple(VmDisk(name, len(data), "virtio-blk") for name, data in self.disks.items())
        return SourceVm(
            uuid=_UUID,
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
        """See ``Hypervisor.open_point``; as QEMU does, it refuses a second open point."""
        open_already = self.points.get(seq)
        if open_already is not None and not open_already.lost and open_already.bases == bases:
            return self._info(seq)
        self.abort_point(seq)
        for disk, since in bases.items():
            self._check_base(disk, since)
        self.changes += 1
        dirty = {}
        for disk, since in bases.items():
            if since is not None:
                old = self.bitmaps[disk, since]
                old.recording = False
                dirty[disk] = set(old.granules)
            for key in [k for k, b in self.bitmaps.items() if k[0] == disk and k[1] != since]:
                if not self.bitmaps[key].recording:
                    del self.bitmaps[key]  # one that somebody else stopped is of no use
            self.bitmaps[disk, seq] = Bitmap()
        frozen = {disk: bytes(self.disks[disk]) for disk in bases}
        self.instants.update({(seq, disk): content for disk, content in frozen.items()})
        self._openings += 1
        self.points[seq] = Point(dict(bases), frozen, dirty, self._openings)
        return self._info(seq)

    def _check_base(self, disk: str, since: int | None) -> None:
        if disk not in self.disks:
            raise SourceError(f"the VM has no disk {disk} any more")
        if any(disk in point.bases for point in self.points.values()):
            raise SourceError(f"disk {disk}: another point is open on it")
        if since is None:
            return
        if any(d == disk and s > since for d, s in self.bitmaps):
            raise SourceError(f"disk {disk}: a point was opened and never closed")
        bitmap = self.bitmaps.get((disk, since))
        if bitmap is None or not bitmap.recording:
            raise TrackingLostError(f"no recording bitmap of {disk} since {since}")

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
        if point is None or point.lost or disk_id not in point.frozen:
            raise PointLostError(f"point {seq} is not open")
        content = point.frozen[disk_id]
        dirty = point.dirty.get(disk_id)
        return _PointReader(
            point,
            MemoryReader(
                content,
                extents=list(_extents(content, dirty, self.granule)),
                incremental=dirty is not None,
                identity=f"{self.boot_id}:{seq}:{point.opening}:{disk_id}",
            ),
        )

    def commit_point(self, seq: int) -> None:
        """See ``Hypervisor.commit_point``."""
        self.changes += 1
        self.points.pop(seq, None)
        alive = {d for (d, s), b in self.bitmaps.items() if s == seq and b.recording}
        self.bitmaps = {
            (d, s): b for (d, s), b in self.bitmaps.items() if s >= seq or d not in alive
        }

    def abort_point(self, seq: int) -> None:
        """See ``Hypervisor.abort_point``."""
        self.changes += 1
        self.points.pop(seq, None)
        for disk, since in [k for k in self.bitmaps if k[1] == seq]:
            newer = self.bitmaps.pop((disk, since))
            older = [k for k in self.bitmaps if k[0] == disk and k[1] < seq]
            if not older:
                continue
            key = max(older, key=lambda k: k[1])
            if not newer.recording:
                del self.bitmaps[key]  # what misses changes must not look whole (I9)
                continue
            self.bitmaps[key].granules |= newer.granules
            self.bitmaps[key].recording = True

    def forget(self) -> None:
        """See ``Hypervisor.forget``."""
        self.changes += 1
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
        if seq is None:
            return Fenced.YES
        for disk in self.disks:
            bitmap = self.bitmaps.get((disk, seq))
            if bitmap is None or not bitmap.recording:
                return Fenced.UNKNOWN
            if bitmap.granules:
                return Fenced.NO
        return Fenced.YES

    def resume(self) -> None:
        """See ``Hypervisor.resume``."""
        self.running, self.powered_off, self.throttled = True, False, None

    def close(self) -> None:
        """See ``Hypervisor.close``."""


class _PointReader:
    """A reader that fails from the moment its point is gone, as an export does."""

    def __init__(self, point: Point, reader: MemoryReader) -> None:
        self._point = point
        self._reader = reader
        self.size, self.identity = reader.size, reader.identity
        self.incremental = reader.incremental

    def _check(self) -> None:
        if self._point.lost:
            raise PointLostError("the point is no longer readable")

    def extents(self, start: int, length: int) -> Iterator[Extent]:
        """See ``DiskReader.extents``."""
        self._check()
        return self._reader.extents(start, length)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """See ``DiskReader.read_into``."""
        self._check()
        self._reader.read_into(offset, buffer)

    def close(self) -> None:
        """See ``DiskReader.close``."""
        self._reader.close()


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
