"""``sealift failover``: a point becomes a machine in the plan's account."""

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from flows.cli.output import Output
from flows.cli.prefect_runs import run_flow
from flows.cli.repository_lines import FailedOverTo, PutBack
from flows.cli.repository_runs import opened_point
from flows.cli.shown import show_evidence, show_rounds
from flows.failing_over import failover, refuse_running_source
from flows.moving import moved
from flows.points import NEWEST
from flows.replica_session import FailingOver, failing_over
from flows.session import Run
from flows.stop_signals import StopSignals
from sealift.cancel import CancelToken
from sealift.config_repository import ReplicationPlan
from sealift.errors import StoppedError, UsageError
from sealift.migration import Migration, Phase
from sealift.migrator import Approve, CutoverForecast
from sealift.units import format_duration


@dataclass(frozen=True, slots=True)
class FailoverChoice:
    """How a failover was asked for."""

    point: str = NEWEST
    planned: bool = False
    undo: bool = False
    yes: bool = False


def run_failover(
    output: Output, plan: ReplicationPlan, choice: FailoverChoice, *, prefect: bool
) -> None:
    """Bring the machine up elsewhere, or go back from an attempt to.

    Raises:
        UsageError: it was asked for in a way that cannot be, or nobody confirmed.
    """
    if choice.undo and not choice.planned:
        raise UsageError(
            "a failover whose source is gone cannot be undone",
            next_step="add --planned, or end the machine in the account by hand",
        )
    if choice.planned and choice.point != NEWEST:
        raise UsageError(
            "a planned failover makes a point of its own", next_step="leave out the point"
        )
    if choice.undo:
        _undo(output, plan)
        return
    if not choice.yes and not output.can_ask:
        raise UsageError("nobody can confirm this here", next_step="run it with --yes")
    if choice.planned:
        _planned(output, plan, choice, prefect=prefect)
    else:
        _unplanned(output, plan, choice)


# ---------------------------------------------------------------------- the source is gone


def _unplanned(output: Output, plan: ReplicationPlan, choice: FailoverChoice) -> None:
    with opened_point(output, plan, "failover", choice.point) as (at, found):
        source = refuse_running_source(plan, at.around, at.stack)
        vm = found.manifest.vm.name
        if not choice.yes:
            question = f"{source}\ntype the name of the machine, {vm}, to start it elsewhere:"
            _confirm(output, question, vm, at.around.cancel)
        done = failover(plan, found, at.around, at.stack)
    rows = [
        ("machine", done.instance),
        ("point", found.ref.id.hex()),
        ("source", source),
        ("measured RPO: age of the point", format_duration(done.lost_seconds)),
        ("measured RTO: until it was healthy", format_duration(done.recovery_seconds)),
    ]
    output.table(f"failover of {vm}", ("", ""), rows)
    output.summary(
        FailedOverTo(
            text=f"{vm} runs as {done.instance}; RPO {format_duration(done.lost_seconds)}, "
            f"RTO {format_duration(done.recovery_seconds)}",
            planned=False,
            point=found.ref.id.hex(),
            instance_id=done.instance,
            rpo_seconds=done.lost_seconds,
            rto_seconds=done.recovery_seconds,
        )
    )


def _confirm(output: Output, question: str, name: str, cancel: CancelToken) -> None:
    if output.ask(question, cancel) != name:
        raise UsageError("that is not its name: nothing was done", next_step="run it again")


# ---------------------------------------------------------------------- the source is there


def _planned(
    output: Output, plan: ReplicationPlan, choice: FailoverChoice, *, prefect: bool
) -> None:
    if prefect:
        cancel = CancelToken()
        approve = _approval(output, cancel, yes=choice.yes)
        flows = importlib.import_module("flows.replicating")
        m = run_flow(output, lambda: flows.failover_planned(plan), cancel, approve=approve)
    else:
        with _running(output, plan) as run:
            cancel = run.ports.context.cancel
            m = moved(plan, run, _approval(output, cancel, yes=choice.yes))
    show_rounds(output, m.history)
    show_evidence(output, m)
    output.summary(_moved(m))


def _moved(m: Migration) -> FailedOverTo:
    c = m.cutover
    if c is None or c.instance_id is None or not m.bases:
        raise ValueError("nothing was committed")
    downtime = c.downtime_seconds or 0.0
    return FailedOverTo(
        text=f"{m.vm_name} runs as {c.instance_id} with its last writes; "
        f"RTO {format_duration(downtime)}",
        planned=True,
        point=m.bases[0].snapshot.id.partition(".")[0],
        instance_id=c.instance_id,
        rpo_seconds=0.0,
        rto_seconds=downtime,
    )


def _approval(output: Output, cancel: CancelToken, *, yes: bool) -> Approve:
    def approve(asked: CutoverForecast) -> bool:
        if not yes:
            text = asked.forecast.text if asked.forecast else "no forecast"
            name = asked.vm_name
            question = f"{text}\nthe machine will be stopped; type its name, {name}, to move it:"
            _confirm(output, question, name, cancel)
        return True

    return approve


def _undo(output: Output, plan: ReplicationPlan) -> None:
    with _running(output, plan) as run:
        open_before = run.failover.state.phase in (Phase.CUTTING_OVER, Phase.UNDOING)
        m = run.failover.give_up()
    words = f"{m.vm_name} runs on the source again" if open_before else "no failover was under way"
    output.summary(
        PutBack(
            text=f"{words}; nothing of it is left in the account",
            next="sealift replicate",
            vm=m.vm_name,
            source_runs_again=open_before,
        )
    )


@contextmanager
def _running(output: Output, plan: ReplicationPlan) -> Iterator[FailingOver]:
    cancel = CancelToken()
    run = Run("failover", output.views(), os.environ, cancel)
    with StopSignals(cancel, last=True), failing_over(plan, run) as opened:
        try:
            yield opened
        except StoppedError as error:
            error.next_step = "sealift failover --planned begins again, or goes on where it was"
            raise
