"""One round: freeze an instant, make the target equal to it, then let go of what came before."""

from contextlib import ExitStack
from functools import partial

from sealift.audit import AuditingReader
from sealift.blockmap import BlockMap
from sealift.disk import DiskReader, KnownBlocks, Unwritten, WriterCaps
from sealift.endpoints import PointInfo, SnapshotRef, SnapshotState, SourceVm
from sealift.errors import (
    CredentialsError,
    LockedError,
    PointLostError,
    SourceError,
    TargetDeniedError,
    TargetError,
    TrackingWrongError,
)
from sealift.journal import JournalKey, SyncJournal
from sealift.ledger import Ledger, journal_name
from sealift.lineage import Evidence, Lineage, Mode, Reason, decide
from sealift.migration import (
    DiskFigures,
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
from sealift.ports import DiskJob, ReplicaPorts
from sealift.progress import DiskProgress, Note, Noted
from sealift.sync import SyncReport, sync
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
            found.append(Evidence(disk, vm.boot_id, base, complete, size, ours, not m.bases))
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
        return DiskJob(disk.lineage.disk_id, r.seq, lambda: self._sync_disk(r, disk))

    def _sync_disk(self, r: Round, disk: DiskRound) -> None:
        disk_id, lineage = disk.lineage.disk_id, disk.lineage
        if disk.snapshot is None:
            raise ValueError("snapshot not begun")
        begun, ports = disk.snapshot, self._ports
        with ExitStack() as ends:
            reader = self._retry.call(lambda: ports.hypervisor.reader(r.seq, disk_id))
            ends.callback(reader.close)
            if reader.size != disk.size:
                raise PointLostError(f"disk {disk_id} was resized while the round began")
            writer = self._retry.call(lambda: ports.target.writer(begun, lineage.parent))
            ends.callback(writer.close)
            base = self._base_map(lineage, writer.caps)
            known = writer.caps.base if writer.caps.keeps_digests else base
            key = JournalKey.of(reader, writer)
            name = journal_name(disk_id, r.seq)
            journal = SyncJournal(ports.store, name, key, ports.context.clock)
            ends.callback(journal.close)
            self._say_resumed(disk_id, journal, writer.caps)
            label = DiskProgress(disk_id, r.seq)
            audited = self._audited(reader, writer.caps, known, r, disk_id)
            try:
                report = sync(
                    audited, writer, ports.context, journal=journal, base=known, label=label
                )
            except TrackingWrongError:
                self._ledger.record(lambda m: doubted(m, disk_id, Reason.TRACKING_WRONG))
                raise
        if not writer.caps.keeps_digests:
            merged = _merged(base, report, lineage, writer.caps)
            self._ledger.save_block_map(disk_id, r.seq, merged)
        self._ledger.record(lambda m: disk_synced(m, disk_id, _figures(report)))

    def _audited(
        self,
        reader: DiskReader,
        caps: WriterCaps,
        base: KnownBlocks | None,
        r: Round,
        disk_id: str,
    ) -> DiskReader:
        """The reader; what it calls unchanged is not taken on trust alone."""
        blocks = self._ports.policy.audited(final=r.final)
        if not reader.incremental or base is None or blocks == 0:
            return reader
        return AuditingReader(reader, base, blocks=blocks, disk_id=disk_id, rng=self._ports.rng)

    def _base_map(self, lineage: Lineage, caps: WriterCaps) -> BlockMap | None:
        base = self._ledger.now.base(lineage.disk_id)
        if lineage.parent is None or base is None or caps.keeps_digests:
            return None
        known = self._ledger.block_map(lineage.disk_id, base.seq)
        if known is None or known.block_size != caps.block_size:
            return None
        return known if known.digest.name == caps.digest.name else None

    def _say_resumed(self, disk_id: str, journal: SyncJournal, caps: WriterCaps) -> None:
        if not journal.resumed_blocks:
            return
        there = journal.resumed_blocks * caps.block_size
        text = f"disk {disk_id}: resuming, {format_size(there)} already there and verified"
        facts = (("disk", disk_id), ("bytes", there))
        self._ports.context.sink(Noted(Note.RESUMED, text, facts))

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
        """Merge the bitmaps back and give up what was begun: as if the round had never been."""
        r = _round(self._ledger.now)
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


def _merged(
    base: BlockMap | None, report: SyncReport, lineage: Lineage, caps: WriterCaps
) -> BlockMap:
    if base is not None and lineage.mode is not Mode.FULL:
        return base.overlay(report.blocks)
    fresh = caps.unwritten is Unwritten.ZERO
    written = report.blocks
    empty = BlockMap(
        written.blocks, written.block_size, absent_is_zero=fresh, digest=written.digest
    )
    return empty.overlay(written)


def _figures(report: SyncReport) -> DiskFigures:
    p = report.progress
    return DiskFigures(
        p.done, p.read, p.sent, p.unchanged, p.resumed, report.seconds, report.retries
    )
