"""Drives a migration: asks what is next, does it, saves it, until nothing is left to do."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from sealift.actions import Action
from sealift.convergence import (
    Forecast,
    OnDivergence,
    RoundFigures,
    Verdict,
    forecast,
    throttle_rate,
)
from sealift.cutover import SOURCE_RUNS, TARGET_RUNS, CutoverSteps
from sealift.endpoints import SourceVm
from sealift.errors import (
    LocalStateError,
    SealiftError,
    SourceError,
    TargetError,
    TransientError,
    UsageError,
)
from sealift.ledger import Ledger, UnsavedLedger
from sealift.migration import Migration, Phase, converged, cutover_begun, released, undo_begun
from sealift.ports import Ports
from sealift.progress import Note
from sealift.replicator import Replicator
from sealift.units import format_duration, format_rate


@dataclass(frozen=True, slots=True)
class CutoverForecast:
    """What an approver is asked about."""

    vm_name: str
    forecast: Forecast | None


Approve = Callable[[CutoverForecast], bool]


class Migrator(Replicator[Ports]):
    """One migration over its ports: a replication that can be cut over.

    Whatever a killed run left behind is finished or undone before anything new begins.
    """

    def __init__(self, ports: Ports, ledger: Ledger) -> None:
        super().__init__(ports, ledger)
        self._cutover = self._steps(ledger)
        self._effects |= {
            Action.STOP_SOURCE: self._cutover.stop_source,
            Action.FENCE: self._cutover.fence,
            Action.PLAN_FINAL_ROUND: self._plan_final_round,
            Action.FINISH_FINAL_SYNC: self._cutover.finish_final_sync,
            Action.VERIFY: self._cutover.verify,
            Action.PUBLISH: self._cutover.publish,
            Action.LAUNCH: self._cutover.launch,
            Action.AWAIT_HEALTH: self._cutover.await_health,
            Action.CONFIRM: self._cutover.confirm,
            Action.TERMINATE_TARGET: self._cutover.terminate_target,
            Action.RESUME_SOURCE: self._cutover.resume_source,
            Action.UNPUBLISH: self._cutover.unpublish,
            Action.FINISH_UNDO: self._cutover.finish_undo,
        }

    def _steps(self, ledger: Ledger) -> CutoverSteps:
        """The steps of a cutover over our ports, and a record that need not be saved."""
        return CutoverSteps(self._ports, ledger)

    @property
    def rounds_come_first(self) -> bool:
        """Whether rounds may run before a cutover: none is under way or committed."""
        over = self.state.phase in (Phase.CUTTING_OVER, Phase.CUT_OVER)
        return not over and not self._ports.policy.one_shot

    # ------------------------------------------------------------------ verbs

    def replicate(self) -> Migration:
        """See ``Replicator.replicate``.

        Raises:
            UsageError: the target takes each disk once, and that is the cutover's.
        """
        if self._ports.policy.one_shot:
            raise UsageError(
                "the target takes each disk once: there are no rounds before the cutover",
                next_step="sealift cutover --no-rounds moves the machine while it stands still",
            )
        return super().replicate()

    def forecast(self) -> Forecast | None:
        """What a final sync would cost if it started now; None where no round can tell."""
        history = self.state.history
        if not history or self._ports.policy.one_shot:
            return None
        # a resumed round did only a part of its work in the time that is known of it
        whole = [r for r in history if not r.resumed_bytes] or history
        figures = [
            RoundFigures(r.sent_bytes, r.dirty_bytes, r.seconds, r.dirty_after_bytes) for r in whole
        ]
        figures[-1] = replace(figures[-1], dirty_after_bytes=self._dirty_now())
        return forecast(figures, self._ports.policy.convergence)

    def _dirty_now(self) -> int:
        """A disk without tracking counts as a whole: it will be read as a whole (I9)."""
        tracking = self._retry.call(self._ports.hypervisor.tracking)
        dirty = {(t.disk_id, t.since): t.dirty_bytes for t in tracking}
        return sum(dirty.get((b.disk_id, b.seq), b.size) for b in self.state.bases)

    def converge(self) -> Forecast:
        """Run rounds until the final sync fits the budget, or no more are allowed.

        Raises:
            SourceError: it does not converge and the policy is to stop.
        """
        policy = self._ports.policy
        most = max(policy.convergence.max_rounds, policy.min_rounds)
        for done in range(1, most):
            now = self._judged_round()
            if now.verdict is Verdict.READY and done >= policy.min_rounds:
                return now
            if now.verdict is Verdict.DIVERGING:
                self._on_divergence(now)
        return self._judged_round()

    def _judged_round(self) -> Forecast:
        self.replicate()
        now = self.forecast()
        if now is None:
            raise ValueError("a finished round is always in the history")
        self._say(Note.FORECAST, now.text, (("final_seconds", now.final_seconds),))
        if now.verdict is Verdict.READY:
            self._ledger.record(converged)
        return now

    def _on_divergence(self, now: Forecast) -> None:
        policy = self._ports.policy.convergence.on_divergence
        if policy is OnDivergence.STOP:
            raise SourceError(
                f"does not converge: {now.text}",
                next_step="raise the downtime budget or the bandwidth, or allow throttling",
            )
        if policy is OnDivergence.THROTTLE:
            rate = throttle_rate(now)
            self._ledger.record(lambda m: replace(m, throttled=rate))
            self._retry.call(lambda: self._ports.hypervisor.throttle(rate))
            text = f"the guest's writes are limited to {format_rate(rate)} until the cutover"
            self._say(Note.WARNING, text, (("limit", rate),))

    def cutover(self, approve: Approve | None = None) -> Migration:
        """Move the machine, or put the source back to work (I10).

        An interrupted cutover goes on where it was; an interrupted undo is finished first.
        What a committed one has left behind is removed.

        Raises:
            SealiftError: the cutover failed; unless the error says otherwise the source runs
                again and the next cutover sends only what changed since. The operand
                ``source_runs`` says whether it does where an undo failed, ``target_runs``
                that the target runs and only the record of it could not be written.
        """
        if self._to_be_released():
            self._release()
            return self.state
        self._refuse_when_over()
        if self.state.phase is not Phase.CUTTING_OVER:
            self._settle()
            self._gates(approve)
        try:
            self._check_interrupted()
            self._drive()
        except Exception as error:
            if not isinstance(error, SealiftError) or not error.operands.get(TARGET_RUNS):
                self._undo_after(error)
            raise
        self._release()
        self._cutover.keep_console()
        return self.state

    def _check_interrupted(self) -> None:
        """What an earlier process left of a cutover may have become impossible since."""
        self._cutover.still_fenced()
        if self.state.round is not None and not self._rounds.still_possible():
            self._rounds.abort()

    def _undo_after(self, error: Exception) -> None:
        try:
            self.undo(error)
        except SealiftError as second:
            back = second.operands.get(SOURCE_RUNS, False)
            where = (
                "the source runs again, but not all is undone"
                if back
                else ("the source is not back yet")
            )
            kind = type(second) if isinstance(second, LocalStateError) else TransientError
            raise kind(
                f"the cutover failed ({error}) and {where}: {second.message}",
                next_step="run cutover --undo until it succeeds; nothing is lost",
                **{SOURCE_RUNS: back},
            ) from error

    def _gates(self, approve: Approve | None) -> None:
        vm = self._to_be_moved()
        for check in self._retry.call(partial(self._ports.target.preflight, vm)):
            if not check.ok:
                raise TargetError(f"{check.name}: {check.found}", next_step=check.next_step)
        now = self.forecast()
        self._check_budget(now)
        if approve is not None and not approve(CutoverForecast(self.state.vm_name, now)):
            raise UsageError("the cutover was not approved", next_step="replication can go on")
        seconds = now.final_seconds if now else 0.0
        self._ledger.record(lambda m: cutover_begun(m, seconds))

    def _to_be_moved(self) -> SourceVm:
        """The machine of the newest point; in one shot there is none yet."""
        if self._ports.policy.one_shot:
            return self._retry.call(self._ports.hypervisor.describe)
        if not self.state.bases or self.state.vm is None:
            raise UsageError(
                "nothing is replicated yet", next_step="run replicate or migrate first"
            )
        return self.state.vm

    def _check_budget(self, now: Forecast | None) -> None:
        policy = self._ports.policy.convergence
        if now is None or now.verdict is Verdict.READY:
            return
        if policy.on_divergence is not OnDivergence.CONTINUE:
            raise SourceError(
                f"{now.text}; the budget is {format_duration(policy.downtime_budget_seconds)}",
                next_step="run more rounds, raise downtime_budget, or set on_divergence: continue",
            )

    def undo(self, cause: Exception | None = None) -> Migration:
        """Go back from a cutover that was interrupted or failed; the source runs again.

        A stop that was asked for does not hold this back, nor does local state that cannot be
        written: what brings the source back is done then without a record of it.

        Raises:
            SealiftError: not everything is undone; call again. Its operand ``source_runs``
                says whether the source is back.
        """
        with self._ports.context.cancel.shielded():
            try:
                self._undo(str(cause) if cause else "undone on request")
            except Exception as error:
                back = self._source_is_back()
                if isinstance(error, SealiftError):
                    error.operands[SOURCE_RUNS] = back
                    raise
                raise SealiftError(
                    f"unexpected {type(error).__name__} in an undo: {error}",
                    next_step="run cutover --undo until it succeeds, and report it",
                    **{SOURCE_RUNS: back},
                ) from error
        return self.state

    def _undo(self, why: str) -> None:
        if self.state.phase is Phase.CUTTING_OVER:
            self._ledger.record(lambda m: undo_begun(m, why))
        if self.state.phase is Phase.UNDOING:
            self._drive()

    def _source_is_back(self) -> bool:
        """After a failed undo; when it failed for want of a record, go on without one.

        Safe because nothing that may not happen depends on the record: whoever goes on from
        the old one meets a source that is not fenced, and undoes the cutover again.
        """
        if self.state.phase not in (Phase.CUTTING_OVER, Phase.UNDOING):
            return True
        ledger = UnsavedLedger(self._ports.store, self.state)
        if ledger.now.phase is Phase.CUTTING_OVER:
            ledger.record(lambda m: undo_begun(m, "local state cannot be written"))
        if not self._ledger.save_failed:
            return bool(ledger.now.cutover and ledger.now.cutover.resumed)
        try:
            self._steps(ledger).bring_back()
        except SealiftError:
            return False
        return True

    def abandon(self) -> Migration:
        """Remove everything that the migration made, on both sides; the source runs on.

        Raises:
            UsageError: the machine was cut over; there is nothing to abandon.
        """
        if self.state.phase is Phase.CUT_OVER:
            raise UsageError(
                "this migration is finished: the target is the machine now",
                next_step="terminate the target by hand if you really want to lose it",
            )
        self.undo()
        self._ledger.record(lambda m: replace(m, phase=Phase.ABANDONING))
        self._drive()
        return self.state

    # ------------------------------------------------------------------ driving

    def _refuse_cutover(self) -> None:
        if self.state.phase is Phase.CUTTING_OVER:
            raise UsageError(
                "a cutover is under way and was interrupted",
                next_step="run cutover to finish it, or cutover --undo to go back",
            )

    def _settle(self) -> None:
        """Finish or give up what an earlier run left behind."""
        self.undo()
        super()._settle()

    def _plan_final_round(self) -> None:
        self._rounds.plan(final=True)

    def _to_be_released(self) -> bool:
        c = self.state.cutover
        return self.state.phase is Phase.CUT_OVER and c is not None and not c.released

    def _release(self) -> None:
        """The machine has moved: what it does not stand on has no use any more.

        Fails nothing: the next ``cutover`` does what this one could not.
        """
        c = self.state.cutover
        if c is None or c.instance_id is None or c.image_id is None:
            raise ValueError("nothing was committed")
        keep = frozenset({c.instance_id, c.image_id, *(b.snapshot.id for b in self.state.bases)})
        try:
            self._retry.call(self._ports.hypervisor.forget)
            self._retry.call(lambda: self._ports.target.sweep(keep))
            self._ledger.tidy()
            self._ledger.record(released)
        except SealiftError as error:
            text = f"not everything could be tidied up: {error.message}; run cutover again for it"
            self._say(Note.WARNING, text)
