"""``sealift status``."""

import os
from pathlib import Path

from flows.cli.lines import Standing
from flows.cli.output import Output
from flows.cli.shown import show_rounds
from flows.cli.summaries import Shown
from flows.drill_records import trial_overdue
from flows.liveness import Liveness
from flows.next_steps import beside_run, next_command
from flows.places import REPLICATIONS, state_directory, state_home
from flows.status import Status, migrations_in, read_status
from flows.wording import durable_bytes
from sealift.clock import SystemClock
from sealift.config import MigrationPlan
from sealift.config_load import AnyPlan
from sealift.convergence import ConvergencePolicy
from sealift.errors import LocalStateError, UsageError
from sealift.ledger import load_migration
from sealift.progress import describe
from sealift.store import FileStateStore
from sealift.units import format_duration, format_size

_ID_DIGITS = 12


def directories(plan: AnyPlan | None, name: str | None) -> list[Path]:
    """The folders to show: the plan's, the named one, or all.

    Raises:
        UsageError: there is none.
    """
    home = state_home(os.environ)
    if name is not None:
        if "/" in name or name.startswith("."):
            raise UsageError(f"{name} is not the name of a migration", next_step="sealift status")
        return _named(home, name)
    if plan is not None:
        return [state_directory(plan, os.environ)]
    found = migrations_in(home)
    if not found:
        raise UsageError(f"no migration in {home}", next_step="sealift migrate begins one")
    return found


def _named(home: Path, name: str) -> list[Path]:
    """The migration and the replication of this name, else that of the machine of this name."""
    known = migrations_in(home)
    if called := [path for path in (home / name, home / REPLICATIONS / name) if path.is_dir()]:
        return [path for path in called if path in known] or called[:1]
    of_machine = [path for path in known if _machine_of(path) == name]
    if len(of_machine) == 1:
        return of_machine
    if of_machine:
        names = ", ".join(path.name for path in of_machine)
        raise UsageError(
            f"{name} is the machine of {len(of_machine)} migrations: {names}",
            next_step=f"sealift status --id {of_machine[0].name}",
        )
    names = ", ".join(path.name for path in known) or "none"
    raise UsageError(
        f"no migration and no machine of one is called {name}; there are: {names}",
        next_step="sealift status shows all",
    )


def _machine_of(directory: Path) -> str | None:
    try:
        record = load_migration(FileStateStore(directory))
    except LocalStateError:  # told when it is asked for by its own name
        return None
    return record.vm_name if record else None


def status(output: Output, plan: AnyPlan | None, name: str | None) -> None:
    """Phase, rounds, lag, forecast, and what to run next."""
    now = SystemClock().now().timestamp()
    policy = plan.migration_policy().convergence if plan else ConvergencePolicy()
    found = [read_status(d, now, policy) for d in directories(plan, name)]
    for s in found:
        _show(output, s, now, plan)
    following = _next(found[0], plan) if len(found) == 1 else ""
    if len(found) == 1 and found[0].holder is not None:
        following = beside_run(found[0].liveness, found[0].holder.run) or following
    output.summary(Shown(text=_words(found), next=following, migrations=len(found)))


def _next(s: Status, plan: AnyPlan | None) -> str:
    if not s.replicates:
        one_shot = isinstance(plan, MigrationPlan) and plan.target.one_shot
        return next_command(s.migration, one_shot=one_shot)
    return "sealift replicate" if s.migration else "sealift drill newest"


def _words(found: list[Status]) -> str:
    if len(found) != 1:
        return f"{len(found)} migrations"
    s = found[0]
    phase = s.migration.phase.value if s.migration else "starting"
    return f"{s.name}: {phase}, {s.liveness.value}"


def _show(output: Output, s: Status, now: float, plan: AnyPlan | None) -> None:
    m = s.migration
    output.emit(_standing(s, now, plan))
    rows = [("state folder", str(s.directory)), ("activity", _activity(s, now))]
    if m is not None:
        rows.insert(0, ("virtual machine", f"{m.vm_name} ({m.vm_uuid})"))
        rows.insert(1, ("phase", m.phase.value))
        rows.append(("durable on the target", format_size(durable_bytes(m))))
        lag = "nothing durable yet" if s.lag_seconds is None else format_duration(s.lag_seconds)
        rows.append(("lag since the last point", lag))
        rows += [("failed before", text) for text in m.failures[-3:]]
        if m.throttled is not None:
            rows.append(("guest's writes limited to", f"{format_size(m.throttled)}/s"))
    if s.forecast is not None:
        rows.append(("forecast at the last round's end", s.forecast.text))
    rows += _running_rows(s)
    if s.replicates:
        rows += [("last drill", _drilled(s, now)), ("recovery code", _code(s, now))]
    output.table(s.name, ("", ""), rows)
    if m is not None and m.history:
        show_rounds(output, m.history)


def _drilled(s: Status, now: float) -> str:
    """How the last drill went, and beside a failed one when the machine last booted."""
    if s.drills is None:
        return "never here: sealift drill newest"
    last, proven = s.drills.last, s.drills.proven
    if not last.error:
        return f"point {last.point[:_ID_DIGITS]} booted, {_ago(last.at, now)}"
    before = f"the last that booted: {_ago(proven.at, now)}" if proven else "none has ever booted"
    of = f" of point {last.point[:_ID_DIGITS]}" if last.point else ""
    return f"FAILED{of}, {_ago(last.at, now)} ({last.error}); {before}"


def _code(s: Status, now: float) -> str:
    if not trial_overdue(s.code_tried, now):
        return f"tried {_ago(s.code_tried or now, now)}"
    when = "never tried here" if s.code_tried is None else f"last tried {_ago(s.code_tried, now)}"
    return f"{when}: sealift drill newest --try-recovery FILE"


def _ago(at: float, now: float) -> str:
    return f"{format_duration(max(0.0, now - at))} ago"


def _running_rows(s: Status) -> list[tuple[str, str]]:
    if s.beat is None or s.holder is None:
        return []
    return [
        (f"round {s.beat.seq}, disk {d.id}", describe(d.done, d.total, d.rate))
        for d in s.beat.disks
    ]


def _activity(s: Status, now: float) -> str:
    who = f"{s.holder.run} (process {s.holder.pid})" if s.holder else ""
    age = format_duration(max(0.0, now - s.beat.at)) if s.beat else ""
    match s.liveness:
        case Liveness.IDLE:
            return "nobody works on it"
        case Liveness.INTERRUPTED:
            return f"the last run died {age} ago; the next one goes on where it was"
        case Liveness.SILENT:
            return f"{who} gave its last sign of life {age} ago: it is stopped or hangs"
        case Liveness.STALLED:
            quiet = format_duration(s.beat.quiet_seconds) if s.beat else ""
            return f"{who}: nothing moved for {quiet}"
        case Liveness.RUNNING:
            return f"{who}{f': {s.beat.phase}' if s.beat else ''}"


def _age(at: float | None, now: float) -> float | None:
    return None if at is None else round(max(0.0, now - at), 3)


def _standing(s: Status, now: float, plan: AnyPlan | None) -> Standing:
    m, proven = s.migration, s.drills.proven if s.drills else None
    return Standing(
        migration=s.name,
        vm=m.vm_name if m else None,
        phase=m.phase if m else None,
        directory=str(s.directory),
        activity=s.liveness,
        pid=s.holder.pid if s.holder else None,
        run=s.holder.run if s.holder else None,
        beat_age_seconds=round(now - s.beat.at, 3) if s.beat else None,
        doing=s.beat.phase if s.beat else None,
        durable_bytes=durable_bytes(m) if m else 0,
        lag_seconds=s.lag_seconds,
        forecast_seconds=s.forecast.final_seconds if s.forecast else None,
        forecast=s.forecast.text if s.forecast else None,
        failures=list(m.failures) if m else [],
        drill_age_seconds=_age(s.drills.last.at if s.drills else None, now),
        drill_error=s.drills.last.error if s.drills else None,
        booted_age_seconds=_age(proven.at if proven else None, now),
        code_tried_age_seconds=_age(s.code_tried, now),
        next=_next(s, plan),
    )
