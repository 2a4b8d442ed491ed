"""Limiting the guest's writes, over all its disks together.

QEMU counts the limit in one throttle group that all disks share, so the sum over the
disks is limited, however the guest spreads its writes. The limit sits at the guest's
device and holds across points.
"""

from collections.abc import Sequence

from connectors.qemu.graph import BlockState
from connectors.qemu.machine import Disk
from connectors.qemu.names import Names
from connectors.qemu.qmp import Command, QmpSession
from sealift.errors import SourceError

_SET = "block_set_io_throttle"
_UNLIMITED = {"bps": 0, "bps_rd": 0, "bps_wr": 0, "iops": 0, "iops_rd": 0, "iops_wr": 0}


def limit_writes(
    qmp: QmpSession, names: Names, disks: Sequence[Disk], bytes_per_second: int
) -> None:
    """Limit the sum of writes to all disks.

    Raises:
        SourceError: somebody else limits a disk already; nothing was changed.
    """
    if bytes_per_second <= 0:
        raise ValueError("a limit is more than 0 bytes per second")
    group = names.throttle_group
    for disk in disks:
        if disk.limits and disk.group != group:
            raise SourceError(
                f"disk {disk.id} has limits that Sealift did not set",
                next_step="lift them (block_set_io_throttle), or let the round run unthrottled",
                disk=disk.id,
            )
    for disk in disks:
        limits = {**_UNLIMITED, "bps_wr": bytes_per_second}
        qmp.run(Command(_SET, {"id": disk.qdev, "group": group, **limits}))


def limited_devices(state: BlockState, names: Names) -> list[str]:
    """Handles of the devices that our limit is on."""
    return [d.qdev for d in state.devices if d.group == names.throttle_group]


def lift_limit(qmp: QmpSession, devices: Sequence[str]) -> None:
    """Lift our limit from the devices that have it."""
    for device in devices:
        qmp.run(Command(_SET, {"id": device, **_UNLIMITED}))
