"""A planned failover of a replication: one machine at a time, with every byte, whatever fails."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import pytest

from sealift.cancel import CancelToken
from sealift.convergence import OnDivergence
from sealift.endpoints import SnapshotRef
from sealift.errors import IntegrityError, SealiftError, TargetError, UsageError
from sealift.failover import Failover
from sealift.launching import LaunchingTarget
from sealift.migration import Phase
from sealift.objects_retry import PatientStore
from sealift.pipeline import InlineExecutor
from sealift.ports import MigrationPolicy, Ports, ReplicaPorts
from sealift.replicator import Replicator
from sealift.repository.session import Repository, RepositoryOptions
from sealift.repository.target import RepositoryTarget
from sealift.retry import Retrier, RetryPolicy
from sealift.sync import SyncContext
from sealift.testing.clock import VirtualClock
from sealift.testing.faults import Call, Fault, Killed, Script, applicable, tapped
from sealift.testing.memory import MemoryReader
from sealift.testing.object_memory import MemoryObjectStore
from sealift.testing.state import MemoryStateStore
from sealift.testing.world import SimulatedCloud, SimulatedHypervisor, running_machines
from sealift.units import KiB
from tests.conftest import Evidence
from tests.repository.conftest import ring_of

CHUNK = 4 * KiB
BLOCK = 8 * KiB
STEP = 16 * KiB
PLAN = "web-dr"
PATIENCE = RetryPolicy(0.1, 1.0, 30.0)


@dataclass
class World:
    """A machine, a repository of its points, a cloud that can start them, one host's state."""

    store: MemoryObjectStore = field(default_factory=MemoryObjectStore)
    state: MemoryStateStore = field(default_factory=MemoryStateStore)
    clock: VirtualClock = field(default_factory=VirtualClock)
    rng: random.Random = field(default_factory=lambda: random.Random(7))
    opened: int = 0

    def __post_init__(self) -> None:
        disks = {"vda": self.rng.randbytes(10 * CHUNK) + bytes(8 * CHUNK), "vdb": bytes(3000)}
        self.hypervisor = SimulatedHypervisor(disks, granule=512)
        self.cloud = SimulatedCloud(block=BLOCK, volume_step=STEP)
        self.repository(Script(), init=True)

    def repository(self, script: Script, *, init: bool = False) -> Repository:
        self.opened += 1
        how = Repository.init if init else Repository.open
        options = RepositoryOptions(chunk_bytes=CHUNK, pack_bytes=64 * KiB)
        retrier = Retrier(PATIENCE, self.clock, CancelToken(), random.Random(3))
        store = PatientStore(tapped(self.store, "objects", script), retrier)
        state = tapped(self.state, "state", script)
        return how(store, ring_of(f"ring-{self.opened}"), state, self.clock, None, options)

    def ports(self, script: Script) -> Ports:
        script.restart(cancel := CancelToken())
        context = SyncContext(
            self.clock,
            cancel,
            executor=InlineExecutor(),
            retry=PATIENCE,
            rng=random.Random(3),
        )
        state = tapped(self.state, "state", script)
        target = LaunchingTarget(
            RepositoryTarget(self.repository(script), PLAN, state),
            tapped(self.cloud, "cloud", script),
            state,
            context,
        )
        policy = MigrationPolicy()
        free = replace(policy.convergence, on_divergence=OnDivergence.CONTINUE)
        hypervisor = tapped(self.hypervisor, "hypervisor", script)
        policy = replace(policy, convergence=free)
        return Ports(hypervisor, target, state, context, policy, rng=random.Random(4))

    def replicate(self) -> None:
        ports = self.ports(Script())
        target = RepositoryTarget(self.repository(Script()), PLAN, self.state)
        replica = ReplicaPorts(ports.hypervisor, target, ports.store, ports.context)
        Replicator.open(replica, PLAN).replicate()

    def failover(self, script: Script) -> Failover:
        return Failover.open(self.ports(script), PLAN)

    def process(self, script: Script) -> Phase:
        """What one run of the command does."""
        one = self.failover(script)
        if one.rounds_come_first:
            one.prepare()
        return one.cutover().phase

    def write(self, text: bytes, at: int = 0) -> None:
        self.hypervisor.guest_write("vda", at, text)

    # ------------------------------------------------------------------ faults.World

    def disturb(self, fault: Fault) -> bool:
        if fault is Fault.POWER_CUT:
            self.state.power_cut(self.rng)
            return True
        return False

    def pass_time(self, seconds: float) -> None:
        self.clock.sleep(seconds)

    def landed_equal(self) -> bool:
        (machine,) = self.cloud.instances.values()
        return all(
            machine.disks[disk][: len(content)] == content
            and not any(machine.disks[disk][len(content) :])
            for disk, content in self.hypervisor.disks.items()
        )


@pytest.fixture
def world() -> World:
    made = World()
    made.replicate()
    made.write(b"after the first point" * 40)
    return made


def test_the_last_writes_arrive_and_only_the_difference_is_sent_while_nobody_serves(
    world: World,
) -> None:
    script = Script()
    one = world.failover(script)
    one.prepare()
    world.write(b"while the cloud was prepared", at=5 * CHUNK)
    before = len(script.calls)
    assert one.cutover().phase is Phase.CUT_OVER
    written = [c for c in script.calls[before:] if (c.port, c.name) == ("disk-writer", "write")]
    assert len(written) == 1
    assert world.landed_equal()
    assert running_machines(world.hypervisor, world.cloud) == 1
    with pytest.raises(UsageError, match="cut-over"):
        world.replicate()


def test_a_machine_that_stays_sick_puts_the_source_back_and_leaves_nothing_in_the_cloud(
    world: World,
) -> None:
    world.cloud.next_health = "failed"
    with pytest.raises(TargetError, match="not healthy"):
        world.process(Script())
    assert world.hypervisor.running
    assert world.cloud.owned() == []
    world.write(b"the source serves again", at=9 * CHUNK)
    world.replicate()
    world.cloud.next_health = "ok"
    assert world.process(Script()) is Phase.CUT_OVER
    assert world.landed_equal()


def test_undo_of_one_that_was_killed_puts_the_source_back(world: World) -> None:
    script = Script()
    script.kill_after = ("cloud", "launch")
    with pytest.raises(Killed):
        world.process(script)
    assert running_machines(world.hypervisor, world.cloud) == 1
    assert world.failover(Script()).give_up().phase is Phase.REPLICATING
    assert world.hypervisor.running
    assert world.cloud.owned() == []
    world.replicate()


def test_what_was_prepared_and_not_wanted_any_more_is_removed(world: World) -> None:
    world.failover(Script()).prepare()
    assert world.cloud.owned()
    world.failover(Script()).give_up()
    assert world.cloud.owned() == []
    assert world.process(Script()) is Phase.CUT_OVER
    with pytest.raises(UsageError):
        world.failover(Script()).give_up()
    assert running_machines(world.hypervisor, world.cloud) == 1


def test_a_disk_that_landed_wrong_starts_nothing(world: World) -> None:
    def damaged(ref: SnapshotRef) -> MemoryReader:
        content = bytearray(world.cloud.content(ref.id))
        content[100] ^= 1
        return MemoryReader(bytes(content), identity=ref.id)

    world.cloud.reader = damaged  # type: ignore[method-assign]
    with pytest.raises(IntegrityError, match="is not what the point has"):
        world.failover(Script()).prepare()
    del world.cloud.reader
    assert not world.cloud.instances
    assert world.process(Script()) is Phase.CUT_OVER
    assert world.landed_equal()


def test_a_disk_that_was_resized_is_copied_as_a_whole(world: World) -> None:
    world.failover(Script()).prepare()
    world.hypervisor.grow(512)
    assert world.process(Script()) is Phase.CUT_OVER
    assert world.landed_equal()


# ---------------------------------------------------------------------- sweep

KILLS = (Fault.KILL_BEFORE, Fault.KILL_AFTER)
MORE = tuple(
    f for f in Fault if f not in (*KILLS, Fault.FLIP, Fault.SHORT, Fault.STALE, Fault.LATE)
)
_MOST_RUNS = 12


def fresh() -> World:
    world = World()
    world.replicate()
    world.write(b"after the first point" * 40)
    return world


def recorded() -> list[Call]:
    world, script = fresh(), Script()
    assert world.process(script) is Phase.CUT_OVER
    return script.calls


def cases(kinds: tuple[Fault, ...]) -> Iterator[tuple[int, Fault]]:
    for call in recorded():
        for fault in kinds:
            if fault in applicable(call):
                yield call.number, fault


def survive(number: int, fault: Fault) -> None:
    """The fault, then runs until the machine has moved; two machines never run at once."""
    world = fresh()
    script = Script([(number, fault)], world)

    def look(call: Call) -> None:
        assert running_machines(world.hypervisor, world.cloud) <= 1, (call, fault)

    script.on_call = script.after_call = look
    for _ in range(_MOST_RUNS):
        try:
            phase = world.process(script)
        except Killed:
            continue
        except (SealiftError, RuntimeError):
            phase = world.failover(Script()).state.phase
            if phase is Phase.CUT_OVER:
                break
            if phase in (Phase.REPLICATING, Phase.READY):
                assert world.hypervisor.running, fault
            continue
        assert phase is Phase.CUT_OVER
        break
    else:
        raise AssertionError(f"{fault} at call {number}: it does not come to an end")
    assert script.pending == frozenset()
    assert running_machines(world.hypervisor, world.cloud) == 1
    assert world.landed_equal(), (number, fault)
    ended = world.failover(Script())
    if ended.state.cutover is not None and not ended.state.cutover.released:
        ended.cutover()
    used = {s for image in world.cloud.images.values() for s in image.values()}
    assert set(world.cloud.snapshots) == used, (number, fault)


def survive_all(chosen: Sequence[tuple[int, Fault]]) -> int:
    for number, fault in chosen:
        survive(number, fault)
    return len(chosen)


@pytest.mark.fault(39, 41)
def test_kills_leave_one_machine_with_every_byte() -> None:
    assert survive_all(random.Random(5).sample(list(cases(KILLS)), 60)) == 60


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.fault(39, 41)
def test_a_kill_at_every_call_leaves_one_machine_with_every_byte(evidence: Evidence) -> None:
    done = survive_all(list(cases(KILLS)))
    evidence("planned failover kill points", f"{done}, unequal: 0, two machines: 0")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_other_faults_leave_one_machine_with_every_byte(evidence: Evidence) -> None:
    done = survive_all(random.Random(6).sample(list(cases(MORE)), 300))
    evidence("planned failover faults", f"{done}, unequal: 0, two machines: 0")
