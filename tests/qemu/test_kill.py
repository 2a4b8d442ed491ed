"""Sealift is killed with SIGKILL after each message to QEMU, in opening, committing, aborting."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from connectors.qemu import QemuHypervisor
from tests.conftest import Evidence
from tests.qemu.conftest import Attach, MakeVm, Vm, bring_up_to_date, whole

pytestmark = [pytest.mark.tools, pytest.mark.timeout(300)]

ROOT = Path(__file__).resolve().parents[2]
DISKS = ("vd0", "vd1")


class Victim:
    """Talks to ``victim.py``."""

    def __init__(self, directory: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.qemu.victim", str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    def killed(self, verb: str, seq: int, base: int, countdown: int) -> bool:
        """Run; True when it died on the way, False when it came to its end before."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{verb} {seq} {base} {countdown}\n")
        self.process.stdin.flush()
        said = self.process.stdout.readline().strip()
        assert said in ("killed", "done 0")
        return said == "killed"


@pytest.fixture
def victim(directory: Path) -> Iterator[Victim]:
    one = Victim(directory)
    yield one
    assert one.process.stdin is not None
    one.process.stdin.close()
    one.process.wait(60)


class Story:
    """Rounds on two disks; after each kill the replica must still come out equal."""

    def __init__(self, vm: Vm, hv: QemuHypervisor) -> None:
        self.vm, self.hv = vm, hv
        self.base, self.seq, self.byte = 1, 1, 0
        self.hv.open_point(1, dict.fromkeys(DISKS))
        self.replicas = [bytearray(whole(hv.reader(1, disk))) for disk in DISKS]
        self.hv.commit_point(1)

    def write(self) -> None:
        self.byte = self.byte % 250 + 1
        for index in range(len(DISKS)):
            self.vm.write(index, self.byte, (self.byte * 7919 % 31) * 512 * 1024, 4096)

    def open(self) -> None:
        self.seq += 1
        self.hv.open_point(self.seq, dict.fromkeys(DISKS, self.base))

    def copy(self) -> None:
        for replica, disk in zip(self.replicas, DISKS, strict=True):
            bring_up_to_date(self.hv.reader(self.seq, disk), replica)

    def check(self) -> None:
        """A round, after which everything must be equal and nothing left behind."""
        self.open()
        self.copy()
        assert self.replicas == self.vm.content
        self.hv.commit_point(self.seq)
        self.base = self.seq
        assert self.vm.traces() == set()
        assert not list((self.vm.directory / "scratch").iterdir())
        assert {t.since for t in self.hv.tracking()} == {self.base}

    def survives(self) -> None:
        """The burst may still be under way, or not have begun; QEMU ends it without its sender."""
        assert any(self.vm.status() == "running" for _ in range(1000))
        self.write()


@pytest.fixture
def story(make_vm: MakeVm, attach: Attach) -> Story:
    vm = make_vm(disks=2, running=True)
    return Story(vm, attach(vm))


@pytest.mark.fault(1)
def test_killed_while_opening(story: Story, victim: Victim, evidence: Evidence) -> None:
    countdown = 0
    died = True
    while died:
        countdown += 1
        story.write()
        story.seq += 1
        died = victim.killed("open", story.seq, story.base, countdown)
        story.survives()
        if countdown % 2:
            story.hv.abort_point(story.seq)
        else:
            story.hv.open_point(story.seq, dict.fromkeys(DISKS, story.base))
            story.copy()
            story.hv.commit_point(story.seq)
            story.base = story.seq
        story.check()
    assert countdown > 40
    evidence("killed while opening", f"{countdown - 1} points, unequal: 0")


@pytest.mark.fault(1)
@pytest.mark.slow
def test_killed_while_committing(story: Story, victim: Victim, evidence: Evidence) -> None:
    countdown = 0
    died = True
    while died:
        countdown += 1
        story.write()
        story.open()
        story.write()
        story.copy()
        died = victim.killed("commit", story.seq, story.base, countdown)
        story.survives()
        story.hv.commit_point(story.seq)
        story.base = story.seq
        story.check()
    assert countdown > 20
    evidence("killed while committing", f"{countdown - 1} points, unequal: 0")


@pytest.mark.fault(1)
@pytest.mark.slow
def test_killed_while_aborting(story: Story, victim: Victim, evidence: Evidence) -> None:
    countdown = 0
    died = True
    while died:
        countdown += 1
        story.write()
        story.open()
        story.write()
        died = victim.killed("abort", story.seq, story.base, countdown)
        story.survives()
        story.hv.abort_point(story.seq)
        story.check()
    assert countdown > 20
    evidence("killed while aborting", f"{countdown - 1} points, unequal: 0")
