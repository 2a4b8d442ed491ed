"""A real QEMU without a guest system; the guest's writes come from QEMU's own ``qemu-io``."""

import json
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from connectors.qemu import QemuHypervisor
from sealift.clock import SystemClock
from sealift.disk import DiskReader
from sealift.extents import Kind
from sealift.units import MiB

QEMU = "qemu-system-x86_64"


class Monitor:
    """A second, raw QMP connection: the guest's hands and the other tool's."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(60)
        self._socket.connect(str(path))
        self._file = self._socket.makefile("r")
        self.events: list[str] = []
        self._file.readline()
        self.run("qmp_capabilities")

    def run(self, name: str, /, **arguments: object) -> object:
        """One command; an error reply fails the test."""
        reply = self.ask(name, **arguments)
        assert "error" not in reply, f"{name}: {reply}"
        return reply["return"]

    def ask(self, name: str, /, **arguments: object) -> dict[str, object]:
        """One command, with its reply as it is."""
        message = {
            "execute": name,
            "arguments": {_argument(name, key): v for key, v in arguments.items()},
        }
        self._socket.sendall(json.dumps(message).encode())
        while True:
            reply = json.loads(self._file.readline())
            assert isinstance(reply, dict)
            if "event" not in reply:
                return reply
            self.events.append(str(reply["event"]))

    def hmp(self, line: str) -> str:
        """One line of the human monitor."""
        return str(self.run("human-monitor-command", command_line=line))

    def wait_for(self, event: str) -> None:
        """Return when QEMU has said so."""
        while event not in self.events:
            said = json.loads(self._file.readline())
            self.events.append(str(said["event"]))

    def close(self) -> None:
        """Let go of the socket."""
        self._file.close()
        self._socket.close()


def _argument(command: str, name: str) -> str:
    """QEMU's old commands have underscores in the names of their arguments."""
    return name if command == "block_set_io_throttle" else name.replace("_", "-")


@dataclass
class Vm:
    """A QEMU process; ``running`` ones sit in the firmware without any system to boot."""

    directory: Path
    arguments: list[str]
    sizes: list[int]
    content: list[bytearray] = field(init=False)
    process: "subprocess.Popen[bytes]" = field(init=False)
    monitor: Monitor = field(init=False)

    def __post_init__(self) -> None:
        self.content = [bytearray(size) for size in self.sizes]

    def start(self) -> None:
        """Start, and wait until QMP answers."""
        # qemu-io prints to QEMU's own standard output, which is buffered unless told.
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                ["stdbuf", "-oL", *self.arguments], stdout=log, stderr=log
            )
        self.monitor = _connected(self.directory / "tools.qmp", self.process)

    def quit(self) -> None:
        """End cleanly, as a manager does."""
        self.monitor.run("quit")
        self.process.wait(60)
        self.monitor.close()

    def kill(self) -> None:
        """kill -9."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(60)
        self.monitor.close()

    @property
    def log(self) -> Path:
        """What QEMU prints."""
        return self.directory / "qemu.log"

    @property
    def qmp(self) -> Path:
        """The monitor for Sealift."""
        return self.directory / "sealift.qmp"

    def image(self, index: int) -> Path:
        """The host's file of a disk."""
        return self.directory / f"disk{index}.img"

    # -------------------------------------------------------------- the guest

    def guest(self, index: int, command: str) -> None:
        """One ``qemu-io`` command through the device, as the guest's own request goes."""
        before = self.log.stat().st_size
        said = self.monitor.hmp(f'qemu-io -d {self.qdev(index)} "{command}"')
        said += self.log.read_bytes()[before:].decode()
        # What QEMU itself logs meanwhile, such as a client that went away, is not about this.
        own = [line for line in said.splitlines() if not line.startswith("qemu-system")]
        assert any("ops" in line for line in own), said
        assert not any("failed" in line for line in own), said

    def write(self, index: int, pattern: int, offset: int, length: int) -> None:
        """The guest writes one byte value."""
        self.guest(index, f"write -P {pattern:#x} {offset} {length}")
        self.content[index][offset : offset + length] = bytes([pattern]) * length

    def zero(self, index: int, offset: int, length: int) -> None:
        """The guest zeroes a range and lets its space go."""
        self.guest(index, f"write -z -u {offset} {length}")
        self.content[index][offset : offset + length] = bytes(length)

    def power_off(self) -> None:
        """What a guest's ACPI driver does last: S5 through PM1a_CNT of the q35 chip set."""
        self.monitor.hmp("o /h 0x604 0x2000")

    def qdev(self, index: int) -> str:
        """Name of the device's backend."""
        return f"/machine/peripheral/vd{index}/virtio-backend"

    def status(self) -> str:
        """QEMU's run state."""
        reply = self.monitor.run("query-status")
        assert isinstance(reply, dict)
        return str(reply["status"])

    def top(self, index: int) -> str:
        """The node that the device uses now."""
        blocks = self.monitor.run("query-block")
        assert isinstance(blocks, list)
        return next(
            str(b["inserted"]["node-name"]) for b in blocks if b.get("qdev") == self.qdev(index)
        )

    def bitmaps(self, index: int) -> dict[str, dict[str, object]]:
        """Named bitmaps of a disk."""
        nodes = self.monitor.run("query-named-block-nodes", flat=True)
        assert isinstance(nodes, list)
        found = next(n for n in nodes if n["node-name"] == f"drive{index}")
        return {b["name"]: b for b in found.get("dirty-bitmaps", []) if "name" in b}

    def traces(self) -> set[str]:
        """Names of everything in the block layer and among the objects that is Sealift's."""
        nodes = self.monitor.run("query-named-block-nodes", flat=True)
        objects = self.monitor.run("qom-list", path="/objects")
        exports = self.monitor.run("query-block-exports")
        assert isinstance(nodes, list)
        assert isinstance(objects, list)
        assert isinstance(exports, list)
        names = [n["node-name"] for n in nodes] + [o["name"] for o in objects]
        names += [e["id"] for e in exports]
        return {n for n in names if n.startswith(("sl-", "sealift")) and n != "sealift-boot"}


def _connected(path: Path, process: "subprocess.Popen[bytes]") -> Monitor:
    for _ in range(2400):
        try:
            return Monitor(path)
        except OSError:
            # A socket of a killed QEMU lies there until the new one listens.
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.05)
    raise AssertionError("QEMU does not start")


MakeVm = Callable[..., Vm]


def qemu_arguments(
    directory: Path, *, disks: int, size: int, image_format: str, running: bool, machine: str
) -> list[str]:
    """The command line, with images made beside it."""
    arguments = [QEMU, "-machine", machine, "-accel", "tcg", "-nodefaults", "-display", "none"]
    arguments += ["-m", "32", "-name", "testvm", "-uuid", "3e2b1c0a-0000-4000-8000-00000000abcd"]
    arguments += [] if running else ["-S"]
    for name in ("sealift.qmp", "tools.qmp"):
        arguments += ["-qmp", f"unix:{directory / name},server=on,wait=off"]
    for index in range(disks):
        image = directory / f"disk{index}.img"
        subprocess.run(
            ["qemu-img", "create", "-q", "-f", image_format, image, str(size)], check=True
        )
        file = {"driver": "file", "filename": str(image), "discard": "unmap"}
        blockdev = {
            "driver": image_format,
            "node-name": f"drive{index}",
            "discard": "unmap",
            "file": file,
        }
        arguments += ["-blockdev", json.dumps(blockdev)]
        arguments += ["-device", f"virtio-blk-pci,id=vd{index},drive=drive{index},serial=S{index}"]
    return arguments


@pytest.fixture
def directory() -> Iterator[Path]:
    """A short path: Unix sockets allow 107 bytes."""
    path = Path(tempfile.mkdtemp(prefix="slq"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def make_vm(directory: Path) -> Iterator[MakeVm]:
    """Starts VMs and ends them."""
    started: list[Vm] = []

    def make(
        *,
        disks: int = 1,
        size: int = 16 * MiB,
        image_format: str = "qcow2",
        running: bool = False,
        machine: str = "q35",
        extra: Sequence[str] = (),
        folder: Path = directory,
    ) -> Vm:
        arguments = qemu_arguments(
            folder,
            disks=disks,
            size=size,
            image_format=image_format,
            running=running,
            machine=machine,
        )
        vm = Vm(folder, [*arguments, *extra], [size] * disks)
        vm.start()
        started.append(vm)
        return vm

    yield make
    for vm in started:
        if vm.process.poll() is None:
            vm.kill()


@dataclass(frozen=True)
class Attach:
    """Makes hypervisors for a VM, as a new process would."""

    directory: Path

    def __call__(
        self,
        vm: Vm,
        *,
        migration: str = "mig1",
        scratch_limit: int = 256 * MiB,
        scratch: Path | None = None,
        agent: Path | None = None,
        persistent: bool = False,
        deadline: float = 30.0,
    ) -> QemuHypervisor:
        directory = scratch or self.directory / "scratch"
        directory.mkdir(exist_ok=True)
        return QemuHypervisor(
            vm.qmp,
            migration,
            directory,
            self.directory / "run",
            scratch_limit_bytes=scratch_limit,
            guest_agent_path=agent,
            persistent_bitmaps=persistent,
            clock=SystemClock(),
            deadline_seconds=deadline,
        )


@pytest.fixture
def attach(directory: Path) -> Attach:
    """See ``Attach``."""
    return Attach(directory)


def bring_up_to_date(reader: DiskReader, replica: bytearray) -> None:
    """What a sync does, in its simplest form."""
    with closing(reader), memoryview(replica) as view:
        for extent in reader.extents(0, reader.size):
            if extent.kind is Kind.DATA:
                with view[extent.start : extent.end] as part:
                    reader.read_into(extent.start, part)
            elif extent.kind is Kind.ZERO:
                view[extent.start : extent.end] = bytes(extent.length)


def whole(reader: DiskReader) -> bytes:
    """Every byte of a disk."""
    buffer = bytearray(reader.size)
    with closing(reader):
        reader.read_into(0, memoryview(buffer))
    return bytes(buffer)
