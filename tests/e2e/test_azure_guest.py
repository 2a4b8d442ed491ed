"""A guest that never stops writing, moved to Azure by the command and booted from what landed."""

from pathlib import Path

import pytest

from sandbox.demo import Demo
from sandbox.demo_azure import azure_cloud
from sealift.endpoints import Firmware
from tests.conftest import Evidence

pytestmark = [pytest.mark.guest, pytest.mark.sandbox, pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.mark.fault(40)
@pytest.mark.parametrize("firmware", list(Firmware))
def test_no_record_is_lost_on_the_way_to_azure(
    tmp_path: Path, firmware: Firmware, evidence: Evidence
) -> None:
    """BIOS becomes generation 1, UEFI generation 2; qemu-img judges the disks that landed."""
    said: list[str] = []
    outcome = Demo(tmp_path, firmware, said.append, cloud=azure_cloud, prefect=False).run()
    assert any("qemu-img finds a fixed VHD in each" in line for line in said)
    assert outcome.acknowledged > 0
    evidence(f"azure, {firmware.value}: records", f"{outcome.acknowledged}, lost: {outcome.lost}")
    assert outcome.lost == 0
