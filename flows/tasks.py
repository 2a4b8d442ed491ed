"""Disks and rounds as Prefect tasks. A task is a disk or a round, never a block.

Nothing is cached, retried or kept by Prefect: the journal knows what is done, the engine
has the one retry layer, and no byte of a disk becomes a result.
"""

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any

from prefect import Task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture

from flows.wording import ROUND_COLUMNS, round_row
from sealift.failover import Failover
from sealift.migration import Migration
from sealift.migrator import Migrator
from sealift.ports import DiskJob, ReplicaPorts
from sealift.replicator import Replicator


def _task(run: Callable[[], None], name: str, run_name: str) -> Task[[], None]:
    return Task(
        run,
        name=name,
        task_run_name=run_name,
        cache_policy=NO_CACHE,
        persist_result=False,
        cache_result_in_memory=False,
        retries=0,
    )


def disks_as_tasks(jobs: Sequence[DiskJob]) -> None:
    """A ``DiskRunner``: every disk in a task of its own, side by side."""
    futures: list[PrefectFuture[None]] = [
        _task(job.run, "disk", f"round {job.order.seq}: disk {job.order.disk_id}").submit()
        for job in jobs
    ]
    for future in futures:
        future.wait()
    for future in futures:
        future.result()


_work: ContextVar[Callable[[], None]] = ContextVar("sealift_round")


def _round() -> None:
    """The work comes beside the parameters: a task of a round travels with those of its disks."""
    _work.get()()


def _as_task(replicate: Callable[[], Migration], driver: Replicator[Any]) -> Migration:
    number = driver.state.next_seq

    def work() -> None:
        replicate()
        publish_rounds(driver.state)

    token = _work.set(work)
    try:
        _task(_round, "round", f"round {number}")()
    finally:
        _work.reset(token)
    return driver.state


class TaskedReplicator(Replicator[ReplicaPorts]):
    """A replicator whose rounds are seen by Prefect as tasks, with a table of what they moved."""

    def replicate(self) -> Migration:
        """See ``Replicator.replicate``."""
        return _as_task(super().replicate, self)


class TaskedMigrator(Migrator):
    """A migrator whose rounds are seen by Prefect as tasks, with a table of what they moved."""

    def replicate(self) -> Migration:
        """See ``Migrator.replicate``."""
        return _as_task(super().replicate, self)


class TaskedFailover(Failover):
    """A planned failover whose rounds are seen by Prefect as tasks."""

    def replicate(self) -> Migration:
        """See ``Failover.replicate``."""
        return _as_task(super().replicate, self)


def publish_rounds(m: Migration) -> None:
    """The table of all rounds so far, under one key, so that its history is kept."""
    rows = [dict(zip(ROUND_COLUMNS, round_row(r), strict=True)) for r in m.history]
    create_table_artifact(
        rows, key=f"sealift-{m.id}-rounds", description=f"Rounds of {m.vm_name} ({m.id})"
    )
