"""Boots what was launched in the sandbox: the instance's volumes, on an NVMe controller."""

import threading
from dataclasses import dataclass, field
from pathlib import Path

from sandbox.aws.launches import LaunchedInstance
from sandbox.aws.server import AwsSandbox
from sandbox.guest.image import GuestDisk, ImageFormat
from sandbox.guest.landing import Landed, boot_landed
from sandbox.reports import BootReport, CheckStatus
from sealift.endpoints import Firmware


@dataclass
class InstanceBooter:
    """A boot hook for ``AwsSandbox``: status checks are ok when the guest really came up.

    Nothing but the volumes' blocks is used: partition table, boot loader and kernel are
    those on the disk, and nothing is written to the volumes (I7).

    Args:
        folder: gets one folder per instance, with its volumes, console and picture.
        timeout_seconds: how long a boot may take.
    """

    folder: Path
    timeout_seconds: float = 120.0
    landed: dict[str, Landed] = field(default_factory=dict)
    sandbox: AwsSandbox | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, instance: LaunchedInstance) -> BootReport:
        """Boot one instance and say what was seen; raises when it did not come up."""
        if self.sandbox is None:
            raise ValueError("the booter was not given its sandbox")
        place = self.folder / instance.instance_id
        place.mkdir(mode=0o700, parents=True)
        disks = [self._volume(place, volume_id) for _, volume_id in instance.volumes]
        firmware = Firmware.UEFI if instance.boot_mode == "uefi" else Firmware.BIOS
        landed = boot_landed(disks, firmware, place, timeout_seconds=self.timeout_seconds)
        with self._lock:
            self.landed[instance.instance_id] = landed
        return BootReport(CheckStatus.OK, landed.console.encode(), landed.screenshot.read_bytes())

    def _volume(self, place: Path, volume_id: str) -> GuestDisk:
        if self.sandbox is None:
            raise ValueError("the booter was not given its sandbox")
        path = place / f"{volume_id}.raw"
        self.sandbox.export_volume(volume_id, path)
        return GuestDisk(path, ImageFormat.RAW)
