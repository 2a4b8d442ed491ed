"""From a plan to an opened repository: store, key, state and cache, in that order."""

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import SystemRandom
from typing import TYPE_CHECKING

from flows.around import Around, context_of
from flows.places import cache_home, state_home
from flows.unlocking import secret_of
from sealift.config_places import BlobPlan, S3Plan
from sealift.config_repository import ReplicationPlan, RepositoryPlan
from sealift.errors import RepositoryRolledBackError, UsageError
from sealift.host_limits import check_address_space
from sealift.objects import ObjectStore
from sealift.objects_check import Finding, StoreCheck
from sealift.objects_limit import PacedStore
from sealift.objects_retry import PatientStore
from sealift.private import make_private_folder
from sealift.repository.commits import Witness
from sealift.repository.session import Repository, RepositoryOptions
from sealift.sealing import slot_objects
from sealift.sealing.keys import KeyRing
from sealift.sealing.patient_keys import patient
from sealift.sealing.secrets import RecoveryCode
from sealift.sealing.slots import Secret
from sealift.store import FileStateStore, StateStore

if TYPE_CHECKING:
    from connectors.aws.object_s3 import S3Spec
    from connectors.aws.undelete import Undeleter
    from connectors.azure.object_blob import BlobSpec

_KNOWN_ID = "repository-id"


@dataclass(frozen=True, slots=True)
class OpenRepository:
    """A repository that was opened.

    Attributes:
        repository: it.
        store: its objects.
        ring: keys as the slot held them; newer than the repository's own where a run died while
            it began an epoch.
        secret: what opened it.
        slot: name of the slot that did.
        unusable: slots that nobody can open any more, with the reason.
        seen_before: this host remembers an earlier state, so an older one would be noticed.
        state: what this host remembers of it.
    """

    repository: Repository
    store: ObjectStore
    ring: KeyRing
    secret: Secret
    slot: str
    unusable: dict[str, str]
    seen_before: bool
    state: StateStore

    @property
    def opened_by_code(self) -> bool:
        """Whether it was a recovery code that opened it."""
        return isinstance(self.secret, RecoveryCode)


def object_store(
    plan: ReplicationPlan, around: Around, stack: ExitStack, *, create: bool = False
) -> ObjectStore:
    """The store of the plan's repository, patient; ``stack`` closes it.

    Args:
        plan: names it.
        around: time, stop and patience.
        stack: of the caller.
        create: make a folder that is not there.

    Raises:
        TargetError: there is no such folder.
    """
    inner = bare_store(plan.repository, around, create=create)
    stack.callback(inner.close)
    paced = PacedStore(inner, around.clock, around.cancel)
    return PatientStore(paced, context_of(plan, around).retrier())


def options_of(plan: ReplicationPlan) -> RepositoryOptions:
    """How the plan's repository writes: locked, where the plan says so."""
    lock = plan.repository.lock
    return RepositoryOptions(lock_seconds=lock.keep if lock else 0.0)


def bare_store(plan: RepositoryPlan, around: Around, *, create: bool) -> ObjectStore:
    """The store itself, one attempt a call; the caller closes it.

    Raises:
        TargetError: there is no such folder.
    """
    if plan.folder is not None:
        from connectors.local.object_folder import FolderObjectStore

        return FolderObjectStore.open(plan.folder, create=create, clock=around.clock)
    if plan.azure is not None:
        return _container(plan.azure, around)
    if plan.s3 is None:
        raise ValueError("a plan has a folder, a bucket or a container")
    return _bucket(plan.s3, around)


def store_findings(plan: ReplicationPlan, around: Around) -> Iterator[Finding]:
    """What the plan's store keeps, tried, and what its owner has set.

    Raises:
        TargetError: there is no such folder.
    """
    retrier = context_of(plan, around).retrier()
    with closing(bare_store(plan.repository, around, create=False)) as store:
        yield from StoreCheck(store, retrier, around.clock, SystemRandom()).run()
    yield from _rules(plan.repository)


def _rules(plan: RepositoryPlan) -> Iterator[Finding]:
    """What the owner of a bucket or container has set for it."""
    if plan.azure is not None:
        from connectors.azure.container_rules import container_findings

        yield from container_findings(_container_spec(plan.azure))
    if plan.s3 is None:
        return
    from connectors.aws.bucket_rules import bucket_findings
    from connectors.aws.session import AwsClients

    spec = _bucket_spec(plan.s3)
    with closing(AwsClients(spec)) as clients:
        yield from bucket_findings(spec, clients)


def _bucket(plan: S3Plan, around: Around) -> ObjectStore:
    from connectors.aws.object_s3 import S3ObjectStore

    return S3ObjectStore(_bucket_spec(plan), clock=around.clock)


@contextmanager
def undeleter(plan: RepositoryPlan, around: Around) -> Iterator["Undeleter"]:
    """What undoes deletes in the plan's bucket; the repository is not opened for it.

    Raises:
        UsageError: the repository is in no bucket of S3.
    """
    if plan.s3 is None:
        raise UsageError(
            "only a versioned bucket of S3 can be undeleted by this command",
            next_step="restore a folder from its backup; in an Azure container make earlier "
            "versions current, as the runbook says",
        )
    from connectors.aws.session import AwsClients
    from connectors.aws.undelete import Undeleter

    spec = _bucket_spec(plan.s3)
    with closing(AwsClients(spec)) as clients:
        yield Undeleter(spec, clients, around.cancel)


def _bucket_spec(plan: S3Plan) -> "S3Spec":
    from connectors.aws.object_s3 import LockMode, S3Spec

    return S3Spec(
        bucket=plan.bucket,
        prefix=f"{plan.prefix}/" if plan.prefix else "",
        region=plan.region,
        profile=plan.profile,
        endpoint=plan.endpoint,
        owner=plan.owner,
        lock_mode=LockMode(plan.lock.mode.upper()) if plan.lock else None,
    )


def _container(plan: BlobPlan, around: Around) -> ObjectStore:
    from connectors.azure.object_blob import BlobObjectStore

    return BlobObjectStore(_container_spec(plan), clock=around.clock)


def _container_spec(plan: BlobPlan) -> "BlobSpec":
    from connectors.azure.object_blob import BlobSpec, LockMode

    modes = {"governance": LockMode.UNLOCKED, "compliance": LockMode.LOCKED}
    return BlobSpec(
        account=plan.account,
        container=plan.container,
        prefix=f"{plan.prefix}/" if plan.prefix else "",
        endpoint=plan.endpoint,
        lock_mode=modes[plan.lock.mode] if plan.lock else None,
    )


@contextmanager
def opened(
    plan: ReplicationPlan,
    around: Around,
    receipt: str | None = None,
    *,
    follows: bool = True,
    secret: Secret | None = None,
) -> Iterator[OpenRepository]:
    """The plan's repository, to be read, pruned or checked; closed when the block ends.

    Args:
        plan: names it.
        around: time, stop and patience.
        receipt: of a state that it must have reached, as replicate and points list print it.
        follows: False leaves the index unread, for whoever makes it anew.
        secret: opens it instead of what the plan names.

    Raises:
        TargetError: there is none.
        RepositoryError: the key does not open it.
        RepositoryRolledBackError: an older state is shown than this host has seen, or another
            repository.
    """
    check_address_space()
    with ExitStack() as stack:
        store = object_store(plan, around, stack)
        state = FileStateStore(reader_state(plan, around, store))
        yield open_over(plan, around, store, state, stack, receipt, follows=follows, secret=secret)


def open_over(
    plan: ReplicationPlan,
    around: Around,
    store: ObjectStore,
    state: StateStore,
    stack: ExitStack,
    receipt: str | None = None,
    *,
    follows: bool = True,
    secret: Secret | None = None,
) -> OpenRepository:
    """A repository on a store and a state that the caller owns; ``stack`` closes it."""
    witness = None if receipt is None else _witness(receipt)
    given = secret or secret_of(plan.repository.key, around.environ, cancel=around.cancel)
    key = patient(given, context_of(plan, around).retrier())
    found = slot_objects.opened(store, key)
    seen = _same_as_before(state, found.ring, store)
    cache, options = cache_of(plan, around), options_of(plan)
    repository = Repository.open(
        store, found.ring, state, around.clock, cache, options, witness=witness, follows=follows
    )
    stack.callback(repository.close)
    unusable = dict(found.unusable)
    return OpenRepository(repository, store, found.ring, key, found.slot, unusable, seen, state)


def _witness(receipt: str) -> Witness:
    try:
        return Witness.from_receipt(receipt)
    except ValueError:
        raise UsageError(
            f"{receipt[:80]!r} is no receipt of a repository",
            next_step="give the whole line that begins with sealift-receipt-1",
        ) from None


def remember(state: StateStore, ring: KeyRing) -> None:
    """Note which repository is in a place."""
    state.save(_KNOWN_ID, ring.repository_id.hex().encode())


def _same_as_before(state: StateStore, ring: KeyRing, store: ObjectStore) -> bool:
    """One place holds one repository for ever: another one in it is an older copy, or a trap.

    Whether this host has seen it before.
    """
    known = state.load(_KNOWN_ID)
    if known is None:
        remember(state, ring)
        return False
    if known != ring.repository_id.hex().encode():
        raise RepositoryRolledBackError(
            f"at {store.identity} is repository {ring.repository_id.hex()}; this host has known "
            f"{known.decode('ascii', 'replace')} there",
            next_step="see who replaced it; to go on with another repository, name another place",
        )
    return True


def reader_state(plan: ReplicationPlan, around: Around, store: ObjectStore) -> Path:
    """Where this host remembers what it has seen of a repository, beside its replications."""
    name = hashlib.sha256(store.identity.encode()).hexdigest()[:16]
    home = state_home(around.environ)
    make_private_folder(home)
    make_private_folder(home / ".repositories")
    return home / ".repositories" / name


def cache_of(plan: ReplicationPlan, around: Around) -> Path:
    """Folder of the index; made when missing."""
    folder = plan.repository.cache or cache_home(around.environ)
    make_private_folder(folder)
    return folder
