"""The commands that move something: replicate, migrate, cutover, abandon."""

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Literal

from flows.cli.output import Output
from flows.cli.prefect_runs import run_flow
from flows.cli.shown import show_evidence, show_rounds
from flows.cli.summaries import CutOver, Ran
from flows.guardian import Guardian
from flows.next_steps import after_stop, next_command
from flows.one_shot import MOVED_AT_ONCE, refuse_one_shot, refuse_rounds
from flows.session import Run, Session, session
from flows.stop_signals import StopSignals
from sealift.cancel import CancelToken
from sealift.config import MigrationPlan
from sealift.errors import StoppedError, UsageError
from sealift.migration import Migration, Phase
from sealift.migrator import Approve, CutoverForecast
from sealift.units import format_duration, format_size

_UNKNOWN = "no forecast: each disk is copied as a whole while the machine stands still"


@dataclass(frozen=True, slots=True)
class CutoverChoice:
    """How a cutover was asked for."""

    undo: bool = False
    rounds: bool = True
    yes: bool = False


def replicate(output: Output, plan: MigrationPlan, *, prefect: bool) -> None:
    """One round."""
    refuse_one_shot(plan.target, "replicate", MOVED_AT_ONCE)
    if prefect:
        m = run_flow(output, lambda: _flows().replicate(plan), CancelToken())
    else:
        with _running(output, plan, "replicate") as run:
            m = run.migrator.replicate()
    show_rounds(output, m.history[-1:])
    output.summary(_ran("replicate", m, _durable(m)))


def migrate(output: Output, plan: MigrationPlan, *, prefect: bool) -> None:
    """Rounds until the forecast fits, then hold."""
    refuse_one_shot(plan.target, "migrate", MOVED_AT_ONCE)
    if prefect:
        m = run_flow(output, lambda: _flows().migrate(plan), CancelToken())
    else:
        with _running(output, plan, "migrate") as run:
            run.migrator.converge()
            m = run.migrator.state
    show_rounds(output, m.history)
    output.summary(_ran("migrate", m, _held(m)))


def cutover(output: Output, plan: MigrationPlan, choice: CutoverChoice, *, prefect: bool) -> None:
    """Rounds, then the transaction; or back from one."""
    if choice.undo:
        _undo(output, plan)
        return
    if not choice.yes and not output.can_ask:
        raise UsageError(
            "a cutover stops the machine; nobody can confirm it here",
            next_step="run it with --yes",
        )
    if prefect:
        cancel = CancelToken()
        approve = None if choice.yes else _approval(output, cancel)
        rounds = choice.rounds
        m = run_flow(output, lambda: _flows().cutover(plan, rounds=rounds), cancel, approve=approve)
    else:
        m = _cutover_here(output, plan, choice)
    show_rounds(output, m.history)
    show_evidence(output, m)
    downtime = m.cutover.downtime_seconds if m.cutover else None
    instance = m.cutover.instance_id if m.cutover else None
    text = f"{m.vm_name} runs as {instance}; downtime {format_duration(downtime or 0.0)}"
    output.summary(_cut_over(m, text, downtime, instance))


def _cutover_here(output: Output, plan: MigrationPlan, choice: CutoverChoice) -> Migration:
    with _running(output, plan, "cutover") as run:
        if choice.rounds:
            refuse_rounds(plan.target, run.migrator.state.phase)
        if choice.rounds and run.migrator.rounds_come_first:
            run.migrator.converge()
        approve = None if choice.yes else _approval(output, run.ports.context.cancel)
        with Guardian(plan):
            return run.migrator.cutover(approve)


def _undo(output: Output, plan: MigrationPlan) -> None:
    with _running(output, plan, "cutover") as run:
        if run.migrator.state.phase not in (Phase.CUTTING_OVER, Phase.UNDOING):
            raise UsageError(
                f"no cutover is under way: this migration is {run.migrator.state.phase.value}",
                next_step=next_command(run.migrator.state),
            )
        m = run.migrator.undo()
    output.summary(_cut_over(m, f"{m.vm_name} runs on the source again", None, None))


def abandon(output: Output, plan: MigrationPlan, *, yes: bool, prefect: bool) -> None:
    """Remove everything that the migration made."""
    if not yes and not output.can_ask:
        raise UsageError("nobody can confirm this here", next_step="run it with --yes")
    if prefect:
        if not yes:
            _confirm(
                output,
                CancelToken(),
                plan.migration,
                "everything that this migration made is removed",
            )
        m = run_flow(output, lambda: _flows().abandon(plan), CancelToken())
    else:
        with _running(output, plan, "abandon") as run:
            if not yes:
                _confirm(
                    output,
                    run.ports.context.cancel,
                    plan.migration,
                    "everything that this migration made is removed",
                )
            m = run.migrator.abandon()
    output.summary(_ran("abandon", m, f"migration {m.id} is abandoned"))


def _flows() -> ModuleType:
    """Prefect is imported here and nowhere before: it costs more than a second."""
    return importlib.import_module("flows.migrating")


# ---------------------------------------------------------------------- confirmation


def _approval(output: Output, cancel: CancelToken) -> Approve:
    def approve(asked: CutoverForecast) -> bool:
        text = asked.forecast.text if asked.forecast else _UNKNOWN
        _confirm(
            output, cancel, asked.vm_name, f"{text}\nthe machine {asked.vm_name} will be stopped"
        )
        return True

    return approve


def _confirm(output: Output, cancel: CancelToken, name: str, text: str) -> None:
    answer = output.ask(f"{text}\ntype its name to go on:", cancel)
    if answer is None:
        raise UsageError("nobody can confirm this here", next_step="run it with --yes")
    if answer != name:
        raise UsageError(
            f"{answer!r} is not {name!r}: nothing was changed", next_step="run it again"
        )


# ---------------------------------------------------------------------- running


@contextmanager
def _running(output: Output, plan: MigrationPlan, command: str) -> Iterator[Session]:
    cancel = CancelToken()
    run = Run(command, output.views(), os.environ, cancel)
    with StopSignals(cancel, last=True), session(plan, run) as opened:
        try:
            yield opened
        except StoppedError as error:
            error.next_step = after_stop(command, opened.migrator.state.phase)
            raise


# ---------------------------------------------------------------------- words


def _ran(command: Literal["replicate", "migrate", "abandon"], m: Migration, text: str) -> Ran:
    return Ran(
        command=command,
        text=text,
        next=next_command(m),
        migration=m.id,
        vm=m.vm_name,
        phase=m.phase,
    )


def _cut_over(m: Migration, text: str, downtime: float | None, instance: str | None) -> CutOver:
    return CutOver(
        text=text,
        next=next_command(m),
        migration=m.id,
        vm=m.vm_name,
        phase=m.phase,
        downtime_seconds=downtime,
        instance_id=instance,
    )


def _held(m: Migration) -> str:
    last = m.history[-1]
    words = {Phase.READY: "the final sync fits the downtime budget"}
    state = words.get(m.phase, "the final sync does not fit the downtime budget yet")
    return f"{state}; {format_size(last.dirty_after_bytes)} changed since point {last.seq}"


def _durable(m: Migration) -> str:
    last = m.history[-1]
    return (
        f"point {last.seq} is durable: {format_size(last.sent_bytes)} sent in "
        f"{format_duration(last.seconds)}, {format_size(last.dirty_after_bytes)} changed meanwhile"
    )
