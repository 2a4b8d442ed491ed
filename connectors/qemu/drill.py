"""A machine started from a recovery point, cut off from everything, to see whether it comes up.

Nothing it writes reaches the point: its disks are empty overlays over read-only NBD exports. It
has no network card, or one that leads nowhere but from one port of this host to one of the guest.
QEMU dies with us and may start no process of its own.
"""

import json
import logging
import os
import re
import shutil
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from connectors.local.children import Child
from connectors.nbd.address import UnixAddress
from connectors.qemu.proofs import Proof, Said
from connectors.qemu.qmp import QmpSession
from converters import qemu_img
from converters.formats import Container
from sealift.cancel import CancelToken
from sealift.clock import Clock
from sealift.display import harmless
from sealift.endpoints import Firmware, SourceVm, VmDisk
from sealift.errors import (
    ConnectionLostError,
    DrillFailedError,
    SealiftError,
    ToolError,
    TransientError,
    UsageError,
)
from sealift.units import MiB, round_up

log = logging.getLogger(__name__)

PROGRAM = "qemu-system-x86_64"
EITHER = "kvm:tcg"
"""QEMU itself goes on to tcg only where KVM cannot be opened. Where KVM refuses what ``-cpu max``
asks of it, QEMU ends: seen with QEMU 7.2 on AMD, Linux 6.18 ("failed to set MSR 0x10a")."""
_FIRMWARE = (
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
    ("/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"),
)
_CARDS = {"virtio": "virtio-net-pci", "virtio-net": "virtio-net-pci"}
_NICENESS = 10
"""The source may run on the same host: what nobody waits for stands back."""
_START_SECONDS = 30.0
_STOP_SECONDS = 10.0
_POLL_SECONDS = 0.05
_LAST_WORDS = 600
_MOST_CONSOLE_BYTES = 8 * MiB  # of a console that is looked through; what comes after is not seen
_SECTOR = 512


@dataclass(frozen=True, slots=True)
class DrillSpec:
    """What to start.

    Attributes:
        vm: the machine as the point describes it.
        exports: by disk id, where its disk is served read only, and under which name.
        accelerator: ``kvm``, ``tcg``, or ``kvm:tcg`` for whichever works.
        memory_bytes: of the guest; None is what the machine had.
        port: TCP port of the guest that a port of 127.0.0.1 leads to; None: no network card.
    """

    vm: SourceVm
    exports: Mapping[str, tuple[UnixAddress, str]]
    accelerator: str = EITHER
    memory_bytes: int | None = None
    port: int | None = None


class DrillMachine:
    """One start of a point; a context manager that leaves no process behind.

    Args:
        spec: what to start.
        folder: gets overlays, console and picture; private, and its path short.
        clock: limits waits and measures.

    Raises:
        UsageError: a machine that cannot be started here.
    """

    def __init__(self, spec: DrillSpec, folder: Path, clock: Clock) -> None:
        if spec.vm.architecture != "x86_64":
            raise UsageError(f"a drill of {spec.vm.architecture} is not possible on this host")
        self._spec = spec
        self._folder = folder
        self._clock = clock
        self._child: Child | None = None
        self._qmp: QmpSession | None = None
        self._began = clock.monotonic()
        self.console_path = folder / "console.log"
        self.agent_path = folder / "agent"
        self.host_port = _free_port() if spec.port is not None else 0

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def seconds(self) -> float:
        """Since the power was switched on."""
        return self._clock.monotonic() - self._began

    @property
    def console(self) -> str:
        """What the guest has written to its serial line."""
        try:
            with self.console_path.open("rb") as file:
                return file.read(_MOST_CONSOLE_BYTES).decode("utf-8", "replace")
        except FileNotFoundError:
            return ""

    def wait_for(self, pattern: "re.Pattern[str]", seconds: float, cancel: CancelToken) -> str:
        """The first text on the console that fits, once it is there; raises as ``prove``."""
        return self.prove(Said(pattern), seconds, cancel)

    def prove(self, proof: Proof, seconds: float, cancel: CancelToken) -> str:
        """What the proof saw, once it did.

        Raises:
            DrillFailedError: it did not come in time, or the machine ended before.
            StoppedError: a stop was asked for.
        """
        deadline = self._clock.monotonic() + seconds
        while True:
            cancel.check()
            running = self._child is not None and self._child.running
            found = proof.seen(self)
            if found is not None:
                return found
            if not running:
                raise self._failed("the machine ended before it came up")
            if self._clock.monotonic() > deadline:
                raise self._failed(f"{proof.what} was not seen within {seconds:g} s")
            cancel.sleep(self._clock, _POLL_SECONDS)

    def connections(self) -> str:
        """What QEMU says of the connections that it forwards."""
        if self._qmp is None:
            raise ToolError("the machine is not running")
        asked = {"command-line": "info usernet"}
        return str(self._qmp.execute("human-monitor-command", **asked))

    def picture(self) -> bytes:
        """The screen now, PPM.

        Raises:
            SourceError: QEMU has ended.
        """
        if self._qmp is None:
            raise ToolError("the machine is not running")
        path = self._folder / "now.ppm"
        self._qmp.execute("screendump", filename=str(path))
        return path.read_bytes()

    def screenshot(self, path: Path) -> Path:
        """PNG of what the screen shows now.

        Raises:
            SourceError: QEMU is older than 7.1, or has ended.
        """
        if self._qmp is None:
            raise ToolError("the machine is not running")
        self._qmp.execute("screendump", filename=str(path), format="png")
        return path

    def keep_screen(self, path: Path) -> bool:
        """``screenshot``, as far as it can be had: a machine that ended has none."""
        try:
            self.screenshot(path)
        except (SealiftError, OSError) as error:
            log.warning("no picture: %s", error)
            return False
        return True

    def close(self) -> None:
        """Switch it off and remove the overlays; console and picture stay. Idempotent."""
        if self._qmp is not None:
            self._qmp.close()
            self._qmp = None
        self._end_child()
        for disk in self._spec.vm.disks:
            self._overlay(disk).unlink(missing_ok=True)

    def _end_child(self) -> None:
        if self._child is not None:
            self._child.stop(_STOP_SECONDS)
            self._child = None

    # ------------------------------------------------------------------ starting

    def _start(self) -> None:
        for disk in self._spec.vm.disks:
            size = round_up(disk.size, _SECTOR)
            qemu_img.create(self._overlay(disk), Container.QCOW2, size)
        self._began = self._clock.monotonic()
        try:
            child, qmp = self._started(self._spec.accelerator)
        except ToolError as error:
            if self._spec.accelerator != EITHER:
                raise
            log.warning("%s; once more with tcg alone, which is slower", error.message)
            child, qmp = self._started("tcg")
        self._stand_back(child)
        qmp.execute("cont")

    def _started(self, accelerator: str) -> tuple[Child, QmpSession]:
        """QEMU with the machine, which does not run yet.

        Raises:
            ToolError: it ended, or does not answer; with its last words. It is gone.
        """
        self._child = child = Child(self._command(accelerator))
        deadline = self._clock.monotonic() + _START_SECONDS
        while self._qmp is None:
            try:
                self._qmp = QmpSession(self._socket)
            except (ConnectionLostError, TransientError) as error:
                self._not_yet(error, deadline)
        return child, self._qmp

    @staticmethod
    def _stand_back(child: Child) -> None:
        """All threads of QEMU, before the first one runs the guest; never above our own."""
        own = os.getpriority(os.PRIO_PROCESS, 0)
        with suppress(ProcessLookupError):  # it ended; whoever waits for a proof will see that
            os.setpriority(os.PRIO_PGRP, child.pid, max(own, _NICENESS))

    def _not_yet(self, error: SealiftError, deadline: float) -> None:
        child = self._child
        if child is None or not child.running or self._clock.monotonic() > deadline:
            words = child.words if child is not None else ""
            self._end_child()
            raise ToolError(f"{PROGRAM} did not start: {words[-_LAST_WORDS:]}") from error
        self._clock.sleep(_POLL_SECONDS)

    def _failed(self, why: str) -> DrillFailedError:
        said = harmless(self.console[-_LAST_WORDS:].strip()) or "nothing"
        return DrillFailedError(
            f"{why}; the console's last words: {said}",
            next_step=f"see {self.console_path}, and drill an older point",
        )

    @property
    def _socket(self) -> Path:
        return self._folder / "qmp"

    def _overlay(self, disk: VmDisk) -> Path:
        return self._folder / f"overlay-{self._spec.vm.disks.index(disk)}.qcow2"

    def _command(self, accelerator: str) -> list[str]:
        vm = self._spec.vm
        memory = (self._spec.memory_bytes or vm.memory_bytes) // MiB
        console = str(self.console_path).replace(",", ",,")
        monitor = str(self._socket).replace(",", ",,")
        agent = str(self.agent_path).replace(",", ",,")
        return [
            *(PROGRAM, "-S", "-nodefaults", "-no-user-config", "-name", "sealift-drill"),
            *("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny"),
            *("-cpu", "max", "-smp", str(max(1, vm.vcpus)), "-m", str(max(1, memory))),
            *("-display", "none", "-vga", "std", "-no-reboot"),
            *self._network(),
            *self._machine(accelerator),
            *("-chardev", f"socket,id=agent,path={agent},server=on,wait=off"),
            *("-device", "virtio-serial-pci"),
            *("-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"),
            *("-chardev", f"file,id=serial,path={console}", "-serial", "chardev:serial"),
            *("-chardev", f"socket,id=qmp,path={monitor},server=on,wait=off"),
            *("-mon", "chardev=qmp,mode=control"),
            *self._disks(),
        ]

    def _network(self) -> list[str]:
        """None, or a card whose only way is from our port to the guest's: it reaches nothing."""
        if self._spec.port is None:
            return ["-nic", "none"]
        nics = self._spec.vm.nics
        model = nics[0].model if nics else "virtio-net-pci"
        device = {"driver": _CARDS.get(model, model), "netdev": "net0"}
        if nics:
            device["mac"] = nics[0].mac
        forward = f"hostfwd=tcp:127.0.0.1:{self.host_port}-:{self._spec.port}"
        return ["-netdev", f"user,id=net0,restrict=on,{forward}", "-device", json.dumps(device)]

    def _machine(self, accelerator: str) -> list[str]:
        if self._spec.vm.firmware is Firmware.BIOS:
            return ["-machine", f"pc,accel={accelerator}"]
        code, variables = _firmware_files()
        own = self._folder / "variables.fd"
        shutil.copyfile(variables, own)
        arguments = ["-machine", f"q35,accel={accelerator},pflash0=firmware,pflash1=variables"]
        for name, path, read_only in (("firmware", code, True), ("variables", own, False)):
            node = {"driver": "file", "node-name": name, "filename": str(path)}
            arguments += ["-blockdev", json.dumps({**node, "read-only": read_only})]
        return arguments

    def _disks(self) -> list[str]:
        arguments = []
        disks = self._spec.vm.disks
        if any(disk.bus.startswith("scsi") for disk in disks):
            arguments += ["-device", "virtio-scsi-pci,id=scsi0"]
        for number, disk in enumerate(disks):
            address, export = self._spec.exports[disk.id]
            server = {"type": "unix", "path": str(address.path)}
            base = {"driver": "nbd", "server": server, "export": export, "read-only": True}
            file = {"driver": "file", "filename": str(self._overlay(disk))}
            nodes = (
                {**base, "node-name": f"point{number}"},
                {"driver": "qcow2", "node-name": f"disk{number}", "file": file}
                | {"backing": f"point{number}"},
            )
            for node in nodes:
                arguments += ["-blockdev", json.dumps(node)]
            arguments += ["-device", json.dumps(_device(disk, number))]
        return arguments


def _device(disk: VmDisk, number: int) -> dict[str, object]:
    """The disk on the bus where the guest's drivers expect it."""
    bus = disk.bus
    driver = {"nvme": "nvme", "ide-hd": "ide-hd", "scsi-hd": "scsi-hd"}.get(bus, "virtio-blk-pci")
    device: dict[str, object] = {"driver": driver, "drive": f"disk{number}", "bootindex": number}
    if disk.serial or driver == "nvme":
        device["serial"] = disk.serial or f"drill-{number}"
    if driver == "scsi-hd":
        device["bus"] = "scsi0.0"
    return device


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _firmware_files() -> tuple[Path, Path]:
    for code, variables in _FIRMWARE:
        if Path(code).exists() and Path(variables).exists():
            return Path(code), Path(variables)
    raise ToolError("there is no UEFI firmware here", next_step="apt-get install ovmf")
