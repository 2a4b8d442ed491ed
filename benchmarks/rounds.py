"""A round in which one percent changed, beside the full seed of the same disk.

The whole migration driver runs: points and dirty bitmaps of a real QEMU, the EBS writer, the
journal, block maps and the record. The disk is full of data that nbdkit makes up, under an
overlay that takes the guest's writes.
"""

import statistics
from collections.abc import Iterator
from pathlib import Path

from benchmarks.accepting import accepting
from benchmarks.disks import spread
from benchmarks.ebs_seed import BLOCK, spec
from benchmarks.measure import CLOCK, Bar, Row, Sense, seconds
from benchmarks.scale import Scale
from benchmarks.vm import BenchVm, overlay_disk
from connectors.aws.target import AwsTarget
from sandbox.nbd.servers import nbdkit
from sealift.migrator import Migrator
from sealift.ports import Ports
from sealift.store import FileStateStore
from sealift.sync import SyncContext
from sealift.units import format_size

BAR = Bar(
    "round-1-percent",
    "time of a round in which 1 % of a disk's blocks changed, evenly spread, by the time of the "
    "full seed of that disk, both by the whole migration driver from a running QEMU into the "
    "EBS writer and a server that only accepts",
    Sense.AT_MOST,
    0.03,
)


def measure(scale: Scale, folder: Path) -> Iterator[Row]:
    """One row: a seed, and then several rounds."""
    size = scale.round_bytes
    below = folder / "below.sock"
    with accepting() as endpoint, nbdkit(below, "--readonly", "pattern", str(size)):
        disk = overlay_disk(folder / "disk.qcow2", size, below)
        with BenchVm(folder, disk) as vm:
            rounds = Rounds(vm, folder, endpoint)
            seed = rounds.run()
            changed = spread(size, size // 100, BLOCK)
            took = [rounds.changed(changed, number) for number in range(scale.few_pairs)]
    middle = statistics.median(took)
    yield Row(
        BAR,
        middle / seed,
        f"{middle:.2f} s for {format_size(len(changed) * BLOCK)}",
        f"{seed:.1f} s for {format_size(size)}",
    )


class Rounds:
    """A migration that goes on round by round."""

    def __init__(self, vm: BenchVm, folder: Path, endpoint: str) -> None:
        self._vm = vm
        ports = Ports(
            vm.hypervisor("bench"),
            AwsTarget(spec(endpoint), "bench", CLOCK),
            FileStateStore(folder / "state"),
            SyncContext(CLOCK),
        )
        self._migrator = Migrator.open(ports, "bench")

    def run(self) -> float:
        """Seconds of one round."""
        return seconds(self._migrator.replicate)

    def changed(self, parts: list[tuple[int, int]], number: int) -> float:
        """Seconds of the round after the guest wrote ``parts``."""
        self._vm.write(parts, 0x11 + number)
        took = self.run()
        sent = self._migrator.state.history[-1].sent_bytes
        if sent != sum(length for _, length in parts):
            raise RuntimeError(f"{sent} bytes were sent for {len(parts)} changed blocks")
        return took
