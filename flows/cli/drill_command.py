"""``sealift drill``: whether a point boots, proven, pictured and timed."""

import getpass
import os
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from flows import drilling
from flows.cli.lines import Noticed
from flows.cli.output import Output
from flows.cli.repository_lines import Drilled, DrillLine
from flows.cli.repository_runs import opened
from flows.drill_records import remembered
from flows.drilling import DrillOrder
from flows.points import NEWEST, OpenPoint
from flows.unlocking import recovery_code_of
from sealift.clock import SystemClock
from sealift.config_repository import ReplicationPlan
from sealift.errors import SealiftError, StoppedError
from sealift.progress import Note
from sealift.sealing.secrets import RecoveryCode
from sealift.units import format_duration

_OPTION = "--try-recovery"
_STANDARD_INPUT = "-"


@dataclass(frozen=True, slots=True)
class _Done:
    """A drill that succeeded, with what the command knows of it."""

    point: str
    vm: str
    seconds: float
    drilled: drilling.Drilled


def run_drill(
    output: Output,
    plan: ReplicationPlan,
    point: str,
    order: DrillOrder,
    recovery: Path | None = None,
) -> None:
    """Start a point and wait until it proves itself.

    Args:
        output: who is told.
        plan: names the repository.
        point: beginning of its id, or ``newest``.
        order: what has to be seen.
        recovery: file with a recovery code that opens the repository this time, or ``-``; of
            the code nothing is kept.
    """
    order.proven_by(SystemClock())
    code = None if recovery is None else _code(recovery)
    done = _drilled(output, plan, point, order, code)
    _tell(output, done)
    tried = "" if code is None else ", opened by the recovery code"
    text = f"point {done.point} of {done.vm} boots{tried}; recovered in "
    text += format_duration(done.seconds)
    output.summary(Drilled(text=text, point=done.point, recovery_seconds=done.seconds))


def drill_after_point(output: Output, plan: ReplicationPlan) -> str:
    """Drill the point that was just sealed; how it went, for the summary.

    A drill that fails is told, and is no failure of whoever sealed the point.

    Raises:
        StoppedError: a stop was asked for.
    """
    try:
        order = drilling.unattended(plan, drilling.NO_WISHES, os.environ)
        done = _drilled(output, plan, NEWEST, order, None)
    except StoppedError:
        raise
    except SealiftError as error:
        text = f"the point is sealed, but its drill failed: {error.message}"
        facts = {"code": error.code, "picture": str(error.operands.get("picture", ""))}
        output.emit(Noticed(note=Note.WARNING, text=text, facts=facts))
        output.hint(text)
        return "its drill failed"
    _tell(output, done)
    return f"it boots in {format_duration(done.drilled.boot_seconds)}"


def _code(path: Path) -> RecoveryCode:
    """From the file; typed without an echo, or piped, where it is ``-``."""
    if str(path) != _STANDARD_INPUT:
        return recovery_code_of(path, _OPTION)
    if sys.stdin.isatty():
        return RecoveryCode.parse(getpass.getpass("recovery code: "))
    return RecoveryCode.parse(sys.stdin.readline())


def _drilled(
    output: Output,
    plan: ReplicationPlan,
    point: str,
    order: DrillOrder,
    code: RecoveryCode | None,
) -> _Done:
    clock = SystemClock()
    began = clock.monotonic()
    with ExitStack() as stack:
        notes = stack.enter_context(remembered(plan, clock, os.environ, by_code=code is not None))
        at, found = stack.enter_context(opened(output, plan, "drill", secret=code))
        notes.opened(found)
        chosen = OpenPoint.find(found.repository, point, plan.replication)
        notes.chose(chosen)
        done = drilling.drill(chosen, order, at.around.clock, at.around.cancel)
        notes.saw(done)
        seconds = clock.monotonic() - began
    return _Done(chosen.ref.id.hex(), chosen.manifest.vm.name, seconds, done)


def _tell(output: Output, done: _Done) -> None:
    seen = done.drilled
    output.emit(
        DrillLine(
            point=done.point,
            vm=done.vm,
            proof=seen.seen,
            recovery_seconds=done.seconds,
            boot_seconds=seen.boot_seconds,
            picture=str(seen.picture),
            console=str(seen.console),
        )
    )
    rows = [
        ("proof", seen.seen),
        ("from command to proof", format_duration(done.seconds)),
        ("from power-on to proof", format_duration(seen.boot_seconds)),
        ("picture", str(seen.picture)),
        ("console", str(seen.console)),
    ]
    output.table(f"drill of {done.vm}", ("", ""), rows)
