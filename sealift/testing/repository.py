"""Whole histories of a repository in one thread: rounds, prunes and restores, with faults between.

A world is a machine that writes, a store and one host's state. Each step of a history runs in a
process of its own, with a ``Script`` around every call to store, state and hypervisor, and is run
again until it succeeds. After every process the world is looked at with clean eyes.
"""

import copy
import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum

from sealift.cancel import CancelToken
from sealift.errors import SealiftError
from sealift.objects_retry import PatientStore
from sealift.pipeline import InlineExecutor
from sealift.ports import ReplicaPorts
from sealift.replicator import Replicator
from sealift.repository.check import Checker
from sealift.repository.names import ObjectKind, parsed
from sealift.repository.prune import Pruner
from sealift.repository.reader import RepositoryReader
from sealift.repository.retention import Retention
from sealift.repository.session import Repository, RepositoryOptions
from sealift.repository.target import RepositoryTarget
from sealift.repository.tree import Tree
from sealift.retry import RetryPolicy
from sealift.sealing.keys import KeyRing, RootKey
from sealift.sync import SyncContext
from sealift.testing.clock import VirtualClock
from sealift.testing.faults import DATA, Fault, Killed, Script, tapped
from sealift.testing.object_memory import MemoryObjectStore
from sealift.testing.source import SimulatedHypervisor
from sealift.testing.state import MemoryStateStore
from sealift.units import KiB

CHUNK = 2 * KiB
OPTIONS = RepositoryOptions(chunk_bytes=CHUNK, pack_bytes=16 * KiB)
KEPT = Retention(last=2)
POLICY = RetryPolicy(0.1, 1.0, 30.0)
_ROOT = RootKey(hashlib.sha256(b"the root of simulated repositories").digest())
_ID = bytes(range(16))
_QUARANTINE_SECONDS = 8 * 86_400.0
_MOST_TRIES = 12

PLAN = "plan"


class Step(Enum):
    """What one process does."""

    ROUND = "replicate a point"
    PRUNE = "prune, a week later"
    RESTORE = "restore every point"


class Violation(AssertionError):
    """Something that must always hold did not."""


@dataclass
class RepositoryWorld:
    """One machine, its repository, and the state of the host that replicates it.

    Args:
        seed: of contents, writes and names.

    Attributes:
        live: contents by number of every point that was live at the last look.
    """

    seed: int
    state: MemoryStateStore = field(default_factory=MemoryStateStore)
    clock: VirtualClock = field(default_factory=VirtualClock)
    live: frozenset[int] = frozenset()
    processes: int = 0
    tampered: bool = False

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)  # noqa: S311 - reproducible, not secret
        disks = {
            "vda": self.rng.randbytes(9 * CHUNK) + bytes(70 * CHUNK) + self.rng.randbytes(CHUNK),
            "vdb": self.rng.randbytes(700),
        }
        self.hypervisor = SimulatedHypervisor(disks, granule=512)
        self.store = MemoryObjectStore(self.clock)
        Repository.init(self.store, self._ring("init"), self.state, self.clock, None, OPTIONS)

    def copy(self) -> "RepositoryWorld":
        """Another one that goes its own way from here."""
        twin = copy.copy(self)
        parts = (self.state, self.clock, self.hypervisor, self.rng)
        twin.state, twin.clock, twin.hypervisor, twin.rng = copy.deepcopy(parts)
        twin.store = MemoryObjectStore(twin.clock)
        twin.store.objects = dict(self.store.objects)
        return twin

    # ------------------------------------------------------------------ World

    def disturb(self, fault: Fault) -> bool:
        """See ``faults.World.disturb``."""
        if fault is Fault.POWER_CUT:
            self.state.power_cut(self.rng)
        elif fault is Fault.CLOCK_BACK:
            self.clock.jump(timedelta(days=-3653))
        elif fault is Fault.CLOCK_FORWARD:
            self.clock.jump(timedelta(days=365))
        else:
            return False
        return True

    def pass_time(self, seconds: float) -> None:
        """See ``faults.World.pass_time``."""
        self.clock.sleep(seconds)

    # ------------------------------------------------------------------ processes

    def prepare(self, step: Step) -> None:
        """What happens before a step: the guest writes, or a week passes."""
        if step is Step.ROUND:
            for _ in range(4):
                at = 512 * self.rng.randrange(0, 80 * CHUNK // 512)
                data = self.rng.choice([bytes(512), bytes(CHUNK), self.rng.randbytes(1024)])
                size = len(self.hypervisor.disks["vda"])
                self.hypervisor.guest_write("vda", at, data[: size - at])
            self.clock.sleep(3600)
        elif step is Step.PRUNE:
            self.clock.sleep(_QUARANTINE_SECONDS)

    def process(self, step: Step, script: Script) -> None:
        """One process that does a step; raises whatever ends it."""
        cancel = CancelToken()
        script.restart(cancel)
        context = SyncContext(
            self.clock,
            cancel,
            executor=InlineExecutor(),
            retry=POLICY,
            rng=random.Random(self.seed),  # noqa: S311
        )
        store = PatientStore(tapped(self.store, "objects", script), context.retrier())
        state = tapped(self.state, "state", script)
        self.processes += 1
        ring = self._ring(f"process {self.processes}")
        writes = step is Step.ROUND
        repository = Repository.open(store, ring, state, self.clock, None, OPTIONS, writes=writes)
        if step is Step.ROUND:
            target = RepositoryTarget(repository, PLAN, state)
            hypervisor = tapped(self.hypervisor, "hypervisor", script)
            rng = random.Random(self.seed)  # noqa: S311
            ports = ReplicaPorts(hypervisor, target, state, context, rng=rng)
            Replicator.open(ports, PLAN).replicate()
        elif step is Step.PRUNE:
            Pruner(repository).run(KEPT)
        else:
            self._restore_all(repository)

    def _restore_all(self, repository: Repository) -> None:
        for ref in repository.head.commit.points:
            for disk in repository.manifest(ref).disks:
                found = read_disk(repository, disk.tree)
                if found != self.hypervisor.instants[ref.seq, disk.disk.id]:
                    raise Violation(f"point {ref.seq}: {disk.disk.id} restored with other bytes")

    def _ring(self, seed: str) -> KeyRing:
        count = 0

        def entropy(size: int) -> bytes:
            nonlocal count
            count += 1
            return hashlib.shake_128(f"{self.seed}:{seed}:{count}".encode()).digest(size)

        return KeyRing(_ROOT, _ID, 1, entropy=entropy)

    # ------------------------------------------------------------------ looking

    def look(self, step: Step | None) -> None:
        """With clean eyes: what is live restores, and nothing is gone that must be there.

        Raises:
            Violation: names what does not hold.
        """
        state = MemoryStateStore()
        ring = self._ring("look")
        try:
            repository = Repository.open(
                self.store, ring, state, self.clock, None, OPTIONS, writes=False
            )
            self._restore_all(repository)
        except SealiftError as error:
            if self.tampered:
                return
            raise Violation(f"the repository does not open or restore: {error!r}") from error
        live = frozenset(ref.seq for ref in repository.head.commit.points)
        gone = self.live - live
        newest = set(sorted(self.live)[-2:])
        if gone and (step is not Step.PRUNE or gone & newest):
            raise Violation(f"points {sorted(gone)} of {sorted(self.live)} are gone after {step}")
        self.live = live

    def check(self) -> None:
        """Structure and data of all live points.

        Raises:
            Violation: something is damaged.
        """
        repository = Repository.open(
            self.store,
            self._ring("check"),
            MemoryStateStore(),
            self.clock,
            None,
            OPTIONS,
            writes=False,
        )
        damage = Checker(repository, read_share=1.0).run().damage
        if damage:
            raise Violation(f"damaged: {damage[0].what}: {damage[0].why}")

    def leftovers(self) -> list[str]:
        """Objects that nothing names once two prunes, a quarantine apart, have gone through."""
        for _ in range(3):
            self.prepare(Step.PRUNE)
            self.process(Step.PRUNE, Script())
        repository = Repository.open(
            self.store,
            self._ring("leftovers"),
            MemoryStateStore(),
            self.clock,
            None,
            OPTIONS,
            writes=False,
        )
        commit = repository.head.commit
        named = {row.name for row in repository.index.packs()}
        named |= {ref.name for ref in commit.indexes} | {ref.manifest for ref in commit.points}
        found = {n: parsed(n) for n in self.store.objects}
        return sorted(
            name
            for name, what in found.items()
            if name not in named and (what is None or what.kind is not ObjectKind.COMMIT)
        )


def read_disk(repository: Repository, tree: Tree) -> bytes:
    """Every byte of a disk of a point."""
    buffer = bytearray(tree.size)
    RepositoryReader(repository, tree, "look").read_into(0, memoryview(buffer))
    return bytes(buffer)


def until_done(
    world: RepositoryWorld,
    step: Step,
    script: Script,
    looked: Callable[[], None] | None = None,
) -> None:
    """Run processes until one has done the step; after each, the world is looked at.

    Raises:
        Violation: see ``RepositoryWorld.look``; or the step does not come to an end.
    """
    errors: list[BaseException] = []
    for _ in range(_MOST_TRIES):
        try:
            world.process(step, script)
        except Violation:
            raise
        except (Killed, SealiftError, RuntimeError) as error:
            errors.append(error)
        else:
            errors.append(AssertionError("done"))
        world.tampered |= any(f in DATA and c.name == "put" for c, f in script.fired)
        world.look(step)
        if looked is not None:
            looked()
        if isinstance(errors[-1], AssertionError):
            return
        if world.tampered and isinstance(errors[-1], SealiftError) and len(errors) > 3:
            return  # what the store has spoilt is refused for ever; that is as it should be
    raise Violation(f"{step} does not come to an end: {errors[-1]!r}")
