"""Boots what was launched in a sandbox: its disks, on the controller that the cloud has."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sandbox.aws.launches import LaunchedInstance
from sandbox.aws.server import AwsSandbox
from sandbox.azure.machines import LaunchedMachine
from sandbox.azure.server import AzureSandbox
from sandbox.guest.image import GuestDisk, ImageFormat
from sandbox.guest.landing import Landed, boot_landed
from sandbox.guest.machine import Controller
from sandbox.reports import BootReport, CheckStatus
from sealift.endpoints import Firmware
from sealift.errors import ToolError

Export = Callable[[str, Path], int]


@dataclass
class Booter:
    """Boots machines and keeps what they showed; safe from several threads.

    Nothing but the disks' bytes is used: partition table, boot loader and kernel are those on
    the disk, and nothing is written to the disks (I7).

    Args:
        folder: gets one folder per machine, with its disks, console and picture.
        timeout_seconds: how long a boot may take.
    """

    folder: Path
    timeout_seconds: float = 240.0
    landed: dict[str, Landed] = field(default_factory=dict)
    _came: threading.Condition = field(default_factory=threading.Condition)

    def _boot(
        self,
        name: str,
        disks: Sequence[str],
        export: Export,
        firmware: Firmware,
        controller: Controller,
    ) -> BootReport:
        place = self.folder / name
        place.mkdir(mode=0o700, parents=True)
        landed = boot_landed(
            [_exported(place, disk, export) for disk in disks],
            firmware,
            place,
            controller=controller,
            timeout_seconds=self.timeout_seconds,
        )
        with self._came:
            self.landed[name] = landed
            self._came.notify_all()
        return BootReport(CheckStatus.OK, landed.console.encode(), landed.screenshot.read_bytes())

    def only(self) -> tuple[str, Landed]:
        """Name of the one machine that came up, and what it said; waits as long as a boot may.

        Raises:
            ToolError: none came up, or more than one.
        """
        with self._came:
            self._came.wait_for(lambda: self.landed, self.timeout_seconds)
            if len(self.landed) != 1:
                raise ToolError(f"one machine was to come up, and {len(self.landed)} did")
            return next(iter(self.landed.items()))


@dataclass
class InstanceBooter(Booter):
    """A boot hook for ``AwsSandbox``: status checks are ok when the guest really came up.

    Volumes hang on NVMe, as on Nitro. ``landed`` has what was seen, by instance id.
    """

    sandbox: AwsSandbox | None = None

    def __call__(self, instance: LaunchedInstance) -> BootReport:
        """Boot one instance and say what was seen; raises when it did not come up."""
        if self.sandbox is None:
            raise ValueError("the booter was not given its sandbox")
        firmware = Firmware.UEFI if instance.boot_mode == "uefi" else Firmware.BIOS
        volumes = [volume_id for _, volume_id in instance.volumes]
        return self._boot(
            instance.instance_id, volumes, self.sandbox.export_volume, firmware, Controller.NVME
        )


@dataclass
class MachineBooter(Booter):
    """A boot hook for ``AzureSandbox``: boot diagnostics show what the guest really said.

    Disks hang on a SCSI controller, as on Azure ("Azure VM sizes", remote storage); QEMU has
    none of Hyper-V's, so it is virtio's. ``landed`` has what was seen, by the machine's name.
    """

    sandbox: AzureSandbox | None = None

    def __call__(self, machine: LaunchedMachine) -> BootReport:
        """Boot one machine and say what was seen; raises when it did not come up."""
        if self.sandbox is None:
            raise ValueError("the booter was not given its sandbox")
        firmware = Firmware.UEFI if machine.generation == "V2" else Firmware.BIOS
        return self._boot(
            machine.name, machine.disks, self.sandbox.export_disk, firmware, Controller.SCSI
        )


def _exported(place: Path, disk_id: str, export: Export) -> GuestDisk:
    path = place / f"{disk_id.rpartition('/')[2]}.raw"
    export(disk_id, path)
    return GuestDisk(path, ImageFormat.RAW)
