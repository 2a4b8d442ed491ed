"""The commands that move something: replicate, migrate, cutover, abandon."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from flows.cli.output import Json, Output
from flows.session import Run, Session, session
from flows.stop_signals import StopSignals
from flows.wording import ROUND_COLUMNS, evidence_rows, next_command, round_row
from sealift.cancel import CancelToken
from sealift.config import MigrationPlan
from sealift.errors import StoppedError, UsageError
from sealift.migration import Migration, Phase, RoundRecord
from sealift.migrator import Approve, CutoverForecast
from sealift.units import format_duration, format_size


@dataclass(frozen=True, slots=True)
class CutoverChoice:
    """How a cutover was asked for."""

    undo: bool = False
    rounds: bool = True
    yes: bool = False


def replicate(output: Output, plan: MigrationPlan) -> None:
    """One round."""
    with _running(output, plan, "replicate") as run:
        m = run.migrator.replicate()
    _show_rounds(output, m.history[-1:])
    output.summary(_durable(m), next_step=next_command(m), **_facts(m))


def migrate(output: Output, plan: MigrationPlan) -> None:
    """Rounds until the forecast fits, then hold."""
    with _running(output, plan, "migrate") as run:
        before = len(run.migrator.state.history)
        now = run.migrator.converge()
        m = run.migrator.state
    _show_rounds(output, m.history[before:])
    output.summary(
        now.text,
        next_step=next_command(m),
        verdict=now.verdict.value,
        final_seconds=now.final_seconds,
        **_facts(m),
    )


def cutover(output: Output, plan: MigrationPlan, choice: CutoverChoice) -> None:
    """Rounds, then the transaction; or back from one."""
    if choice.undo:
        _undo(output, plan)
        return
    if not choice.yes and not output.can_ask:
        raise UsageError(
            "a cutover stops the machine; nobody can confirm it here",
            next_step="run it with --yes",
        )
    with _running(output, plan, "cutover") as run:
        if choice.rounds and run.migrator.state.phase is not Phase.CUTTING_OVER:
            run.migrator.converge()
        m = run.migrator.cutover(None if choice.yes else _approval(output, run))
    _show_rounds(output, m.history)
    _show_evidence(output, m)
    downtime = m.cutover.downtime_seconds if m.cutover else None
    instance = m.cutover.instance_id if m.cutover else None
    output.summary(
        f"{m.vm_name} runs as {instance}; downtime {format_duration(downtime or 0.0)}",
        next_step=next_command(m),
        downtime_seconds=downtime,
        instance_id=instance,
        **_facts(m),
    )


def _undo(output: Output, plan: MigrationPlan) -> None:
    with _running(output, plan, "cutover") as run:
        if run.migrator.state.phase not in (Phase.CUTTING_OVER, Phase.UNDOING):
            raise UsageError(
                f"no cutover is under way: this migration is {run.migrator.state.phase.value}",
                next_step=next_command(run.migrator.state),
            )
        m = run.migrator.undo()
    output.summary(f"{m.vm_name} runs on the source again", next_step=next_command(m), **_facts(m))


def abandon(output: Output, plan: MigrationPlan, *, yes: bool) -> None:
    """Remove everything that the migration made."""
    with _running(output, plan, "abandon") as run:
        if not yes:
            name = run.migrator.state.vm_name
            run.reporter.flush()
            _confirm(output, name, "everything that this migration made is removed")
        m = run.migrator.abandon()
    output.summary(f"migration {m.id} is abandoned", next_step=next_command(m), **_facts(m))


# ---------------------------------------------------------------------- confirmation


def _approval(output: Output, run: Session) -> Approve:
    def approve(facts: CutoverForecast) -> bool:
        run.reporter.flush()
        text = facts.forecast.text if facts.forecast else "no forecast"
        _confirm(output, facts.vm_name, f"{text}\nthe machine {facts.vm_name} will be stopped")
        return True

    return approve


def _confirm(output: Output, name: str, text: str) -> None:
    answer = output.ask(f"{text}\ntype its name to go on:")
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
    with StopSignals(cancel), session(plan, run) as opened:
        try:
            yield opened
        except StoppedError as error:
            error.next_step = _after_stop(opened.migrator.state, command)
            raise


def _after_stop(m: Migration, command: str) -> str:
    if command == "cutover" and m.phase not in (Phase.CUTTING_OVER, Phase.UNDOING):
        return "the source runs; sealift cutover begins again, sealift migrate goes on with rounds"
    if m.phase in (Phase.CUTTING_OVER, Phase.UNDOING):
        return next_command(m)
    return f"sealift {command} goes on where it stopped"


# ---------------------------------------------------------------------- words


def _show_rounds(output: Output, records: tuple[RoundRecord, ...]) -> None:
    for record in records:
        output.emit("round", **round_facts(record))
    output.table("rounds", ROUND_COLUMNS, [round_row(r) for r in records])


def _show_evidence(output: Output, m: Migration) -> None:
    rows = evidence_rows(m)
    output.emit("evidence", rows=[{"name": name, "found": found} for name, found in rows])
    output.table("evidence", ("what", "found"), rows)


def round_facts(record: RoundRecord) -> dict[str, Json]:
    """One finished round, for machines."""
    return {
        "seq": record.seq,
        "final": record.final,
        "started": record.started,
        "round_seconds": record.seconds,
        "dirty_bytes": record.dirty_bytes,
        "read_bytes": record.read_bytes,
        "sent_bytes": record.sent_bytes,
        "unchanged_bytes": record.unchanged_bytes,
        "resumed_bytes": record.resumed_bytes,
        "dirty_after_bytes": record.dirty_after_bytes,
        "pause_seconds": record.pause_seconds,
        "consistency": record.consistency,
        "disks": [{"disk": d, "mode": mode, "reason": why} for d, mode, why in record.modes],
    }


def _facts(m: Migration) -> dict[str, Json]:
    return {"migration": m.id, "vm": m.vm_name, "phase": m.phase.value}


def _durable(m: Migration) -> str:
    last = m.history[-1]
    return (
        f"point {last.seq} is durable: {format_size(last.sent_bytes)} sent in "
        f"{format_duration(last.seconds)}, {format_size(last.dirty_after_bytes)} changed meanwhile"
    )
