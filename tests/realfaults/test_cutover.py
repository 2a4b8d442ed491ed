"""Cutovers of the real command that go wrong while the target boots, or have no room to record."""

import subprocess
from random import Random

import pytest

from sandbox.aws import BootReport, CheckStatus, Fault, FaultKind, Rules
from sealift.clock import SystemClock
from tests.realfaults.bench import Aim, Bench

pytestmark = [pytest.mark.tools, pytest.mark.sandbox, pytest.mark.slow, pytest.mark.timeout(240)]

CUTOVER = ("cutover", "--yes", "--no-rounds")


@pytest.fixture
def rules() -> Rules:
    """A launched machine boots until the test says what became of it."""
    return Rules(hold_status_checks=True)


@pytest.fixture
def replicated(bench: Bench) -> Bench:
    bench.scribble(Random(1))
    bench.must("replicate")
    bench.scribble(Random(2))
    return bench


def booting(bench: Bench, process: "subprocess.Popen[str]") -> str:
    """Wait for the target machine."""
    clock = SystemClock()
    until = clock.monotonic() + 60
    while not (machines := bench.machines()):
        assert clock.monotonic() < until, "no machine was launched"
        assert process.poll() is None, process.communicate()[0].splitlines()[-1]
        clock.sleep(0.05)
    return machines[0]


def only_the_source_runs(bench: Bench) -> None:
    assert bench.source_runs()
    assert bench.machines() == []


def then_it_succeeds(bench: Bench) -> None:
    """The next cutover sends what changed since, and lands equal."""
    bench.scribble(Random(3))
    process = bench.start(CUTOVER)
    bench.box.launches.attach(booting(bench, process), BootReport(CheckStatus.OK))
    out, err = process.communicate(timeout=100)
    assert process.returncode == 0, out + err
    (machine,) = bench.machines()
    assert not bench.source_runs()
    assert bench.launched(machine) == bench.source_content()


@pytest.mark.fault(41)
def test_a_target_that_boots_and_is_not_healthy(replicated: Bench) -> None:
    process = replicated.start(CUTOVER)
    report = BootReport(CheckStatus.IMPAIRED, b"kernel panic")
    replicated.box.launches.attach(booting(replicated, process), report)
    out, err = process.communicate(timeout=100)
    assert process.returncode == 30, out + err
    assert "not healthy" in out
    only_the_source_runs(replicated)
    assert "not healthy" in replicated.record()["cutover"]["failure"]
    then_it_succeeds(replicated)


@pytest.mark.fault(41)
def test_a_target_that_ends_while_it_boots(replicated: Bench) -> None:
    code = "Server.InternalError"
    replicated.box.faults.add(Fault(FaultKind.LAUNCH_TERMINATED, "RunInstances", code=code))
    ended = replicated.run(*CUTOVER)
    assert ended.code == 30, ended.last
    only_the_source_runs(replicated)


@pytest.mark.fault(40, 43)
def test_a_source_that_starts_by_itself_while_the_target_boots(replicated: Bench) -> None:
    process = replicated.start(CUTOVER)
    machine = booting(replicated, process)
    replicated.vm.monitor.run("cont")
    replicated.scribble(Random(4))
    replicated.box.launches.attach(machine, BootReport(CheckStatus.OK))
    out, err = process.communicate(timeout=100)
    assert process.returncode == 20, out + err
    assert "not fenced" in out
    only_the_source_runs(replicated)
    then_it_succeeds(replicated)


@pytest.mark.fault(40, 43)
def test_a_source_that_is_started_after_the_commit_is_left_to_its_owner(replicated: Bench) -> None:
    """Nobody watches any more; but no later command takes the target for a mistake."""
    then_it_succeeds(replicated)
    machines = replicated.machines()
    replicated.vm.monitor.run("cont")
    assert replicated.run("replicate").code == 2
    assert replicated.run("cutover", "--undo").code == 2
    replicated.run(*CUTOVER)
    assert replicated.run("abandon", "--yes").code == 2
    assert replicated.machines() == machines


@pytest.mark.fault(7, 42)
@pytest.mark.parametrize("when", [3, 6, 9, 12])
def test_no_room_for_the_record_from_some_step_on(replicated: Bench, when: int) -> None:
    """The source comes back without a record of it, or the target runs; never neither."""
    aim = Aim("write", f"error=ENOSPC:when={when}+", replicated.state_files())
    ended = replicated.disturbed(aim, *CUTOVER, "--set", "policy.health_timeout=1s")
    assert ended.code == 41, ended.last
    only_the_source_runs(replicated)
    if replicated.record()["phase"] in ("cutting-over", "undoing"):
        replicated.must("cutover", "--undo")
        only_the_source_runs(replicated)
    then_it_succeeds(replicated)
