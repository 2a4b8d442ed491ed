"""Boots disks that landed somewhere, the way a cloud will, and asks them what they hold."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sandbox.guest.image import GuestDisk, ImageFormat
from sandbox.guest.machine import BOOT_SECONDS, Controller, GuestMachine, MachineSpec
from sandbox.guest.report import FoundRecords
from sandbox.guest.tools import run_tool
from sealift.clock import Clock, SystemClock
from sealift.endpoints import Firmware


@dataclass(frozen=True, slots=True)
class Landed:
    """A landed guest that booted, reported and was shut down again.

    Attributes:
        found: what it found on its disks, before anything was written.
        screenshot: PNG of its screen at that moment.
        console: all it said.
        ready_seconds: from power-on to `ready`.
    """

    found: FoundRecords
    screenshot: Path
    console: str
    ready_seconds: float


def boot_landed(
    disks: Sequence[GuestDisk],
    firmware: Firmware,
    folder: Path,
    *,
    controller: Controller = Controller.NVME,
    timeout_seconds: float = BOOT_SECONDS,
    clock: Clock | None = None,
) -> Landed:
    """Boot from nothing but the disks' own boot loader, then shut down.

    The machine works on overlays in ``folder``, so that the disks themselves stay as they
    landed (I7); not even their journals are replayed.

    Raises:
        ToolError: the disks did not boot or the guest did not report in time; the message
            has the console's last words.
    """
    clock = clock or SystemClock()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    overlays = tuple(_overlay(disk, folder / f"overlay{i}.qcow2") for i, disk in enumerate(disks))
    spec = MachineSpec(overlays, firmware, controller, keep_on_shutdown=False)
    began = clock.monotonic()
    with GuestMachine(spec, folder, clock) as machine:
        found = machine.wait_ready(timeout_seconds)
        ready_seconds = clock.monotonic() - began
        picture = machine.screenshot(folder / "screen.png")
        machine.poweroff(timeout_seconds)
        return Landed(found, picture, machine.console.text, ready_seconds)


def _overlay(disk: GuestDisk, path: Path) -> GuestDisk:
    base = disk.path.absolute()
    run_tool(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-F", disk.format.value, "-b", base, path],
        package="qemu-utils",
    )
    return GuestDisk(path, ImageFormat.QCOW2)
