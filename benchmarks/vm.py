"""A QEMU whose one disk is migrated: real bitmaps, points and exports, no guest system.

It sits in its firmware; the guest's writes come from QEMU's own ``qemu-io``, through the
virtual device as a guest's do.
"""

import json
import subprocess
from collections.abc import Iterable
from pathlib import Path

from connectors.qemu import QemuHypervisor
from connectors.qemu.qmp import QmpSession
from sandbox.nbd.servers import Process
from sealift.clock import SystemClock
from sealift.units import GiB

_DISK_PATH = "/machine/peripheral/vd0/virtio-backend"


def raw_disk(image: Path) -> dict[str, object]:
    """Block device of a raw image."""
    return {"driver": "raw", "discard": "unmap", "file": _file(image)}


def overlay_disk(image: Path, size: int, backing_socket: Path) -> dict[str, object]:
    """Block device of a new overlay over what an NBD server exports."""
    command = ["qemu-img", "create", "-q", "-f", "qcow2", str(image), str(size)]
    subprocess.run(command, check=True)
    server = {"type": "unix", "path": str(backing_socket)}
    below = {"driver": "raw", "file": {"driver": "nbd", "server": server}}
    return {"driver": "qcow2", "discard": "unmap", "file": _file(image), "backing": below}


def _file(image: Path) -> dict[str, object]:
    return {"driver": "file", "filename": str(image), "discard": "unmap"}


class BenchVm(Process):
    """A running QEMU with one disk; a context manager.

    Args:
        folder: private and short, for sockets and scratch files.
        disk: what ``raw_disk`` or ``overlay_disk`` made.
    """

    def __init__(self, folder: Path, disk: dict[str, object]) -> None:
        self._folder = folder
        self._tools = folder / "tools.qmp"
        self._qmp = folder / "sealift.qmp"
        command = ["qemu-system-x86_64", "-machine", "q35", "-accel", "tcg", "-m", "32"]
        command += ["-nodefaults", "-display", "none", "-name", "bench", "-uuid", _UUID]
        for path in (self._qmp, self._tools):
            command += ["-qmp", f"unix:{path},server=on,wait=off"]
        command += ["-blockdev", json.dumps({"node-name": "drive0", **disk})]
        command += ["-device", "virtio-blk-pci,id=vd0,drive=drive0,serial=S0"]
        super().__init__(command, self._tools)

    def write(self, parts: Iterable[tuple[int, int]], pattern: int) -> None:
        """The guest fills every part (offset, length) with one byte value."""
        with QmpSession(self._tools) as qmp:
            for offset, length in parts:
                line = f'qemu-io -d {_DISK_PATH} "write -P {pattern:#x} {offset} {length}"'
                qmp.execute("human-monitor-command", command_line=line)

    def hypervisor(self, migration: str) -> QemuHypervisor:
        """Sealift's own view of it."""
        scratch = self._folder / "scratch"
        scratch.mkdir(exist_ok=True)
        return QemuHypervisor(
            self._qmp,
            migration,
            scratch,
            self._folder / "run",
            scratch_limit_bytes=GiB,
            clock=SystemClock(),
        )


_UUID = "3e2b1c0a-0000-4000-8000-00000000abcd"
