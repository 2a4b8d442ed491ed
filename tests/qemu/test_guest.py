"""A real guest that never stops writing, below points that come and go."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from connectors.qemu import QemuHypervisor
from sandbox.guest.image import GuestDisk, GuestSpec, ImageFormat, build_guest
from sandbox.guest.landing import boot_landed
from sandbox.guest.machine import Controller, GuestMachine, MachineSpec
from sealift.clock import SystemClock
from sealift.endpoints import Consistency, Fenced, Firmware
from sealift.units import GiB
from tests.conftest import Evidence
from tests.qemu.conftest import bring_up_to_date, whole

pytestmark = [pytest.mark.guest, pytest.mark.timeout(600)]

DISKS = ("vd0", "vd1")


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="slg"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


def attach(machine: GuestMachine, folder: Path) -> QemuHypervisor:
    (folder / "scratch").mkdir(exist_ok=True)
    return QemuHypervisor(
        machine.qmp_path,
        "guest-1",
        folder / "scratch",
        folder / "run",
        scratch_limit_bytes=GiB,
        guest_agent_path=machine.agent_path if machine.spec.agent else None,
        clock=SystemClock(),
    )


class Replicas:
    """What a target would hold."""

    def __init__(self, hv: QemuHypervisor) -> None:
        self.hv = hv
        self.content: list[bytearray] = []
        self.base: int | None = None
        self.pauses: list[float] = []

    def round(self, seq: int, *, keep: bool = True) -> Consistency:
        info = self.hv.open_point(seq, dict.fromkeys(DISKS, self.base))
        self.pauses.append(info.pause_seconds)
        if self.base is None:
            self.content = [bytearray(whole(self.hv.reader(seq, disk))) for disk in DISKS]
        elif keep:
            for content, disk in zip(self.content, DISKS, strict=True):
                bring_up_to_date(self.hv.reader(seq, disk), content)
        if not keep:
            self.hv.abort_point(seq)
            return info.consistency
        for content, disk in zip(self.content, DISKS, strict=True):
            assert content == whole(self.hv.reader(seq, disk)), f"point {seq}, disk {disk}"
        self.hv.commit_point(seq)
        self.base = seq
        return info.consistency

    def land(self, folder: Path) -> tuple[GuestDisk, ...]:
        folder.mkdir()
        for disk, content in zip(DISKS, self.content, strict=True):
            (folder / disk).write_bytes(content)
        return tuple(GuestDisk(folder / disk, ImageFormat.RAW) for disk in DISKS)


@pytest.mark.slow
@pytest.mark.parametrize("controller", list(Controller))
def test_points_below_a_writing_guest(
    folder: Path, controller: Controller, evidence: Evidence
) -> None:
    disks = build_guest(GuestSpec(agent=True), _made(folder / "disks"))
    spec = MachineSpec(disks, controller=controller, agent=True)
    with GuestMachine(spec, folder / "vm") as machine:
        machine.wait_ready()
        machine.command("rate max")
        machine.command("start")
        machine.wait_for_ack(50)
        hv = attach(machine, folder)
        replicas = Replicas(hv)
        acknowledged, found = 0, set()
        for seq in range(1, 13):
            acknowledged = machine.acked() if seq % 4 else acknowledged
            found.add(replicas.round(seq, keep=bool(seq % 4)))
            machine.wait_for_ack(machine.acked() + 20)
        assert Consistency.FILESYSTEM in found
        acknowledged = machine.acked()
        replicas.round(13)
        live = boot_landed(replicas.land(folder / "live"), Firmware.BIOS, folder / "a")
        assert live.found.intact, live.found
        assert live.found.lost(acknowledged) == 0

        assert hv.shutdown(60)
        assert hv.fence() is Fenced.YES
        acknowledged = machine.acked()
        assert replicas.round(14) is Consistency.FILESYSTEM
        final = boot_landed(replicas.land(folder / "final"), Firmware.BIOS, folder / "b")
        assert final.found.intact, final.found
        assert final.found.lost(acknowledged) == 0
        hv.resume()
        machine.wait_ready()
    evidence(
        f"points below a writing guest on {controller.value}",
        f"14 rounds, {acknowledged} records, lost: 0, unequal: 0, "
        f"longest pause {max(replicas.pauses) * 1000:.1f} ms",
    )


def _made(path: Path) -> Path:
    path.mkdir(parents=True)
    return path


@pytest.mark.slow
def test_one_disk_is_never_paused(folder: Path, evidence: Evidence) -> None:
    disks = build_guest(GuestSpec(data_bytes=0), _made(folder / "disks"))
    with GuestMachine(MachineSpec(disks), folder / "vm") as machine:
        machine.wait_ready()
        machine.command("rate max")
        machine.command("start")
        machine.wait_for_ack(20)
        hv = attach(machine, folder)
        hv.open_point(1, {"vd0": None})
        replica = bytearray(whole(hv.reader(1, "vd0")))
        hv.commit_point(1)
        base = 1
        for seq in range(2, 22):
            machine.wait_for_ack(machine.acked() + 10)
            info = hv.open_point(seq, {"vd0": base})
            assert info.pause_seconds == 0
            if seq % 3 == 0:
                hv.abort_point(seq)
                continue
            bring_up_to_date(hv.reader(seq, "vd0"), replica)
            assert replica == whole(hv.reader(seq, "vd0"))
            hv.commit_point(seq)
            base = seq
        records = machine.acked()
    evidence("points without any pause", f"20 rounds, {records} records, unequal: 0")


@pytest.mark.fault(7)
def test_scratch_that_fills_never_stops_a_guest(folder: Path) -> None:
    disks = build_guest(GuestSpec(), _made(folder / "disks"))
    with GuestMachine(MachineSpec(disks), folder / "vm") as machine:
        machine.wait_ready()
        machine.command("rate max")
        machine.command("start")
        machine.wait_for_ack(50)
        hv = attach(machine, folder)
        small = QemuHypervisor(
            machine.qmp_path,
            "guest-2",
            folder / "scratch",
            folder / "run",
            scratch_limit_bytes=2 * 1024 * 1024,
            clock=SystemClock(),
        )
        small.open_point(1, dict.fromkeys(DISKS))
        machine.command("burst 24M")
        for _ in range(2000):
            if small.find_point(1) is None:
                break
            machine.wait_for_ack(machine.acked() + 1)
        assert small.find_point(1) is None
        machine.wait_for_ack(machine.acked() + 50)
        small.abort_point(1)
        replicas = Replicas(hv)
        replicas.round(1)
        machine.wait_for_ack(machine.acked() + 10)
        replicas.round(2)
