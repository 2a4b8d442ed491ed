"""One run: its lock, log, progress and ports, in that order; of a replication: replica_session."""

import logging
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import sealift
from flows import assembly
from flows.beat import BeatView
from flows.board import Board
from flows.places import state_directory
from flows.reporter import Reporter, View
from flows.run_log import Redactor, RunLog
from sealift.cancel import CancelToken
from sealift.clock import Clock, SystemClock
from sealift.config import MigrationPlan
from sealift.errors import LockedError, SealiftError, StoppedError, UsageError
from sealift.failover import Failover
from sealift.host_limits import check_address_space, host_limit
from sealift.migrator import Migrator
from sealift.ports import DiskRunner, Ports, ReplicaPorts, side_by_side
from sealift.replicator import Replicator
from sealift.store import FileStateStore, StateLock

log = logging.getLogger(__name__)

UNDO_SECONDS = 120.0
"""How long a command waits for the undo of a cutover that was killed."""
_LOCK_POLL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Run:
    """How one run is carried out.

    Attributes:
        command: its name, in the lock and in the log file's name.
        views: who sees the progress.
        environ: for places of files and for secrets to keep out of the log.
        cancel: stops it.
        clock: time.
        run_disks: how the disks of a round are run.
        open_migrator: makes the migrator over its ports.
        open_replicator: makes the replicator over its ports.
        open_failover: makes the planned failover over its ports.
    """

    command: str
    views: Sequence[View]
    environ: Mapping[str, str]
    cancel: CancelToken = field(default_factory=CancelToken)
    clock: Clock = field(default_factory=SystemClock)
    run_disks: DiskRunner = side_by_side
    open_migrator: Callable[[Ports, str], Migrator] = Migrator.open
    open_replicator: Callable[[ReplicaPorts, str], Replicator[ReplicaPorts]] = Replicator.open
    open_failover: Callable[[Ports, str], Failover] = Failover.open


@dataclass(frozen=True, slots=True)
class Session:
    """An open run of a migration."""

    migrator: Migrator
    ports: Ports
    reporter: Reporter
    log_path: Path | None


@dataclass(frozen=True, slots=True)
class Owned:
    """What every run has before its ports are opened."""

    around: assembly.Around
    store: FileStateStore
    reporter: Reporter
    log_path: Path | None
    stack: ExitStack


@contextmanager
def session(plan: MigrationPlan, run: Run) -> Iterator[Session]:
    """Own the migration, open its ends and its record; everything is let go at the end.

    Raises:
        LockedError: another run owns it.
        SealiftError: with the log file as the operand ``log``; also in place of any
            exception that nobody expected, whose trace is in the log file only.
    """
    with owned_run(FileStateStore(state_directory(plan, run.environ)), run) as own:
        ports = assembly.ports_over(plan, own.around, own.store, own.stack)
        migrator = run.open_migrator(ports, plan.migration)
        yield Session(migrator, ports, own.reporter, own.log_path)


@contextmanager
def owned_run(store: FileStateStore, run: Run) -> Iterator[Owned]:
    """Own a state folder for one run; see ``session``."""
    check_address_space()
    with RunLog(store.directory / "logs", run.command, run.clock, run.environ) as run_log:
        log.info(
            "sealift %s, %s, python %s", sealift.__version__, run.command, platform.python_version()
        )
        try:
            with _inside(run, store, run_log.path) as own:
                yield own
        except SealiftError as error:
            expected = isinstance(error, UsageError | LockedError | StoppedError)
            log.error("%s: %s", error.code, error.message, exc_info=not expected)
            error.operands.setdefault("log", str(run_log.path or ""))
            raise
        except Exception as error:
            log.exception("unexpected")
            # Without its cause, which Prefect would store: the SDK's quote what was signed.
            raise unexpected(error, run_log.path, run.environ) from None


@contextmanager
def _inside(run: Run, store: FileStateStore, log_path: Path | None) -> Iterator[Owned]:
    board = Board(run.clock)
    around = assembly.Around(
        run.clock, run.cancel, board, run.environ, f"sealift {run.command}", run.run_disks
    )
    with ExitStack() as stack:
        stack.enter_context(_owned(store.directory, around))
        views = [*run.views, BeatView(store, around.run_name, run.clock)]
        reporter = stack.enter_context(Reporter(board, views, run.clock))
        yield Owned(around, store, reporter, log_path, stack)


@contextmanager
def _owned(directory: Path, around: assembly.Around) -> Iterator[None]:
    """The migration's lock; waits for nobody but an undo, which is soon over.

    Raises:
        LockedError: another run owns the migration.
        StoppedError: a stop was asked for while waiting.
    """
    deadline = around.clock.monotonic() + UNDO_SECONDS
    with ExitStack() as stack:
        while not _entered(stack, StateLock(directory, around.run_name), around, deadline):
            around.cancel.sleep(around.clock, _LOCK_POLL_SECONDS)
        yield


def _entered(stack: ExitStack, lock: StateLock, around: assembly.Around, deadline: float) -> bool:
    """Whether the lock is ours; False while an undo holds it and may hold it longer."""
    try:
        stack.enter_context(lock)
    except LockedError as error:
        settling = assembly.SETTLING in str(error.operands.get("holder", ""))
        if not settling or around.clock.monotonic() >= deadline:
            raise
        log.info("waiting for %s", error.operands["holder"])
        return False
    return True


def unexpected(error: Exception, log_path: Path | None, environ: Mapping[str, str]) -> SealiftError:
    """What a person sees of an exception that nobody expected: one line and where to look."""
    if (known := host_limit(error)) is not None:
        known.operands["log"] = str(log_path or "")
        return known
    text = Redactor(environ)(f"unexpected {type(error).__name__}: {error}")
    step = f"report it, with {log_path}" if log_path else "report it"
    return SealiftError(text[:500], next_step=step, log=str(log_path or ""))
