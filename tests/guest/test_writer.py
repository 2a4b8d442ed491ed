"""The guest keeps its word: what it acknowledged is there after a power cut."""

from collections.abc import Callable
from pathlib import Path

import pytest

from sandbox.guest.image import GuestDisk, GuestSpec
from sandbox.guest.landing import boot_landed
from sandbox.guest.machine import GuestMachine, MachineSpec
from sealift.endpoints import Firmware

pytestmark = pytest.mark.guest

Build = Callable[[GuestSpec], tuple[GuestDisk, ...]]
PowerOn = Callable[[MachineSpec], GuestMachine]


def test_acknowledged_records_survive_a_power_cut(
    build: Build, power_on: PowerOn, tmp_path: Path
) -> None:
    disks = build(GuestSpec())
    with power_on(MachineSpec(disks)) as machine:
        assert machine.wait_ready().durable == 0
        machine.send("rate max")
        machine.send("start")
        machine.wait_for_ack(150)
        acknowledged = machine.kill()
    landed = boot_landed(disks, Firmware.BIOS, tmp_path / "landed")
    assert landed.found.intact
    assert landed.found.lost(acknowledged) == 0
    assert landed.screenshot.read_bytes().startswith(b"\x89PNG")
