"""Full, compare or incremental, and why. Pure; never silent (I9)."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from sealift.endpoints import SnapshotRef, Tracking, TrackingState, VmDisk
from sealift.errors import TrackingLostError


class Mode(Enum):
    """How one disk is synced in one round."""

    INCREMENTAL = "incremental"
    """Only what the hypervisor says changed since the base."""
    COMPARE = "compare"
    """Read everything, send only blocks whose digest differs from the base's."""
    FULL = "full"
    """Read and send everything into a snapshot without parent."""


class Reason(Enum):
    """Why a mode was chosen."""

    TRACKED = "changes are tracked since the last point"
    FIRST_SYNC = "first sync of this VM"
    NEW_DISK = "disk was added to the VM"
    DISK_RESIZED = "disk has another size than at the last point"
    VM_RESTARTED = "the hypervisor process is another one than at the last point"
    BITMAP_MISSING = "the change bitmap is gone"
    BITMAP_INCONSISTENT = "the change bitmap is inconsistent after a crash of the hypervisor"
    BITMAP_STOPPED = "the change bitmap was stopped by someone"
    BASE_GONE = "the last snapshot is gone from the target"
    BASE_UNPROVEN = "the last snapshot could not be proven to hold what was sent"
    TRACKING_WRONG = "the hypervisor called a block unchanged that had changed"
    TAKEN_WHOLE = "the target takes each disk as a whole, and once"


class LossPolicy(Enum):
    """What to do when tracking is lost."""

    COMPARE = "compare"
    FULL = "full"
    STOP = "stop"


@dataclass(frozen=True, slots=True)
class Base:
    """The newest durable point of one disk.

    Attributes:
        disk_id: the disk.
        size: bytes of the source disk then.
        seq: point number.
        boot_id: of the hypervisor process that has tracked it since.
        snapshot: what it became on the target.
        doubt: why the next round may not build on it as usual; None when it may.
    """

    disk_id: str
    size: int
    seq: int
    boot_id: str
    snapshot: SnapshotRef
    doubt: Reason | None = None


@dataclass(frozen=True, slots=True)
class Lineage:
    """The decision for one disk.

    Attributes:
        disk_id: the disk.
        mode: how it is synced.
        reason: why.
        since: point whose changes are read; None unless incremental.
        parent: snapshot that the new one is built on; None when full.
    """

    disk_id: str
    mode: Mode
    reason: Reason
    since: int | None
    parent: SnapshotRef | None


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known when deciding for one disk.

    Attributes:
        disk: as the hypervisor describes it now.
        boot_id: of the hypervisor process now.
        base: the newest durable point of the disk, if any.
        base_complete: whether the target still has that point's snapshot.
        volume_size: bytes of the volume that the disk needs now.
        tracking: our bitmaps of this disk; no point may be open.
        first: whether the whole VM has no durable point yet.
        whole: whether nothing can be built on what the target has.
    """

    disk: VmDisk
    boot_id: str
    base: Base | None
    base_complete: bool
    volume_size: int
    tracking: Sequence[Tracking]
    first: bool
    whole: bool = False


def decide(evidence: Evidence, policy: LossPolicy) -> Lineage:
    """How to sync one disk.

    Raises:
        TrackingLostError: tracking is lost and the policy is to stop, or the disk shrank.
    """
    disk, base = evidence.disk, evidence.base
    if base is None:
        reason = Reason.FIRST_SYNC if evidence.first else Reason.NEW_DISK
        return Lineage(disk.id, Mode.FULL, reason, None, None)
    if evidence.whole:
        return Lineage(disk.id, Mode.FULL, Reason.TAKEN_WHOLE, None, None)
    reason = _reason(evidence, base)
    if reason is Reason.TRACKED:
        return Lineage(disk.id, Mode.INCREMENTAL, reason, base.seq, base.snapshot)
    if policy is LossPolicy.STOP or disk.size < base.size:
        raise TrackingLostError(
            f"disk {disk.id}: {reason.value}",
            next_step="run again with --on-tracking-loss compare (reads everything, sends "
            "only differences) or full",
            disk=disk.id,
            reason=reason.name,
        )
    fits = base.snapshot.size == evidence.volume_size
    unusable = reason in (Reason.BASE_GONE, Reason.BASE_UNPROVEN) or not fits
    if policy is LossPolicy.FULL or unusable:
        return Lineage(disk.id, Mode.FULL, reason, None, None)
    return Lineage(disk.id, Mode.COMPARE, reason, None, base.snapshot)


def _reason(evidence: Evidence, base: Base) -> Reason:
    if not evidence.base_complete:
        return Reason.BASE_GONE
    if base.doubt is not None:
        return base.doubt
    if evidence.disk.size != base.size:
        return Reason.DISK_RESIZED
    if evidence.boot_id != base.boot_id:
        return Reason.VM_RESTARTED
    states = [t.state for t in evidence.tracking if t.since == base.seq]
    if not states:
        return Reason.BITMAP_MISSING
    if states != [TrackingState.RECORDING]:
        inconsistent = TrackingState.INCONSISTENT in states
        return Reason.BITMAP_INCONSISTENT if inconsistent else Reason.BITMAP_STOPPED
    return Reason.TRACKED
