"""One run of one replication, or of its planned failover; see ``flows.session``."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from flows.places import state_directory
from flows.replica_assembly import failover_ports_over, replica_ports_over
from flows.reporter import Reporter
from flows.session import Run, owned_run
from sealift.config_repository import ReplicationPlan
from sealift.failover import Failover
from sealift.ports import Ports, ReplicaPorts
from sealift.replicator import Replicator
from sealift.store import FileStateStore


@dataclass(frozen=True, slots=True)
class Replication:
    """An open run of a replication."""

    replicator: Replicator[ReplicaPorts]
    ports: ReplicaPorts
    reporter: Reporter
    log_path: Path | None


@dataclass(frozen=True, slots=True)
class FailingOver:
    """An open run of a planned failover."""

    failover: Failover
    ports: Ports
    reporter: Reporter
    log_path: Path | None


@contextmanager
def replication(plan: ReplicationPlan, run: Run) -> Iterator[Replication]:
    """Own the replication, open its source, its repository and its record; see ``session``."""
    with owned_run(FileStateStore(state_directory(plan, run.environ)), run) as own:
        ports = replica_ports_over(plan, own.around, own.store, own.stack)
        replicator = run.open_replicator(ports, plan.name)
        yield Replication(replicator, ports, own.reporter, own.log_path)


@contextmanager
def failing_over(plan: ReplicationPlan, run: Run) -> Iterator[FailingOver]:
    """Own the replication, as ``replication`` does, and open the account that shall run it, too.

    Raises:
        UsageError: the plan names no account.
    """
    with owned_run(FileStateStore(state_directory(plan, run.environ)), run) as own:
        ports = failover_ports_over(plan, own.around, own.store, own.stack)
        failover = run.open_failover(ports, plan.name)
        yield FailingOver(failover, ports, own.reporter, own.log_path)
