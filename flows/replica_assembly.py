"""From the plan of a replication to the ports that it runs on."""

from contextlib import ExitStack

from flows import assembly
from flows.around import Around, context_of
from flows.places import refuse_other_kind
from flows.recovery import account_of
from flows.repositories import object_store, open_over
from sealift.config import PLANNED
from sealift.config_repository import ReplicationPlan
from sealift.endpoints import Hypervisor
from sealift.launching import LaunchingTarget
from sealift.ledger import load_migration
from sealift.ports import Ports, ReplicaPorts
from sealift.repository.target import RepositoryTarget
from sealift.store import FileStateStore


def replica_ports_over(
    plan: ReplicationPlan, around: Around, store: FileStateStore, stack: ExitStack
) -> ReplicaPorts:
    """Like ``assembly.ports_over``, for a replication; its repository has to be there."""
    refuse_other_kind(plan, store)
    hypervisor = assembly.hypervisor_of(plan, store.directory, around)
    stack.callback(hypervisor.close)
    target = replica_of(plan, hypervisor, around, store, stack)
    return ReplicaPorts(
        hypervisor,
        target,
        store,
        context_of(plan, around),
        policy=plan.migration_policy(),
        run_disks=around.run_disks,
        leases=assembly.leases_in(store, around),
    )


def failover_ports_over(
    plan: ReplicationPlan, around: Around, store: FileStateStore, stack: ExitStack
) -> Ports:
    """Like ``replica_ports_over``, with the plan's account as the place where points start.

    Raises:
        UsageError: the plan names no account.
    """
    refuse_other_kind(plan, store)
    cloud = account_of(plan, f"{PLANNED}{plan.name}", around, stack)
    hypervisor = assembly.hypervisor_of(plan, store.directory, around)
    stack.callback(hypervisor.close)
    context = context_of(plan, around)
    points = replica_of(plan, hypervisor, around, store, stack)
    target = LaunchingTarget(points, cloud, store, context)
    policy = plan.failover_policy()
    leases = assembly.leases_in(store, around)
    return Ports(hypervisor, target, store, context, policy, around.run_disks, leases=leases)


def replica_of(
    plan: ReplicationPlan,
    hypervisor: Hypervisor,
    around: Around,
    state: FileStateStore,
    stack: ExitStack,
) -> RepositoryTarget:
    """The repository that the plan names, as the place of its points.

    Raises:
        UsageError: the replication begins, and points of another machine have its name there.
    """
    store = object_store(plan, around, stack)
    found = open_over(plan, around, store, state, stack)
    target = RepositoryTarget(found.repository, plan.name, state)
    if load_migration(state) is None:
        vm = context_of(plan, around).retrier().call(hypervisor.describe)
        target.refuse_other_machine(vm.uuid)
    return target
