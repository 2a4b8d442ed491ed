"""A machine started from disks that are served read only: comes up, is pictured, writes nothing."""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from connectors.local.image_reader import ImageReader
from connectors.nbd.address import UnixAddress
from connectors.nbd.server import NbdServer
from connectors.qemu.drill import DrillMachine, DrillSpec
from connectors.qemu.proofs import AgentAnswers, PortAnswers, StandsStill, is_blank
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


def niceness(folder: Path) -> set[int]:
    """Of every thread of the QEMU that works in a folder."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes()
            if str(folder).encode() in words and b"sealift-drill" in words:
                stats = [task.read_text() for task in process.glob("task/*/stat")]
                found |= {int(stat.rpartition(")")[2].split()[16]) for stat in stats}
        except OSError:  # it ended
            continue
    return found


def test_a_drill_stands_back_behind_whatever_else_the_host_does(
    short: Path, empty: DrillSpec
) -> None:
    with DrillMachine(empty, short, SystemClock()):
        (found,) = niceness(short)
    assert found >= 10


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


@pytest.fixture
def broken_kvm(short: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A QEMU that ends as the real one does whose KVM refuses the processor; its starts."""
    real, starts = shutil.which("qemu-system-x86_64"), short / "starts"
    fake = short / "bin" / "qemu-system-x86_64"
    fake.parent.mkdir()
    fake.write_text(
        f"""#!/bin/sh
        case "$*" in
        *accel=kvm*) echo kvm >> {starts}; echo "failed to set MSR 0x10a" >&2; kill -ABRT $$;;
        esac
        echo tcg >> {starts}
        exec {real} "$@"
        """
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(fake.parent), prepend=":")
    return starts


def test_where_kvm_cannot_be_used_a_drill_goes_on_without_it(
    short: Path, empty: DrillSpec, broken_kvm: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with DrillMachine(replace(empty, accelerator="kvm:tcg"), short, SystemClock()) as drill:
        assert drill.screenshot(short / "now.png").read_bytes().startswith(b"\x89PNG")
    assert broken_kvm.read_text().split() == ["kvm", "tcg"]
    assert "failed to set MSR 0x10a" in caplog.text
    assert "tcg alone, which is slower" in caplog.text


def test_who_insists_on_kvm_gets_it_or_is_told(
    short: Path, empty: DrillSpec, broken_kvm: Path
) -> None:
    with (
        pytest.raises(ToolError, match="failed to set MSR 0x10a"),
        DrillMachine(replace(empty, accelerator="kvm"), short, SystemClock()),
    ):
        pass
    assert broken_kvm.read_text().split() == ["kvm"]


def test_a_machine_of_another_architecture_is_refused(short: Path) -> None:
    vm = SourceVm("u", "web", "b", Firmware.UEFI, "arm64", 1, MiB, ())
    with pytest.raises(UsageError, match="arm64"):
        DrillMachine(DrillSpec(vm, {}), short, SystemClock())


# ---------------------------------------------------------------------- proofs


def test_an_agent_and_a_port_of_a_real_guest_prove_it_and_a_closed_port_does_not(
    short: Path,
) -> None:
    (short / "guest").mkdir()
    images = build_guest(GuestSpec(data_bytes=0, agent=True), short / "guest")
    with ExitStack() as stack:
        reader = ImageReader(Image.at(images[0].path, ImageFormat.QCOW2))
        stack.callback(reader.close)
        address = UnixAddress(short / "s")
        stack.enter_context(NbdServer({"vd0": reader}, address))
        vm = machine(Firmware.BIOS, [reader.size])
        spec = DrillSpec(vm, {"vd0": (address, "vd0")}, accelerator="tcg", port=7)
        (short / "drill").mkdir()
        clock, cancel = SystemClock(), CancelToken()
        with DrillMachine(spec, short / "drill", clock) as drill:
            assert drill.prove(AgentAnswers(clock), 150, cancel) == "the guest agent answers"
            assert "port 7" in drill.prove(PortAnswers(7, clock), 20, cancel)
        (short / "closed").mkdir()
        with (
            DrillMachine(replace(spec, port=8), short / "closed", clock) as drill,
            pytest.raises(DrillFailedError, match="a connection to port 8 was not seen"),
        ):
            drill.prove(PortAnswers(8, clock), 4, cancel)


def test_a_screen_that_shows_something_and_stands_still_proves_it(
    short: Path, empty: DrillSpec
) -> None:
    clock = SystemClock()
    with DrillMachine(empty, short, clock) as drill:
        seen = drill.prove(StandsStill(2.0, clock), 60, CancelToken())
        assert seen == "the screen stands still for 2 s"
        assert drill.seconds >= 2.0
        assert not is_blank(drill.picture())


def test_an_agent_that_nobody_runs_proves_nothing(short: Path, empty: DrillSpec) -> None:
    clock = SystemClock()
    with (
        DrillMachine(empty, short, clock) as drill,
        pytest.raises(DrillFailedError, match="an answer of the guest agent was not seen"),
    ):
        drill.prove(AgentAnswers(clock), 1, CancelToken())
