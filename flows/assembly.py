"""From a plan to the ports that a migration runs on. SDKs are imported when they are used."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from flows import accounts
from flows.around import Around as Around
from flows.around import context_of
from flows.places import refuse_other_kind, runtime_directory, state_directory
from sealift.config import MigrationPlan
from sealift.config_load import AnyPlan
from sealift.endpoints import CloudTarget, Hypervisor
from sealift.errors import SourceError
from sealift.leases import FileLeases
from sealift.ports import Ports
from sealift.private import make_private_folder
from sealift.store import FileStateStore, StateLock

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


def leases_in(store: FileStateStore, around: Around) -> FileLeases:
    """Who works on the disks of this migration, in whichever process."""
    return FileLeases(store.directory, around.clock, around.cancel, around.run_name)


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
    account = accounts.Account(plan.target, plan.migration, limits.connections, limits.put_rate)
    return accounts.account_target(account, around, stack)
