"""``sealift verify``, and ``check``, ``prune``, ``reseal`` and ``repair`` of a repository."""

import random
from datetime import UTC, datetime
from typing import Literal

from flows.cli.output import Output
from flows.cli.repository_lines import (
    DamageLine,
    Pruned,
    Repaired,
    RepositoryChecked,
    Resealed,
    VerdictLine,
)
from flows.cli.repository_runs import opened
from flows.drill_records import load_trials, trial_overdue
from flows.repositories import OpenRepository
from flows.retaining import retention_of
from sealift.config_repository import ReplicationPlan
from sealift.errors import IntegrityError, UsageError
from sealift.repository.check import Checker, CheckReport
from sealift.repository.prune import PruneOptions, Pruner, PruneReport
from sealift.repository.repack import Repacker, RepackReport
from sealift.repository.repair import RepairReport, rebuild_index
from sealift.repository.reseal import Resealer
from sealift.repository.retention import Verdict
from sealift.sealing import slot_objects
from sealift.sealing.rotation import RESEAL
from sealift.sealing.slots import SlotKind
from sealift.units import format_duration, format_size

_ID_DIGITS = 12
Command = Literal["repository check", "verify"]


def check(output: Output, plan: ReplicationPlan, command: Command, share: float) -> None:
    """Whether everything that points need is there and opens.

    Args:
        output: who is told.
        plan: names the repository.
        command: ``repository check`` or ``verify``.
        share: of the packs that are read as a whole, 0 to 1.

    Raises:
        IntegrityError: something is damaged; every finding was told before.
    """
    if not 0 <= share <= 1:
        raise UsageError(f"a share of {share:g}: write 0 to 1", next_step="correct --read-data")
    with opened(output, plan, command) as (at, found):
        rng = random.Random()  # noqa: S311 - chooses a sample
        report = Checker(found.repository, read_share=share, rng=rng).run()
        untried = _untried(found, at.around.clock.now().timestamp())
        for text in untried:
            at.say(text)
    for one in report.damage:
        points = [p.hex() for p in one.points]
        output.emit(DamageLine(what=one.what, why=one.why, points=points))
    _tell_damage(output, report)
    if report.damage:
        lost = len(report.lost_points)
        raise IntegrityError(
            f"{len(report.damage)} things are damaged or missing; {lost} of {report.points} "
            "points cannot be restored as a whole",
            next_step="keep the repository as it is; the next points replace what is damaged "
            "where the machine still has it: sealift replicate --on-tracking-loss full",
        )
    output.summary(_checked(command, report, len(untried)))


def _untried(found: OpenRepository, now: float) -> list[str]:
    """A warning for each recovery code that nobody has tried for long, on this host."""
    trials, texts = load_trials(found.state), []
    for slot in slot_objects.list_slots(found.store):
        tried = trials.get(slot.id)
        if slot.description == SlotKind.RECOVERY.label and trial_overdue(tried, now):
            when = "never" if tried is None else f"{format_duration(now - tried)} ago"
            texts.append(
                f"the recovery code of slot {slot.id[:_ID_DIGITS]} was last tried here: {when}; "
                "sealift drill newest --try-recovery FILE does it"
            )
    return texts


def _tell_damage(output: Output, report: CheckReport) -> None:
    if not report.damage:
        return
    rows = [
        (one.what, one.why, ", ".join(p.hex()[:_ID_DIGITS] for p in one.points) or "none")
        for one in report.damage
    ]
    output.table("damage", ("what", "why", "points that need it"), rows)


def _checked(command: Command, report: CheckReport, untried: int) -> RepositoryChecked:
    read = f", {report.read_packs} of them read with {report.read_chunks} chunks"
    text = f"{report.points} points stand on {report.packs} packs{read}; nothing is damaged"
    return RepositoryChecked(
        command=command,
        text=text,
        points=report.points,
        packs=report.packs,
        read_packs=report.read_packs,
        read_chunks=report.read_chunks,
        untried_codes=untried,
    )


def prune(
    output: Output, plan: ReplicationPlan, *, preview: bool, mass_removal: bool, repack: bool
) -> None:
    """Drop the points that retention does not keep; remove what none needs, after quarantine."""
    moved = RepackReport()
    with opened(output, plan, "repository prune") as (at, found):
        options = PruneOptions(plan.retention.quarantine, mass_removal)
        pruner = Pruner(found.repository, options)
        policy = retention_of(plan.retention)
        report = pruner.preview(policy) if preview else pruner.run(policy)
        if repack and not preview:
            moved = Repacker(found.repository, cancel=at.around.cancel).run()
        for name in moved.damaged:
            at.say(f"{name} is damaged, so it was not repacked; sealift verify says what is lost")
    verdicts = sorted(report.verdicts, key=lambda v: (v.point.taken_ms, v.point.seq))
    for verdict in verdicts:
        output.emit(_verdict(verdict))
    rows = [_verdict_row(v) for v in verdicts]
    output.table("points", ("point", "taken (UTC)", "", "because of"), rows)
    output.summary(_pruned(report, moved, preview=preview))


def _verdict(verdict: Verdict) -> VerdictLine:
    return VerdictLine(
        point=verdict.point.id.hex(),
        taken=verdict.point.taken_ms / 1000,
        kept=bool(verdict.reasons),
        rules=list(verdict.reasons),
    )


def _verdict_row(verdict: Verdict) -> tuple[str, ...]:
    taken = datetime.fromtimestamp(verdict.point.taken_ms / 1000, UTC)
    word = "stays" if verdict.reasons else "goes"
    name = verdict.point.id.hex()[:_ID_DIGITS]
    return name, taken.strftime("%Y-%m-%d %H:%M:%S"), word, ", ".join(verdict.reasons)


def _pruned(report: PruneReport, moved: RepackReport, *, preview: bool) -> Pruned:
    condemned = format_size(report.condemned_bytes)
    doomed = format_size(report.doomed_bytes)
    text = (
        f"{len(report.dropped)} points {'would go' if preview else 'are gone'}; "
        f"{condemned} in {len(report.condemned)} objects go into quarantine, "
        f"{doomed} in {len(report.doomed)} have come out of it"
    )
    if moved.packs:
        freed, stored = format_size(moved.freed_bytes), format_size(moved.stored_bytes)
        text += f"; what is needed of {freed} is in {stored} of new packs, the rest in quarantine"
    if report.denied:
        text += f"; the store refused to delete {len(report.denied)} objects"
    return Pruned(
        text=text,
        next="sealift repository prune" if preview and report.dropped else "",
        dropped=len(report.dropped),
        condemned_objects=len(report.condemned),
        condemned_bytes=report.condemned_bytes,
        doomed_objects=len(report.doomed),
        doomed_bytes=report.doomed_bytes,
        deleted_objects=report.deleted,
        denied_objects=len(report.denied),
        repacked_objects=len(moved.packs),
        repacked_bytes=moved.freed_bytes,
        preview=preview,
    )


def reseal(output: Output, plan: ReplicationPlan) -> None:
    """Put what points stand on under the keys of the newest epoch."""
    with opened(output, plan, "repository reseal") as (at, found):
        report = Resealer(found.repository, at.around.cancel).run()
    done = (
        f"{report.chunks} chunks and {report.manifests} points were sealed anew "
        f"({format_size(report.stored_bytes)} stored); all is of epoch {report.epoch}"
    )
    output.summary(
        Resealed(
            text=f"{done}\n{RESEAL}",
            next="sealift repository prune" if report.condemned else "",
            epoch=report.epoch,
            chunks=report.chunks,
            packs=report.packs,
            points=report.manifests,
            stored_bytes=report.stored_bytes,
        )
    )


def repair(output: Output, plan: ReplicationPlan, *, preview: bool) -> None:
    """Make the index anew from the packs' own tables, when index objects are lost or damaged."""
    with opened(output, plan, "repository repair", follows=False) as (_, found):
        report = rebuild_index(found.repository, dry_run=preview)
    output.table("packs that could not be read", ("pack", "why"), list(report.unreadable))
    output.summary(_repaired(report, preview=preview))


def _repaired(report: RepairReport, *, preview: bool) -> Repaired:
    lost = f"; {len(report.unreadable)} could not be read" if report.unreadable else ""
    return Repaired(
        text=f"the new index {'would name' if preview else 'names'} {report.packs} packs{lost}",
        next="sealift repository repair" if preview else "sealift repository check",
        packs=report.packs,
        unreadable=[name for name, _ in report.unreadable],
        preview=preview,
    )
