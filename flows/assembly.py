"""From a plan to the ports that a migration runs on. SDKs are imported when they are used."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from flows.accounts import Account as Account
from flows.accounts import account_target as account_target
from flows.around import Around as Around
from flows.places import refuse_other_kind, runtime_directory, state_directory
from sealift.config import PLANNED, MigrationPlan
from sealift.config_load import AnyPlan
from sealift.config_repository import ReplicationPlan
from sealift.endpoints import CloudTarget, Hypervisor
from sealift.errors import SourceError
from sealift.leases import FileLeases
from sealift.ledger import load_migration
from sealift.ports import Ports, ReplicaPorts
from sealift.private import make_private_folder
from sealift.ratelimit import RateLimit, TokenBucket, Unlimited
from sealift.retry import RetryPolicy
from sealift.store import FileStateStore, StateLock
from sealift.sync import SyncContext
from sealift.units import MiB

if TYPE_CHECKING:
    from sealift.repository.target import RepositoryTarget

_BURST_BYTES = 4 * MiB

SETTLING = "sealift undo after a stop"
"""Run name of whoever puts the source back after a cutover that was killed or cancelled."""


@contextmanager
def opened(plan: MigrationPlan, around: Around) -> Iterator[Ports]:
    """All four ports, owned by this run until the block ends; connections are freed then.

    Raises:
        LockedError: another run owns this migration; the message names that run.
        SealiftError: an end cannot be reached.
    """
    store = FileStateStore(state_directory(plan, around.environ))
    with StateLock(store.directory, around.run_name), ExitStack() as stack:
        yield ports_over(plan, around, store, stack)


def ports_over(
    plan: MigrationPlan, around: Around, store: FileStateStore, stack: ExitStack
) -> Ports:
    """Ports on a state directory that the caller owns; ``stack`` closes them.

    Raises:
        UsageError: the directory belongs to a replication.
    """
    refuse_other_kind(plan, store)
    hypervisor = hypervisor_of(plan, store.directory, around)
    stack.callback(hypervisor.close)
    cloud = cloud_of(plan, around, stack)
    return Ports(
        hypervisor,
        cloud,
        store,
        context_of(plan, around),
        policy=plan.migration_policy(),
        run_disks=around.run_disks,
        leases=leases_in(store, around),
    )


def replica_ports_over(
    plan: ReplicationPlan, around: Around, store: FileStateStore, stack: ExitStack
) -> ReplicaPorts:
    """Like ``ports_over``, for a replication; its repository has to be there."""
    refuse_other_kind(plan, store)
    hypervisor = hypervisor_of(plan, store.directory, around)
    stack.callback(hypervisor.close)
    target = replica_of(plan, hypervisor, around, store, stack)
    return ReplicaPorts(
        hypervisor,
        target,
        store,
        context_of(plan, around),
        policy=plan.migration_policy(),
        run_disks=around.run_disks,
        leases=leases_in(store, around),
    )


def failover_ports_over(
    plan: ReplicationPlan, around: Around, store: FileStateStore, stack: ExitStack
) -> Ports:
    """Like ``replica_ports_over``, with the plan's account as the place where points start.

    Raises:
        UsageError: the plan names no account.
    """
    from flows.recovery import account_of
    from sealift.launching import LaunchingTarget

    refuse_other_kind(plan, store)
    cloud = account_of(plan, f"{PLANNED}{plan.name}", around, stack)
    hypervisor = hypervisor_of(plan, store.directory, around)
    stack.callback(hypervisor.close)
    context = context_of(plan, around)
    points = replica_of(plan, hypervisor, around, store, stack)
    target = LaunchingTarget(points, cloud, store, context)
    policy = plan.failover_policy()
    leases = leases_in(store, around)
    return Ports(hypervisor, target, store, context, policy, around.run_disks, leases=leases)


def replica_of(
    plan: ReplicationPlan,
    hypervisor: Hypervisor,
    around: Around,
    state: FileStateStore,
    stack: ExitStack,
) -> "RepositoryTarget":
    """The repository that the plan names, as the place of its points.

    Raises:
        UsageError: the replication begins, and points of another machine have its name there.
    """
    from flows.repositories import object_store, open_over
    from sealift.repository.target import RepositoryTarget

    store = object_store(plan, around, stack)
    found = open_over(plan, around, store, state, stack)
    target = RepositoryTarget(found.repository, plan.name, state)
    if load_migration(state) is None:
        vm = context_of(plan, around).retrier().call(hypervisor.describe)
        target.refuse_other_machine(vm.uuid)
    return target


def leases_in(store: FileStateStore, around: Around) -> FileLeases:
    """Who works on the disks of this migration, in whichever process."""
    return FileLeases(store.directory, around.clock, around.cancel, around.run_name)


def context_of(plan: AnyPlan, around: Around) -> SyncContext:
    """What a sync runs in, by the plan's limits."""
    return SyncContext(
        clock=around.clock,
        cancel=around.cancel,
        retry=RetryPolicy(patience_seconds=min(plan.limits.patience, around.patience_seconds)),
        bandwidth=_bandwidth(plan, around),
        sink=around.sink,
    )


def _bandwidth(plan: AnyPlan, around: Around) -> RateLimit:
    if not plan.limits.bandwidth:
        return Unlimited()
    rate = max(1.0, plan.limits.bandwidth / around.sharers)
    return TokenBucket(rate, min(rate, _BURST_BYTES), around.clock, around.cancel)


def hypervisor_of(plan: AnyPlan, state: Path, around: Around) -> Hypervisor:
    """The source that the plan names.

    Raises:
        SourceError: there is no such socket; said at once, waiting would not bring it.
    """
    from connectors.qemu import QemuHypervisor

    qemu = plan.qemu
    if not qemu.qmp.is_socket():
        there = "is not a socket" if qemu.qmp.exists() else "does not exist"
        raise SourceError(
            f"source.qemu.qmp: {qemu.qmp} {there}",
            next_step="start the machine with this -qmp socket, or correct the plan",
        )
    return QemuHypervisor(
        qemu.qmp,
        plan.tracking_name,
        qemu.scratch or _own_scratch(state),
        runtime_directory(plan, around.environ),
        scratch_limit_bytes=qemu.scratch_limit,
        guest_agent_path=qemu.guest_agent,
        persistent_bitmaps=qemu.persistent_bitmaps,
        connections=plan.limits.read_connections,
        clock=around.clock,
        cancel=around.cancel,
    )


def _own_scratch(state: Path) -> Path:
    """Below our state, where only this user may write: enough when QEMU runs as this user."""
    directory = state / "scratch"
    make_private_folder(directory)
    return directory


def cloud_of(plan: MigrationPlan, around: Around, stack: ExitStack) -> CloudTarget:
    """The target that the plan names."""
    limits = plan.limits
    account = Account(plan.target, plan.migration, limits.connections, limits.put_rate)
    return account_target(account, around, stack)
