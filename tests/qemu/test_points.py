"""The life of a point: open, read, commit or abort, over one and several disks."""

from contextlib import closing
from pathlib import Path

import pytest

from connectors.nbd import protocol
from connectors.qemu import QemuHypervisor
from connectors.qemu.names import Names, Part
from sealift.endpoints import Consistency, TrackingState
from sealift.errors import (
    OutOfSpaceError,
    PointLostError,
    SourceError,
    TrackingLostError,
)
from sealift.extents import Kind
from sealift.units import KiB, MiB
from tests.qemu.conftest import Attach, MakeVm, Vm, bring_up_to_date, whole

pytestmark = pytest.mark.tools

RECORDING, STOPPED = TrackingState.RECORDING, TrackingState.STOPPED


def dirty(hypervisor: QemuHypervisor) -> dict[tuple[str, int], tuple[TrackingState, int]]:
    return {(t.disk_id, t.since): (t.state, t.dirty_bytes) for t in hypervisor.tracking()}


@pytest.mark.parametrize("running", [False, True])
def test_a_full_round_then_an_incremental_one(
    make_vm: MakeVm, attach: Attach, running: bool
) -> None:
    vm = make_vm(disks=2, running=running)
    vm.write(0, 0x11, 0, 1 * MiB)
    vm.write(1, 0x12, 1 * MiB, 1 * MiB)
    before = [bytes(c) for c in vm.content]
    hv = attach(vm)
    info = hv.open_point(1, {"vd0": None, "vd1": None})
    vm.write(0, 0x21, 512 * KiB, 1 * MiB)
    assert whole(hv.reader(1, "vd0")) == before[0]
    assert whole(hv.reader(1, "vd1")) == before[1]
    assert (info.pause_seconds > 0) == running
    hv.commit_point(1)
    assert vm.traces() == set()
    assert vm.top(0) == "drive0"
    assert dirty(hv)[("vd0", 1)] == (RECORDING, 1 * MiB)

    hv.open_point(2, {"vd0": 1, "vd1": 1})
    with closing(hv.reader(2, "vd0")) as reader:
        assert reader.incremental
        found = [(e.start, e.length, e.kind) for e in reader.extents(0, reader.size)]
    assert found == [
        (0, 512 * KiB, Kind.CLEAN),
        (512 * KiB, 1 * MiB, Kind.DATA),
        (1536 * KiB, 16 * MiB - 1536 * KiB, Kind.CLEAN),
    ]
    hv.commit_point(2)
    assert set(dirty(hv)) == {("vd0", 2), ("vd1", 2)}
    assert vm.status() == ("running" if running else "prelaunch")


def test_one_disk_needs_no_pause(make_vm: MakeVm, attach: Attach) -> None:
    vm = make_vm(running=True)
    info = attach(vm).open_point(1, {"vd0": None})
    assert info.pause_seconds == 0
    assert "STOP" not in vm.monitor.events


def test_several_disks_are_stopped_together(make_vm: MakeVm, attach: Attach) -> None:
    vm = make_vm(disks=3, running=True)
    attach(vm).open_point(1, {"vd0": None, "vd1": None, "vd2": None})
    assert vm.status() == "running"
    assert vm.monitor.events.count("STOP") == 1
    assert vm.monitor.events.count("RESUME") == 1


def test_an_aborted_point_was_never_there(make_vm: MakeVm, attach: Attach) -> None:
    vm = make_vm(disks=2)
    hv = attach(vm)
    hv.open_point(1, {"vd0": None, "vd1": None})
    replicas = [bytearray(whole(hv.reader(1, f"vd{i}"))) for i in (0, 1)]
    hv.commit_point(1)
    vm.write(0, 0x31, 0, 256 * KiB)
    hv.open_point(2, {"vd0": 1, "vd1": 1})
    vm.write(0, 0x32, 1 * MiB, 128 * KiB)
    vm.write(1, 0x33, 2 * MiB, 64 * KiB)
    assert dirty(hv)[("vd0", 1)] == (STOPPED, 256 * KiB)
    assert dirty(hv)[("vd0", 2)] == (RECORDING, 128 * KiB)
    hv.abort_point(2)
    assert dirty(hv) == {
        ("vd0", 1): (RECORDING, 384 * KiB),
        ("vd1", 1): (RECORDING, 64 * KiB),
    }
    assert vm.traces() == set()
    vm.write(0, 0x34, 3 * MiB, 64 * KiB)
    assert dirty(hv)[("vd0", 1)] == (RECORDING, 448 * KiB)
    hv.open_point(3, {"vd0": 1, "vd1": 1})
    for index in (0, 1):
        bring_up_to_date(hv.reader(3, f"vd{index}"), replicas[index])
        assert replicas[index] == vm.content[index]


def test_an_aborted_first_point_leaves_nothing(make_vm: MakeVm, attach: Attach) -> None:
    vm = make_vm()
    hv = attach(vm)
    hv.open_point(1, {"vd0": None})
    hv.abort_point(1)
    assert hv.tracking() == []
    assert vm.traces() == set()
    assert not list((vm.directory / "scratch").iterdir())


def test_every_call_may_be_repeated(make_vm: MakeVm, attach: Attach) -> None:
    vm = make_vm(disks=2)
    hv = attach(vm)
    bases: dict[str, int | None] = {"vd0": None, "vd1": None}
    hv.abort_point(1)
    hv.commit_point(1)
    first = hv.open_point(1, bases)
    again = attach(vm).open_point(1, bases)
    assert again == first
    with closing(hv.reader(1, "vd0")) as one, closing(attach(vm).reader(1, "vd0")) as two:
        assert one.identity == two.identity
    assert attach(vm).find_point(1) == first
    for _ in range(2):
        hv.commit_point(1)
    assert hv.find_point(1) is None
    for _ in range(2):
        hv.abort_point(2)
    assert set(dirty(hv)) == {("vd0", 1), ("vd1", 1)}
    for _ in range(2):
        hv.forget()
    assert hv.tracking() == []


@pytest.mark.fault(36)
def test_reopened_bytes_have_another_identity(make_vm: MakeVm, attach: Attach) -> None:
    vm = make_vm()
    hv = attach(vm)
    identities = set()
    for _ in range(2):
        hv.open_point(1, {"vd0": None})
        with closing(hv.reader(1, "vd0")) as reader:
            identities.add(reader.identity)
        hv.abort_point(1)
    assert len(identities) == 2


def test_zeroes_with_unmap_are_dirty_and_zero(make_vm: MakeVm, attach: Attach) -> None:
    vm = make_vm()
    vm.write(0, 0x41, 0, 2 * MiB)
    hv = attach(vm)
    hv.open_point(1, {"vd0": None})
    replica = bytearray(whole(hv.reader(1, "vd0")))
    hv.commit_point(1)
    vm.zero(0, 512 * KiB, 1 * MiB)
    hv.open_point(2, {"vd0": 1})
    with closing(hv.reader(2, "vd0")) as reader:
        kinds = {e.kind: (e.start, e.length) for e in reader.extents(0, reader.size)}
    assert kinds[Kind.ZERO] == (512 * KiB, 1 * MiB)
    bring_up_to_date(hv.reader(2, "vd0"), replica)
    assert replica == vm.content[0]


def test_zeroing_while_the_point_is_open_does_not_zero_the_point(
    make_vm: MakeVm, attach: Attach
) -> None:
    """QEMU's snapshot-access of 7.2 answers here from the live disk; ours must not."""
    vm = make_vm()
    vm.write(0, 0x42, 0, 4 * MiB)
    before = bytes(vm.content[0])
    hv = attach(vm)
    hv.open_point(1, {"vd0": None})
    vm.zero(0, 0, 1 * MiB)
    vm.write(0, 0x43, 2 * MiB, 192 * KiB)
    replica = bytearray(b"\xee" * len(before))
    bring_up_to_date(hv.reader(1, "vd0"), replica)
    assert replica == before
    assert whole(hv.reader(1, "vd0")) == before


@pytest.mark.fault(34)
@pytest.mark.parametrize("size", [1 * MiB + 512, 8 * MiB - 512, 3 * MiB + 4096 + 512])
def test_odd_sizes(make_vm: MakeVm, attach: Attach, size: int) -> None:
    vm = make_vm(size=size, image_format="raw")
    vm.write(0, 0x51, size - 1024, 1024)
    before = bytes(vm.content[0])
    hv = attach(vm)
    hv.open_point(1, {"vd0": None})
    vm.write(0, 0x52, size - 512, 512)
    assert whole(hv.reader(1, "vd0")) == before
    hv.commit_point(1)
    hv.open_point(2, {"vd0": 1})
    replica = bytearray(before)
    bring_up_to_date(hv.reader(2, "vd0"), replica)
    assert replica == vm.content[0]


def test_every_read_asks_for_bytes_not_for_believed_holes(
    make_vm: MakeVm, attach: Attach, monkeypatch: pytest.MonkeyPatch
) -> None:
    """QEMU may otherwise turn what the guest zeroes during the read into a hole."""
    vm = make_vm()
    vm.write(0, 0x44, 0, MiB)
    hv = attach(vm)
    hv.open_point(1, {"vd0": None})
    sent: list[tuple[int, int]] = []
    request = protocol.request

    def spy(command: int, cookie: int, offset: int = 0, length: int = 0, flags: int = 0) -> bytes:
        if command == protocol.Command.READ:
            sent.append((length, flags))
        return request(protocol.Command(command), cookie, offset, length, flags)

    monkeypatch.setattr(protocol, "request", spy)
    assert whole(hv.reader(1, "vd0")) == vm.content[0]
    data = [flags for length, flags in sent if length > 512]
    assert data
    assert set(data) == {protocol.DONT_FRAGMENT}


def test_readers_of_a_closed_point_are_told(make_vm: MakeVm, attach: Attach) -> None:
    vm = make_vm()
    hv = attach(vm)
    hv.open_point(1, {"vd0": None})
    with closing(hv.reader(1, "vd0")) as reader:
        reader.read_into(0, memoryview(bytearray(512)))
        hv.abort_point(1)
        with pytest.raises(PointLostError):
            reader.read_into(0, memoryview(bytearray(512)))


# ---------------------------------------------------------------------- scratch space


@pytest.mark.fault(7)
@pytest.mark.parametrize("running", [False, True])
def test_full_scratch_breaks_the_point_never_the_guest(
    make_vm: MakeVm, attach: Attach, running: bool
) -> None:
    vm = make_vm(running=running)
    vm.write(0, 0x61, 0, 8 * MiB)
    hv = attach(vm, scratch_limit=2 * MiB)
    hv.open_point(1, {"vd0": None})
    reader = hv.reader(1, "vd0")
    with closing(reader):
        reader.read_into(0, memoryview(bytearray(4096)))
        vm.write(0, 0x62, 0, 8 * MiB)
        with pytest.raises(PointLostError):
            reader.read_into(4 * MiB, memoryview(bytearray(4096)))
        with pytest.raises(PointLostError):
            list(reader.extents(0, reader.size))
    assert vm.status() == ("running" if running else "prelaunch")
    assert hv.find_point(1) is None
    hv.abort_point(1)
    assert vm.traces() == set()
    assert not list((vm.directory / "scratch").iterdir())
    hv.open_point(2, {"vd0": None})
    assert whole(hv.reader(2, "vd0")) == vm.content[0]


def test_the_limit_holds_over_all_disks(make_vm: MakeVm, attach: Attach) -> None:
    vm = make_vm(disks=2)
    for index in (0, 1):
        vm.write(index, 0x63, 0, 8 * MiB)
    hv = attach(vm, scratch_limit=4 * MiB)
    hv.open_point(1, {"vd0": None, "vd1": None})
    for index in (0, 1):
        vm.write(index, 0x64, 0, 8 * MiB)
    files = list((vm.directory / "scratch").iterdir())
    assert len(files) == 2
    assert sum(f.stat().st_size for f in files) <= 4 * MiB


@pytest.mark.fault(7)
def test_too_little_space_is_refused_before_anything_is_made(
    make_vm: MakeVm, attach: Attach
) -> None:
    vm = make_vm(disks=2)
    with pytest.raises(OutOfSpaceError):
        attach(vm, scratch_limit=1 * MiB).open_point(1, {"vd0": None, "vd1": None})
    assert vm.traces() == set()
    assert attach(vm).tracking() == []


def test_a_scratch_directory_that_is_gone(make_vm: MakeVm, attach: Attach, directory: Path) -> None:
    vm = make_vm()
    hv = attach(vm)
    (directory / "scratch").rmdir()
    with pytest.raises(SourceError, match="temporary space"):
        hv.open_point(1, {"vd0": None})
    assert vm.traces() == set()


# ---------------------------------------------------------------------- tracking lost


@pytest.mark.fault(31)
def test_no_bitmap_no_increment(make_vm: MakeVm, attach: Attach) -> None:
    vm = make_vm(disks=2)
    hv = attach(vm)
    hv.open_point(1, {"vd0": None, "vd1": None})
    hv.commit_point(1)
    name = Names("mig1").bitmap(1)
    vm.monitor.run("block-dirty-bitmap-remove", node="drive1", name=name)
    with pytest.raises(TrackingLostError, match="vd1"):
        hv.open_point(2, {"vd0": 1, "vd1": 1})
    assert set(dirty(hv)) == {("vd0", 1)}
    assert vm.traces() == set()


@pytest.mark.fault(31)
def test_a_bitmap_that_somebody_stopped_is_not_trusted(make_vm: MakeVm, attach: Attach) -> None:
    vm = make_vm()
    hv = attach(vm)
    hv.open_point(1, {"vd0": None})
    hv.commit_point(1)
    name = Names("mig1").bitmap(1)
    vm.monitor.run("block-dirty-bitmap-disable", node="drive0", name=name)
    assert dirty(hv)[("vd0", 1)][0] is STOPPED
    with pytest.raises(TrackingLostError, match="record"):
        hv.open_point(2, {"vd0": 1})
    # A later full point that is aborted must not bring it back to life.
    hv.open_point(3, {"vd0": None})
    hv.abort_point(3)
    with pytest.raises(TrackingLostError):
        hv.open_point(4, {"vd0": 1})


@pytest.mark.fault(31)
def test_a_restart_loses_transient_bitmaps(make_vm: MakeVm, attach: Attach) -> None:
    vm = make_vm()
    hv = attach(vm)
    hv.open_point(1, {"vd0": None})
    hv.commit_point(1)
    boot = hv.describe().boot_id
    assert hv.describe().boot_id == boot
    vm.quit()
    vm.start()
    assert hv.describe().boot_id != boot
    with pytest.raises(TrackingLostError):
        hv.open_point(2, {"vd0": 1})


@pytest.mark.fault(36)
def test_persistent_bitmaps_survive_a_clean_restart(make_vm: MakeVm, attach: Attach) -> None:
    vm = make_vm(disks=2)
    hv = attach(vm, persistent=True)
    hv.open_point(1, {"vd0": None, "vd1": None})
    replica = bytearray(whole(hv.reader(1, "vd0")))
    hv.commit_point(1)
    vm.write(0, 0x71, 0, 128 * KiB)
    hv.open_point(2, {"vd0": 1, "vd1": 1})
    vm.write(0, 0x72, 1 * MiB, 64 * KiB)
    vm.quit()
    vm.start()
    hv.abort_point(2)
    assert dirty(hv)[("vd0", 1)] == (RECORDING, 192 * KiB)
    hv.open_point(3, {"vd0": 1, "vd1": 1})
    bring_up_to_date(hv.reader(3, "vd0"), replica)
    assert replica == vm.content[0]


@pytest.mark.fault(31)
def test_an_inconsistent_bitmap_is_not_trusted(make_vm: MakeVm, attach: Attach) -> None:
    vm = make_vm()
    hv = attach(vm, persistent=True)
    hv.open_point(1, {"vd0": None})
    hv.commit_point(1)
    vm.quit()
    vm.start()
    vm.kill()
    vm.start()
    assert dirty(hv)[("vd0", 1)][0] is TrackingState.INCONSISTENT
    with pytest.raises(TrackingLostError, match="inconsistent"):
        hv.open_point(2, {"vd0": 1})
    hv.abort_point(2)
    hv.open_point(3, {"vd0": None})
    hv.abort_point(3)
    hv.open_point(4, {"vd0": None})
    hv.commit_point(4)
    assert dirty(hv) == {("vd0", 4): (RECORDING, 0)}


@pytest.mark.fault(31)
def test_kill_9_of_qemu_while_a_point_is_open(make_vm: MakeVm, attach: Attach) -> None:
    vm = make_vm(running=True)
    hv = attach(vm)
    info = hv.open_point(1, {"vd0": None})
    reader = hv.reader(1, "vd0")
    with closing(reader):
        vm.kill()
        vm.start()
        with pytest.raises(PointLostError):
            reader.read_into(0, memoryview(bytearray(4096)))
    assert hv.find_point(1) is None
    with pytest.raises(PointLostError):
        hv.reader(1, "vd0")
    hv.abort_point(1)
    assert not list((vm.directory / "scratch").iterdir())
    assert hv.open_point(2, {"vd0": None}).boot_id != info.boot_id
    assert whole(hv.reader(2, "vd0")) == vm.content[0]


# ---------------------------------------------------------------------- others on the same VM


def other_tool(vm: Vm) -> None:
    """A backup tool's bitmap and node."""
    vm.monitor.run("block-dirty-bitmap-add", node="drive0", name="backup-1")
    vm.monitor.run("blockdev-add", driver="null-co", node_name="backup-node", size=MiB)


def test_objects_of_others_stay(make_vm: MakeVm, attach: Attach) -> None:
    vm = make_vm()
    other_tool(vm)
    hv, other = attach(vm), attach(vm, migration="mig2")
    other.open_point(1, {"vd0": None})
    other.commit_point(1)
    hv.open_point(1, {"vd0": None})
    hv.commit_point(1)
    vm.write(0, 0x81, 0, 64 * KiB)
    hv.forget()
    left = vm.bitmaps(0)
    assert set(left) == {"backup-1", Names("mig2").bitmap(1)}
    assert all(b["count"] == 64 * KiB and b["recording"] for b in left.values())
    nodes = vm.monitor.run("query-named-block-nodes", flat=True)
    assert isinstance(nodes, list)
    assert "backup-node" in {n["node-name"] for n in nodes}


@pytest.mark.fault(28)
def test_two_migrations_of_one_vm_take_turns(make_vm: MakeVm, attach: Attach) -> None:
    vm = make_vm()
    one, two = attach(vm), attach(vm, migration="mig2")
    one.open_point(1, {"vd0": None})
    with pytest.raises(SourceError, match="another point is open"):
        two.open_point(1, {"vd0": None})
    two.forget()
    assert whole(one.reader(1, "vd0")) == vm.content[0]
    one.commit_point(1)
    two.open_point(1, {"vd0": None})
    two.commit_point(1)


def test_a_foreign_nbd_server_is_left_alone(make_vm: MakeVm, attach: Attach) -> None:
    vm = make_vm()
    address = {"type": "unix", "data": {"path": str(vm.directory / "foreign.nbd")}}
    vm.monitor.run("nbd-server-start", addr=address)
    hv = attach(vm)
    with pytest.raises(SourceError, match="another tool uses QEMU's NBD server"):
        hv.open_point(1, {"vd0": None})
    assert vm.traces() == set()
    assert (vm.directory / "foreign.nbd").exists()
    vm.monitor.run("nbd-server-stop")
    hv.open_point(1, {"vd0": None})


def test_our_server_stays_while_others_export_through_it(make_vm: MakeVm, attach: Attach) -> None:
    vm = make_vm()
    hv = attach(vm)
    hv.open_point(1, {"vd0": None})
    vm.monitor.run("blockdev-add", driver="null-co", node_name="theirs", size=MiB)
    vm.monitor.run("block-export-add", type="nbd", id="theirs", node_name="theirs")
    hv.commit_point(1)
    exports = vm.monitor.run("query-block-exports")
    assert isinstance(exports, list)
    assert [e["id"] for e in exports] == ["theirs"]
    hv.open_point(2, {"vd0": 1})
    hv.commit_point(2)
    vm.monitor.run("block-export-del", id="theirs")
    hv.forget()
    assert vm.traces() == set()


@pytest.mark.fault(35)
def test_a_block_job_is_named(make_vm: MakeVm, attach: Attach) -> None:
    vm = make_vm(size=64 * MiB)
    vm.write(0, 0x91, 0, 32 * MiB)
    vm.monitor.run("blockdev-add", driver="null-co", node_name="sink", size=64 * MiB)
    vm.monitor.run(
        "blockdev-mirror", job_id="mirror-1", device="drive0", target="sink", sync="full", speed=1
    )
    with pytest.raises(SourceError, match="mirror-1"):
        attach(vm).open_point(1, {"vd0": None})
    assert vm.traces() == set()


@pytest.mark.fault(35)
def test_a_snapshot_by_another_tool_ends_tracking(make_vm: MakeVm, attach: Attach) -> None:
    vm = make_vm()
    hv = attach(vm)
    hv.open_point(1, {"vd0": None})
    hv.commit_point(1)
    vm.monitor.run(
        "blockdev-snapshot-sync",
        node_name="drive0",
        snapshot_file=str(vm.directory / "overlay.qcow2"),
        snapshot_node_name="overlay",
        format="qcow2",
    )
    assert hv.tracking() == []
    with pytest.raises(TrackingLostError):
        hv.open_point(2, {"vd0": 1})


# ---------------------------------------------------------------------- a VM that changes


@pytest.mark.fault(34)
def test_a_disk_that_grew(make_vm: MakeVm, attach: Attach) -> None:
    vm = make_vm(size=16 * MiB)
    hv = attach(vm)
    hv.open_point(1, {"vd0": None})
    hv.commit_point(1)
    vm.monitor.run("block_resize", node_name="drive0", size=20 * MiB)
    vm.content[0] += bytes(4 * MiB)
    assert hv.describe().disks[0].size == 20 * MiB
    hv.open_point(2, {"vd0": None})
    vm.write(0, 0xA1, 18 * MiB, 1 * MiB)
    assert len(whole(hv.reader(2, "vd0"))) == 20 * MiB


@pytest.mark.fault(34)
def test_growing_while_a_point_is_open(make_vm: MakeVm, attach: Attach) -> None:
    """QEMU refuses; were it to allow it one day, the point would count as lost."""
    vm = make_vm(size=16 * MiB)
    hv = attach(vm)
    hv.open_point(1, {"vd0": None})
    before = hv.describe().disks[0].size
    reply = vm.monitor.ask("block_resize", node_name="drive0", size=20 * MiB)
    after = hv.describe().disks[0].size
    assert ("error" in reply and before == after) or hv.find_point(1) is None
    hv.commit_point(1)


@pytest.mark.fault(35)
def test_a_disk_plugged_and_unplugged(make_vm: MakeVm, attach: Attach) -> None:
    vm = make_vm(extra=["-device", "virtio-scsi-pci,id=scsi0"])
    hv = attach(vm)
    hv.open_point(1, {"vd0": None})
    hv.commit_point(1)
    vm.monitor.run("blockdev-add", driver="null-co", node_name="hot", size=MiB, read_zeroes=True)
    vm.monitor.run("device_add", driver="scsi-hd", id="hot0", drive="hot", bus="scsi0.0")
    assert [d.id for d in hv.describe().disks] == ["vd0", "hot0"]
    hv.open_point(2, {"vd0": 1, "hot0": None})
    hv.commit_point(2)
    vm.monitor.run("device_del", id="hot0")
    vm.monitor.wait_for("DEVICE_DELETED")
    with pytest.raises(SourceError, match="hot0"):
        hv.open_point(3, {"vd0": 2, "hot0": 2})
    assert vm.traces() == set()


@pytest.mark.fault(35)
def test_a_disk_unplugged_while_the_point_is_open(make_vm: MakeVm, attach: Attach) -> None:
    vm = make_vm(extra=["-device", "virtio-scsi-pci,id=scsi0"])
    vm.monitor.run("blockdev-add", driver="null-co", node_name="hot", size=MiB, read_zeroes=True)
    vm.monitor.run("device_add", driver="scsi-hd", id="hot0", drive="hot", bus="scsi0.0")
    hv = attach(vm)
    hv.open_point(1, {"vd0": None, "hot0": None})
    vm.monitor.run("device_del", id="hot0")
    vm.monitor.wait_for("DEVICE_DELETED")
    assert hv.find_point(1) is None
    hv.abort_point(1)
    assert vm.traces() == set()


# ---------------------------------------------------------------------- consistency


def test_a_stopped_guest_is_said_to_be_paused(make_vm: MakeVm, attach: Attach) -> None:
    vm = make_vm(running=True)
    vm.monitor.run("stop")
    info = attach(vm).open_point(1, {"vd0": None})
    assert (info.consistency, info.note) == (Consistency.CRASH, "the guest was paused")
    assert vm.status() == "paused"


def test_half_open_points_are_closed_first(make_vm: MakeVm, attach: Attach) -> None:
    vm = make_vm(disks=2)
    hv = attach(vm)
    bases: dict[str, int | None] = {"vd0": None, "vd1": None}
    hv.open_point(1, bases)
    export = next(n for n in vm.traces() if n.count("-") == 5 and Part.PROBE.value in n)
    vm.monitor.run("block-export-del", id=export, mode="hard")
    assert hv.find_point(1) is None
    vm.write(0, 0xB1, 0, MiB)
    hv.open_point(1, bases)
    assert whole(hv.reader(1, "vd0")) == vm.content[0]
    assert hv.find_point(1) is not None
