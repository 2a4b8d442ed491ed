"""Lanes: who gets one, how long anybody waits for one, and what is left of it afterwards."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from connectors.nbd import NbdReader, UnixAddress
from connectors.nbd.lanes import Lanes, lanes_to
from connectors.nbd.neighbours import Server
from sandbox.nbd.servers import nbdkit
from sealift.clock import Clock, SystemClock
from sealift.testing.clock import VirtualClock
from sealift.testing.contracts import pattern
from sealift.units import MiB

CORES = os.sched_getaffinity(0)
LONG = 4 * MiB


def one_on_each(clock: Clock) -> Lanes:
    return Lanes(clock, sorted(CORES), readers=1)


def test_a_reader_in_a_lane_has_one_core_and_all_of_them_afterwards() -> None:
    lanes = one_on_each(VirtualClock())
    with lanes.hold(LONG):
        assert len(os.sched_getaffinity(0)) == 1
    assert os.sched_getaffinity(0) == CORES
    with pytest.raises(InterruptedError), lanes.hold(LONG):
        raise InterruptedError
    assert os.sched_getaffinity(0) == CORES


def test_each_lane_has_a_core_of_its_own_and_is_used_again() -> None:
    lanes, held = one_on_each(VirtualClock()), set[int]()
    for _ in range(2):
        with ExitStack() as stack:
            for _ in CORES:
                stack.enter_context(lanes.hold(LONG))
                held |= os.sched_getaffinity(0)
        assert os.sched_getaffinity(0) == CORES
    assert held <= CORES


def test_cores_are_free_while_a_reader_is_busy_with_something_else() -> None:
    lanes = Lanes(VirtualClock(), sorted(CORES), readers=3)
    with lanes.hold(LONG), lanes.hold(LONG):
        assert os.sched_getaffinity(0) == CORES
        with lanes.hold(LONG):
            assert len(os.sched_getaffinity(0)) == 1
    with lanes.hold(LONG):
        assert os.sched_getaffinity(0) == CORES


@pytest.mark.parametrize(
    ("server", "readers"),
    [(Server.DISTANT, 100), (Server.ONE_THREAD, 100), (Server.MANY_THREADS, 1)],
)
def test_lanes_are_for_threads_near_by_where_cores_are_scarce(server: Server, readers: int) -> None:
    assert lanes_to(server, readers, VirtualClock()) is None
    assert lanes_to(Server.MANY_THREADS, len(CORES) + 1, VirtualClock()) is not None


def test_a_thread_that_may_not_use_the_core_stays_where_it_may() -> None:
    lanes = one_on_each(VirtualClock())
    os.sched_setaffinity(0, {min(CORES)})
    try:
        with ExitStack() as stack:
            for _ in CORES:
                stack.enter_context(lanes.hold(LONG))
                assert os.sched_getaffinity(0) == {min(CORES)}
        assert os.sched_getaffinity(0) == {min(CORES)}
    finally:
        os.sched_setaffinity(0, CORES)


def test_nobody_waits_for_a_reader_that_hangs() -> None:
    lanes = one_on_each(SystemClock())
    with ExitStack() as hanging:
        for _ in CORES:
            hanging.enter_context(lanes.hold(LONG))
        with ThreadPoolExecutor(1) as pool:
            pool.submit(_pass, lanes).result(timeout=60)


def _pass(lanes: Lanes) -> None:
    before = os.sched_getaffinity(0)
    with lanes.hold(LONG):
        assert os.sched_getaffinity(0) == before, "all lanes are taken"


def _slow_reads(lanes: Lanes, clock: VirtualClock, count: int) -> None:
    for _ in range(count):
        with lanes.hold(LONG):
            clock.sleep(0.1)


def _has_lane(lanes: Lanes) -> bool:
    with lanes.hold(LONG):
        return len(os.sched_getaffinity(0)) == 1


@pytest.mark.skipif(len(CORES) == 1, reason="one core is one core, in a lane or not")
def test_a_slow_server_is_read_without_lanes_for_a_while() -> None:
    clock = VirtualClock()
    lanes = one_on_each(clock)
    _slow_reads(lanes, clock, 3)
    assert _has_lane(lanes), "three slow reads may be another process's turn"
    _slow_reads(lanes, clock, 3)
    assert _has_lane(lanes), "a fast read lets the count begin again"
    _slow_reads(lanes, clock, 4)
    assert not _has_lane(lanes)
    clock.sleep(1.1)
    assert _has_lane(lanes)


def test_a_short_read_changes_no_core() -> None:
    with one_on_each(VirtualClock()).hold(1 * MiB):
        assert os.sched_getaffinity(0) == CORES


@pytest.mark.tools
def test_many_readers_share_the_lanes_and_keep_their_cores(tmp_path: Path) -> None:
    content = pattern(4 * LONG)
    (tmp_path / "disk").write_bytes(content)
    turn = threading.Barrier(16)

    def read(number: int) -> set[int]:
        turn.wait(60)
        for step in range(4):
            start = (number + step) % 4 * LONG
            buffer = bytearray(LONG)
            reader.read_into(start, memoryview(buffer))
            assert buffer == content[start : start + LONG]
        return os.sched_getaffinity(0)

    socket = UnixAddress(tmp_path / "socket")
    with (
        nbdkit(socket.path, "--readonly", "file", str(tmp_path / "disk")),
        closing(NbdReader(socket, identity="i", connections=16)) as reader,
        ThreadPoolExecutor(16) as pool,
    ):
        assert all(cores == CORES for cores in pool.map(read, range(16)))
