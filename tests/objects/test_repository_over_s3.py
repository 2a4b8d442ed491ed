"""Rounds into a bucket with every kind of bad answer at every call over HTTP."""

import random
from contextlib import suppress
from typing import cast

import pytest

from connectors.aws.object_s3 import S3ObjectStore
from sandbox.aws import Fault, FaultKind
from sealift.clock import SystemClock
from sealift.errors import SealiftError
from sealift.objects_retry import PatientStore
from sealift.pipeline import InlineExecutor
from sealift.ports import ReplicaPorts
from sealift.replicator import Replicator
from sealift.repository.check import Checker
from sealift.repository.target import RepositoryTarget
from sealift.retry import Retrier, RetryPolicy
from sealift.sync import SyncContext
from sealift.testing.clock import VirtualClock
from sealift.testing.source import SimulatedHypervisor
from tests.conftest import Evidence
from tests.objects.conftest import Bucket
from tests.repository.conftest import CHUNK, World, content

POLICY = RetryPolicy(first_seconds=0.001, longest_seconds=0.01, patience_seconds=30)
KINDS = (
    FaultKind.THROTTLE,
    FaultKind.ERROR_AFTER,
    FaultKind.OK_WITH_ERROR_BODY,
    FaultKind.OK_WITH_PROXY_PAGE,
    FaultKind.RESET_AFTER,
    FaultKind.TRUNCATED,
    FaultKind.EXPIRED_TOKEN,
    FaultKind.ACCESS_DENIED,
)
PASSING = frozenset(KINDS) - {FaultKind.EXPIRED_TOKEN, FaultKind.ACCESS_DENIED}


def world_in(bucket: Bucket, prefix: str) -> World:
    clock = SystemClock()
    store = PatientStore(bucket.store(prefix=prefix), Retrier(POLICY, clock, rng=random.Random(1)))
    return World(store, clock=cast(VirtualClock, clock))


def round_of(world: World, hypervisor: SimulatedHypervisor) -> None:
    """One process that replicates a point."""
    repository = world.open()
    try:
        context = SyncContext(clock=world.clock, executor=InlineExecutor(), retry=POLICY)
        target = RepositoryTarget(repository, "plan", world.state)
        ports = ReplicaPorts(hypervisor, target, world.state, context, rng=random.Random(1))
        Replicator.open(ports, "plan").replicate()
    finally:
        repository.close()


def disk_of_newest(world: World) -> bytes:
    repository = world.open()
    try:
        assert Checker(repository, read_share=1.0).run().damage == ()
        manifest = repository.manifest(repository.head.commit.points[-1])
        return content(repository, manifest.disks[0].tree)
    finally:
        repository.close()


def disturbed(bucket: Bucket, prefix: str, kind: FaultKind, call: int) -> bool:
    """Two rounds with one fault at a call of the second; False when there was no such call."""
    assert bucket.box is not None
    world = world_in(bucket, prefix)
    world.init()
    hypervisor = SimulatedHypervisor({"vda": random.Random(1).randbytes(20 * CHUNK)}, granule=1024)
    round_of(world, hypervisor)
    hypervisor.guest_write("vda", 3 * CHUNK, random.Random(call).randbytes(2 * CHUNK))
    expected = bytes(hypervisor.disks["vda"])
    bucket.box.faults.clear()
    bucket.box.faults.add(Fault(kind, skip=call - 1))
    if kind in PASSING:
        round_of(world, hypervisor)
    else:
        with suppress(SealiftError):
            round_of(world, hypervisor)
    struck = not bucket.box.faults.unexercised()
    bucket.box.faults.clear()
    if kind not in PASSING and struck:
        round_of(world, hypervisor)
    assert disk_of_newest(world) == expected, (kind, call)
    return struck


@pytest.mark.slow
@pytest.mark.sandbox
@pytest.mark.timeout(300)
@pytest.mark.fault(14, 18, 19, 20, 23, 24)
def test_every_bad_answer_at_every_call_of_a_round(bucket: Bucket, evidence: Evidence) -> None:
    struck = 0
    for kind in KINDS:
        for call in range(1, 60):
            if not disturbed(bucket, f"{kind.value}/{call}/", kind, call):
                break
            struck += 1
        else:
            pytest.fail("the round has no end")
    assert struck >= 100
    evidence("bad answers of S3 at calls of a round", f"{struck}, unequal: 0")


@pytest.mark.sandbox
def test_the_store_repeats_nothing_itself(bucket: Bucket) -> None:
    """One request for a call, whatever comes back: the retry layer is the only one."""
    assert bucket.box is not None
    store = S3ObjectStore(bucket.spec, bucket.clients)
    for kind in (FaultKind.ERROR_BEFORE, FaultKind.THROTTLE, FaultKind.RESET_BEFORE):
        bucket.box.requests.clear()
        bucket.box.faults.add(Fault(kind, "PutObject"))
        with pytest.raises(SealiftError):
            store.put("a", b"1")
        assert bucket.box.requests.count("PutObject") == 1
