"""Shutting down, pausing, fencing, resuming, throttling."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from sealift.clock import SystemClock
from sealift.endpoints import Consistency, Fenced
from sealift.errors import SourceError
from sealift.units import KiB, MiB
from tests.qemu.conftest import Attach, MakeVm, Monitor, Vm, whole
from tests.qemu.fakes import FakeAgent

pytestmark = pytest.mark.tools


@contextmanager
def agent_of(vm: Vm, behaviour: str = "ok") -> Iterator[Path]:
    """A guest agent that really powers the machine off."""
    path = vm.directory / "agent"
    agent = FakeAgent(path, behaviour, vm.power_off)
    try:
        yield path
    finally:
        agent.close()


def firmware_is_up(vm: Vm) -> None:
    """Only then are the power registers where the chip set has them."""
    for _ in range(2400):
        if "0xffff" not in vm.monitor.hmp("i /h 0x604"):
            return
        with suppress(subprocess.TimeoutExpired):
            vm.process.wait(0.05)
    raise AssertionError("the firmware does not start")


def test_clean_shutdown_keeps_the_disks(make_vm: MakeVm, attach: Attach) -> None:
    vm = make_vm(running=True)
    firmware_is_up(vm)
    vm.write(0, 0x11, 0, MiB)
    with agent_of(vm) as agent:
        hv = attach(vm, agent=agent)
        assert hv.fence() is Fenced.NO
        assert hv.shutdown(30)
        assert vm.status() == "shutdown"
        assert hv.shutdown(0)
        assert hv.fence() is Fenced.YES
        info = hv.open_point(1, {"vd0": None})
        assert (info.consistency, info.note) == (Consistency.FILESYSTEM, "the guest was shut down")
        assert hv.fence(1) is Fenced.YES
        assert whole(hv.reader(1, "vd0")) == vm.content[0]
        hv.abort_point(1)
        for _ in range(2):
            hv.resume()
        assert vm.status() == "running"
        assert vm.traces() == set()


def test_after_resume_a_shutdown_ends_qemu_again(make_vm: MakeVm, attach: Attach) -> None:
    vm = make_vm(running=True)
    firmware_is_up(vm)
    with agent_of(vm) as agent:
        hv = attach(vm, agent=agent)
        assert hv.shutdown(30)
        hv.resume()
    firmware_is_up(vm)
    vm.power_off()
    assert vm.process.wait(60) == 0


def test_no_shutdown_was_chosen_and_stays(make_vm: MakeVm, attach: Attach) -> None:
    vm = make_vm(running=True, extra=["-no-shutdown"])
    firmware_is_up(vm)
    with agent_of(vm) as agent:
        hv = attach(vm, agent=agent)
        assert hv.shutdown(30)
        hv.resume()
    firmware_is_up(vm)
    vm.power_off()
    assert vm.status() == "shutdown"


@pytest.mark.fault(39)
@pytest.mark.parametrize("behaviour", ["ok", "silent"])
def test_a_guest_that_does_not_obey(make_vm: MakeVm, attach: Attach, behaviour: str) -> None:
    vm = make_vm(running=True)
    path = vm.directory / "agent"
    agent = FakeAgent(path, behaviour)
    hv = attach(vm, agent=path if behaviour == "ok" else None)
    assert not hv.shutdown(0.5)
    assert vm.status() == "running"
    assert hv.fence() is Fenced.NO
    hv.resume()
    assert vm.traces() == set()
    agent.close()


def test_pause_and_resume(make_vm: MakeVm, attach: Attach) -> None:
    vm = make_vm(disks=2, running=True)
    hv = attach(vm)
    for _ in range(2):
        hv.pause()
    assert vm.status() == "paused"
    assert hv.fence() is Fenced.YES
    info = hv.open_point(1, {"vd0": None, "vd1": None})
    assert info.pause_seconds == 0
    assert vm.status() == "paused"
    assert hv.fence(1) is Fenced.YES
    assert hv.fence(2) is Fenced.UNKNOWN
    vm.write(1, 0x21, 0, 512)
    assert hv.fence(1) is Fenced.NO
    assert hv.fence() is Fenced.YES
    for _ in range(2):
        hv.resume()
    assert vm.status() == "running"
    assert hv.fence(1) is Fenced.NO


@pytest.mark.fault(39, 40)
def test_a_writable_export_of_others_is_no_fence(make_vm: MakeVm, attach: Attach) -> None:
    vm = make_vm(running=True, image_format="raw", extra=[])
    hv = attach(vm)
    hv.pause()
    address = {"type": "unix", "data": {"path": str(vm.directory / "w.nbd")}}
    vm.monitor.run("nbd-server-start", addr=address)
    reply = vm.monitor.ask(
        "block-export-add", type="nbd", id="w", node_name="drive0", writable=True
    )
    expected = Fenced.YES if "error" in reply else Fenced.NO
    assert hv.fence() is expected


@pytest.mark.fault(39)
def test_a_fence_that_cannot_be_known(make_vm: MakeVm, attach: Attach) -> None:
    vm = make_vm(running=True)
    hv = attach(vm, deadline=1.0)
    holder = Monitor(vm.qmp)
    assert hv.fence() is Fenced.UNKNOWN
    holder.close()
    assert hv.fence() is Fenced.NO
    vm.kill()
    assert hv.fence() is Fenced.UNKNOWN


@pytest.mark.fault(36, 39)
def test_a_vm_that_waits_for_a_migration_is_nothing_known(make_vm: MakeVm, attach: Attach) -> None:
    vm = make_vm(running=True, extra=["-incoming", "defer"])
    hv = attach(vm)
    assert hv.fence() is Fenced.UNKNOWN
    with pytest.raises(SourceError, match="cannot be continued"):
        hv.resume()


# ---------------------------------------------------------------------- throttle


def limits(vm: Vm) -> dict[str, tuple[int, object]]:
    blocks = vm.monitor.run("query-block")
    assert isinstance(blocks, list)
    return {
        b["qdev"].split("/")[3]: (b["inserted"]["bps_wr"], b["inserted"].get("group"))
        for b in blocks
    }


def test_writes_are_limited_in_sum(make_vm: MakeVm, attach: Attach) -> None:
    vm = make_vm(disks=2)
    hv = attach(vm)
    hv.throttle(1 * MiB)
    found = limits(vm)
    assert {rate for rate, _ in found.values()} == {1 * MiB}
    assert len({group for _, group in found.values()}) == 1
    clock = SystemClock()
    begun = clock.monotonic()
    for index in (0, 1):
        vm.write(index, 0x31, 0, 512 * KiB)
        vm.write(index, 0x32, 0, 512 * KiB)
    assert clock.monotonic() - begun > 1.0
    hv.throttle(2 * MiB)
    hv.open_point(1, {"vd0": None, "vd1": None})
    assert {rate for rate, _ in limits(vm).values()} == {2 * MiB}
    hv.commit_point(1)
    for _ in range(2):
        hv.throttle(None)
    assert {rate for rate, _ in limits(vm).values()} == {0}


@pytest.mark.parametrize("end", ["resume", "forget"])
def test_the_limit_goes_with_us(make_vm: MakeVm, attach: Attach, end: str) -> None:
    vm = make_vm(disks=2, running=True)
    attach(vm).throttle(1 * MiB)
    hv = attach(vm)
    hv.resume() if end == "resume" else hv.forget()
    assert {rate for rate, _ in limits(vm).values()} == {0}


def test_limits_of_others_stay(make_vm: MakeVm, attach: Attach) -> None:
    vm = make_vm(disks=2)
    none = {"bps": 0, "bps_rd": 0, "iops": 0, "iops_rd": 0, "iops_wr": 0}
    vm.monitor.run("block_set_io_throttle", id=vm.qdev(1), bps_wr=5 * MiB, **none)
    hv = attach(vm)
    before = limits(vm)
    with pytest.raises(SourceError, match="vd1"):
        hv.throttle(1 * MiB)
    hv.throttle(None)
    hv.forget()
    assert limits(vm) == before
