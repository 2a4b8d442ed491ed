"""A simulated world behind the flows."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from flows import assembly, hardening
from sealift.config import MigrationPlan
from sealift.endpoints import CloudTarget, Hypervisor
from sealift.testing.world import SimulatedCloud, SimulatedHypervisor

GRANULE = 4096


@pytest.fixture(autouse=True)
def _process_of_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flow run makes its process private, and for users other than root also /proc/self."""
    monkeypatch.setattr(hardening, "keep_memory_private", lambda: None)


@dataclass
class World:
    """Both ends and the plan."""

    hypervisor: SimulatedHypervisor
    cloud: SimulatedCloud
    plan: MigrationPlan
    state: Path


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    disks = {"vda": b"".join(bytes([n + 1]) * GRANULE for n in range(16)), "vdb": bytes(64 * 1024)}
    hypervisor = SimulatedHypervisor(disks, granule=GRANULE)
    cloud = SimulatedCloud(block=2 * GRANULE, volume_step=16 * GRANULE)

    def source(plan: MigrationPlan, state: Path, around: assembly.Around) -> Hypervisor:
        return hypervisor

    def target(plan: MigrationPlan, around: assembly.Around, stack: ExitStack) -> CloudTarget:
        return cloud

    monkeypatch.setattr(assembly, "hypervisor_of", source)
    monkeypatch.setattr(assembly, "cloud_of", target)
    plan = MigrationPlan.model_validate(
        {
            "migration": "web-01",
            "source": {"qemu": {"qmp": "/run/web.qmp"}},
            "target": {"aws": {"subnet": "subnet-1", "security_groups": ["sg-1"]}},
            "policy": {"downtime_budget": "1h"},
            "state_dir": str(tmp_path / "state"),
        }
    )
    return World(hypervisor, cloud, plan, tmp_path / "state")
