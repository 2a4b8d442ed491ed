"""A disk of a round in another process: what is sent there, what is done there, what comes back.

Both ways the messages are text: values of the plan and of the record. No secret is among them,
because a plan holds none; a worker has credentials of its own, as every run of Sealift has.
"""

import logging
import os
import secrets
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from flows import assembly, hardening
from flows.run_log import Redactor, RunLog
from sealift.cancel import CancelToken
from sealift.clock import Clock, SystemClock
from sealift.config import MigrationPlan
from sealift.disk_sync import sync_disk
from sealift.errors import LocalStateError, SealiftError
from sealift.guarded import GuardedWriter
from sealift.host_limits import check_address_space, host_limit
from sealift.leases import CONFIRM_SECONDS, ErrandWatch
from sealift.migration import DiskFigures
from sealift.ports import DiskOrder
from sealift.progress import DiskProgress, Event, Noted
from sealift.store import FileStateStore, StateStore

log = logging.getLogger(__name__)

_MAX_NOTES = 100


@dataclass(frozen=True)
class Sent:
    """What a worker gets.

    Attributes:
        plan: with the state folder written out.
        order: the disk.
        token: of the errand, see ``sealift.leases``.
        sharers: how many disks divide the plan's limits.
        run: name of the run that sends it.
    """

    plan: MigrationPlan
    order: DiskOrder
    token: str
    sharers: int
    run: str


@dataclass(frozen=True)
class Brought:
    """What a worker brings back.

    Attributes:
        figures: what was moved.
        blocks: name in the state under which it keeps the disk's digests; "" for none. Only
            who owns the migration gives them the name by which the next round finds them.
    """

    figures: DiskFigures
    blocks: str


@dataclass(frozen=True)
class Seen:
    """How far a worker is.

    Attributes:
        attempt: changes when another worker begins.
        progress: of the disk; None before the first block.
        notes: moments so far, the newest hundred.
        forgotten: moments before these.
    """

    attempt: str
    progress: DiskProgress | None
    notes: tuple[Noted, ...]
    forgotten: int


SENT, BROUGHT, SEEN = TypeAdapter(Sent), TypeAdapter(Brought), TypeAdapter(Seen)


def progress_name(disk_id: str, token: str) -> str:
    """Where a worker says how far it is."""
    return f"progress-{disk_id}-{token}"


def do_errand(text: str) -> str:
    """Sync one disk; the body of a task, in whatever process it runs.

    Args:
        text: a ``Sent`` in JSON.

    Returns:
        A ``Brought`` in JSON.

    Raises:
        StoppedError: whoever sent it does not want it any more.
        SealiftError: without cause and trace, which would travel along: an SDK's quote what
            was signed.
    """
    hardening.leave_no_core()
    outcome = _outcome(text, SystemClock())
    if isinstance(outcome, SealiftError):
        raise outcome
    return outcome


def _outcome(text: str, clock: Clock) -> str | SealiftError:
    try:
        sent = SENT.validate_json(text)
    except ValidationError as error:
        return LocalStateError(
            f"the order of the disk is not understood ({error.error_count()} fields)",
            next_step="install the same release of sealift where the flow runs and on every worker",
        )
    try:
        return BROUGHT.dump_json(_done(sent, clock)).decode()
    except SealiftError as error:
        error.__cause__ = error.__context__ = None
        return error.with_traceback(None)
    except Exception as error:
        return host_limit(error) or _unexpected(sent, error, clock)


def _unexpected(sent: Sent, error: Exception, clock: Clock) -> SealiftError:
    """One line; the trace goes into a log of this process, with secrets taken out."""
    directory = _directory(sent) / "logs"
    with RunLog(directory, f"disk-{sent.order.disk_id}", clock, os.environ) as run_log:
        run_log.write("unexpected", error)
        place = str(run_log.path or "")
    text = Redactor(os.environ)(f"unexpected {type(error).__name__}: {error}")
    return SealiftError(text[:500], next_step=f"report it, with {place}", log=place)


def _directory(sent: Sent) -> Path:
    if sent.plan.state_dir is None:
        raise ValueError("the state folder was not written out")
    return sent.plan.state_dir


def _done(sent: Sent, clock: Clock) -> Brought:
    check_address_space()
    directory = _directory(sent)
    if not directory.is_dir():
        raise LocalStateError(
            f"this worker does not reach the state folder {directory}",
            next_step="run workers where the state folder and the sockets of the plan are",
        )
    cancel, attempt = CancelToken(), secrets.token_hex(4)
    store = FileStateStore(directory)
    watch = ErrandWatch(directory, sent.token, clock, cancel)
    sheet = ProgressSheet(store, progress_name(sent.order.disk_id, sent.token), attempt)
    around = assembly.Around(clock, cancel, sheet, os.environ, sent.run, sharers=sent.sharers)
    with ExitStack() as stack:
        stack.enter_context(_every_second(lambda: _turn(watch, sheet)))
        ports = assembly.ports_over(sent.plan, around, store, stack)
        with ports.leases.held(sent.order.disk_id):
            watch.confirm()
            done = sync_disk(sent.order, ports, lambda writer: GuardedWriter(writer, watch))
            blocks = ""
            if done.blocks is not None:
                watch.confirm()
                blocks = f"brought-{sent.order.disk_id}-{sent.token}-{attempt}"
                store.save(blocks, done.blocks.to_bytes())
    return Brought(done.figures, blocks)


def _turn(watch: ErrandWatch, sheet: "ProgressSheet") -> None:
    watch.keep_asking()
    sheet.write()


@contextmanager
def _every_second(turn: Callable[[], None]) -> Iterator[None]:
    """A thread beside the work; it has ended when the block has."""
    ended = threading.Event()

    def run() -> None:
        while not ended.wait(CONFIRM_SECONDS):
            turn()

    thread = threading.Thread(target=run, name="sealift-errand", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        turn()


class ProgressSheet:
    """A progress sink that keeps the newest state in a file; thread-safe.

    Args:
        store: of the migration.
        name: of the file, this worker's alone.
        attempt: of this worker at this disk.
    """

    def __init__(self, store: StateStore, name: str, attempt: str) -> None:
        self._store, self._name, self._attempt = store, name, attempt
        self._lock = threading.Lock()
        self._progress: DiskProgress | None = None
        self._notes: deque[Noted] = deque(maxlen=_MAX_NOTES)
        self._taken = 0
        self._changed = False

    def __call__(self, event: Event) -> None:
        """Take an event; never waits for a disk."""
        with self._lock:
            self._changed = True
            if isinstance(event, DiskProgress):
                self._progress = event
            else:
                self._notes.append(event)
                self._taken += 1

    def write(self) -> None:
        """Put what is new into the file; what cannot be shown stops nothing."""
        with self._lock:
            if not self._changed:
                return
            self._changed = False
            forgotten = self._taken - len(self._notes)
            seen = Seen(self._attempt, self._progress, tuple(self._notes), forgotten)
        try:
            self._store.save(self._name, SEEN.dump_json(seen))
        except LocalStateError as error:
            log.warning("progress is not shown: %s", error.message)
