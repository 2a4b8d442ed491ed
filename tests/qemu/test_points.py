"""The life of a point: open, read, commit or abort, over one and several disks."""

from contextlib import closing

import pytest

from connectors.qemu import QemuHypervisor
from sealift.endpoints import TrackingState
from sealift.errors import PointLostError, SourceError, TrackingLostError
from sealift.extents import Kind
from sealift.units import KiB, MiB
from tests.qemu.conftest import Attach, MakeVm, Vm, whole

pytestmark = pytest.mark.tools


def dirty(hypervisor: QemuHypervisor) -> dict[tuple[str, int], tuple[TrackingState, int]]:
    return {(t.disk_id, t.since): (t.state, t.dirty_bytes) for t in hypervisor.tracking()}


@pytest.mark.parametrize("running", [False, True])
def test_a_full_round_then_an_incremental_one(
    make_vm: MakeVm, attach: Attach, running: bool
) -> None:
    vm = make_vm(disks=2, running=running)
    vm.write(0, 0x11, 0, 1 * MiB)
    vm.write(1, 0x12, 1 * MiB, 1 * MiB)
    hv = attach(vm)
    info = hv.open_point(1, {"vd0": None, "vd1": None})
    vm.write(0, 0x21, 512 * KiB, 1 * MiB)
    first = whole(hv.reader(1, "vd0"))
    assert first[: 1 * MiB] == b"\x11" * MiB
    assert not any(first[MiB:])
    assert whole(hv.reader(1, "vd1"))[MiB : 2 * MiB] == b"\x12" * MiB
    assert (info.pause_seconds > 0) == running
    hv.commit_point(1)
    assert vm.traces() == set()
    assert vm.top(0) == "drive0"
    assert dirty(hv)[("vd0", 1)] == (TrackingState.RECORDING, 1 * MiB)

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
