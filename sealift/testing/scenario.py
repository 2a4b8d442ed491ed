"""The canonical migration, run by an operator who restarts whatever was killed.

Pre-copy rounds while the guest writes at every call, then a cutover; all in one thread
on a virtual clock. Same seed, same run.
"""

import random
from dataclasses import dataclass, field

from sealift.convergence import ConvergencePolicy, OnDivergence
from sealift.errors import TransientError
from sealift.migration import Migration, Phase
from sealift.migrator import Migrator
from sealift.pipeline import InlineExecutor
from sealift.ports import MigrationPolicy, Ports, StopPolicy
from sealift.retry import RetryPolicy
from sealift.sync import SyncContext
from sealift.testing.clock import VirtualClock
from sealift.testing.faults import Call, Killed, Script, tapped
from sealift.testing.world import (
    MemoryStateStore,
    SimulatedCloud,
    SimulatedHypervisor,
    running_machines,
)
from sealift.units import KiB

BLOCK = 4 * KiB
GRANULE = 1 * KiB
VOLUME_STEP = 16 * KiB


class BothRunning(AssertionError):
    """Source and target ran at the same time (I10)."""


@dataclass
class Scenario:
    """One world and its operator.

    Args:
        seed: of disks, guest writes and jitter.
        rounds: pre-copy rounds before the cutover.
        write_chance: probability that the guest writes at a call.
        disk_blocks: blocks of each disk; sizes get an odd tail.
    """

    seed: int
    rounds: int = 3
    write_chance: float = 0.3
    disk_blocks: tuple[int, ...] = (7, 4)
    store: MemoryStateStore = field(default_factory=MemoryStateStore)
    clock: VirtualClock = field(default_factory=VirtualClock)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)  # noqa: S311 - reproducible, not secret
        disks = {f"vd{n}": self._content(blocks) for n, blocks in enumerate(self.disk_blocks)}
        self.hypervisor = SimulatedHypervisor(disks, granule=GRANULE)
        self.cloud = SimulatedCloud(block=BLOCK, volume_step=VOLUME_STEP)

    def _content(self, blocks: int) -> bytes:
        parts = [
            bytes(BLOCK) if self.rng.random() < 0.4 else self.rng.randbytes(BLOCK)
            for _ in range(blocks)
        ]
        return b"".join(parts) + self.rng.randbytes(512 * self.rng.randrange(1, 6))

    def ports(self, script: Script) -> Ports:
        """The ports as one process of Sealift opens them."""
        script.on_call = self._at_call
        policy = MigrationPolicy(
            convergence=ConvergencePolicy(1e9, on_divergence=OnDivergence.CONTINUE),
            stop=StopPolicy(shutdown=self.seed % 2 == 0),
            verify_blocks=2,
        )
        context = SyncContext(
            self.clock, executor=InlineExecutor(), retry=RetryPolicy(0.1, 1.0, 30.0)
        )
        return Ports(
            tapped(self.hypervisor, "hypervisor", script),
            tapped(self.cloud, "cloud", script),
            tapped(self.store, "state", script),
            context,
            policy,
            rng=random.Random(self.seed),  # noqa: S311
        )

    def _at_call(self, call: Call) -> None:
        if running_machines(self.hypervisor, self.cloud) > 1:
            raise BothRunning(f"at {call}")
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
        if kind < 0.3:
            data = bytes(length)
        elif kind < 0.4:
            data = bytes(content[offset : offset + length])
        else:
            data = self.rng.randbytes(length)
        self.hypervisor.guest_write(disk, offset, data)

    def step(self, script: Script) -> Migration:
        """One process: does what is due next, to its end."""
        migrator = Migrator.open(self.ports(script), "scenario")
        state = migrator.state
        if state.phase is Phase.CUT_OVER:
            return state
        if state.phase is Phase.CUTTING_OVER or self._rounds_done(state):
            return migrator.cutover()
        return migrator.replicate()

    def _rounds_done(self, state: Migration) -> bool:
        return sum(not r.final for r in state.history) >= self.rounds and state.round is None

    def run(self, script: Script) -> Migration:
        """Processes until the machine is cut over; ``script`` belongs to the first ones."""
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

    def differences(self) -> list[str]:
        """Disks of the landed machine that differ from the source; empty when equal."""
        (machine,) = self.cloud.instances.values()
        wrong = []
        for disk, content in self.hypervisor.disks.items():
            landed = machine.disks[disk]
            if landed[: len(content)] != content or any(landed[len(content) :]):
                wrong.append(disk)
        return wrong
