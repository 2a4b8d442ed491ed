"""What commands on a repository share: signals, log file, progress, and the opened repository."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from flows import repositories
from flows.around import Around, context_of
from flows.board import Board
from flows.cli.output import Output
from flows.places import general_logs
from flows.points import OpenPoint
from flows.reporter import Reporter
from flows.repositories import OpenRepository
from flows.run_log import RunLog
from flows.stop_signals import StopSignals
from sealift.cancel import CancelToken
from sealift.clock import SystemClock
from sealift.config_repository import ReplicationPlan
from sealift.errors import SealiftError
from sealift.progress import Note, Noted
from sealift.sealing.slots import Secret
from sealift.sync import SyncContext

UNSEEN = (
    "this host has not seen this repository before, so it could not tell an older copy; sealift "
    "points list --receipt compares it with a receipt"
)


@dataclass(frozen=True, slots=True)
class At:
    """A command at work on a repository.

    Attributes:
        plan: names it.
        around: time, stop, progress.
        stack: closes what the command opens.
    """

    plan: ReplicationPlan
    around: Around
    stack: ExitStack

    @property
    def context(self) -> SyncContext:
        """For syncs out of the repository."""
        return context_of(self.plan, self.around)

    def say(self, text: str) -> None:
        """A warning, in one sentence."""
        self.around.sink(Noted(Note.WARNING, text))


@contextmanager
def at_repository(output: Output, plan: ReplicationPlan, command: str) -> Iterator[At]:
    """Everything but the repository itself."""
    clock, cancel = SystemClock(), CancelToken()
    board = Board(clock)
    around = Around(clock, cancel, board, os.environ, f"sealift {command}")
    name = command.replace(" ", "-")
    with (
        RunLog(general_logs(os.environ), name, clock, os.environ) as run_log,
        _named_in_errors(run_log),
        StopSignals(cancel),
        Reporter(board, output.views(), clock),
        ExitStack() as stack,
    ):
        yield At(plan, around, stack)


@contextmanager
def _named_in_errors(run_log: RunLog) -> Iterator[None]:
    try:
        yield
    except SealiftError as error:
        run_log.write(f"{error.code}: {error.message}", error)
        error.operands.setdefault("log", str(run_log.path or ""))
        raise


@contextmanager
def opened(
    output: Output,
    plan: ReplicationPlan,
    command: str,
    receipt: str | None = None,
    *,
    follows: bool = True,
    secret: Secret | None = None,
) -> Iterator[tuple[At, OpenRepository]]:
    """With the repository; without its index when it does not follow that.

    A secret that is given opens it, in place of what the plan names.
    """
    with (
        at_repository(output, plan, command) as at,
        repositories.opened(plan, at.around, receipt, follows=follows, secret=secret) as found,
    ):
        for name, why in found.unusable.items():
            at.say(f"{name} opens nothing any more: {why}; make a new slot and remove it")
        if not found.seen_before and receipt is None:
            at.say(UNSEEN)
        yield at, found


@contextmanager
def opened_point(
    output: Output, plan: ReplicationPlan, command: str, point: str
) -> Iterator[tuple[At, OpenPoint]]:
    """With one point of it."""
    with opened(output, plan, command) as (at, found):
        yield at, OpenPoint.find(found.repository, point, plan.replication)
