"""The command over a simulated world, as a process: for signals, locks and terminals.

Run as ``python simulated_command.py WORDS...``. At the end the state of the world goes to
the file that ``WORLD_REPORT`` names.
"""

import json
import os
import sys
from contextlib import ExitStack
from pathlib import Path

from flows import assembly
from flows.cli.main import main
from sealift.config import MigrationPlan
from sealift.config_load import AnyPlan
from sealift.endpoints import CloudTarget, Hypervisor
from sealift.testing.world import SimulatedCloud, SimulatedHypervisor

GRANULE = 4096
HYPERVISOR = SimulatedHypervisor(
    {"vda": b"".join(bytes([n + 1]) * GRANULE for n in range(32))}, granule=GRANULE
)
CLOUD = SimulatedCloud(block=2 * GRANULE, volume_step=32 * GRANULE)


def _source(plan: AnyPlan, state: Path, around: assembly.Around) -> Hypervisor:
    return HYPERVISOR


def _target(plan: MigrationPlan, around: assembly.Around, stack: ExitStack) -> CloudTarget:
    return CLOUD


assembly.hypervisor_of = _source
assembly.cloud_of = _target
code = main(sys.argv[1:])
report = {
    "source_runs": HYPERVISOR.running,
    "machines": len(CLOUD.instances),
    "points": len(HYPERVISOR.points),
}
Path(os.environ["WORLD_REPORT"]).write_text(json.dumps(report))
sys.exit(code)
