"""From a plan to the ports that a migration runs on. SDKs are imported when they are used."""

import hashlib
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flows.places import runtime_directory, state_directory, state_home
from sealift.cancel import CancelToken
from sealift.clock import Clock
from sealift.config import AwsPlan, MigrationPlan
from sealift.config_load import AnyPlan
from sealift.config_repository import ReplicationPlan
from sealift.endpoints import CloudTarget, Hypervisor, ReplicaTarget
from sealift.errors import SourceError
from sealift.ports import DiskRunner, Ports, ReplicaPorts, side_by_side
from sealift.private import make_private_folder
from sealift.progress import Sink
from sealift.ratelimit import RateLimit, SharedTokenBucket, TokenBucket, Unlimited
from sealift.retry import RetryPolicy
from sealift.store import FileStateStore, StateLock
from sealift.sync import SyncContext
from sealift.units import MiB

if TYPE_CHECKING:
    from connectors.aws.spec import AwsSpec

_BURST_BYTES = 4 * MiB
_BURST_SECONDS = 0.25  # of a call rate; a service's own bucket forgives about a second


SETTLING = "sealift undo after a stop"
"""Run name of whoever puts the source back after a cutover that was killed or cancelled."""


@dataclass(frozen=True, slots=True)
class Around:
    """What a run brings along, whatever the plan says.

    Attributes:
        clock: time.
        cancel: stops the run.
        sink: receives progress.
        environ: for places of files.
        run_disks: how the disks of a round are run.
        run_name: how another run that is refused is told about this one.
        patience_seconds: caps the plan's patience, for commands that somebody waits for.
    """

    clock: Clock
    cancel: CancelToken
    sink: Sink
    environ: Mapping[str, str]
    run_name: str
    run_disks: DiskRunner = side_by_side
    patience_seconds: float = math.inf


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
    """Ports on a state directory that the caller owns; ``stack`` closes them."""
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
    )


def replica_ports_over(
    plan: ReplicationPlan, around: Around, store: FileStateStore, stack: ExitStack
) -> ReplicaPorts:
    """Like ``ports_over``, for a replication; its repository has to be there."""
    hypervisor = hypervisor_of(plan, store.directory, around)
    stack.callback(hypervisor.close)
    target = replica_of(plan, around, store, stack)
    return ReplicaPorts(
        hypervisor,
        target,
        store,
        context_of(plan, around),
        policy=plan.migration_policy(),
        run_disks=around.run_disks,
    )


def replica_of(
    plan: ReplicationPlan, around: Around, state: FileStateStore, stack: ExitStack
) -> ReplicaTarget:
    """The repository that the plan names, as the place of its points."""
    from flows.repositories import object_store, open_over
    from sealift.repository.target import RepositoryTarget

    store = object_store(plan, around, stack)
    found = open_over(plan, around, store, state, stack)
    return RepositoryTarget(found.repository, plan.name, state)


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
    rate = plan.limits.bandwidth
    if not rate:
        return Unlimited()
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
        plan.name,
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
    account = Account(plan.target.aws, plan.migration, limits.connections, limits.put_rate)
    return account_target(account, around, stack)


@dataclass(frozen=True, slots=True)
class Account:
    """An AWS account and what is to be made in it.

    Attributes:
        aws: the account.
        owner: name that everything made carries.
        connections: blocks in flight, per disk.
        put_rate: PutSnapshotBlock calls per second; None is what the account may.
    """

    aws: AwsPlan
    owner: str
    connections: int
    put_rate: int | None = None


def account_target(account: Account, around: Around, stack: ExitStack) -> CloudTarget:
    """A target in an AWS account; ``stack`` closes it."""
    from connectors.aws.quotas import read_quotas
    from connectors.aws.session import AwsClients
    from connectors.aws.target import AwsTarget

    spec = spec_of(account.aws, account.connections)
    clients = AwsClients(spec)
    stack.callback(clients.close)

    def put_rate() -> float:
        return account.put_rate or read_quotas(clients).put_per_account.value

    limit = LazyLimit(lambda: _shared(account.aws, around, put_rate()))
    stack.callback(limit.close)
    target = AwsTarget(spec, account.owner, around.clock, cancel=around.cancel, put_limit=limit)
    stack.callback(target.close)
    return target


def aws_spec(plan: MigrationPlan) -> "AwsSpec":
    """The AWS side of a plan as its connector takes it."""
    return spec_of(plan.target.aws, plan.limits.connections)


def spec_of(aws: AwsPlan, connections: int) -> "AwsSpec":
    """An account as its connector takes it."""
    from connectors.aws.spec import AwsSpec, VolumeType

    return AwsSpec(
        subnet_id=aws.subnet,
        security_group_ids=aws.security_groups,
        region=aws.region,
        profile=aws.profile,
        endpoint=aws.endpoint,
        instance_type=aws.instance_type,
        encrypted=aws.encrypted,
        kms_key_id=aws.kms_key,
        launch_encrypted=aws.launch_encrypted,
        volume_type=VolumeType(aws.volume_type),
        tags=aws.tags,
        snapshot_timeout_minutes=int(aws.snapshot_timeout // 60),
        concurrency=connections,
    )


def _shared(aws: AwsPlan, around: Around, rate: float) -> SharedTokenBucket:
    """One bucket for all migrations of this user into the same account and region."""
    name = hashlib.sha256(f"{aws.profile}|{aws.region}|{aws.endpoint}".encode()).hexdigest()[:16]
    directory = state_home(around.environ) / ".limits"
    make_private_folder(directory)
    burst = max(1.0, rate * _BURST_SECONDS)
    path = directory / f"aws-put-{name}"
    return SharedTokenBucket(path, rate, burst, around.clock, around.cancel)


class LazyLimit:
    """A limit that is made when the first unit is spent, so that opening costs no call.

    Args:
        make: makes the limit; called once unless it fails.
    """

    def __init__(self, make: Callable[[], SharedTokenBucket]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._bucket: SharedTokenBucket | None = None

    def acquire(self, amount: int) -> None:
        """See ``RateLimit.acquire``; raises what making the limit raises."""
        with self._lock:
            bucket = self._bucket = self._bucket or self._make()
        bucket.acquire(amount)

    def close(self) -> None:
        """Free the limit's file, if it was made."""
        with self._lock:
            if self._bucket is not None:
                self._bucket.close()
            self._bucket = None
