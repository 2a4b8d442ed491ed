"""The simulated ports together: a source, a cloud, local state.

With ``VirtualClock`` and ``InlineExecutor`` a whole migration runs in one thread.
"""

from sealift.testing.cloud import SimulatedCloud
from sealift.testing.source import SimulatedHypervisor
from sealift.testing.state import MemoryStateStore

__all__ = ["MemoryStateStore", "SimulatedCloud", "SimulatedHypervisor", "running_machines"]


def running_machines(hypervisor: SimulatedHypervisor, cloud: SimulatedCloud) -> int:
    """How many copies of the machine run now; more than one breaks I10."""
    return int(hypervisor.running) + len(cloud.instances)
