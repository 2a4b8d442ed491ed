"""One round: freeze an instant, make the target equal to it, then let go of what came before."""

from functools import partial

from sealift.disk_sync import sync_disk_here
from sealift.endpoints import PointInfo, SnapshotRef, SnapshotState, SourceVm
from sealift.errors import (
    CredentialsError,
    LockedError,
    PointLostError,
    SourceError,
    TargetDeniedError,
    TargetError,
)
from sealift.ledger import Ledger
from sealift.lineage import Evidence, Lineage, Reason, decide
from sealift.migration import (
    DiskRound,
    Migration,
    Round,
    disk_synced,
    doubted,
    garbage_removed,
    point_opened,
    round_aborted,
    round_closed,
    round_durable,
    round_planned,
    round_record,
    snapshot_begun,
)
from sealift.ports import DiskDone, DiskJob, DiskOrder, ReplicaPorts
from sealift.progress import Note, Noted
from sealift.units import format_size


class Rounds:
    """The effects of a round; each method is one action and ends with a saved event."""

    def __init__(self, ports: ReplicaPorts, ledger: Ledger) -> None:
        self._ports = ports
        self._ledger = ledger
        self._retry = ports.context.retrier()
        self._planned: dict[int, float] = {}

    # ------------------------------------------------------------------ planning

    def plan(self, *, final: bool) -> None:
        """Decide for each disk how it is synced, and take a number for the point."""
        vm = self._retry.call(self._ports.hypervisor.describe)
        self._same_vm(vm)
        tracking = self._retry.call(self._ports.hypervisor.tracking)
        dirty = {(t.disk_id, t.since): t.dirty_bytes for t in tracking}
        disks = []
        for evidence in self.evidence(vm):
            lineage = decide(evidence, self._ports.policy.on_tracking_loss)
            self._announce(lineage)
            changed = dirty.get((lineage.disk_id, lineage.since or 0), evidence.disk.size)
            disks.append(DiskRound(lineage, evidence.disk.size, changed))
        clock = self._ports.context.clock
        at = clock.now().timestamp()
        self._planned[self._ledger.now.next_seq] = clock.monotonic()
        self._ledger.record(lambda m: round_planned(m, vm, tuple(disks), final=final, at=at))

    def _same_vm(self, vm: SourceVm) -> None:
        m = self._ledger.now
        if vm.uuid != m.vm_uuid:
            raise SourceError(
                f"this is VM {vm.name} ({vm.uuid}), the migration belongs to "
                f"{m.vm_name} ({m.vm_uuid})",
                next_step="point the plan at the right hypervisor socket",
            )
        if not vm.disks:
            raise SourceError(f"VM {vm.name} has no writable disk", next_step="nothing to migrate")

    def evidence(self, vm: SourceVm) -> list[Evidence]:
        """What is known of each disk now; nothing is made or recorded."""
        m, target = self._ledger.now, self._ports.target
        tracking = self._retry.call(self._ports.hypervisor.tracking)
        found = []
        for disk in vm.disks:
            base = m.base(disk.id)
            complete = base is not None and self._complete(base.snapshot)
            ours = [t for t in tracking if t.disk_id == disk.id]
            size = target.volume_size(disk.size)
            whole = self._ports.policy.one_shot
            found.append(Evidence(disk, vm.boot_id, base, complete, size, ours, not m.bases, whole))
        return found

    def _complete(self, ref: SnapshotRef) -> bool:
        state = self._retry.call(lambda: self._ports.target.snapshot_state(ref.id))
        return state is SnapshotState.COMPLETED

    def _announce(self, lineage: Lineage) -> None:
        if lineage.reason not in (Reason.TRACKED, Reason.FIRST_SYNC):
            text = f"disk {lineage.disk_id}: {lineage.reason.value}; {lineage.mode.value} sync"
            facts = (("disk", lineage.disk_id), ("reason", lineage.reason.name))
            self._ports.context.sink(Noted(Note.WARNING, text, facts))

    # ------------------------------------------------------------------ going on

    def still_possible(self) -> bool:
        """Whether a round that an earlier run left behind can go on where it was.

        One whose point is not known to be open cannot: what it was planned for may be gone,
        and nothing is lost with it. Nor can one whose next snapshot has lost its parent.
        """
        r = _round(self._ledger.now)
        if r.durable:
            return True
        if r.point is None:
            return False
        point = self._retry.call(lambda: self._ports.hypervisor.find_point(r.seq))
        if point is None or point.boot_id != r.point.boot_id:
            return False
        return all(self._may_go_on(disk) for disk in r.disks)

    def _may_go_on(self, disk: DiskRound) -> bool:
        if disk.snapshot is None:
            parent = disk.lineage.parent
            return parent is None or self._complete(parent)
        state = self._retry.call(partial(self._ports.target.snapshot_state, disk.snapshot.id))
        return state in (SnapshotState.PENDING, SnapshotState.COMPLETED)

    # ------------------------------------------------------------------ actions

    def open_point(self) -> None:
        """Freeze one instant over all disks."""
        r = _round(self._ledger.now)
        self._refuse_foreign_point(r)
        bases = {d.lineage.disk_id: d.lineage.since for d in r.disks}
        info = self._retry.call(lambda: self._ports.hypervisor.open_point(r.seq, bases))
        self._check_point(r, info)
        self._ledger.record(lambda m: point_opened(m, info))
        facts = (("seq", r.seq), ("pause_seconds", info.pause_seconds))
        text = f"round {r.seq}: point open ({info.consistency.value}-consistent; {info.note})"
        self._ports.context.sink(Noted(Note.ROUND, text, facts))

    def _refuse_foreign_point(self, r: Round) -> None:
        """The first point of a migration finds no bitmap of it, or somebody else has begun it."""
        if r.seq == 1 and self._retry.call(self._ports.hypervisor.tracking):
            self._ledger.record(round_aborted)  # and not one bitmap is touched
            raise LockedError(
                "the source tracks changes for this migration already: another run, on another "
                "host or with another state folder, has begun it",
                next_step="go on there, or choose another migration id here",
            )

    def _check_point(self, r: Round, info: PointInfo) -> None:
        if info.boot_id != r.vm.boot_id:
            raise PointLostError("the hypervisor was restarted while the round began")

    def begin_snapshots(self) -> None:
        """Start one snapshot per disk on the target."""
        r = _round(self._ledger.now)
        by_id = {d.id: d for d in r.vm.disks}
        for disk in [d for d in r.disks if d.snapshot is None]:
            begin = partial(
                self._ports.target.begin_snapshot,
                r.seq,
                by_id[disk.lineage.disk_id],
                disk.lineage.parent,
            )
            ref = self._retry.call(begin)
            self._refuse_foreign_snapshot(r, ref)
            self._ledger.record(partial(snapshot_begun, disk_id=disk.lineage.disk_id, ref=ref))

    def _refuse_foreign_snapshot(self, r: Round, ref: SnapshotRef) -> None:
        """A first snapshot that is complete before we wrote to it is somebody else's.

        Names follow from migration and point. Two hosts that begin one migration at the same
        moment both find nothing of the other; here the later one notices.
        """
        if r.seq == 1 and self._complete(ref):
            raise LockedError(
                f"snapshot {ref.id} of point {r.seq} is complete already: another run, on "
                "another host or with another state folder, has begun this migration",
                next_step="go on there, or choose another migration id here",
                snapshot=ref.id,
            )

    def sync_disks(self) -> None:
        """Make every disk's snapshot equal to the point, and complete it."""
        r = _round(self._ledger.now)
        jobs = [self._job(r, disk) for disk in r.disks if disk.figures is None]
        self._ports.run_disks(jobs)

    def _job(self, r: Round, disk: DiskRound) -> DiskJob:
        disk_id = disk.lineage.disk_id
        base = self._ledger.now.base(disk_id)
        audited = self._ports.policy.audited(final=r.final)
        order = DiskOrder(r.seq, disk, None if base is None else base.seq, audited)
        return DiskJob(
            order,
            self._ports,
            work=partial(sync_disk_here, order, self._ports),
            book=partial(self._book, disk_id, r.seq),
            doubt=partial(self._doubt, disk_id),
        )

    def _book(self, disk_id: str, seq: int, done: DiskDone) -> None:
        if done.blocks is not None:
            self._ledger.save_block_map(disk_id, seq, done.blocks)
        self._ledger.record(lambda m: disk_synced(m, disk_id, done.figures))

    def _doubt(self, disk_id: str) -> None:
        self._ledger.record(lambda m: doubted(m, disk_id, Reason.TRACKING_WRONG))

    def make_durable(self) -> None:
        """Make the point visible, then book it as the new base.

        In this order: a killed run that has only done the first seals again and changes nothing.
        Only after both may anything older be let go (I4).
        """
        r = _round(self._ledger.now)
        point = r.point
        if point is None:
            raise ValueError("the point is not open")
        refs = {d.lineage.disk_id: d.snapshot for d in r.disks if d.snapshot is not None}
        seal = partial(self._ports.target.seal_point, r.seq, r.vm, point, refs, r.started)
        receipt = self._retry.call(seal)
        self._ledger.record(partial(round_durable, receipt=receipt))

    def close_point(self) -> None:
        """Let the source forget everything before the point."""
        r = _round(self._ledger.now)
        self._retry.call(lambda: self._ports.hypervisor.commit_point(r.seq))
        tracking = self._retry.call(self._ports.hypervisor.tracking)
        dirty = sum(t.dirty_bytes for t in tracking if t.since == r.seq)
        record = round_record(
            r, whole_seconds=self._seconds_since_planned(r.seq), dirty_after_bytes=dirty
        )
        self._ledger.record(lambda m: round_closed(m, record))
        self._ledger.tidy()
        text = (
            f"round {r.seq}: durable, {format_size(record.sent_bytes)} sent of "
            f"{format_size(record.dirty_bytes)} dirty; {format_size(dirty)} changed meanwhile"
        )
        self._ports.context.sink(Noted(Note.ROUND, text, (("seq", r.seq), ("dirty_after", dirty))))

    def _seconds_since_planned(self, seq: int) -> float | None:
        planned = self._planned.get(seq)
        return None if planned is None else self._ports.context.clock.monotonic() - planned

    def abort(self) -> None:
        """Merge the bitmaps back and give up what was begun: as if the round had never been.

        Not before nobody works on its disks any more, in whichever process.
        """
        r = _round(self._ledger.now)
        self._ports.leases.recall(d.lineage.disk_id for d in r.disks)
        self._retry.call(lambda: self._ports.hypervisor.abort_point(r.seq))
        self._ledger.record(round_aborted)
        self._ledger.tidy()

    def remove_garbage(self) -> None:
        """Delete snapshots that nothing needs any more.

        One that the cloud refuses to delete holds up nothing: the end of the migration sweeps
        up whatever still carries its name.
        """
        for snapshot_id in self._ledger.now.garbage:
            try:
                self._retry.call(partial(self._ports.target.delete_snapshot, snapshot_id))
            except (CredentialsError, TargetDeniedError):
                raise
            except TargetError as error:
                text = f"snapshot {snapshot_id} stays for now: {error.message}"
                self._ports.context.sink(Noted(Note.WARNING, text))
            self._ledger.record(partial(garbage_removed, snapshot_id=snapshot_id))


def _round(m: Migration) -> Round:
    if m.round is None:
        raise ValueError("no round is under way")
    return m.round
