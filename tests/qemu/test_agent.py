"""Freezing by the guest agent: never a guest that stays frozen, never a false claim."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from connectors.qemu import freezer, quiet
from connectors.qemu.freezer import Freezer
from sealift.clock import SystemClock
from sealift.endpoints import Consistency
from tests.qemu.conftest import Attach, MakeVm
from tests.qemu.fakes import FakeAgent

pytestmark = pytest.mark.tools

MakeAgent = Callable[[str], FakeAgent]
Hold = Callable[[float], tuple[FakeAgent, int]]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def make_agent(directory: Path) -> Iterator[MakeAgent]:
    made: list[FakeAgent] = []

    def make(behaviour: str) -> FakeAgent:
        made.append(FakeAgent(directory / "agent", behaviour))
        return made[-1]

    yield make
    for agent in made:
        agent.close()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quiet, "FREEZE_SECONDS", 1.0)
    monkeypatch.setattr(freezer, "_SPAWN_SECONDS", 3.0)
    monkeypatch.setattr(freezer, "_ASK_SECONDS", 3.0)


@pytest.mark.parametrize("disks", [1, 2])
def test_file_systems_are_frozen_at_the_instant(
    make_vm: MakeVm, attach: Attach, make_agent: MakeAgent, directory: Path, disks: int
) -> None:
    agent = make_agent("ok")
    vm = make_vm(disks=disks, running=True)
    hv = attach(vm, agent=directory / "agent")
    assert hv.describe().guest_agent
    info = hv.open_point(1, {f"vd{i}": None for i in range(disks)})
    assert info.consistency is Consistency.FILESYSTEM
    assert info.note == "2 file systems frozen by the guest agent"
    assert agent.was_frozen.is_set()
    assert not agent.frozen
    assert hv.find_point(1) == info


@pytest.mark.fault(33)
@pytest.mark.parametrize(
    ("behaviour", "note"),
    [
        ("silent", "does not answer"),
        ("garbage", "JSON"),
        ("flood", "without end"),
        ("hangs-freezing", "does not answer"),
        ("liar", "froze nothing"),
        ("nothing", "froze nothing"),
        ("dies", "channel was closed"),
        ("forgets", "did not keep"),
    ],
)
def test_a_bad_agent_costs_consistency_only(
    make_vm: MakeVm,
    attach: Attach,
    make_agent: MakeAgent,
    directory: Path,
    behaviour: str,
    note: str,
) -> None:
    agent = make_agent(behaviour)
    vm = make_vm(running=True)
    info = attach(vm, agent=directory / "agent").open_point(1, {"vd0": None})
    assert info.consistency is Consistency.CRASH
    assert note in info.note
    if agent.was_frozen.is_set():
        assert agent.thawed.wait(60)
    assert vm.status() == "running"


@pytest.mark.fault(33)
def test_no_agent_at_all(make_vm: MakeVm, attach: Attach, directory: Path) -> None:
    vm = make_vm(running=True)
    hv = attach(vm, agent=directory / "nobody")
    assert not hv.describe().guest_agent
    info = hv.open_point(1, {"vd0": None})
    assert info.consistency is Consistency.CRASH
    assert "no guest agent" in info.note


@pytest.mark.fault(33)
def test_file_systems_that_others_froze_stay_frozen(
    make_vm: MakeVm, attach: Attach, make_agent: MakeAgent, directory: Path
) -> None:
    agent = make_agent("ok")
    agent.frozen = True
    vm = make_vm(running=True)
    info = attach(vm, agent=directory / "agent").open_point(1, {"vd0": None})
    assert info.consistency is Consistency.CRASH
    assert "by somebody else" in info.note
    assert agent.frozen


def fail_while_frozen(path: Path) -> None:
    with Freezer(path, SystemClock(), freeze_seconds=5, hold_seconds=60) as held:
        assert held.freeze().frozen
        raise RuntimeError


@pytest.mark.fault(33)
def test_a_failure_at_the_instant_thaws(make_agent: MakeAgent, directory: Path) -> None:
    agent = make_agent("ok")
    with pytest.raises(RuntimeError):
        fail_while_frozen(directory / "agent")
    assert agent.thawed.is_set()
    assert not agent.frozen


HOLDER = """
import sys
from pathlib import Path
from connectors.qemu.freezer import Freezer
from sealift.clock import SystemClock
held = Freezer(Path(sys.argv[1]), SystemClock(), freeze_seconds=5, hold_seconds=float(sys.argv[2]))
print(held.freeze().frozen, held._process.pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(make_agent: MakeAgent, directory: Path) -> Iterator[Hold]:
    """A process that freezes and then does nothing more."""
    started: list[subprocess.Popen[str]] = []

    def hold(hold_seconds: float) -> tuple[FakeAgent, int]:
        agent = make_agent("ok")
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(directory / "agent"), str(hold_seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            start_new_session=True,
        )
        started.append(process)
        assert process.stdout is not None
        frozen, child = process.stdout.readline().split()
        assert frozen == "True"
        assert agent.frozen
        return agent, int(child)

    yield hold
    for process in started:
        process.kill()
        process.wait(60)


@pytest.mark.fault(1, 33)
def test_kill_9_of_sealift_thaws(holder: Hold) -> None:
    """Even when the whole process group of Sealift is killed."""
    agent, child = holder(60)
    os.killpg(_parent(child), signal.SIGKILL)
    assert agent.thawed.wait(60)
    assert not agent.frozen


@pytest.mark.fault(33)
def test_a_hung_sealift_thaws_when_time_is_up(
    holder: Hold,
) -> None:
    agent, child = holder(1)
    os.kill(_parent(child), signal.SIGSTOP)
    assert agent.thawed.wait(60)
    assert not agent.frozen


def _parent(pid: int) -> int:
    stat = Path(f"/proc/{pid}/stat").read_text()
    return int(stat.rpartition(")")[2].split()[1])


def test_when_the_holder_is_killed_we_thaw(make_agent: MakeAgent, directory: Path) -> None:
    agent = make_agent("ok")
    held = Freezer(directory / "agent", SystemClock(), freeze_seconds=5, hold_seconds=60)
    with held:
        assert held.freeze().frozen
        os.kill(held._process.pid, signal.SIGKILL)
        assert not held.thaw()
    assert not agent.frozen
