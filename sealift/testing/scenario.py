"""One world: simulated ports on a virtual clock, a guest that writes, and what others do to it.

Everything in it follows from its seed and from the calls that are made. Same seed, same run.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

from sealift.cancel import CancelToken
from sealift.convergence import ConvergencePolicy, OnDivergence
from sealift.disk import Unwritten
from sealift.errors import TransientError
from sealift.lineage import LossPolicy
from sealift.migration import Migration, Phase
from sealift.migrator import Migrator
from sealift.pipeline import InlineExecutor
from sealift.ports import MigrationPolicy, Ports, StopPolicy
from sealift.retry import RetryPolicy
from sealift.sync import SyncContext
from sealift.testing.clock import VirtualClock
from sealift.testing.faults import WORLD, Fault, Killed, Script, tapped
from sealift.testing.world import MemoryStateStore, SimulatedCloud, SimulatedHypervisor
from sealift.units import KiB

BLOCK = 4 * KiB
GRANULE = 1 * KiB
VOLUME_STEP = 16 * KiB
CALL_SECONDS = 0.01
_ROUNDS = 3


@dataclass
class Scenario:
    """One world and the plan of a migration in it.

    Args:
        seed: of disks, guest writes, jitter and small choices of the plan.
        write_chance: probability that the guest writes at a call.
        disk_blocks: blocks of each disk; sizes get an odd tail.
        throttle: the plan asks for rounds that never converge, so that the guest is throttled.
        min_rounds: pre-copy rounds of ``converge``.

    Attributes:
        trouble: what the world did that Sealift cannot be blamed for.
        killed: a process of Sealift was.
    """

    seed: int
    write_chance: float = 0.3
    disk_blocks: tuple[int, ...] = (7, 4)
    throttle: bool = False
    min_rounds: int = 1
    store: MemoryStateStore = field(default_factory=MemoryStateStore)
    clock: VirtualClock = field(default_factory=VirtualClock)
    trouble: set[Fault] = field(default_factory=set)
    killed: bool = False

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)  # noqa: S311 - reproducible, not secret
        disks = {f"vd{n}": self._content(blocks) for n, blocks in enumerate(self.disk_blocks)}
        self.hypervisor = SimulatedHypervisor(disks, granule=GRANULE)
        fresh = Unwritten.UNDEFINED if self.seed % 3 == 0 else Unwritten.ZERO
        self.cloud = SimulatedCloud(block=BLOCK, volume_step=VOLUME_STEP, fresh=fresh)

    def _content(self, blocks: int) -> bytes:
        parts = [
            bytes(BLOCK) if self.rng.random() < 0.4 else self.rng.randbytes(BLOCK)
            for _ in range(blocks)
        ]
        return b"".join(parts) + self.rng.randbytes(512 * self.rng.randrange(1, 6))

    def ports(self, script: Script) -> Ports:
        """The ports as one process of Sealift opens them."""
        cancel = CancelToken()
        script.restart(cancel)
        context = SyncContext(
            self.clock,
            cancel,
            executor=InlineExecutor(),
            retry=RetryPolicy(0.1, 1.0, 30.0),
            rng=random.Random(self.seed),  # noqa: S311
        )
        return Ports(
            tapped(self.hypervisor, "hypervisor", script),
            tapped(self.cloud, "cloud", script),
            tapped(self.store, "state", script),
            context,
            self._policy(),
            rng=random.Random(self.seed),  # noqa: S311
        )

    def _policy(self) -> MigrationPolicy:
        budget, after = (1e-9, OnDivergence.THROTTLE) if self.throttle else (1e9, None)
        return MigrationPolicy(
            on_tracking_loss=LossPolicy.COMPARE,
            convergence=ConvergencePolicy(budget, 4, after or OnDivergence.CONTINUE),
            min_rounds=self.min_rounds,
            stop=StopPolicy(shutdown=self.seed % 2 == 0),
            verify_blocks=None if self.seed % 2 else 2,
        )

    # ------------------------------------------------------------------ a plain operator

    def step(self, script: Script) -> Migration:
        """One process: does what is due next, to its end; three rounds, then the cutover."""
        script.on_call = lambda _: self.pass_call()
        migrator = Migrator.open(self.ports(script), "scenario")
        state = migrator.state
        if state.phase is Phase.CUT_OVER:
            return state
        rounds = sum(not r.final for r in state.history)
        if state.phase is Phase.CUTTING_OVER or (rounds >= _ROUNDS and state.round is None):
            return migrator.cutover()
        return migrator.replicate()

    def run(self, script: Script) -> Migration:
        """Processes until the machine is cut over; ``script`` belongs to the first ones.

        Nothing is checked on the way; ``sealift.testing.simulation`` does that.
        """
        for _ in range(50):
            try:
                state = self.step(script)
            except Killed:
                script = Script()
                continue
            except TransientError:
                continue  # exit code 75: safe to run again
            if state.phase is Phase.CUT_OVER:
                return state
        raise AssertionError("the migration does not come to an end")

    # ------------------------------------------------------------------ the guest

    def pass_call(self) -> None:
        """What happens while a call is under way: time passes, and the guest may write."""
        self.clock.sleep(CALL_SECONDS)
        if self.hypervisor.running and self.rng.random() < self.write_chance:
            self.guest_writes()

    def guest_writes(self) -> None:
        """One write of the guest: new data, zeroes, or the bytes that are there."""
        disk = self.rng.choice(list(self.hypervisor.disks))
        content = self.hypervisor.disks[disk]
        length = self.rng.choice((512, 1024, 3072, BLOCK, 2 * BLOCK))
        offset = self.rng.randrange(0, max(1, (len(content) - length) // 512 + 1)) * 512
        length = min(length, len(content) - offset)
        kind = self.rng.random()
        if kind < 0.15:
            offset -= offset % BLOCK  # whole blocks of zeroes: what a careless planner leaves out
            length = min(BLOCK, len(content) - offset)
        if kind < 0.3:
            data = bytes(length)
        elif kind < 0.4:
            data = bytes(content[offset : offset + length])
        else:
            data = self.rng.randbytes(length)
        self.hypervisor.guest_write(disk, offset, data)

    # ------------------------------------------------------------------ others

    def possible(self) -> frozenset[Fault]:
        """Which faults of the world can happen now."""
        return frozenset(fault for fault in WORLD if self._can(fault))

    def _can(self, fault: Fault) -> bool:
        source, cloud = self.hypervisor, self.cloud
        landed = bool(cloud.instances)
        recording = any(b.recording for b in source.bitmaps.values())
        if fault is Fault.RESTART:
            return not landed
        if fault is Fault.STARTED:
            return not source.running and not landed
        if fault in (Fault.BITMAP_GONE, Fault.BITMAP_STOPPED):
            return recording
        if fault is Fault.POINT_GONE:
            return any(not p.lost for p in source.points.values())
        if fault is Fault.SNAPSHOT_GONE:
            return bool(cloud.unused())
        if fault is Fault.SNAPSHOT_FAILED:
            return bool(cloud.pending())
        if fault is Fault.LIE:
            return any(b.recording and b.granules for b in source.bitmaps.values())
        if fault is Fault.GROWN:
            return source.running
        return True

    def disturb(self, fault: Fault) -> bool:
        """See ``World.disturb``."""
        if fault is Fault.POWER_CUT:
            self.store.power_cut(self.rng)
            return True
        if not self._can(fault):
            return False
        self.trouble.add(fault)
        source, cloud = self.hypervisor, self.cloud
        effects: dict[Fault, Callable[[], None]] = {
            Fault.RESTART: source.restart,
            Fault.STARTED: source.start,
            Fault.BITMAP_GONE: source.drop_bitmap,
            Fault.BITMAP_STOPPED: source.stop_bitmap,
            Fault.POINT_GONE: source.lose_points,
            Fault.SNAPSHOT_GONE: cloud.lose_snapshot,
            Fault.SNAPSHOT_FAILED: cloud.fail_pending,
            Fault.LIE: source.lie,
            Fault.GROWN: lambda: source.grow(3 * 512),
            Fault.CLOCK_BACK: lambda: self.clock.jump(timedelta(days=-3653)),
            Fault.CLOCK_FORWARD: lambda: self.clock.jump(timedelta(days=365)),
        }
        effects[fault]()
        return True

    def pass_time(self, seconds: float) -> None:
        """See ``World.pass_time``."""
        self.clock.sleep(seconds)

    def differences(self) -> list[str]:
        """Disks of the landed machine that differ from the source; empty when equal."""
        (machine,) = self.cloud.instances.values()
        wrong = []
        for disk, content in self.hypervisor.disks.items():
            landed = machine.disks[disk]
            if landed[: len(content)] != content or any(landed[len(content) :]):
                wrong.append(disk)
        return wrong
