"""A real guest, the offline AWS, and the command as a user runs it."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.aws import AwsSandbox
from sandbox.guest.image import GuestSpec, build_guest
from sandbox.guest.machine import GuestMachine, MachineSpec
from sandbox.rig import Rig


@pytest.fixture
def rig() -> Iterator[Rig]:
    with tempfile.TemporaryDirectory(prefix="sl-") as short:
        folder = Path(short)
        (folder / "guest").mkdir()
        disks = build_guest(GuestSpec(), folder / "guest")
        machine = GuestMachine(MachineSpec(disks, autostart=True), folder / "vm")
        with AwsSandbox(folder / "aws") as sandbox, machine:
            made = Rig(folder, machine, sandbox, [disk.path for disk in disks])
            made.plan()
            machine.wait_ready()
            yield made
