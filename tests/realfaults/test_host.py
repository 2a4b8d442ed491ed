"""The host of the real command fails it: I/O errors, no space, no descriptors, no threads.

Each time the failure is typed, the source goes on, and the same command later lands equal.
"""

import signal
from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest

from sealift.host_limits import ADDRESS_SPACE_BYTES
from tests.conftest import Evidence
from tests.realfaults.bench import Aim, Bench, Ended
from tests.realfaults.powercut import mount, run, wait_until

pytestmark = [pytest.mark.tools, pytest.mark.sandbox, pytest.mark.slow, pytest.mark.timeout(400)]

INPUT_OUTPUT = [
    *(("fsync", f"error=EIO:when={n}", 40) for n in (13, 2)),
    ("fdatasync", "error=EIO:when=1", 40),
    ("/^rename", "error=EIO:when=3", 40),
    ("ftruncate", "error=EIO:when=1", 40),
    ("write", "error=ENOSPC:when=2", 41),
    ("write", "error=EDQUOT:when=4+", 41),
    ("pwrite64", "error=ENOSPC:when=1", 41),
    ("pwrite64", "retval=7:when=1", 41),
    ("openat", "error=EROFS:when=9+", 40),
    ("openat", "error=EMFILE:when=4", 40),
    ("/^unlink", "error=EROFS:when=1", 40),
]


class Trial:
    """Disturbed replications of one machine."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.random, self.failures = bench, Random(5), 0
        bench.scribble(self.random)
        bench.must("replicate")

    def failed(self, ended: Ended, codes: Sequence[int]) -> None:
        assert ended.code in codes, (ended.code, ended.lines[-1:], ended.err)
        assert ended.last["type"] == "error"
        assert ended.last["message"]
        assert self.bench.source_runs()
        self.failures += 1

    def goes_on(self) -> None:
        self.bench.must("replicate")
        if self.bench.landed() != self.bench.source_content():
            self.bench.must("replicate")  # the point was open since before the last write
        assert self.bench.landed() == self.bench.source_content()


@pytest.mark.fault(5, 6, 7)
def test_input_output_errors_of_the_state(bench: Bench, evidence: Evidence) -> None:
    trial = Trial(bench)
    for call, action, code in INPUT_OUTPUT:
        bench.scribble(trial.random)
        aim = Aim(call, action, bench.state_files())
        ended = bench.disturbed(aim, "replicate")
        assert ended.code, aim
        trial.failed(ended, [code])
        trial.goes_on()
    evidence("host faults", f"{trial.failures}, unequal: 0")


@pytest.mark.fault(7)
def test_a_state_folder_without_room_or_write_access(bench: Bench) -> None:
    place = bench.folder / "small"
    with mount(Path("none"), place, "-t", "tmpfs", "-o", "size=4m,nr_inodes=200"):
        bench.begin(place / "state")
        trial = Trial(bench)
        for filler in (_fill_blocks, _fill_inodes):
            bench.scribble(trial.random)
            filler(place / "full")
            trial.failed(bench.run("replicate"), [41])
            for path in place.glob("full*"):
                path.unlink()
            trial.goes_on()
        bench.scribble(trial.random)
        run("mount", "-o", "remount,ro", str(place))
        trial.failed(bench.run("replicate"), [40])
        run("mount", "-o", "remount,rw", str(place))
        trial.goes_on()


def _fill_blocks(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return


def _fill_inodes(path: Path) -> None:
    try:
        for number in range(1000):
            path.with_name(f"{path.name}-{number}").touch()
    except OSError:
        return


@pytest.mark.fault(8)
def test_no_descriptors_no_threads_no_memory(bench: Bench) -> None:
    trial = Trial(bench)
    for descriptors in (8, 10, 12, 14):
        bench.scribble(trial.random)
        ended = bench.run("replicate", before=["prlimit", f"--nofile={descriptors}"])
        trial.failed(ended, [40, 42, 75])
    for thread in (2, 3, 5, 9, 12):
        bench.scribble(trial.random)
        aim = Aim("clone3", f"error=EAGAIN:when={thread}")
        trial.failed(bench.disturbed(aim, "replicate"), [42])
    bench.scribble(trial.random)
    for room in (200, 300, 900):
        before = ["prlimit", f"--as={room << 20}"]
        trial.failed(bench.run("replicate", before=before), [42])
    enough = ADDRESS_SPACE_BYTES + (160 << 20)  # which the program takes before it asks
    assert bench.run("replicate", before=["prlimit", f"--as={enough}"]).code == 0
    trial.goes_on()


@pytest.mark.fault(28)
def test_a_run_that_was_stopped_keeps_its_lock_and_goes_on(bench: Bench) -> None:
    bench.scribble(Random(8))
    process = bench.start(["replicate", "--set", "limits.bandwidth=256KiB"])
    wait_until(lambda: bench.begun() and bench.record()["round"] is not None)
    process.send_signal(signal.SIGSTOP)
    refused = bench.run("replicate")
    assert refused.code == 11
    assert str(process.pid) in refused.last["message"]
    assert bench.source_runs()
    process.send_signal(signal.SIGCONT)
    out, err = process.communicate(timeout=100)
    assert process.returncode == 0, out + err
    assert bench.landed() == bench.source_content()
