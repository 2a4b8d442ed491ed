"""``sealift replicate`` and ``sealift abandon`` with the plan of a replication."""

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager

from flows.cli.output import Output
from flows.cli.prefect_runs import run_flow
from flows.cli.repository_lines import Replicated
from flows.cli.shown import show_rounds
from flows.drill_records import load_drills, own_store
from flows.replica_session import Replication, replication
from flows.session import Run
from flows.stop_signals import StopSignals
from sealift.cancel import CancelToken
from sealift.config_repository import ReplicationPlan
from sealift.errors import StoppedError, UsageError
from sealift.migration import Migration
from sealift.units import format_duration, format_size


def replicate(output: Output, plan: ReplicationPlan, *, prefect: bool) -> None:
    """One more point of the machine."""
    if prefect:
        flows = importlib.import_module("flows.replicating")
        m = run_flow(output, lambda: flows.replicate(plan), CancelToken())
    else:
        with _running(output, plan, "replicate") as run:
            m = run.replicator.replicate()
    show_rounds(output, m.history[-1:])
    tell(output, m, _drilled(output, plan, prefect=prefect))


def _drilled(output: Output, plan: ReplicationPlan, *, prefect: bool) -> str:
    """How the point's drill went, if the plan wants one; the flow has drilled by itself."""
    if not plan.drill.after_every_point:
        return ""
    if not prefect:
        from flows.cli.drill_command import drill_after_point

        return f"; {drill_after_point(output, plan)}"
    own = own_store(plan, os.environ)
    kept = load_drills(own) if own is not None else None
    booted = kept is not None and not kept.last.error
    return "; it boots" if booted else "; its drill failed"


def tell(output: Output, m: Migration, drilled: str = "") -> None:
    """The round that ended, and its receipt."""
    last = m.history[-1]
    output.summary(
        Replicated(
            command="replicate",
            text=f"point {last.seq} of {m.vm_name} is sealed: {format_size(last.sent_bytes)} read "
            f"and kept in {format_duration(last.seconds)}, "
            f"{format_size(last.dirty_after_bytes)} changed meanwhile{drilled}",
            next="sealift points list",
            replication=m.id,
            vm=m.vm_name,
            receipt=last.receipt,
        )
    )


def abandon(output: Output, plan: ReplicationPlan, *, yes: bool) -> None:
    """End the replication; its points stay."""
    if not yes and not output.can_ask:
        raise UsageError("nobody can confirm this here", next_step="run it with --yes")
    with _running(output, plan, "abandon") as run:
        if not yes:
            _confirm(output, run, plan.name)
        m = run.replicator.abandon()
    output.summary(
        Replicated(
            command="abandon",
            text=f"replication {m.id} is abandoned; its points stay in the repository",
            replication=m.id,
            vm=m.vm_name,
            receipt="",
        )
    )


def _confirm(output: Output, run: Replication, name: str) -> None:
    question = "changes of the machine are no longer tracked\ntype the replication's name to go on:"
    answer = output.ask(question, run.ports.context.cancel)
    if answer != name:
        raise UsageError(
            f"{answer!r} is not {name!r}: nothing was changed", next_step="run it again"
        )


@contextmanager
def _running(output: Output, plan: ReplicationPlan, command: str) -> Iterator[Replication]:
    cancel = CancelToken()
    run = Run(command, output.views(), os.environ, cancel)
    with StopSignals(cancel, last=True), replication(plan, run) as opened:
        try:
            yield opened
        except StoppedError as error:
            error.next_step = f"sealift {command} goes on where it stopped"
            raise
