"""The hypervisor port and the cloud port: what a source and a target platform promise.

Both are addressed by values only (migration, sequence number, disk id), never by live
handles, so that a process that was killed and started again drives the same objects.
Every call is idempotent: repeating it after an unknown outcome is always safe.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from sealift.disk import DiskReader, DiskWriter
from sealift.errors import SealiftError, TargetError


class Firmware(Enum):
    """How a machine boots."""

    BIOS = "bios"
    UEFI = "uefi"


@dataclass(frozen=True, slots=True)
class VmDisk:
    """One disk of a source VM.

    Attributes:
        id: stable over restarts of the VM (device id), safe in file and bitmap names.
        size: bytes, as the guest sees them.
        bus: controller in the hypervisor's word: ``virtio-blk``, ``nvme``, ``scsi-hd``.
        boot_index: lower boots first; None when the hypervisor was not told.
        serial: as the guest sees it, or "".
    """

    id: str
    size: int
    bus: str
    boot_index: int | None = None
    serial: str = ""


@dataclass(frozen=True, slots=True)
class Nic:
    """A network card of the source."""

    id: str
    mac: str
    model: str


@dataclass(frozen=True, slots=True)
class SourceVm:
    """What the hypervisor says about a VM now.

    Attributes:
        uuid: of the VM; with ``boot_id`` and the disk ids its identity.
        name: for people.
        boot_id: changes whenever the hypervisor's process is another one, because then
            nothing that it kept in memory (bitmaps, exports) is still there.
        firmware: BIOS or UEFI.
        architecture: ``x86_64`` or ``arm64``.
        vcpus: number of virtual CPUs.
        memory_bytes: guest RAM.
        disks: in device order, boot disk first.
        nics: network cards.
        running: whether the guest executes now.
        guest_agent: whether a guest agent answered.
    """

    uuid: str
    name: str
    boot_id: str
    firmware: Firmware
    architecture: str
    vcpus: int
    memory_bytes: int
    disks: tuple[VmDisk, ...]
    nics: tuple[Nic, ...] = ()
    running: bool = True
    guest_agent: bool = False


class TrackingState(Enum):
    """What the hypervisor says about one of our bitmaps."""

    RECORDING = "recording"
    STOPPED = "stopped"
    """Kept, but not recording: legal only while the point after it is open."""
    INCONSISTENT = "inconsistent"


@dataclass(frozen=True, slots=True)
class Tracking:
    """One bitmap of this migration: the changes of ``disk_id`` since point ``since``.

    Attributes:
        disk_id: the disk.
        since: sequence number of the point whose changes it records.
        state: whether it may be trusted.
        dirty_bytes: what it counts now, rounded up to its granularity.
    """

    disk_id: str
    since: int
    state: TrackingState
    dirty_bytes: int


class Consistency(Enum):
    """What a restored point is equal to, from the guest's view."""

    FILESYSTEM = "filesystem"
    """File systems were frozen by the guest agent at the instant, or the guest was shut down."""
    CRASH = "crash"
    """As after a power cut; several disks still show one instant."""


@dataclass(frozen=True, slots=True)
class PointInfo:
    """A point in time over all disks of a VM that is open for reading.

    Attributes:
        seq: its number, unique in the migration.
        boot_id: of the hypervisor process that holds it.
        consistency: see ``Consistency``.
        note: one sentence for people, e.g. why nothing was frozen.
        pause_seconds: how long the guest did not run for it.
        disks: disk ids it covers.
        bases: per disk the point since which its reader knows the changes; None = full.
    """

    seq: int
    boot_id: str
    consistency: Consistency
    note: str
    pause_seconds: float
    disks: tuple[str, ...]
    bases: Mapping[str, int | None] = field(default_factory=dict)


class Fenced(Enum):
    """Answer to "is the source provably not running?". UNKNOWN counts as running (I10)."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


class Hypervisor(Protocol):
    """The source's side. Whatever fails here never stops or slows the guest beyond policy.

    Bitmaps mean "changes since point N" and carry migration and N in their name, so what
    they cover never depends on local state. Objects of others are never touched.

    All calls may raise ``SourceError`` and ``TransientError``.
    """

    def describe(self) -> SourceVm:
        """The VM as it is now."""

    def tracking(self) -> Sequence[Tracking]:
        """Our bitmaps, all disks, whatever their state."""

    def open_point(self, seq: int, bases: Mapping[str, int | None]) -> PointInfo:
        """Freeze one instant over all disks of ``bases`` and make it readable.

        Atomically over all disks: the bitmap since ``bases[disk]`` stops, a new one since
        ``seq`` starts, the instant becomes readable. When the point is already open it is
        returned as it is. When it was left half open by a crash it is first aborted.

        Raises:
            TrackingLostError: a bitmap of ``bases`` is missing or inconsistent; nothing
                has changed on the source.
        """

    def find_point(self, seq: int) -> PointInfo | None:
        """The point, if it is completely open and its bytes can still be read."""

    def reader(self, seq: int, disk_id: str) -> DiskReader:
        """Read one disk of an open point; incremental when its base is not None.

        Raises:
            PointLostError: the point is not open or no longer readable.
        """

    def commit_point(self, seq: int) -> None:
        """Close the point and forget changes before it; only called once durable (I4)."""

    def abort_point(self, seq: int) -> None:
        """Close the point and merge its bitmaps back: no changed block is ever forgotten (I4).

        Afterwards tracking is as if the point had never been opened. Works for points that
        are half open, lost or unknown.
        """

    def forget(self) -> None:
        """Remove every object of this migration from the source and lift its throttle."""

    def throttle(self, write_bytes_per_second: int | None) -> None:
        """Limit the guest's writes over all disks; None lifts the limit."""

    def shutdown(self, timeout_seconds: float) -> bool:
        """Ask the guest to power off; the disks stay readable. False when it did not in time."""

    def pause(self) -> None:
        """Stop the guest's processors; reversible by ``resume``."""

    def fence(self, seq: int | None = None) -> Fenced:
        """Whether the guest provably cannot write.

        Args:
            seq: also require that nothing was written since this point was opened.
        """

    def resume(self) -> None:
        """Put the source back to work, whether it was paused or shut down (I10).

        Returns only when the guest runs again, without our throttle.
        """

    def close(self) -> None:
        """Free connections. What is open on the source stays."""


@dataclass(frozen=True, slots=True)
class SnapshotRef:
    """A completed disk in the target cloud that can be the parent of the next one.

    Attributes:
        id: the cloud's name of it.
        size: bytes of the volume it makes; at least the source disk's size.
    """

    id: str
    size: int


class SnapshotState(Enum):
    """Where a snapshot under construction stands, by the cloud's word."""

    PENDING = "pending"
    COMPLETED = "completed"
    FAILED = "failed"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Check:
    """One line of a preflight.

    Attributes:
        name: what was looked at.
        ok: False stops a migration; a warning is ok with a text in ``next_step``.
        found: what was there.
        next_step: what to do, when not ok.
        error: what a failure is, for the exit code.
    """

    name: str
    ok: bool
    found: str
    next_step: str = ""
    error: type[SealiftError] = TargetError


@dataclass(frozen=True, slots=True)
class Health:
    """What the cloud says about a launched machine.

    Attributes:
        state: "pending" (ask again), "ok" or "failed".
        detail: the cloud's own words.
    """

    state: str
    detail: str


@dataclass(frozen=True, slots=True)
class MachineConsole:
    """What a launched machine shows; whoever controls the guest controls it.

    Attributes:
        text: of its serial console, the newest part; "" when the cloud has none.
        screen: PNG or JPEG of its screen; None when the cloud has none.
    """

    text: str = ""
    screen: bytes | None = None


class ReplicaTarget(Protocol):
    """Where points in time of a VM are kept. Everything it makes carries the migration's id.

    All calls may raise ``TargetError``, ``CredentialsError``, ``QuotaError``,
    ``TransientError``; retrying is the caller's.
    """

    def begin_snapshot(self, seq: int, disk: VmDisk, parent: SnapshotRef | None) -> SnapshotRef:
        """Start (or find) the snapshot of one disk of one point; idempotent by client token.

        A parent whose volume size no longer fits is refused with ``TargetError``.
        """

    def snapshot_state(self, snapshot_id: str) -> SnapshotState:
        """Where a snapshot stands."""

    def writer(self, ref: SnapshotRef, parent: SnapshotRef | None) -> DiskWriter:
        """The writer of a pending snapshot, also after a restart."""

    def reader(self, ref: SnapshotRef) -> DiskReader:
        """Read a completed snapshot back, to prove what landed."""

    def volume_size(self, disk_size: int) -> int:
        """Bytes of the volume that a disk of ``disk_size`` bytes needs."""

    def seal_point(
        self,
        seq: int,
        vm: SourceVm,
        info: PointInfo,
        snapshots: Mapping[str, SnapshotRef],
        taken: float,
    ) -> str:
        """Make the whole point visible as one: every disk of it is complete (I3, I6).

        Idempotent: sealing a sealed point again changes nothing and answers the same. Called
        before the point is booked as durable, so a point that was sealed by a run that was
        killed then may be given up afterwards; it is whole all the same.

        Args:
            seq: number of the point.
            vm: the machine as it was when the point was planned.
            info: the point as the source opened it.
            snapshots: by disk id, completed, all disks of the point.
            taken: seconds of the epoch, at most moments before the instant.

        Returns:
            A receipt in one line: what proves later that this point was there. "" where the
            target has none to give.

        Raises:
            TargetError: a snapshot is not complete; nothing is visible.
        """

    def delete_snapshot(self, snapshot_id: str) -> None:
        """Let go of it; fine when it is gone already.

        A target that keeps points by a policy of its own frees what was pending only.
        """

    def owned(self) -> Sequence[str]:
        """Ids of what a replication with this id has made and another one would trip over."""

    def sweep(self, keep: frozenset[str]) -> Sequence[str]:
        """Remove what ``owned`` names except ``keep``; what was removed."""


class CloudTarget(ReplicaTarget, Protocol):
    """A target whose points can become machines."""

    def preflight(self, vm: SourceVm) -> Sequence[Check]:
        """What would stop this VM from arriving; makes nothing."""

    def publish(self, seq: int, vm: SourceVm, snapshots: Mapping[str, SnapshotRef]) -> str:
        """Register (or find) the image of a point, all disks in device order; its id."""

    def unpublish(self, image_id: str) -> None:
        """Deregister it; the snapshots stay."""

    def find_volume(self, seq: int, disk: VmDisk) -> str | None:
        """What ``make_volume`` made of a point, when it is whole; None when it has to be called."""

    def make_volume(self, seq: int, vm: SourceVm, disk: VmDisk, ref: SnapshotRef) -> str:
        """Make (or find) of a completed disk what people attach to machines; its id.

        Where that is another thing than the snapshot, the snapshot goes: the bytes are there
        once. After a refusal the snapshot is there still and nothing else of it.

        Raises:
            TargetError: the cloud refuses.
            TransientError: unknown whether it is there; repeat it.
        """

    def launch(self, seq: int, attempt: int, image_id: str, vm: SourceVm) -> str:
        """Start (or find) the machine of this attempt; its id.

        Raises:
            CredentialsError, TargetDeniedError: says nothing of whether there is one.
            TargetError: any other; there is certainly none (I10).
            TransientError: unknown whether there is one.
        """

    def find_launched(self, seq: int, attempt: int) -> str | None:
        """The machine of this attempt, if one was ever launched; starts none.

        Waits for as long as a new machine may be invisible before it says that there is none.
        """

    def health(self, instance_id: str) -> Health:
        """Whether it came up."""

    def console(self, instance_id: str) -> MachineConsole:
        """What it shows now; empty where the cloud shows nothing. For people only."""

    def terminate(self, instance_id: str) -> None:
        """End it and wait until it is provably gone; fine when it is gone already.

        Raises:
            TransientError: it is not known to be gone yet.
        """
