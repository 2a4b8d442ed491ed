"""No machine outlives its parent, and a failure says what happened."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sandbox.guest.image import GuestDisk, ImageFormat
from sandbox.guest.machine import GuestMachine, MachineSpec
from sandbox.guest.report import FoundRecords, parse_found
from sealift.errors import ToolError, UsageError
from sealift.readiness import readable
from sealift.units import MiB

pytestmark = pytest.mark.tools

CHILD = """
import sys, threading
from pathlib import Path
from sandbox.guest.image import GuestDisk, ImageFormat
from sandbox.guest.machine import GuestMachine, MachineSpec
disk = GuestDisk(Path(sys.argv[1]), ImageFormat.RAW)
machine = GuestMachine(MachineSpec((disk,)), Path(sys.argv[2]))
starter = threading.Thread(target=machine.start)
starter.start()
starter.join()
print(machine.pid, flush=True)
threading.Event().wait()
"""


@pytest.fixture
def blank(tmp_path: Path) -> GuestDisk:
    path = tmp_path / "blank.raw"
    path.touch()
    os.truncate(path, 8 * MiB)
    return GuestDisk(path, ImageFormat.RAW)


def wait_gone(pid: int) -> None:
    """Return when the process is gone; a pidfd becomes readable then."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    with os.fdopen(handle):
        assert readable(handle, 20), "the machine outlived its parent"


def test_the_machine_dies_with_a_killed_parent_but_not_with_the_starting_thread(
    blank: GuestDisk, tmp_path: Path
) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", CHILD, blank.path, tmp_path / "vm"],
        stdout=subprocess.PIPE,
        text=True,
    )
    with parent:
        assert parent.stdout
        pid = int(parent.stdout.readline())
        os.kill(pid, 0)  # the thread that asked for it has ended; the machine has not
        assert os.getpgid(pid) != os.getpgid(parent.pid)
        parent.send_signal(signal.SIGKILL)
        wait_gone(pid)


def test_two_monitors_and_a_picture_without_a_boot_loader(blank: GuestDisk, tmp_path: Path) -> None:
    with GuestMachine(MachineSpec((blank,), agent=True), tmp_path / "vm") as machine:
        pid = machine.pid
        assert machine.screenshot(tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")
        assert machine.qmp_path.is_socket()
        assert machine.agent_path.is_socket()
        nodes = machine.monitor.execute("query-named-block-nodes", flat=True)
        assert {"disk0", "file0"} <= {node["node-name"] for node in nodes}
        with pytest.raises(ToolError, match=r"did not say .*ready.* \(1 s\)"):
            machine.wait_ready(1)
        with pytest.raises(ToolError, match="query-nonsense"):
            machine.monitor.execute("query-nonsense")
        machine.kill()
        with pytest.raises(ToolError, match="the machine ended"):
            machine.wait_ready()
        with pytest.raises(ToolError, match="closed"):
            machine.send("start")
    wait_gone(pid)


def test_a_machine_that_cannot_start_says_why(tmp_path: Path) -> None:
    missing = GuestDisk(tmp_path / "no,such.raw", ImageFormat.RAW)
    with pytest.raises(ToolError, match=r"no,such\.raw.*No such file"):
        GuestMachine(MachineSpec((missing,)), tmp_path / "vm").start()


def test_a_folder_too_deep_for_sockets_is_refused(blank: GuestDisk, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="too long"):
        GuestMachine(MachineSpec((blank,)), tmp_path / ("x" * 100))


def test_reports_are_read_as_they_are_said() -> None:
    text = (
        "found records: A=12 B=11 holes=0 corrupt=0 stale=0 torn=1 in_step=yes intact\n"
        "found records: A=9 B=missing holes=1 corrupt=2 stale=3 torn=4 in_step=no DAMAGED\n"
    )
    found = parse_found(text.splitlines()[0])
    assert (found.durable, found.lost(11), found.lost(14)) == (11, 0, 3)
    assert parse_found(text) == FoundRecords(9, None, True, 1, 2, 3, 4, False, False)
    assert parse_found(text).durable == 0
    with pytest.raises(ToolError, match="reported no records"):
        parse_found("Kernel panic")
