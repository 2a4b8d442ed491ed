"""Drives a replication: asks what is next, does it, saves it, until nothing is left to do.

Whoever only keeps points of a machine holds one of these: it has no verb that stops, fences or
launches anything. ``sealift.migrator`` adds those.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Generic, Self, TypeVar

from sealift.actions import Action, next_action
from sealift.errors import (
    IntegrityError,
    LocalStateError,
    LockedError,
    PointLostError,
    SealiftError,
    TrackingLostError,
    UsageError,
)
from sealift.ledger import OF_DISKS, Ledger, load_migration
from sealift.lineage import LossPolicy
from sealift.migration import Migration, Phase
from sealift.ports import ReplicaPorts
from sealift.progress import Facts, Note, Noted
from sealift.rounds import Rounds

MAX_REPLANS = 2
"""How often a round is planned anew when its point is lost; more means something is wrong."""

P = TypeVar("P", bound=ReplicaPorts)
Effects = dict[Action, Callable[[], None]]


class Replicator(Generic[P]):
    """Points of one machine over their ports. Not thread-safe; one per process and id.

    Whatever a killed run left behind is finished or undone before anything new begins.
    """

    def __init__(self, ports: P, ledger: Ledger) -> None:
        self._ports = ports
        self._ledger = ledger
        self._retry = ports.context.retrier()
        self._rounds = Rounds(ports, ledger)
        self._effects: Effects = {
            Action.OPEN_POINT: self._rounds.open_point,
            Action.BEGIN_SNAPSHOTS: self._rounds.begin_snapshots,
            Action.SYNC_DISKS: self._rounds.sync_disks,
            Action.MAKE_DURABLE: self._rounds.make_durable,
            Action.CLOSE_POINT: self._rounds.close_point,
            Action.ABORT_ROUND: self._rounds.abort,
            Action.REMOVE_GARBAGE: self._rounds.remove_garbage,
            Action.ABANDON: self._abandon,
        }

    @classmethod
    def open(cls, ports: P, migration_id: str) -> Self:
        """Go on with the stored record, or begin a new one for the VM as it is now.

        Raises:
            UsageError: the record is that of another migration or replication.
        """
        known = load_migration(ports.store)
        if known is None:
            vm = ports.context.retrier().call(ports.hypervisor.describe)
            known = Migration(migration_id, vm.uuid, vm.name)
        if known.id != migration_id:
            raise UsageError(
                f"the state folder of {migration_id} belongs to {known.id}",
                next_step="give each plan a state_dir of its own; nothing was changed",
            )
        return cls(ports, Ledger(ports.store, known))

    @property
    def state(self) -> Migration:
        """The migration as last saved."""
        return self._ledger.now

    # ------------------------------------------------------------------ verbs

    def replicate(self) -> Migration:
        """Run one round to its end; afterwards the target has a new durable point.

        Raises:
            SealiftError: the round is either still open and resumable, or aborted with its
                changes merged back; the guest runs in both cases.
        """
        self._refuse_when_over()
        self._refuse_cutover()
        self._settle()
        self._round(final=False)
        return self.state

    def abandon(self) -> Migration:
        """End the replication: the source forgets it, what was pending is removed.

        Points that the target keeps by a policy of its own stay.

        Raises:
            UsageError: the record is that of a cutover.
        """
        self._refuse_cutover()
        self._ledger.record(lambda m: replace(m, phase=Phase.ABANDONING))
        self._drive()
        return self.state

    # ------------------------------------------------------------------ driving

    def _refuse_when_over(self) -> None:
        if self.state.phase in (Phase.CUT_OVER, Phase.ABANDONED, Phase.ABANDONING):
            raise UsageError(
                f"this migration is {self.state.phase.value}",
                next_step="choose another migration id in the plan to begin a new one",
            )
        if self.state.next_seq == 1:
            self._refuse_leftovers()

    def _refuse_leftovers(self) -> None:
        """A migration that never began owns nothing, unless its record was lost.

        What an earlier life left behind has the names and tokens that this one would use.
        """
        tracked = self._retry.call(self._ports.hypervisor.tracking)
        owned = self._retry.call(self._ports.target.owned)
        if tracked or owned:
            raise LocalStateError(
                f"the record of this migration is gone, but {len(tracked)} bitmaps on the source "
                f"and {len(owned)} objects in the target still carry its name",
                next_step="restore the state folder; or choose another name, if another state "
                "folder uses this one; or else run abandon, which removes them, with the tracking "
                "of whoever uses them",
            )

    def _refuse_cutover(self) -> None:
        if self.state.phase in (Phase.CUTTING_OVER, Phase.UNDOING, Phase.CUT_OVER):
            raise UsageError(
                "a planned failover is under way or done: no points are kept of the source now",
                next_step="sealift failover --planned finishes it, with --undo it goes back",
            )

    def _settle(self) -> None:
        """Finish or give up what an earlier run left behind."""
        if self.state.round is not None and not self._rounds.still_possible():
            self._rounds.abort()
        self._drive_round(may_give_up=True)

    def _round(self, *, final: bool) -> None:
        for attempt in range(MAX_REPLANS + 1):
            if self.state.round is None:
                self._rounds.plan(final=final)
            if self._drive_round(may_give_up=attempt < MAX_REPLANS):
                return

    def _drive_round(self, *, may_give_up: bool) -> bool:
        """Bring the open round to its end; False when it was given up and may be tried again."""
        try:
            self._drive()
        except IntegrityError:
            self._rounds.abort()  # nothing is built on data that is in doubt
            raise
        except LockedError:
            if self.state.round is not None:
                self._rounds.abort()  # what we opened must not stand in the other one's way
            raise
        except (PointLostError, TrackingLostError) as error:
            self._rounds.abort()
            if not may_give_up or self._loss_stops(error):
                raise
            text = f"round given up and begun anew: {error.message}"
            self._say(Note.WARNING, text)
            return False
        return True

    def _loss_stops(self, error: SealiftError) -> bool:
        stops = self._ports.policy.on_tracking_loss is LossPolicy.STOP
        return stops and isinstance(error, TrackingLostError)

    def _drive(self) -> None:
        while (action := next_action(self.state)) is not Action.NOTHING:
            self._ports.context.cancel.check()
            self._effects[action]()
            if self.state.phase in (Phase.CUT_OVER, Phase.ABANDONED):
                return

    def _abandon(self) -> None:
        m = self.state
        disks = {b.disk_id for b in m.bases} | {
            d.lineage.disk_id for d in (m.round.disks if m.round else ())
        }
        self._ports.leases.recall(sorted(disks))
        self._retry.call(self._ports.hypervisor.forget)
        removed = self._retry.call(lambda: self._ports.target.sweep(frozenset()))
        for name in sorted(self._ports.store.names()):
            if name.startswith(OF_DISKS):
                self._ports.store.delete(name)
        self._ledger.record(
            lambda m: replace(
                m, phase=Phase.ABANDONED, round=None, bases=(), garbage=(), throttled=None
            )
        )
        text = f"abandoned; removed {len(removed)} objects from the target"
        self._say(Note.PHASE, text, (("removed", len(removed)),))

    def _say(self, note: Note, text: str, facts: Facts = ()) -> None:
        self._ports.context.sink(Noted(note, text, facts))
