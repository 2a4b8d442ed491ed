"""How long the command takes to say something, as a process."""

import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.measure import CLOCK, Bar, Row, Sense, seconds
from benchmarks.scale import Scale
from sealift.migrator import Migrator
from sealift.ports import Ports
from sealift.store import FileStateStore
from sealift.sync import SyncContext
from sealift.testing.world import SimulatedCloud, SimulatedHypervisor
from sealift.units import KiB

COMMANDS = (("help", "--help", 0.5), ("status", "status", 1.0))
ROUNDS = 10
_PLAN = """\
migration: bench
state_dir: {state}
source:
  qemu:
    qmp: /run/bench.qmp
target:
  aws:
    subnet: subnet-1
    security_groups: [sg-1]
"""


def measure(scale: Scale, folder: Path) -> Iterator[Row]:
    """One row for each command."""
    _migration(folder / "state")
    plan = folder / "plan.yaml"
    plan.write_text(_PLAN.format(state=folder / "state"))
    environment = {**os.environ, "SEALIFT_PLAN": str(plan)}
    for name, word, limit in COMMANDS:
        command = [str(Path(sys.executable).with_name("sealift")), word]
        run = partial(_run, command, environment)
        run()
        took = statistics.median(seconds(run) for _ in range(scale.pairs))
        bar = Bar(
            f"startup-{name}",
            f"time of `sealift {word}` as a process by {limit:g} s",
            Sense.AT_MOST,
            1.0,
        )
        yield Row(bar, took / limit, f"{took:.2f} s", f"{limit:.2f} s")


def _run(command: list[str], environment: dict[str, str]) -> None:
    done = subprocess.run(command, check=True, env=environment, capture_output=True)
    if b"bench" not in done.stdout + done.stderr and "status" in command:
        raise RuntimeError("the migration was not shown")


def _migration(state: Path) -> None:
    """A migration with some history, as real ones have."""
    source = SimulatedHypervisor({"vd0": bytes(64 * KiB)}, granule=KiB)
    cloud = SimulatedCloud(block=4 * KiB, volume_step=16 * KiB)
    ports = Ports(source, cloud, FileStateStore(state), SyncContext(CLOCK))
    migrator = Migrator.open(ports, "bench")
    for number in range(ROUNDS):
        source.guest_write("vd0", number * KiB, b"x" * KiB)
        migrator.replicate()
