"""Disks of a round on a task runner whose tasks leave the process: Dask, Ray, a process pool.

Which process does what, and in which order, is the task runner's affair. Here is only what a
disk needs so that it may be anywhere: it is sent as values, under an errand that can be taken
back, and what it brings is booked by the run that owns the migration.
"""

import contextvars
import logging
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from prefect import Task
from prefect.cache_policies import NO_CACHE
from prefect.context import FlowRunContext
from prefect.futures import PrefectFuture
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import ValidationError

from flows.errand import BROUGHT, SEEN, SENT, Seen, Sent, do_errand, progress_name
from flows.tasks import disks_as_tasks
from sealift.blockmap import BlockMap
from sealift.config import MigrationPlan
from sealift.errors import LocalStateError, SealiftError, TransientError, UsageError
from sealift.leases import Errand
from sealift.ports import DiskDone, DiskJob, DiskRunner, side_by_side
from sealift.store import FileStateStore

log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.5
_STOP_SECONDS = 60.0
"""How long tasks are waited for after a stop; after it their leases say whether they work."""


def disks_of(plan: MigrationPlan) -> DiskRunner:
    """How the flow's own task runner runs the disks of a round.

    On threads as work of this process, as ever; on any other task runner as values that a
    worker makes its own ports of.
    """

    def run(jobs: Sequence[DiskJob]) -> None:
        if stays_in_this_process():
            disks_as_tasks(jobs)
        elif jobs:
            _Batch(plan, jobs).run()

    return run


def disks_here(jobs: Sequence[DiskJob]) -> None:
    """A ``DiskRunner`` for a target that only one process may write to at a time.

    A repository's open point is in the memory of the run that makes it, so on a task runner
    that would take the disks elsewhere they are no tasks, and run side by side all the same.
    """
    if stays_in_this_process():
        disks_as_tasks(jobs)
    elif jobs:
        log.info("the disks of a replication stay in the process of the flow")
        side_by_side(jobs)


def stays_in_this_process() -> bool:
    """Whether the task runner of the running flow uses threads."""
    context = FlowRunContext.get()
    return context is None or isinstance(context.task_runner, ThreadPoolTaskRunner)


@dataclass
class _Sent:
    """One disk that is under way."""

    job: DiskJob
    future: PrefectFuture[str]
    ended: threading.Event
    attempt: str = ""
    notes_taken: int = 0
    last: bytes = field(default=b"", repr=False)


class _Batch:
    """The disks of one round that are sent away together."""

    def __init__(self, plan: MigrationPlan, jobs: Sequence[DiskJob]) -> None:
        ports = jobs[0].ports
        if not isinstance(ports.store, FileStateStore):
            raise UsageError("disks leave the process only with their state in a folder")
        self._store, self._ports, self._jobs = ports.store, ports, jobs
        folder = self._store.directory.absolute()
        self._plan = plan.model_copy(update={"state_dir": folder})

    def run(self) -> None:
        """Send, watch, take back, book: see ``DiskRunner``."""
        with Errand(self._store.directory) as errand:
            sent = [self._send(job, errand.token) for job in self._jobs]
            try:
                self._watch(sent, errand)
            finally:
                errand.revoke()
            failed = [error for one in sent if (error := self._settled(one)) is not None]
            self._forget(errand.token)
        self._ports.context.cancel.check()
        if failed:
            raise failed[0]
        self._ports.leases.recall(job.order.disk_id for job in self._jobs)

    def _send(self, job: DiskJob, token: str) -> _Sent:
        order = job.order
        sent = Sent(self._plan, order, token, len(self._jobs), "sealift, a disk of a round")
        task = Task(
            do_errand,
            name="disk",
            task_run_name=f"round {order.seq}: disk {order.disk_id}",
            cache_policy=NO_CACHE,
            persist_result=False,
            retries=0,
        )
        future = task.submit(SENT.dump_json(sent).decode())
        ended = threading.Event()
        context = contextvars.copy_context()
        threading.Thread(
            target=context.run, args=(_wait, future, ended), name="sealift-future", daemon=True
        ).start()
        return _Sent(job, future, ended)

    def _watch(self, sent: Sequence[_Sent], errand: Errand) -> None:
        """Until all have ended; after a stop not for ever, a task may never have begun."""
        context = self._ports.context
        until: float | None = None
        while (working := next((o for o in sent if not o.ended.is_set()), None)) is not None:
            for one in sent:
                self._show(one, errand.token)
            if until is None and context.cancel.cancelled:
                errand.revoke()
                until = context.clock.monotonic() + _STOP_SECONDS
            if until is not None and context.clock.monotonic() >= until:
                return
            working.ended.wait(_LOOK_SECONDS)
        for one in sent:
            self._show(one, errand.token)

    def _show(self, one: _Sent, token: str) -> None:
        """Hand on what is new in a worker's progress."""
        data = self._store.load(progress_name(one.job.order.disk_id, token))
        if data is None or data == one.last:
            return
        one.last = data
        with suppress(ValidationError):
            self._hand_on(one, SEEN.validate_json(data))

    def _hand_on(self, one: _Sent, seen: Seen) -> None:
        if seen.attempt != one.attempt:
            one.attempt, one.notes_taken = seen.attempt, 0
        sink = self._ports.context.sink
        for noted in seen.notes[max(0, one.notes_taken - seen.forgotten) :]:
            sink(noted)
        one.notes_taken = seen.forgotten + len(seen.notes)
        if seen.progress is not None:
            sink(seen.progress)

    def _settled(self, one: _Sent) -> SealiftError | None:
        """Book what a disk came to; the error, when it came to nothing."""
        try:
            one.job.settle(lambda: self._outcome(one))
        except SealiftError as error:
            return error
        return None

    def _outcome(self, one: _Sent) -> DiskDone:
        disk_id = one.job.order.disk_id
        if not one.ended.is_set():
            raise _lost(disk_id, "it did not end in time")
        try:
            text = one.future.result()
        except SealiftError:
            raise
        except Exception as error:  # the task runner's own: a worker that died, was not found, ...
            log.warning("disk %s", disk_id, exc_info=error)
            raise _lost(disk_id, type(error).__name__) from None
        try:
            brought = BROUGHT.validate_json(text)
        except ValidationError:
            raise _lost(disk_id, "its answer is not understood") from None
        return DiskDone(brought.figures, self._blocks(brought.blocks))

    def _blocks(self, name: str) -> BlockMap | None:
        if not name:
            return None
        data = self._store.load(name)
        if data is None:
            raise LocalStateError(
                f"{name} is not in the state folder of this run",
                next_step="let workers and the flow share one state folder",
            )
        return BlockMap.from_bytes(data)

    def _forget(self, token: str) -> None:
        """What was brought is booked under its own name by now."""
        for name in sorted(self._store.names()):
            if name.startswith(("brought-", "progress-")) and token in name:
                self._store.delete(name)


def _lost(disk_id: str, why: str) -> TransientError:
    return TransientError(
        f"the worker of disk {disk_id} was lost: {why}",
        next_step="run the same command again: it goes on from the journal",
        disk=disk_id,
    )


def _wait(future: PrefectFuture[str], ended: threading.Event) -> None:
    try:
        future.wait()
    except Exception:
        log.debug("the outcome says it", exc_info=True)
    finally:
        ended.set()
