"""Bugs for the sweep to find: one line of the engine changed each, as somebody might write it."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest

from sealift import actions, cutover, disk_sync, plan, rounds, sync
from sealift.actions import Action
from sealift.blockmap import BlockMap
from sealift.cancel import CancelToken
from sealift.cutover import CutoverSteps
from sealift.disk import Unwritten
from sealift.errors import OutOfSpaceError
from sealift.extents import Kind
from sealift.ledger import load_block_map
from sealift.lineage import Lineage, Mode, Reason
from sealift.migration import Migration, Phase, Step, round_aborted, round_durable, source_resumed
from sealift.migrator import Migrator
from sealift.ports import DiskOrder, MigrationPolicy, ReplicaPorts
from sealift.rounds import Rounds
from sealift.testing.faults import Fault
from sealift.testing.model import Violation
from sealift.testing.scenario import Scenario
from sealift.testing.simulation import Case, History, Recorded, record
from sealift.testing.sweep import Found, case_of, run

KILLS = (Fault.KILL_BEFORE, Fault.KILL_AFTER)
Patch = pytest.MonkeyPatch


@dataclass(frozen=True)
class Bug:
    """A planted bug and where the sweep meets it.

    Attributes:
        name: what the engine does wrong.
        plant: changes the engine until the patch is undone.
        history: whose sweep is searched.
        kinds: of faults, to search only their part of the sweep.
    """

    name: str
    plant: Callable[[Patch], None]
    history: History
    kinds: tuple[Fault, ...]

    @contextmanager
    def planted(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            self.plant(patch)
            yield


Cases = Callable[[History, int], Iterable[tuple[Case, Recorded]]]


def search(
    bug: Bug, seeds: Iterable[int], cases: Cases, scenario: type[Scenario] = Scenario
) -> Found | None:
    """The first case that shows it; over more worlds when the first does not.

    Args:
        bug: planted.
        seeds: of the worlds.
        cases: the sweep of a history.
        scenario: the kind of world.
    """
    for seed in seeds:
        undisturbed = case_of(bug.history, seed, scenario)
        try:
            record(undisturbed)
        except Violation as violation:
            return Found(undisturbed, violation)
        for case, recorded in cases(bug.history, seed):
            if case.faults[0][1] in bug.kinds and (found := run(case, recorded)):
                return found
    return None


def _checkpoint_too_early(patch: Patch) -> None:
    durable = Rounds.make_durable

    def make_durable(self: Any) -> None:
        self._ports.hypervisor.commit_point(self._ledger.now.round.seq)
        durable(self)

    patch.setattr(Rounds, "make_durable", make_durable)


def _booked_before_sealed(patch: Patch) -> None:
    def make_durable(self: Any) -> None:
        r = self._ledger.now.round
        refs = {d.lineage.disk_id: d.snapshot for d in r.disks}
        self._ledger.record(round_durable)
        self._ports.target.seal_point(r.seq, r.vm, r.point, refs, r.started)

    patch.setattr(Rounds, "make_durable", make_durable)


def _zero_skipped(patch: Patch) -> None:
    patch.setitem(plan._TABLE, (Kind.ZERO, Unwritten.BASE), plan.Action.SKIP)


def _fence_granted(patch: Patch) -> None:
    patch.setattr(CutoverSteps, "_require_fence", lambda self, seq: None)


def _abort_without_merging(patch: Patch) -> None:
    def abort(self: Any) -> None:
        self._ports.hypervisor.commit_point(self._ledger.now.round.seq)
        self._ledger.record(round_aborted)

    patch.setattr(Rounds, "abort", abort)


def _base_is_garbage(patch: Patch) -> None:
    def aborted(m: Migration) -> Migration:
        return replace(round_aborted(m), garbage=tuple(b.snapshot.id for b in m.bases))

    patch.setattr(rounds, "round_aborted", aborted)


def _booked_before_written(patch: Patch) -> None:
    write, finished = sync._Sync._write, sync._Sync._finished

    def early(self: Any, op: Any, data: Any, start: int, end: int, digests: Any) -> None:
        block = self._caps.block_size
        if end > start:
            finished(
                self, op.start + start, end - start, digests[start // block : -(-end // block)]
            )
        write(self, op, data, start, end, digests)

    patch.setattr(sync._Sync, "_write", early)
    patch.setattr(sync._Sync, "_finished", lambda *_: None)


def _another_token_in_undo(patch: Patch) -> None:
    ask = CutoverSteps._launch

    def launch(self: Any, vm: Any, seq: int) -> Any:
        undoing = self._ledger.now.phase is Phase.UNDOING
        return ask(self, vm, seq + 100 if undoing else seq)

    patch.setattr(CutoverSteps, "_launch", launch)


def _resume_forgotten(patch: Patch) -> None:
    def resume(self: Any) -> None:
        self._ledger.record(lambda m: source_resumed(m, self._moment()))

    patch.setattr(CutoverSteps, "resume_source", resume)


def _old_map_after_full_copy(patch: Patch) -> None:
    def base_map(order: DiskOrder, ports: ReplicaPorts, caps: Any) -> BlockMap | None:
        seq = order.base_seq
        return None if seq is None else load_block_map(ports.store, order.disk_id, seq)

    merged = disk_sync._merged

    def trusting(base: Any, report: Any, lineage: Lineage, caps: Any) -> BlockMap:
        return merged(base, report, replace(lineage, mode=Mode.COMPARE), caps)

    patch.setattr(disk_sync, "_base_map", base_map)
    patch.setattr(disk_sync, "_merged", trusting)


def _launch_not_announced(patch: Patch) -> None:
    patch.setattr(cutover, "launching", lambda m: m)


def _source_before_target(patch: Patch) -> None:
    right = actions._undo_action

    def wrong(m: Migration) -> Action:
        resumed = m.cutover is not None and m.cutover.resumed
        return right(m) if resumed else Action.RESUME_SOURCE

    patch.setattr(actions, "_undo_action", wrong)


def _health_not_asked(patch: Patch) -> None:
    patch.setattr(CutoverSteps, "await_health", lambda self: self._done(Step.HEALTH))


def _number_used_twice(patch: Patch) -> None:
    def aborted(m: Migration) -> Migration:
        number = m.round.seq if m.round else m.next_seq
        return replace(round_aborted(m), next_seq=number, garbage=m.garbage)

    patch.setattr(rounds, "round_aborted", aborted)


def _loss_overlooked(patch: Patch) -> None:
    def decide(evidence: Any, policy: Any) -> Lineage:
        base = evidence.base
        if base is None:
            return Lineage(evidence.disk.id, Mode.FULL, Reason.FIRST_SYNC, None, None)
        disk = evidence.disk.id
        return Lineage(disk, Mode.INCREMENTAL, Reason.TRACKED, base.seq, base.snapshot)

    patch.setattr(rounds, "decide", decide)


def _stop_reaches_the_undo(patch: Patch) -> None:
    @contextmanager
    def bare(self: CancelToken) -> Iterator[None]:
        yield

    patch.setattr(CancelToken, "shielded", bare)


def _change_list_believed(patch: Patch) -> None:
    patch.setattr(MigrationPolicy, "audited", lambda self, *, final: 0)


def _undo_needs_its_record(patch: Patch) -> None:
    def full(self: Any) -> None:
        raise OutOfSpaceError("no room for the record of an undo")

    patch.setattr(CutoverSteps, "bring_back", full)


def _source_left_as_it_was(patch: Patch) -> None:
    patch.setattr(Migrator, "_release", lambda self: self._ledger.record(cutover_released))


def cutover_released(m: Migration) -> Migration:
    return replace(m, cutover=m.cutover and replace(m.cutover, released=True))


def _image_forgotten(patch: Patch) -> None:
    patch.setattr(cutover, "publishing", lambda m: m)


def _refusal_is_proof(patch: Patch) -> None:
    patch.setattr(CutoverSteps, "_found", lambda self, seq: None)


BUGS = (
    Bug(
        "a checkpoint is dropped before its point is durable",
        *(_checkpoint_too_early, History.FORWARD, KILLS),
    ),
    Bug(
        "a point is booked as durable before it is sealed",
        *(_booked_before_sealed, History.FORWARD, KILLS),
    ),
    Bug("a zero over a parent is skipped", _zero_skipped, History.FORWARD, KILLS),
    Bug("the fence is taken for granted", _fence_granted, History.FORWARD, (Fault.STARTED,)),
    Bug(
        "an aborted round does not merge its bitmaps back",
        *(_abort_without_merging, History.FORWARD, (Fault.POINT_GONE,)),
    ),
    Bug(
        "garbage is deleted that is still a base",
        *(_base_is_garbage, History.FORWARD, (Fault.POINT_GONE,)),
    ),
    Bug("the journal books before the write", _booked_before_written, History.FORWARD, KILLS),
    Bug("the undo asks with another token", _another_token_in_undo, History.UNDO, KILLS),
    Bug("the undo forgets to resume", _resume_forgotten, History.BACK, KILLS),
    Bug(
        "a full copy goes by the map of its predecessor",
        *(_old_map_after_full_copy, History.FORWARD, (Fault.SNAPSHOT_GONE,)),
    ),
    Bug("a launch is not announced", _launch_not_announced, History.UNDO, KILLS),
    Bug("the source runs before the target ends", _source_before_target, History.BACK, KILLS),
    Bug("health is not asked for", _health_not_asked, History.BACK, KILLS),
    Bug(
        "an aborted round's number is used again",
        *(_number_used_twice, History.FORWARD, (Fault.POINT_GONE,)),
    ),
    Bug("tracking loss is overlooked", _loss_overlooked, History.FORWARD, (Fault.RESTART,)),
    Bug("a stop reaches the undo", _stop_reaches_the_undo, History.FORWARD, (Fault.STOP,)),
    Bug("the change list is believed", _change_list_believed, History.FORWARD, (Fault.LIE,)),
    Bug(
        "an undo needs room for its record", _undo_needs_its_record, History.FORWARD, (Fault.FULL,)
    ),
    Bug("a finished cutover leaves its remains", _source_left_as_it_was, History.FORWARD, KILLS),
    Bug("an image is registered unannounced", _image_forgotten, History.FORWARD, (Fault.REFUSE,)),
    Bug(
        "a refused launch is proof that there is none",
        *(_refusal_is_proof, History.UNDO, (Fault.REFUSE,)),
    ),
)
