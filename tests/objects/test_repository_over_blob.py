"""A whole repository in a container of Azure: made, written, verified, pruned and read again."""

import random
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from typing import cast

import pytest

from sandbox.azure.faults import Fault, FaultKind
from sealift.clock import SystemClock
from sealift.errors import IntegrityError, SealiftError
from sealift.objects_retry import PatientStore
from sealift.pipeline import InlineExecutor
from sealift.ports import ReplicaPorts
from sealift.replicator import Replicator
from sealift.repository.check import Checker
from sealift.repository.prune import Pruner
from sealift.repository.retention import Retention
from sealift.repository.target import RepositoryTarget
from sealift.retry import Retrier, RetryPolicy
from sealift.sync import SyncContext
from sealift.testing.clock import VirtualClock
from sealift.testing.object_contracts import names
from sealift.testing.source import SimulatedHypervisor
from tests.conftest import Evidence
from tests.objects.containers import Container
from tests.repository.conftest import CHUNK, World, content

pytestmark = pytest.mark.sandbox
POLICY = RetryPolicy(first_seconds=0.001, longest_seconds=0.01, patience_seconds=30)


def world_in(container: Container) -> World:
    return World(container.store(prefix="some/place/"))


def replicated(world: World, hypervisor: SimulatedHypervisor) -> None:
    """One process that replicates a point."""
    repository = world.open()
    try:
        context = SyncContext(clock=world.clock, executor=InlineExecutor(), retry=POLICY)
        target = RepositoryTarget(repository, "plan", world.state)
        ports = ReplicaPorts(hypervisor, target, world.state, context, rng=random.Random(1))
        Replicator.open(ports, "plan").replicate()
    finally:
        repository.close()


def restored(world: World) -> list[Mapping[str, bytes]]:
    """Every disk of every point, oldest first, after a check that reads all of it."""
    repository = world.open(writes=False)
    try:
        assert Checker(repository, read_share=1.0).run().damage == ()
        manifests = [repository.manifest(ref) for ref in repository.head.commit.points]
        return [
            {disk.disk.id: content(repository, disk.tree) for disk in manifest.disks}
            for manifest in manifests
        ]
    finally:
        repository.close()


KINDS = (FaultKind.ERROR_AFTER, FaultKind.EXPIRED_TOKEN)
"""What is done and not answered, and what ends the run; ``test_blob_faults`` has all kinds."""


def newest(world: World) -> bytes:
    repository = world.open(writes=False)
    try:
        manifest = repository.manifest(repository.head.commit.points[-1])
        return content(repository, manifest.disks[0].tree)
    finally:
        repository.close()


def disturbed(container: Container, kind: FaultKind, call: int) -> bool:
    """Two rounds with one fault at a call of the second; False when there was no such call."""
    book, clock = container.box.faults, SystemClock()
    retrier = Retrier(POLICY, clock, rng=random.Random(1))
    store = PatientStore(container.store(prefix=f"{kind.value}/{call}/"), retrier)
    world = World(store, clock=cast(VirtualClock, clock))
    world.init().close()
    hypervisor = SimulatedHypervisor({"vda": random.Random(1).randbytes(6 * CHUNK)}, granule=1024)
    replicated(world, hypervisor)
    hypervisor.guest_write("vda", 3 * CHUNK, random.Random(call).randbytes(2 * CHUNK))
    book.clear()
    book.add(Fault(kind, skip=call - 1))
    with suppress(SealiftError) if kind is FaultKind.EXPIRED_TOKEN else nullcontext():
        replicated(world, hypervisor)
    struck = not book.unexercised()
    book.clear()
    if kind is FaultKind.EXPIRED_TOKEN and struck:
        replicated(world, hypervisor)
    assert newest(world) == hypervisor.disks["vda"], (kind, call)
    return struck


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.fault(14, 18, 19, 20, 23, 24)
def test_every_bad_answer_of_azure_at_every_call_of_a_round(
    container: Container, evidence: Evidence
) -> None:
    struck = 0
    for kind in KINDS:
        for call in range(1, 60):
            if not disturbed(container, kind, call):
                break
            struck += 1
        else:
            pytest.fail("the round has no end")
    assert struck >= 20
    evidence("bad answers of azure blob at calls of a round", f"{struck}, unequal: 0")


def test_points_are_made_verified_pruned_and_read_again(
    container: Container, evidence: Evidence
) -> None:
    world = world_in(container)
    world.init().close()
    rng = random.Random(7)
    disks = {"vda": rng.randbytes(20 * CHUNK), "vdb": bytes(5 * CHUNK) + rng.randbytes(3 * CHUNK)}
    hypervisor, expected = SimulatedHypervisor(disks, granule=1024), []
    for turn in range(4):
        hypervisor.guest_write("vda", turn * 3 * CHUNK, rng.randbytes(2 * CHUNK))
        hypervisor.guest_write("vdb", turn * CHUNK, bytes(CHUNK))
        replicated(world, hypervisor)
        expected.append({name: bytes(data) for name, data in hypervisor.disks.items()})
        world.clock.sleep(3600)
    assert restored(world) == expected
    before = names(world.store)
    pruner = Pruner(world.open(writes=False))
    pruner.run(Retention(last=2))
    world.clock.sleep(8 * 86_400)
    done = Pruner(world.open(writes=False)).run(Retention(last=2))
    assert done.deleted > 0
    assert len(names(world.store)) < len(before)
    after = restored(world)
    assert after == expected[-2:]
    count = sum(len(point) for point in (*expected, *after))
    evidence("restored from azure blob", f"{count} disks, unequal: 0")


@pytest.mark.fault(45)
def test_a_pack_that_was_deleted_is_missed(container: Container) -> None:
    world = world_in(container)
    world.init().close()
    hypervisor = SimulatedHypervisor({"vda": random.Random(1).randbytes(9 * CHUNK)}, granule=1024)
    replicated(world, hypervisor)
    for name in names(world.store, "packs/"):
        world.store.delete(name)
    repository = world.open(writes=False)
    try:
        assert Checker(repository, read_share=1.0).run().damage != ()
        manifest = repository.manifest(repository.head.commit.points[-1])
        with pytest.raises(IntegrityError, match="is missing"):
            content(repository, manifest.disks[0].tree)
    finally:
        repository.close()
