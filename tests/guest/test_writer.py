"""The guest keeps its word on every firmware and controller, and does as it is told."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from sandbox.guest.image import GuestDisk, GuestSpec, ImageFormat
from sandbox.guest.landing import boot_landed
from sandbox.guest.machine import Controller, GuestMachine, MachineSpec
from sealift.endpoints import Firmware
from sealift.errors import ToolError
from sealift.units import GiB, KiB, MiB

pytestmark = pytest.mark.guest

Build = Callable[[GuestSpec], tuple[GuestDisk, ...]]
PowerOn = Callable[[MachineSpec], GuestMachine]
BLOCK = 4 * KiB
CHURN = 4 * MiB


def pump(machine: GuestMachine, records: int) -> None:
    """Write as fast as the disks allow until so many records are acknowledged."""
    machine.wait_ready()
    machine.command("rate max")
    machine.command("start")
    machine.wait_for_ack(records)


@pytest.mark.parametrize(
    "spec",
    [GuestSpec(Firmware.BIOS), GuestSpec(Firmware.UEFI, format=ImageFormat.RAW)],
    ids=["bios", "uefi"],
)
def test_acknowledged_records_survive_a_power_cut_and_a_move_to_nvme(
    build: Build, power_on: PowerOn, tmp_path: Path, spec: GuestSpec
) -> None:
    disks = build(spec)
    with power_on(MachineSpec(disks, spec.firmware)) as machine:
        pump(machine, 100)
        machine.send("burst 24M")  # the cut comes in the middle of it
        machine.wait_for_ack(machine.acked() + 5)
        acknowledged = machine.kill()
    if spec.format is ImageFormat.RAW:
        for disk in disks:  # clouds have volumes of whole GiB only; the GPT's copy moves
            os.truncate(disk.path, GiB)
    landed = boot_landed(disks, spec.firmware, tmp_path / "landed")
    assert landed.found.intact, landed.found
    assert landed.found.lost(acknowledged) == 0
    assert landed.screenshot.read_bytes().startswith(b"\x89PNG")
    print(f"evidence: {spec.firmware.value} ready on NVMe: {landed.ready_seconds:.1f} s")


def copy_instant(machine: GuestMachine, folder: Path) -> tuple[GuestDisk, ...]:
    """Both disks at one instant, copied by QEMU itself while the guest goes on."""
    folder.mkdir()
    actions, copies = [], []
    for index, disk in enumerate(machine.spec.disks):
        node, path = f"{folder.name}-{index}", folder / f"{index}.raw"
        path.touch()
        os.truncate(path, disk.path.stat().st_size)
        file = {"driver": "file", "filename": str(path)}
        machine.monitor.execute(
            "blockdev-add", **{"driver": "raw", "node-name": node, "file": file}
        )
        backup = {"job-id": node, "device": f"disk{index}", "target": node, "sync": "full"}
        actions.append({"type": "blockdev-backup", "data": backup})
        copies.append(GuestDisk(path, ImageFormat.RAW))
    machine.monitor.execute("transaction", actions=actions)
    for _ in copies:
        machine.monitor.wait_event("BLOCK_JOB_COMPLETED", timeout_seconds=60)
    return tuple(copies)


@pytest.mark.slow
def test_one_instant_over_both_disks_is_told_from_two(
    build: Build, power_on: PowerOn, tmp_path: Path
) -> None:
    with power_on(MachineSpec(build(GuestSpec(format=ImageFormat.RAW)))) as machine:
        pump(machine, 20)
        machine.send("burst 32M")
        machine.send("burst 16M B")
        machine.wait_for_ack(machine.acked() + 3)
        acknowledged = machine.acked()
        first = copy_instant(machine, tmp_path / "first")
        machine.wait_for_ack(acknowledged + 10)
        second = copy_instant(machine, tmp_path / "second")
    copied = boot_landed(first, Firmware.BIOS, tmp_path / "one").found
    assert copied.intact, copied
    assert copied.lost(acknowledged) == 0
    mixed = boot_landed([first[0], second[1]], Firmware.BIOS, tmp_path / "two").found
    assert not mixed.in_step
    assert not mixed.intact


def churn_area(disk: GuestDisk) -> bytes:
    """The last partition: slots that are written, zeroed and discarded in turn."""
    end = disk.path.stat().st_size - MiB
    with disk.path.open("rb") as file:
        file.seek((end - CHURN) // MiB * MiB)
        return file.read(CHURN)


def allocated(disks: Iterable[GuestDisk]) -> list[int]:
    return [os.stat(disk.path).st_blocks * 512 for disk in disks]


@pytest.mark.slow
def test_zeroes_discards_and_bursts_reach_the_images(build: Build, power_on: PowerOn) -> None:
    disks = build(GuestSpec(format=ImageFormat.RAW))
    with power_on(MachineSpec(disks)) as machine:
        machine.wait_ready()
        machine.command("churn 0")
        machine.command("rate 0")
        machine.command("start")
        machine.command("ops 8")
        assert all(churn_area(disk).count(0) < CHURN // 100 for disk in disks)
        filled = allocated(disks)
        machine.command("ops 8")
        assert all(not any(churn_area(disk)) for disk in disks)
        # Five of eight slots were unmapped or discarded; the ext4 journals took a little.
        after = allocated(disks)
        assert all(a <= f - 4 * 512 * KiB for f, a in zip(filled, after, strict=True))
        for letter, disk in zip("AB", disks, strict=True):
            empty = os.stat(disk.path).st_blocks * 512
            assert machine.command(f"burst 16M {letter}").endswith("generation=1")
            full = os.stat(disk.path).st_blocks * 512
            assert full >= empty + 16 * MiB
            machine.command(f"punch {letter}")
            machine.command("sync")
            assert os.stat(disk.path).st_blocks * 512 <= full - 15 * MiB
        machine.command("stop")
        assert machine.report().intact


def test_the_power_button_shuts_down_and_leaves_qemu_for_the_final_sync(
    build: Build, power_on: PowerOn, tmp_path: Path
) -> None:
    disks = build(GuestSpec(format=ImageFormat.RAW))
    with power_on(MachineSpec(disks)) as machine:
        pump(machine, 20)
        machine.press_power_button()
        acknowledged = machine.wait_down()
        assert machine.monitor.execute("query-status")["status"] == "shutdown"
        assert machine.console.text.rstrip().splitlines()[-1].endswith("Power down")
        machine.quit()
    changed = [disk.path.stat().st_mtime_ns for disk in disks]
    landed = boot_landed(disks, Firmware.BIOS, tmp_path / "l", controller=Controller.SCSI)
    assert landed.found.intact
    assert landed.found.durable == acknowledged
    # A landed disk waits to be told to write, and looking at it leaves it as it is (I7).
    assert "ok start" not in landed.console
    assert [disk.path.stat().st_mtime_ns for disk in disks] == changed


@pytest.mark.slow
def test_a_missing_data_disk_is_reported(build: Build, tmp_path: Path) -> None:
    root, _ = build(GuestSpec())
    landed = boot_landed([root], Firmware.BIOS, tmp_path / "landed")
    assert landed.found.data_missing
    assert not landed.found.intact


def test_a_single_disk_writes_at_the_rate_it_is_told(build: Build, power_on: PowerOn) -> None:
    with power_on(MachineSpec(build(GuestSpec(data_bytes=0)), autostart=True)) as machine:
        assert machine.wait_ready().on_data is None
        machine.wait_for_ack(1)  # nobody typed `start`
        machine.command("rate 20")
        first = machine.wait_for_ack(machine.acked() + 1)
        machine.wait_for_ack(first + 40)
        slow = [ack for ack in machine.acks if ack.number >= first]
        per_second = (slow[-1].number - first) / (slow[-1].seconds - slow[0].seconds)
        assert per_second < 25  # 20 were asked for; a busy host may only make it slower
        machine.command("rate max")
        fast = machine.wait_for_ack(first + 45)
        machine.wait_for_ack(fast + 100)
        began = next(ack.seconds for ack in machine.acks if ack.number >= fast)
        ended = next(ack.seconds for ack in machine.acks if ack.number >= fast + 100)
        assert 100 / (ended - began) > 2 * per_second
        with pytest.raises(ToolError, match="not writing to that disk"):
            machine.command("burst 1M B")
        stopped = machine.command("stop")
        assert stopped == f"stop acked={machine.acked()}"
        with pytest.raises(ToolError, match="cannot do now"):
            machine.command("dance")
