"""What to run next, after every phase and every kind of failure.

Commands print these at their end, Prefect shows them, and ``sealift help recovery`` is
made of them.
"""

import re
import shlex
from collections.abc import Mapping
from pathlib import Path

from flows.liveness import Liveness
from sealift import errors
from sealift.errors import SealiftError
from sealift.migration import Migration, Phase

_TAKES_A_PLAN = re.compile(
    r"\bsealift (?:preflight|plan|status|replicate|migrate|cutover|abandon|doctor)\b(?! --plan)"
)
_AGAIN = "run the same command again: it goes on where it was"

_NEXT: Mapping[Phase, str] = {
    Phase.READY: "sealift cutover",
    Phase.CUTTING_OVER: "sealift cutover to finish it, or sealift cutover --undo to go back",
    Phase.UNDOING: "sealift cutover --undo until it succeeds",
    Phase.CUT_OVER: "nothing: the target is the machine now",
    Phase.ABANDONING: "sealift abandon",
    Phase.ABANDONED: "nothing: choose another migration name to begin anew",
}

_AFTER_ERROR: Mapping[type[SealiftError], str] = {
    errors.SealiftError: "report it, with the log file",
    errors.UsageError: "correct the command; sealift COMMAND --help has examples",
    errors.ConfigError: "correct the plan; sealift config init NEW.yaml explains every field",
    errors.LockedError: "wait for the other run, or stop it; sealift status names it",
    errors.IntegrityError: "keep the evidence; the source runs: "
    "sealift replicate --on-tracking-loss full sends everything anew",
    errors.SourceError: "see whether the machine and its monitor run, then " + _AGAIN,
    errors.ProtocolError: "see whether the peer is what the plan says, then " + _AGAIN,
    errors.PointLostError: "run the same command again: it begins a new round",
    errors.TrackingLostError: "sealift replicate --on-tracking-loss compare",
    errors.ImageError: "sealift image info FILE; state the format with --format",
    errors.TargetError: "sealift preflight names what the target refuses",
    errors.TargetDeniedError: "grant the permission that is named, then " + _AGAIN,
    errors.QuotaError: "raise the quota or make room in the account, then " + _AGAIN,
    errors.CredentialsError: "renew the credentials, then " + _AGAIN,
    errors.LocalStateError: "restore the state folder, or sealift abandon",
    errors.OutOfSpaceError: "make room, then " + _AGAIN,
    errors.ToolError: "sealift doctor names what is missing",
    errors.RepositoryError: "see what the message names; nothing was changed",
    errors.NewerFormatError: "use the release that wrote it, or a newer one",
    errors.WrongSecretError: "open the repository with another slot's secret",
    errors.SlotDamagedError: "open the repository with another slot, then renew this one",
    errors.DrillFailedError: "sealift points list names older points; drill one of them",
    errors.RpoExceededError: "sealift replicate, and see why the last ones failed",
    errors.TransientError: _AGAIN,
    errors.StoppedError: _AGAIN,
}


def next_command(m: Migration | None, *, one_shot: bool = False) -> str:
    """What to run next, in one line; None is a migration that has not begun.

    Args:
        m: the migration.
        one_shot: its target takes no rounds.
    """
    if one_shot and (m is None or m.phase in (Phase.REPLICATING, Phase.READY)):
        return "sealift cutover --no-rounds"
    if m is None:
        return "sealift migrate"
    return after_phase(m.phase, durable=bool(m.bases))


def after_phase(phase: Phase, *, durable: bool = True) -> str:
    """What to run next in this phase.

    Args:
        phase: of the migration.
        durable: whether the target has a whole point.
    """
    if phase is Phase.REPLICATING:
        begun = "sealift migrate, or sealift cutover when the time has come"
        return begun if durable else "sealift migrate"
    return _NEXT[phase]


def after_stop(command: str, phase: Phase) -> str:
    """What to run after a run that was stopped on request.

    Args:
        command: the one that was stopped.
        phase: of the migration afterwards.
    """
    if phase in (Phase.CUTTING_OVER, Phase.UNDOING):
        return after_phase(phase)
    if command == "cutover":
        return "the source runs; sealift cutover begins again, sealift migrate goes on with rounds"
    return f"sealift {command} goes on where it stopped"


def beside_run(activity: Liveness, run: str) -> str | None:
    """What to do while a run owns the migration; None when none does.

    Args:
        activity: what is known of the run.
        run: its name, as ``sealift migrate``.
    """
    match activity:
        case Liveness.RUNNING:
            return f"nothing now: {run} is at work"
        case Liveness.STALLED:
            return f"look at the network and at the peer; {run} goes on by itself when they answer"
        case Liveness.SILENT:
            return f"continue or end the process of {run}, then run it again"
        case Liveness.IDLE | Liveness.INTERRUPTED:
            return None


def with_plan(step: str, plan: Path) -> str:
    """The step with the plan that the present command was given, or it would take another."""
    named = f" --plan {shlex.quote(str(plan))}"
    return _TAKES_A_PLAN.sub(lambda found: found[0] + named, step)


def after_error(kind: type[SealiftError]) -> str:
    """What to do after an error of this kind that names no step of its own."""
    return next(_AFTER_ERROR[c] for c in kind.__mro__ if c in _AFTER_ERROR)
