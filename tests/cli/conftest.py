"""A simulated world behind the command, and a plan file for it."""

import json
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from flows import accounts, assembly
from flows.cli.main import main
from sealift.config import MigrationPlan
from sealift.endpoints import CloudTarget, Hypervisor
from sealift.testing.world import SimulatedCloud, SimulatedHypervisor

GRANULE = 4096
PLAN = """\
migration: web-01
source:
  qemu:
    qmp: /run/web.qmp
target:
  aws:
    subnet: subnet-1
    security_groups: [sg-1]
policy:
  downtime_budget: 1h
"""


@dataclass
class World:
    """Both ends, the folder of the plan, and what the command printed."""

    folder: Path
    hypervisor: SimulatedHypervisor
    cloud: SimulatedCloud
    capture: pytest.CaptureFixture[str]
    opened: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def state(self) -> Path:
        return self.folder / "state" / "sealift" / "web-01"

    def run(self, *words: str) -> tuple[int, str, str]:
        """Exit code, standard output, standard error."""
        self.capture.readouterr()
        code = main(words)
        out, err = self.capture.readouterr()
        return code, out, err

    def lines(self, *words: str) -> tuple[int, list[dict[str, Any]]]:
        """Exit code and the JSON objects of a command."""
        code, out, _ = self.run(*words, "--json")
        return code, [json.loads(line) for line in out.splitlines()]


@pytest.fixture
def world(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> World:
    disks = {"vda": b"".join(bytes([n + 1]) * GRANULE for n in range(16)), "vdb": bytes(64 * 1024)}
    hypervisor = SimulatedHypervisor(disks, granule=GRANULE)
    cloud = SimulatedCloud(block=2 * GRANULE, volume_step=16 * GRANULE)
    made = World(tmp_path, hypervisor, cloud, capsys)

    def source(plan: MigrationPlan, state: Path, around: assembly.Around) -> Hypervisor:
        made.opened += 1
        return hypervisor

    def target(plan: MigrationPlan, around: assembly.Around, stack: ExitStack) -> CloudTarget:
        return cloud

    monkeypatch.setattr(assembly, "hypervisor_of", source)
    monkeypatch.setattr(assembly, "cloud_of", target)
    monkeypatch.setattr(accounts, "account_target", lambda account, around, stack: cloud)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.delenv("COLUMNS", raising=False)  # parallel workers have one
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plan.yaml").write_text(PLAN)
    return made
