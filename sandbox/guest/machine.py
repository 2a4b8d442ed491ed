"""A machine under emulation: starts, listens, types, takes pictures, dies with its parent."""

import contextlib
import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Self

from sandbox.children import spawn
from sandbox.guest import parts
from sandbox.guest.console import Ack, Console
from sandbox.guest.image import GuestDisk
from sandbox.guest.monitor import Monitor
from sandbox.guest.report import FOUND_PATTERN, FoundRecords, parse_found
from sandbox.guest.tools import find_tool
from sealift.clock import Clock, SystemClock
from sealift.endpoints import Firmware
from sealift.errors import ToolError, UsageError

_START_SECONDS = 60.0
BOOT_SECONDS = 180.0
"""Longest time to `ready`; 3 to 9 s were measured on an idle machine of two cores."""
_LONGEST_SOCKET_PATH = 107
_UUID = "5ea11f70-0000-4000-8000-0000000000aa"


class Controller(Enum):
    """What the disks hang on."""

    VIRTIO = "virtio-blk"
    NVME = "nvme"
    SCSI = "virtio-scsi"


@dataclass(frozen=True, slots=True)
class MachineSpec:
    """The machine around the disks.

    Attributes:
        disks: in device order; the first one boots. Node names are ``disk0``, ``disk1``,
            device ids ``vd0``, ``vd1``.
        firmware: BIOS gives machine type ``pc``, UEFI ``q35`` with fresh variables.
        controller: of all disks.
        uuid: the machine's identity.
        memory_mib: megabytes of memory.
        mac_address: of one virtio NIC on a closed user network; empty for no NIC.
        autostart: the guest starts to write as soon as it is ready. Said to it through
            SMBIOS, so that a disk that lands elsewhere waits to be told.
        agent: a port for QEMU's guest agent at ``agent_path``.
        keep_on_shutdown: QEMU stays, with its images open, after the guest went down.
    """

    disks: tuple[GuestDisk, ...]
    firmware: Firmware = Firmware.BIOS
    controller: Controller = Controller.VIRTIO
    uuid: str = _UUID
    memory_mib: int = 256
    mac_address: str = ""
    autostart: bool = False
    agent: bool = False
    keep_on_shutdown: bool = True


class GuestMachine:
    """One run of a machine; a context manager that leaves no process behind.

    Always emulated, never with KVM: where KVM opens and does not work, everything
    believes in it and the guest dies.

    Args:
        spec: the machine.
        folder: gets sockets and logs; its path must be short, as of all Unix sockets.
        clock: stamps acknowledgements and limits waits.

    Raises:
        UsageError: the folder's path is too long.
    """

    def __init__(self, spec: MachineSpec, folder: Path, clock: Clock | None = None) -> None:
        self.spec = spec
        self.folder = folder
        self.clock: Clock = clock or SystemClock()
        self.qmp_path = folder / "qmp.sock"
        self.agent_path = folder / "agent.sock"
        self.log_path = folder / "console.log"
        self._own_qmp = folder / "own.sock"
        self._serial = folder / "serial.sock"
        self._process: subprocess.Popen[bytes] | None = None
        self._console: Console | None = None
        self._monitor: Monitor | None = None
        if len(str(self.agent_path)) > _LONGEST_SOCKET_PATH:
            raise UsageError(f"{folder}: too long for a Unix socket", next_step="use a shorter one")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """QEMU's process id."""
        return self._running().pid

    @property
    def console(self) -> Console:
        """The serial console; readable after the machine ended too."""
        if self._console is None:
            raise ToolError("the machine was not started")
        return self._console

    @property
    def monitor(self) -> Monitor:
        """The harness's own monitor."""
        if self._monitor is None:
            raise ToolError("the machine was not started")
        return self._monitor

    @property
    def acks(self) -> tuple[Ack, ...]:
        """Every acknowledgement seen on the console."""
        return self.console.acks

    def acked(self) -> int:
        """The highest record that the guest acknowledged, as seen on its console."""
        return self.console.acked

    def start(self) -> Self:
        """Power on. Returns when the guest runs; it is not ready yet.

        Raises:
            ToolError: QEMU is missing or refused to start; has its words.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in (self.qmp_path, self.agent_path, self._own_qmp, self._serial):
            path.unlink(missing_ok=True)
        if self.spec.firmware is Firmware.UEFI:
            shutil.copyfile(parts.ovmf_vars(), self.folder / "vars.fd")
        with (self.folder / "qemu.log").open("wb") as errors:
            self._process = spawn(self._arguments(), errors)
        try:
            self._connect()
        except BaseException:
            self.close()
            raise
        return self

    def wait_for(
        self, pattern: str, timeout_seconds: float = BOOT_SECONDS, *, since: int = 0
    ) -> re.Match[str]:
        """See ``Console.wait_for``."""
        return self.console.wait_for(pattern, timeout_seconds=timeout_seconds, since=since)

    def wait_ready(self, timeout_seconds: float = BOOT_SECONDS) -> FoundRecords:
        """What the guest found on its disks, once it is up."""
        self.wait_for(r"^ready$", timeout_seconds)
        return parse_found(self.console.text)

    def wait_for_ack(self, number: int, timeout_seconds: float = BOOT_SECONDS) -> int:
        """See ``Console.wait_for_ack``."""
        return self.console.wait_for_ack(number, timeout_seconds=timeout_seconds)

    def send(self, line: str) -> None:
        """Type a command: ``start``, ``stop``, ``rate N``, ``burst 64M``, ``poweroff`` ..."""
        self.console.send(line)

    def command(self, line: str, timeout_seconds: float = BOOT_SECONDS) -> str:
        """Type a command and return the guest's answer, without the leading ``ok``.

        Raises:
            ToolError: the guest refused, or did not answer in time.
        """
        since = self.console.position
        self.send(line)
        word = re.escape(line.split()[0])
        match = self.wait_for(rf"^(?:ok ({word}\b.*)|(error: .*))$", timeout_seconds, since=since)
        if match[2]:
            raise ToolError(f"{line}: {match[2]}")
        return match[1]

    def report(self) -> FoundRecords:
        """Let the stopped writer look at its disks again."""
        since = self.console.position
        self.send("report")
        return parse_found(self.wait_for(FOUND_PATTERN, since=since)[0])

    def screenshot(self, path: Path) -> Path:
        """Save the screen as PNG."""
        self.monitor.execute("screendump", filename=str(path.absolute()), format="png")
        return path

    def press_power_button(self) -> None:
        """ACPI power-off, as a hypervisor asks for it."""
        self.monitor.execute("system_powerdown")

    def poweroff(self, timeout_seconds: float = BOOT_SECONDS) -> int:
        """Shut the guest down cleanly.

        Returns:
            The highest acknowledged record. With ``keep_on_shutdown`` QEMU is still there.
        """
        self.send("poweroff")
        return self.wait_down(timeout_seconds)

    def wait_down(self, timeout_seconds: float = BOOT_SECONDS) -> int:
        """Wait until the guest went down by itself; returns as ``poweroff``."""
        self.wait_for(r"^bye (\d+)$", timeout_seconds)
        if self.spec.keep_on_shutdown:
            self.monitor.wait_event("SHUTDOWN", timeout_seconds=timeout_seconds)
        else:
            self.wait(timeout_seconds)
        return self.acked()

    def quit(self, timeout_seconds: float = _START_SECONDS) -> None:
        """Let QEMU close its images and end; the guest is not asked."""
        self.monitor.execute("quit")
        self.wait(timeout_seconds)

    def kill(self) -> int:
        """Power cut (SIGKILL). Returns the highest record acknowledged until then."""
        process = self._running()
        process.kill()
        self.wait(_START_SECONDS)
        return self.acked()

    def wait(self, timeout_seconds: float) -> int:
        """Exit status of QEMU, once it ended and all it said was read.

        Raises:
            ToolError: it still runs.
        """
        try:
            status = self._running().wait(timeout_seconds)
        except subprocess.TimeoutExpired as error:
            raise ToolError(f"QEMU still runs after {timeout_seconds:.0f} s") from error
        self.console.join(timeout_seconds)
        return status

    def close(self) -> None:
        """End QEMU if it runs and hang up; idempotent. Logs stay."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        if self._monitor is not None:
            self._monitor.close()
        if self._console is not None:
            self._console.close()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise ToolError("the machine was not started")
        return self._process

    def _connect(self) -> None:
        deadline = self.clock.monotonic() + _START_SECONDS
        while self._monitor is None:
            try:
                self._monitor = Monitor(self._own_qmp, self.clock)
            except (
                FileNotFoundError,
                ConnectionRefusedError,
            ) as error:  # QEMU has not come so far yet
                if self._running().poll() is not None or self.clock.monotonic() > deadline:
                    raise self._not_started() from error
                self.clock.sleep(0.02)
            except (OSError, ToolError) as error:  # it listened, and ended over a disk
                raise self._not_started() from error
        # The CPU is held until somebody listens: the console's first lines must not be lost.
        self._console = Console(self._serial, self.log_path, self.clock)
        self._monitor.execute("cont")

    def _not_started(self) -> ToolError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._running().wait(1)
        words = (self.folder / "qemu.log").read_text(errors="replace").strip()[-600:]
        return ToolError(f"QEMU did not start: {words}")

    def _arguments(self) -> list[str]:
        arguments = [find_tool("qemu-system-x86_64", "qemu-system-x86"), "-S"]
        arguments += [
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            "qemu64",
            "-m",
            str(self.spec.memory_mib),
        ]
        arguments += ["-nodefaults", "-no-user-config", "-display", "none", "-vga", "std"]
        arguments += ["-uuid", self.spec.uuid, "-name", "sealift-guest"]
        arguments += self._firmware_arguments() + self._disk_arguments()
        for name, path in (("own", self._own_qmp), ("qmp", self.qmp_path)):
            arguments += ["-chardev", _socket_chardev(name, path)]
            arguments += ["-mon", f"chardev={name},mode=control"]
        arguments += ["-chardev", _socket_chardev("serial", self._serial)]
        arguments += ["-serial", "chardev:serial"]
        if self.spec.agent:
            arguments += ["-chardev", _socket_chardev("agent", self.agent_path)]
            arguments += ["-device", "virtio-serial-pci"]
            arguments += ["-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"]
        if self.spec.mac_address:
            arguments += ["-netdev", "user,id=net0,restrict=on"]
            device = f"virtio-net-pci,id=nic0,netdev=net0,romfile=,mac={self.spec.mac_address}"
            arguments += ["-device", device]
        if self.spec.autostart:
            arguments += ["-smbios", "type=3,asset=sealift-autostart"]
        return arguments + (["-no-shutdown"] if self.spec.keep_on_shutdown else [])

    def _firmware_arguments(self) -> list[str]:
        if self.spec.firmware is Firmware.BIOS:
            return ["-machine", "pc"]
        arguments = ["-machine", "q35,pflash0=firmware,pflash1=variables"]
        for name, path, read_only in (
            ("firmware", parts.ovmf_code(), True),
            ("variables", self.folder / "vars.fd", False),
        ):
            node = {"driver": "file", "node-name": name, "filename": str(path)}
            arguments += ["-blockdev", json.dumps({**node, "read-only": read_only})]
        return arguments

    def _disk_arguments(self) -> list[str]:
        arguments: list[str] = []
        if self.spec.controller is Controller.SCSI:
            arguments += ["-device", "virtio-scsi-pci,id=scsi0"]
        for index, disk in enumerate(self.spec.disks):
            # Without discard=unmap QEMU drops a guest's discards, and nothing is dirty.
            file = {"driver": "file", "node-name": f"file{index}", "filename": str(disk.path)}
            node = {"driver": disk.format.value, "node-name": f"disk{index}"}
            arguments += ["-blockdev", json.dumps({**file, "discard": "unmap"})]
            arguments += [
                "-blockdev",
                json.dumps({**node, "file": f"file{index}", "discard": "unmap"}),
            ]
            device = {
                Controller.VIRTIO: "virtio-blk-pci",
                Controller.NVME: "nvme",
                Controller.SCSI: "scsi-hd,bus=scsi0.0",
            }[self.spec.controller]
            names = f"id=vd{index},drive=disk{index},serial=sealift-{index}"
            arguments += ["-device", f"{device},{names},bootindex={index}"]
        return arguments


def _socket_chardev(name: str, path: Path) -> str:
    escaped = str(path).replace(",", ",,")
    return f"socket,id={name},path={escaped},server=on,wait=off"
