"""Disks that other processes work on: one at a time, and none for a run that is gone."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sealift.cancel import CancelToken
from sealift.clock import SystemClock
from sealift.errors import DiskHeldError, LocalStateError, StoppedError
from sealift.leases import STALE_SECONDS, Errand, ErrandWatch, FileLeases
from sealift.private import make_private_folder
from sealift.testing.clock import VirtualClock

HOLDS = """
import sys, time
from pathlib import Path
from sealift.cancel import CancelToken
from sealift.clock import SystemClock
from sealift.leases import FileLeases
leases = FileLeases(Path(sys.argv[1]), SystemClock(), CancelToken(), "the worker")
with leases.held("vda"):
    print("held", flush=True)
    sys.stdin.read()
"""

SENDS = """
import sys
from pathlib import Path
from sealift.leases import Errand
with Errand(Path(sys.argv[1])) as errand:
    print(errand.token, flush=True)
    sys.stdin.read()
"""

WORKS = """
import sys, threading
from pathlib import Path
from sealift.cancel import CancelToken
from sealift.clock import SystemClock
from sealift.errors import StoppedError
from sealift.guarded import GuardedWriter
from sealift.leases import ErrandWatch, FileLeases

folder, token = Path(sys.argv[1]), sys.argv[2]
clock, cancel = SystemClock(), CancelToken()
watch = ErrandWatch(folder, token, clock, cancel)

class Writer:
    def write(self, offset, data, digests):
        with open(folder.parent / "written", "ab") as file:
            file.write(b"x")
    def commit(self, blocks):
        with open(folder.parent / "written", "ab") as file:
            file.write(b"C")

def ask():
    while True:
        watch.keep_asking()
        clock.sleep(0.1)

writer = GuardedWriter(Writer(), watch)
with FileLeases(folder, clock, cancel, "the worker").held("vda"):
    watch.confirm()
    threading.Thread(target=ask, daemon=True).start()
    print("works", flush=True)
    try:
        while True:
            writer.write(0, memoryview(b"x"), ())
            clock.sleep(0.005)
    except StoppedError:
        pass
    try:
        writer.commit(())
    except StoppedError:
        sys.exit(7)
"""

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "state"
    make_private_folder(made)
    return made


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    """A process that has said its first line, which is its attribute ``said``."""
    started: list[subprocess.Popen[str]] = []

    def run(script: str, *words: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(folder), *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None
        process.said = process.stdout.readline().strip()  # type: ignore[attr-defined]
        assert process.said  # type: ignore[attr-defined]
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def leases(folder: Path, patience: float = 0.3) -> FileLeases:
    return FileLeases(folder, SystemClock(), CancelToken(), "the test", patience)


def watch(folder: Path, token: str, cancel: CancelToken) -> ErrandWatch:
    return ErrandWatch(folder, token, SystemClock(), cancel)


@pytest.mark.fault(28)
def test_a_disk_is_worked_on_by_one_process_until_that_is_gone(folder: Path, start: Start) -> None:
    holder = start(HOLDS)
    with pytest.raises(DiskHeldError, match=rf"process {holder.pid} on .* \(the worker\)") as held:
        leases(folder).recall(["vda"])
    assert held.value.exit_code == 12
    with leases(folder).held("vdb"):
        pass
    holder.send_signal(signal.SIGKILL)
    with leases(folder, patience=60.0).held("vda"), pytest.raises(DiskHeldError, match="the test"):
        leases(folder).recall(["vda"])


@pytest.mark.fault(28)
def test_a_stopped_process_keeps_its_disk(folder: Path, start: Start) -> None:
    holder = start(HOLDS)
    holder.send_signal(signal.SIGSTOP)
    with pytest.raises(DiskHeldError):
        leases(folder).recall(["vda"])


@pytest.mark.fault(28)
def test_a_worker_stops_when_the_run_that_sent_it_was_killed(folder: Path, start: Start) -> None:
    run = start(SENDS)
    cancel = CancelToken()
    worker = watch(folder, run.said, cancel)  # type: ignore[attr-defined]
    worker.confirm()
    worker.check()
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert list(folder.glob("errand-*")), "the killed run has removed nothing"
    with pytest.raises(StoppedError, match="is gone"):
        worker.confirm()
    assert cancel.cancelled
    with pytest.raises(StoppedError):
        worker.check()


@pytest.mark.fault(28)
def test_who_takes_a_disk_back_waits_for_the_worker_and_nothing_is_written_afterwards(
    folder: Path, start: Start
) -> None:
    written = folder.parent / "written"
    with Errand(folder) as errand:
        worker = start(WORKS, errand.token)
        while not written.exists() or written.stat().st_size < 5:
            SystemClock().sleep(0.01)
        leases(folder, patience=60.0).recall(["vda"])
        size = written.stat().st_size
        assert worker.wait(60) == 7, "its commit was refused"
        assert written.stat().st_size == size
        assert b"C" not in written.read_bytes()


def test_a_worker_that_comes_late_finds_its_errand_gone(folder: Path) -> None:
    with Errand(folder) as errand:
        leases(folder).recall(["vda"])
        with pytest.raises(StoppedError):
            watch(folder, errand.token, CancelToken()).confirm()
    with Errand(folder) as again:
        assert again.token != errand.token


def test_a_state_folder_that_no_longer_answers_stops_a_worker(folder: Path) -> None:
    clock = VirtualClock()
    with Errand(folder) as errand:
        worker = ErrandWatch(folder, errand.token, clock, CancelToken())
        clock.sleep(STALE_SECONDS - 1)
        worker.check()
        worker.keep_asking()
        clock.sleep(STALE_SECONDS - 1)
        worker.check()
        folder.rename(folder.with_name("elsewhere"))
        folder.symlink_to("elsewhere")  # not answered: a link is refused, whoever made it
        with pytest.raises(LocalStateError):
            worker.confirm()
        worker.keep_asking()
        clock.sleep(2.0)
        with pytest.raises(StoppedError, match="does not answer"):
            worker.check()
        folder.unlink()
        folder.with_name("elsewhere").rename(folder)


def test_a_wait_ends_with_a_stop(folder: Path, start: Start) -> None:
    start(HOLDS)
    cancel = CancelToken()
    cancel.cancel("SIGINT")
    with pytest.raises(StoppedError):
        FileLeases(folder, SystemClock(), cancel, "the test").recall(["vda"])


@pytest.mark.fault(54)
def test_a_planted_link_in_place_of_a_lease_is_refused(folder: Path) -> None:
    (folder / "lease-vda").symlink_to(folder.parent / "victim")
    with pytest.raises(LocalStateError):
        leases(folder).recall(["vda"])
    assert not (folder.parent / "victim").exists()
    with leases(folder).held("vdb"):
        assert os.stat(folder / "lease-vdb").st_mode & 0o777 == 0o600
