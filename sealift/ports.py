"""Everything a migration runs on, in one value."""

import random
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from sealift.blockmap import BlockMap
from sealift.convergence import ConvergencePolicy
from sealift.endpoints import CloudTarget, Hypervisor, ReplicaTarget
from sealift.errors import TrackingWrongError
from sealift.host_limits import check_room_for_thread
from sealift.leases import Leases, NoLeases
from sealift.lineage import LossPolicy
from sealift.migration import DiskFigures, DiskRound
from sealift.store import StateStore
from sealift.sync import SyncContext


@dataclass(frozen=True, slots=True)
class DiskOrder:
    """What a disk's sync needs to know beside its ports: values only, so that it can travel.

    Attributes:
        seq: number of the point.
        disk: with lineage and snapshot begun.
        base_seq: of the point that its block map is of; None without one.
        audited: unchanged blocks to compare; None = all.
    """

    seq: int
    disk: DiskRound
    base_seq: int | None
    audited: int | None

    @property
    def disk_id(self) -> str:
        """Of the disk."""
        return self.disk.lineage.disk_id


@dataclass(frozen=True, slots=True)
class DiskDone:
    """What came of it: the snapshot is complete.

    Attributes:
        figures: what was moved.
        blocks: digests of the whole disk, for the next round; None when its target knows them.
    """

    figures: DiskFigures
    blocks: BlockMap | None


@dataclass(frozen=True, slots=True)
class DiskJob:
    """The sync of one disk in one round.

    Attributes:
        order: what is to be done.
        ports: of the run that owns the migration.
        work: does it in this process.
        book: books what was done, here or elsewhere.
        doubt: books that the hypervisor's change list was wrong.
    """

    order: DiskOrder
    ports: "ReplicaPorts"
    work: Callable[[], DiskDone]
    book: Callable[[DiskDone], None]
    doubt: Callable[[], None]

    def run(self) -> None:
        """Do it in this process; returns when it is complete and booked."""
        self.settle(self.work)

    def settle(self, outcome: Callable[[], DiskDone]) -> None:
        """Book an outcome, wherever it comes from; raises what it raises."""
        try:
            done = outcome()
        except TrackingWrongError:
            self.doubt()
            raise
        self.book(done)


DiskRunner = Callable[[Sequence[DiskJob]], None]
"""Runs all jobs, in any order, and raises the first error once none runs any more."""


def in_turn(jobs: Sequence[DiskJob]) -> None:
    """One disk after the other, in the caller's thread."""
    for job in jobs:
        job.run()


def side_by_side(jobs: Sequence[DiskJob]) -> None:
    """Every disk in a thread of its own."""
    with ThreadPoolExecutor(max_workers=len(jobs), thread_name_prefix="sealift-disk") as pool:
        for future in [_submitted(pool, job) for job in jobs]:
            future.result()


def _submitted(pool: ThreadPoolExecutor, job: DiskJob) -> "Future[None]":
    check_room_for_thread()
    return pool.submit(job.run)


@dataclass(frozen=True, slots=True)
class StopPolicy:
    """How a cutover stops the source.

    Attributes:
        shutdown: ask the guest to power off; otherwise its processors are paused.
        shutdown_timeout_seconds: how long it may take.
        pause_after_timeout: pause a guest that did not power off in time, instead of
            undoing the cutover.
    """

    shutdown: bool = True
    shutdown_timeout_seconds: float = 120.0
    pause_after_timeout: bool = True


@dataclass(frozen=True, slots=True)
class MigrationPolicy:
    """What the user decided.

    Attributes:
        on_tracking_loss: see ``LossPolicy``.
        convergence: see ``ConvergencePolicy``.
        min_rounds: pre-copy rounds before a cutover is considered.
        stop: see ``StopPolicy``.
        health_timeout_seconds: how long the target may take to come up.
        health_interval_seconds: pause between two questions.
        verify_blocks: blocks per disk that are read back before the launch; None = all, and
            then the final round compares every block that it would leave out, too.
        audit_blocks: blocks per disk and round that are compared although the hypervisor
            calls them unchanged; None = all.
        one_shot: the target takes each disk as a whole, and once: the only round is that of a
            cutover, with the source standing still.
    """

    on_tracking_loss: LossPolicy = LossPolicy.COMPARE
    convergence: ConvergencePolicy = field(default_factory=ConvergencePolicy)
    min_rounds: int = 1
    stop: StopPolicy = field(default_factory=StopPolicy)
    health_timeout_seconds: float = 600.0
    health_interval_seconds: float = 5.0
    verify_blocks: int | None = 64
    audit_blocks: int | None = 16
    one_shot: bool = False

    def audited(self, *, final: bool) -> int | None:
        """How many unchanged blocks of a disk a round compares; None = all."""
        if self.audit_blocks is None or (final and self.verify_blocks is None):
            return None
        return max(self.audit_blocks, self.verify_blocks or 0) if final else self.audit_blocks


@dataclass(frozen=True, slots=True)
class ReplicaPorts:
    """What a replication runs on: its ports and what the user decided.

    Attributes:
        hypervisor: the source.
        target: where points are kept.
        store: local state.
        context: clock, stop, retry, executor, bandwidth, progress.
        policy: see ``MigrationPolicy``.
        run_disks: how the disks of a round are run.
        rng: chooses the blocks to verify; seeded in simulations.
        leases: who works on which disk.
    """

    hypervisor: Hypervisor
    target: ReplicaTarget
    store: StateStore
    context: SyncContext
    policy: MigrationPolicy = field(default_factory=MigrationPolicy)
    run_disks: DiskRunner = in_turn
    rng: random.Random = field(default_factory=random.Random)
    leases: Leases = field(default_factory=NoLeases)


@dataclass(frozen=True, slots=True)
class Ports(ReplicaPorts):
    """What a migration runs on: its target can launch what it keeps."""

    target: CloudTarget
