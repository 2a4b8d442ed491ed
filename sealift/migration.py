"""The migration as a value, and what may happen to it. Pure: events in, new value out.

The driver (``sealift.migrator``) persists the value after every event. What to do next
is always computed from the value, never remembered elsewhere, so that a killed run goes
on where it was.
"""

from dataclasses import dataclass, replace
from enum import Enum

from pydantic import TypeAdapter, ValidationError

from sealift.endpoints import PointInfo, SnapshotRef, SourceVm
from sealift.errors import LocalStateError
from sealift.lineage import Base, Lineage, Mode, Reason

STATE_FORMAT = 1


class Phase(Enum):
    """Where a migration stands."""

    REPLICATING = "replicating"
    READY = "ready-for-cutover"
    CUTTING_OVER = "cutting-over"
    UNDOING = "undoing"
    CUT_OVER = "cut-over"
    ABANDONING = "abandoning"
    ABANDONED = "abandoned"


class Step(Enum):
    """Steps of the cutover transaction, in order."""

    STOP_SOURCE = "stop source"
    FENCE = "fence source"
    FINAL_SYNC = "final sync"
    VERIFY = "verify"
    PUBLISH = "publish image"
    LAUNCH = "launch"
    HEALTH = "health check"
    CONFIRM = "confirm"


@dataclass(frozen=True, slots=True)
class DiskFigures:
    """What one disk's sync moved, all in bytes but ``seconds`` and ``retries``."""

    total: int
    read: int
    sent: int
    unchanged: int
    resumed: int
    seconds: float
    retries: int


@dataclass(frozen=True, slots=True)
class DiskRound:
    """One disk in one round. ``figures`` is set once its snapshot is complete."""

    lineage: Lineage
    size: int
    dirty_bytes: int
    snapshot: SnapshotRef | None = None
    figures: DiskFigures | None = None


@dataclass(frozen=True, slots=True)
class Round:
    """A round under way.

    Attributes:
        seq: its point.
        final: whether it is the final sync of a cutover.
        vm: the source as it was planned for.
        disks: in device order.
        started: seconds of the epoch.
        point: set once the point is open.
        durable: every disk is complete on the target and ``bases`` says so.
        receipt: what the target gave for the sealed point; "" when it gives none.
    """

    seq: int
    final: bool
    vm: SourceVm
    disks: tuple[DiskRound, ...]
    started: float
    point: PointInfo | None = None
    durable: bool = False
    receipt: str = ""


@dataclass(frozen=True, slots=True)
class RoundRecord:
    """A finished round, for people and for the forecast."""

    seq: int
    final: bool
    started: float
    seconds: float
    dirty_bytes: int
    read_bytes: int
    sent_bytes: int
    unchanged_bytes: int
    resumed_bytes: int
    dirty_after_bytes: int
    pause_seconds: float
    consistency: str
    note: str
    modes: tuple[tuple[str, str, str], ...]
    """(disk, mode, reason) for each disk."""
    receipt: str = ""
    """See ``ReplicaTarget.seal_point``."""


@dataclass(frozen=True, slots=True)
class Cutover:
    """A cutover under way, or the last one.

    Attributes:
        attempt: counts from 1; part of the launch's idempotency token.
        step: the step to do next.
        stopping_at: when the source was first asked to stop, seconds of the epoch.
        running_at: when the target was found healthy, or the source ran again.
        stopped_by: how the source stopped, in words.
        seq: of the final point, once durable.
        image_id: once published.
        publishing: an image may have been registered.
        launching: a launch may have taken effect.
        instance_id: once known.
        resumed: the source runs again (only when undoing).
        forecast_seconds: of the final sync, before it started.
        failure: why it is or was undone.
        verified_bytes: read back from the target and found equal.
        released: after the commit, what the migration no longer needs is gone on both sides.
        steps: (step, seconds) done so far.
    """

    attempt: int
    step: Step = Step.STOP_SOURCE
    stopping_at: float | None = None
    running_at: float | None = None
    stopped_by: str = ""
    seq: int | None = None
    image_id: str | None = None
    publishing: bool = False
    launching: bool = False
    instance_id: str | None = None
    resumed: bool = False
    forecast_seconds: float = 0.0
    failure: str = ""
    verified_bytes: int = 0
    released: bool = False
    steps: tuple[tuple[str, float], ...] = ()

    @property
    def downtime_seconds(self) -> float | None:
        """From the request to stop until a machine ran again; None while neither does."""
        if self.stopping_at is None or self.running_at is None:
            return None
        return self.running_at - self.stopping_at


@dataclass(frozen=True, slots=True)
class Migration:
    """Everything that is remembered about a migration.

    Attributes:
        id: part of every name and tag it makes.
        vm_uuid: the source it belongs to; another VM is refused.
        vm_name: for people.
        next_seq: number of the next point; numbers are never used twice.
        bases: newest durable point per disk.
        vm: the source as of the newest durable round.
        round: under way.
        cutover: under way or the last one.
        phase: see ``Phase``.
        history: finished rounds.
        garbage: snapshots that nothing needs any more and that may still exist.
        failures: what went wrong in earlier cutovers.
        throttled: the guest's write limit that we set, bytes per second.
        format: version of this record.
    """

    id: str
    vm_uuid: str
    vm_name: str
    next_seq: int = 1
    bases: tuple[Base, ...] = ()
    vm: SourceVm | None = None
    round: Round | None = None
    cutover: Cutover | None = None
    phase: Phase = Phase.REPLICATING
    history: tuple[RoundRecord, ...] = ()
    garbage: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()
    throttled: int | None = None
    format: int = STATE_FORMAT

    def base(self, disk_id: str) -> Base | None:
        """Newest durable point of a disk."""
        return next((b for b in self.bases if b.disk_id == disk_id), None)

    def to_bytes(self) -> bytes:
        """JSON for the state store."""
        return _ADAPTER.dump_json(self, indent=1)

    @classmethod
    def from_bytes(cls, data: bytes) -> "Migration":
        """Read ``to_bytes``.

        Raises:
            LocalStateError: damaged, or written by another version.
        """
        try:
            migration = _ADAPTER.validate_json(data)
        except ValidationError as error:
            raise LocalStateError(
                "the migration's state file is damaged or of another version",
                next_step="restore it from a backup, or abandon and start anew",
                problems=error.error_count(),
            ) from None
        if migration.format != STATE_FORMAT:
            raise LocalStateError(
                f"state format {migration.format} is not {STATE_FORMAT}",
                next_step="use the version of sealift that wrote it",
            )
        return migration


_ADAPTER = TypeAdapter(Migration)


# ---------------------------------------------------------------------------- rounds


def round_planned(
    m: Migration, vm: SourceVm, disks: tuple[DiskRound, ...], *, final: bool, at: float
) -> Migration:
    """A round begins; its number is taken for ever."""
    if m.round is not None:
        raise ValueError("a round is under way")
    begun = Round(m.next_seq, final, vm, disks, at)
    return replace(m, round=begun, next_seq=m.next_seq + 1)


def point_opened(m: Migration, info: PointInfo) -> Migration:
    """The source holds the point open for reading."""
    return replace(m, round=replace(_round(m), point=info))


def snapshot_begun(m: Migration, disk_id: str, ref: SnapshotRef) -> Migration:
    """The target has a snapshot to write into."""
    return _with_disk(m, disk_id, snapshot=ref)


def disk_synced(m: Migration, disk_id: str, figures: DiskFigures) -> Migration:
    """One disk is complete on the target."""
    return _with_disk(m, disk_id, figures=figures)


def round_durable(m: Migration, receipt: str = "") -> Migration:
    """Every disk is complete and sealed: the point is the base, the one before it garbage (I4)."""
    r = _round(m)
    if r.point is None or any(d.figures is None or d.snapshot is None for d in r.disks):
        raise ValueError("not every disk is complete")
    new = tuple(
        Base(d.lineage.disk_id, d.size, r.seq, r.point.boot_id, d.snapshot)
        for d in r.disks
        if d.snapshot is not None
    )
    old = tuple(b.snapshot.id for b in m.bases)
    return replace(
        m,
        bases=new,
        vm=r.vm,
        garbage=m.garbage + old,
        round=replace(r, durable=True, receipt=receipt),
        cutover=replace(m.cutover, seq=r.seq) if r.final and m.cutover else m.cutover,
    )


def round_closed(m: Migration, record: RoundRecord) -> Migration:
    """The source has let go of the point and of everything before it."""
    return replace(m, round=None, history=(*m.history, record))


def round_aborted(m: Migration) -> Migration:
    """The source has merged its bitmaps back; what was begun on the target is garbage."""
    r = _round(m)
    if r.durable:
        raise ValueError("a durable round is closed, not aborted")
    begun = tuple(d.snapshot.id for d in r.disks if d.snapshot is not None)
    return replace(m, round=None, garbage=m.garbage + begun)


def doubted(m: Migration, disk_id: str, doubt: Reason) -> Migration:
    """The newest point of a disk may not be built on as usual; the next one ends the doubt."""
    bases = tuple(replace(b, doubt=doubt) if b.disk_id == disk_id else b for b in m.bases)
    return replace(m, bases=bases)


def garbage_removed(m: Migration, snapshot_id: str) -> Migration:
    """One snapshot is gone."""
    return replace(m, garbage=tuple(g for g in m.garbage if g != snapshot_id))


def round_record(r: Round, *, whole_seconds: float | None, dirty_after_bytes: int) -> RoundRecord:
    """What is remembered of a round.

    Args:
        r: the round, durable.
        whole_seconds: from its planning until now; None when it began in another process.
        dirty_after_bytes: what the guest has changed since its point.
    """
    figures = [d.figures for d in r.disks if d.figures is not None]
    point = r.point
    return RoundRecord(
        seq=r.seq,
        final=r.final,
        started=r.started,
        seconds=_active_seconds(figures, whole_seconds),
        dirty_bytes=sum(_covered(d) for d in r.disks),
        read_bytes=sum(f.read for f in figures),
        sent_bytes=sum(f.sent for f in figures),
        unchanged_bytes=sum(f.unchanged for f in figures),
        resumed_bytes=sum(f.resumed for f in figures),
        dirty_after_bytes=dirty_after_bytes,
        pause_seconds=point.pause_seconds if point else 0.0,
        consistency=point.consistency.value if point else "",
        note=point.note if point else "",
        modes=tuple(
            (d.lineage.disk_id, d.lineage.mode.value, d.lineage.reason.value) for d in r.disks
        ),
        receipt=r.receipt,
    )


def _active_seconds(figures: list[DiskFigures], whole_seconds: float | None) -> float:
    """Without the time in which a round that was stopped lay idle.

    Never from the wall clock, which may jump: a forecast is built on it.
    """
    if whole_seconds is None or any(f.resumed for f in figures):
        return max((f.seconds for f in figures), default=0.0)
    return whole_seconds


def _covered(disk: DiskRound) -> int:
    if disk.lineage.mode is Mode.INCREMENTAL or disk.figures is None:
        return disk.dirty_bytes
    return disk.figures.read


def _round(m: Migration) -> Round:
    if m.round is None:
        raise ValueError("no round is under way")
    return m.round


def _with_disk(
    m: Migration,
    disk_id: str,
    snapshot: SnapshotRef | None = None,
    figures: DiskFigures | None = None,
) -> Migration:
    r = _round(m)
    disks = tuple(
        replace(d, snapshot=snapshot or d.snapshot, figures=figures or d.figures)
        if d.lineage.disk_id == disk_id
        else d
        for d in r.disks
    )
    return replace(m, round=replace(r, disks=disks))


# ---------------------------------------------------------------------------- cutover


def cutover_begun(m: Migration, forecast_seconds: float) -> Migration:
    """The gates are passed; from here I10 holds."""
    attempt = m.cutover.attempt + 1 if m.cutover else 1
    return replace(
        m,
        phase=Phase.CUTTING_OVER,
        cutover=Cutover(attempt, forecast_seconds=forecast_seconds),
    )


def stopping(m: Migration, at: float) -> Migration:
    """The source is about to be asked to stop; downtime counts from here."""
    c = _cutover(m)
    return replace(m, cutover=replace(c, stopping_at=c.stopping_at or at))


def advanced(
    m: Migration,
    step: Step,
    seconds: float,
    *,
    stopped_by: str | None = None,
    image_id: str | None = None,
    instance_id: str | None = None,
    verified_bytes: int | None = None,
) -> Migration:
    """A step is done; the next one follows."""
    c = _cutover(m)
    following = list(Step)[list(Step).index(step) + 1 :]
    changed = replace(
        c,
        step=following[0] if following else Step.CONFIRM,
        steps=(*c.steps, (step.value, seconds)),
        stopped_by=c.stopped_by if stopped_by is None else stopped_by,
        image_id=image_id or c.image_id,
        instance_id=instance_id or c.instance_id,
        verified_bytes=c.verified_bytes if verified_bytes is None else verified_bytes,
    )
    return replace(m, cutover=changed)


def converged(m: Migration) -> Migration:
    """The final sync fits the budget."""
    return replace(m, phase=Phase.READY)


def publishing(m: Migration) -> Migration:
    """An image is about to be registered: from here one may exist."""
    return replace(m, cutover=replace(_cutover(m), publishing=True))


def launching(m: Migration) -> Migration:
    """A launch is about to be asked for: from here a machine may exist."""
    return replace(m, cutover=replace(_cutover(m), launching=True))


def cutover_committed(m: Migration, at: float) -> Migration:
    """The target runs, the source is still fenced: the target is the machine now."""
    return replace(m, phase=Phase.CUT_OVER, cutover=replace(_cutover(m), running_at=at))


def released(m: Migration) -> Migration:
    """Nothing is left of the migration but the machine and what it stands on."""
    return replace(m, cutover=replace(_cutover(m), released=True), garbage=(), throttled=None)


def undo_begun(m: Migration, failure: str) -> Migration:
    """The cutover failed; the source must run again."""
    return replace(
        m, phase=Phase.UNDOING, cutover=replace(_cutover(m), failure=failure, running_at=None)
    )


def target_gone(m: Migration) -> Migration:
    """The machine that was launched is provably gone."""
    return replace(m, cutover=replace(_cutover(m), launching=False, instance_id=None))


def source_resumed(m: Migration, at: float) -> Migration:
    """The source runs again; the downtime ends."""
    c = replace(_cutover(m), resumed=True, running_at=at)
    return replace(m, cutover=c, throttled=None)


def unpublished(m: Migration) -> Migration:
    """The image is gone."""
    return replace(m, cutover=replace(_cutover(m), image_id=None, publishing=False))


def undone(m: Migration) -> Migration:
    """The failed cutover has left nothing but its report."""
    c = _cutover(m)
    text = f"cutover {c.attempt}: {c.failure}"
    return replace(m, phase=Phase.REPLICATING, failures=(*m.failures, text))


def _cutover(m: Migration) -> Cutover:
    if m.cutover is None:
        raise ValueError("no cutover is under way")
    return m.cutover
