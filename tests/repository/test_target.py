"""Rounds of a replication into a repository: the engine's own rounds, unchanged."""

import random
from dataclasses import dataclass, field

import pytest

from sealift.cancel import CancelToken
from sealift.endpoints import Consistency, PointInfo, SnapshotRef, SnapshotState, VmDisk
from sealift.errors import ChunksGoneError, TargetError, UsageError
from sealift.pipeline import InlineExecutor
from sealift.ports import ReplicaPorts
from sealift.replicator import Replicator
from sealift.repository.commits import Witness
from sealift.repository.session import Repository
from sealift.repository.target import RepositoryTarget
from sealift.sync import SyncContext
from sealift.testing.object_memory import MemoryObjectStore
from sealift.testing.source import SimulatedHypervisor
from sealift.testing.state import MemoryStateStore
from tests.repository.conftest import CHUNK, World, content, vm_of


@dataclass
class Source:
    """A machine that writes, and the repository that it is replicated to."""

    world: World
    hypervisor: SimulatedHypervisor
    state: MemoryStateStore = field(default_factory=MemoryStateStore)

    def replicate(self) -> Repository:
        """One round in a process of its own."""
        repository = self.world.open()
        context = SyncContext(
            clock=self.world.clock, cancel=CancelToken(), executor=InlineExecutor()
        )
        target = RepositoryTarget(repository, "plan", self.state)
        ports = ReplicaPorts(self.hypervisor, target, self.state, context, rng=random.Random(1))
        replicator = Replicator.open(ports, "plan")
        replicator.replicate()
        self.receipt = replicator.state.history[-1].receipt
        return repository


@pytest.fixture
def source(world: World) -> Source:
    world.init()
    rng = random.Random(1)
    disks = {"vda": rng.randbytes(40 * CHUNK) + bytes(9 * CHUNK), "vdb": rng.randbytes(CHUNK + 512)}
    return Source(world, SimulatedHypervisor(disks, granule=1024))


def points(repository: Repository) -> dict[int, dict[str, bytes]]:
    """Every disk of every live point, by the number of the point."""
    found = {}
    for ref in repository.head.commit.points:
        manifest = repository.manifest(ref)
        found[ref.seq] = {d.disk.id: content(repository, d.tree) for d in manifest.disks}
    return found


def test_every_round_is_a_whole_machine(source: Source) -> None:
    rng, expected = random.Random(2), {}
    for seq in range(1, 6):
        source.replicate()
        expected[seq] = {n: bytes(d) for n, d in source.hypervisor.disks.items()}
        for _ in range(6):
            at = rng.randrange(0, 48 * CHUNK // 512) * 512
            data = rng.choice([bytes(4096), rng.randbytes(700), bytes(512)])
            source.hypervisor.guest_write("vda", at, data)
    fresh = source.world.open()
    assert points(fresh) == expected
    assert [p.vm for p in fresh.head.commit.points] == [source.hypervisor.describe().uuid] * 5


def test_a_round_sends_what_changed_and_not_more(source: Source) -> None:
    source.replicate()
    source.hypervisor.guest_write("vda", 7 * CHUNK + 5 * 512, b"new content".ljust(512))
    stored = source.replicate().packer.stored_bytes
    assert 0 < stored < 4 * CHUNK


def test_the_receipt_proves_the_point(source: Source) -> None:
    repository = source.replicate()
    witness = Witness.from_receipt(source.receipt)
    assert witness.seq == repository.head.commit.seq
    source.world.other_host("stranger").open(witness=witness)


INFO = PointInfo(1, "boot-1", Consistency.CRASH, "", 0.0, ("vda",))
DISK = VmDisk("vda", 8 * CHUNK, "virtio-blk")


def begun(world: World, state: MemoryStateStore) -> tuple[RepositoryTarget, SnapshotRef]:
    target = RepositoryTarget(world.open(), "plan", state)
    return target, target.begin_snapshot(1, DISK, None)


def test_a_point_is_sealed_only_when_every_disk_is_complete(world: World) -> None:
    world.init()
    target, ref = begun(world, MemoryStateStore())
    assert target.snapshot_state(ref.id) is SnapshotState.PENDING
    with pytest.raises(TargetError, match="not every disk"):
        target.seal_point(1, vm_of(DISK), INFO, {"vda": ref}, 1.0)
    assert world.open().head.commit.points == ()


def test_sealing_again_changes_nothing(world: World) -> None:
    world.init()
    state = MemoryStateStore()
    target, ref = begun(world, state)
    writer = target.writer(ref, None)
    writer.commit([])
    first = target.seal_point(1, vm_of(DISK), INFO, {"vda": ref}, 1.0)
    assert target.snapshot_state(ref.id) is SnapshotState.COMPLETED
    assert target.seal_point(1, vm_of(DISK), INFO, {"vda": ref}, 1.0) == first
    again, _ = RepositoryTarget(world.open(), "plan", state), ref
    assert again.seal_point(1, vm_of(DISK), INFO, {"vda": ref}, 1.0) == first
    assert again.owned() == []


@pytest.mark.fault(29)
def test_a_point_on_packs_that_are_gone_is_refused_and_the_next_round_sends_them(
    source: Source,
) -> None:
    assert isinstance(source.world.store, MemoryObjectStore)
    packs = {n for n in source.world.store.objects if n.startswith("packs/")}
    source.hypervisor.guest_write("vda", 0, b"x" * 512)
    real = RepositoryTarget.seal_point

    def lose_then_seal(self: RepositoryTarget, *args: object) -> str:
        RepositoryTarget.seal_point = real  # type: ignore[method-assign]
        assert isinstance(source.world.store, MemoryObjectStore)
        for name in [n for n in source.world.store.objects if n.startswith("packs/")]:
            if name not in packs:
                del source.world.store.objects[name]
        return real(self, *args)  # type: ignore[arg-type]

    RepositoryTarget.seal_point = lose_then_seal  # type: ignore[method-assign, assignment]
    try:
        with pytest.raises(ChunksGoneError):
            source.replicate()
    finally:
        RepositoryTarget.seal_point = real  # type: ignore[method-assign]
    assert source.world.open().head.commit.points == ()
    source.replicate()
    held = {n: bytes(d) for n, d in source.hypervisor.disks.items()}
    assert list(points(source.world.open()).values()) == [held]


def test_a_name_that_another_machine_s_points_have_is_refused(source: Source) -> None:
    repository = source.replicate()
    vm = source.hypervisor.describe().uuid
    target = RepositoryTarget(repository, "plan", MemoryStateStore())
    target.refuse_other_machine(vm)
    with pytest.raises(UsageError, match=f"points of machine {vm} of a replication plan"):
        target.refuse_other_machine("another")
    RepositoryTarget(repository, "plan-2", MemoryStateStore()).refuse_other_machine("another")
