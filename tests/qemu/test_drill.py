"""A machine started from disks that are served read only: comes up, is pictured, writes nothing."""

import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from connectors.local.image_reader import ImageReader
from connectors.nbd.address import UnixAddress
from connectors.nbd.server import NbdServer
from connectors.qemu.drill import DrillMachine, DrillSpec
from converters.image import Image, ImageFormat
from sandbox.guest.image import GuestSpec, build_guest
from sandbox.guest.report import parse_found
from sealift.cancel import CancelToken
from sealift.clock import SystemClock
from sealift.endpoints import Firmware, SourceVm, VmDisk
from sealift.errors import DrillFailedError, StoppedError, ToolError, UsageError
from sealift.testing.memory import MemoryReader
from sealift.units import MiB

pytestmark = [pytest.mark.guest, pytest.mark.timeout(180)]

READY = re.compile(r"^ready$", re.MULTILINE)


@pytest.fixture
def short() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="sl-") as folder:
        yield Path(folder)


def machine(firmware: Firmware, sizes: list[int], *, bus: str = "virtio-blk") -> SourceVm:
    disks = tuple(VmDisk(f"vd{n}", size, bus) for n, size in enumerate(sizes))
    return SourceVm("u", "web", "b", firmware, "x86_64", 1, 256 * MiB, disks)


@pytest.mark.parametrize(
    ("firmware", "bus"),
    [(Firmware.BIOS, "virtio-blk"), pytest.param(Firmware.UEFI, "nvme", marks=pytest.mark.slow)],
)
def test_a_guest_boots_from_served_disks_and_leaves_them_alone(
    short: Path, firmware: Firmware, bus: str
) -> None:
    (short / "guest").mkdir()
    images = build_guest(GuestSpec(firmware), short / "guest")
    before = [image.path.read_bytes() for image in images]
    with ExitStack() as stack:
        disks = {}
        for number, image in enumerate(images):
            reader = ImageReader(Image.at(image.path, ImageFormat.QCOW2))
            stack.callback(reader.close)
            disks[f"vd{number}"] = reader
        address = UnixAddress(short / "s")
        stack.enter_context(NbdServer(disks, address))
        vm = machine(firmware, [disk.size for disk in disks.values()], bus=bus)
        spec = DrillSpec(vm, {name: (address, name) for name in disks}, accelerator="tcg")
        (short / "drill").mkdir()
        with DrillMachine(spec, short / "drill", SystemClock()) as drill:
            assert drill.wait_for(READY, 120, CancelToken()) == "ready"
            picture = drill.screenshot(short / "screen.png")
            found = parse_found(drill.console)
            assert drill.seconds > 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert found.intact
    assert [image.path.read_bytes() for image in images] == before
    assert [p.name for p in (short / "drill").iterdir() if p.suffix == ".qcow2"] == []
    running = subprocess.run(["pgrep", "-f", str(short)], capture_output=True, check=False)
    assert not running.stdout


@pytest.fixture
def empty(short: Path) -> Iterator[DrillSpec]:
    address = UnixAddress(short / "s")
    with NbdServer({"vd0": MemoryReader(bytes(MiB))}, address):
        vm = machine(Firmware.BIOS, [MiB])
        yield DrillSpec(vm, {"vd0": (address, "vd0")}, accelerator="tcg")


def test_a_disk_that_does_not_boot_fails_with_the_last_words(short: Path, empty: DrillSpec) -> None:
    with (
        DrillMachine(empty, short, SystemClock()) as drill,
        pytest.raises(DrillFailedError, match="'never' was not seen within 1 s"),
    ):
        drill.wait_for(re.compile("never"), 1, CancelToken())


def test_a_stop_ends_the_wait(short: Path, empty: DrillSpec) -> None:
    cancel = CancelToken()
    with DrillMachine(empty, short, SystemClock()) as drill:
        cancel.cancel("SIGTERM")
        with pytest.raises(StoppedError):
            drill.wait_for(re.compile("never"), 60, cancel)


def test_a_qemu_that_refuses_is_quoted(short: Path, empty: DrillSpec) -> None:
    spec = DrillSpec(empty.vm, {"vd0": (UnixAddress(short / "nobody"), "vd0")}, accelerator="tcg")
    with (
        pytest.raises(ToolError, match=r"did not start: .*nobody"),
        DrillMachine(spec, short, SystemClock()),
    ):
        pass


def test_a_machine_of_another_architecture_is_refused(short: Path) -> None:
    vm = SourceVm("u", "web", "b", Firmware.UEFI, "arm64", 1, MiB, ())
    with pytest.raises(UsageError, match="arm64"):
        DrillMachine(DrillSpec(vm, {}), short, SystemClock())
