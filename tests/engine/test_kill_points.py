"""Sealift is killed at every recorded call; the next run must end as an undisturbed one."""

from typing import Protocol

import pytest

from sealift.testing.faults import Fault, Script
from sealift.testing.scenario import Scenario


class Evidence(Protocol):
    def __call__(self, name: str, figures: str) -> None: ...


def recorded_calls(seed: int) -> int:
    script = Script()
    scenario = Scenario(seed)
    scenario.run(script)
    assert scenario.differences() == []
    return len(script.calls)


def test_an_undisturbed_migration_lands_equal() -> None:
    scenario = Scenario(seed=5)
    state = scenario.run(Script())
    assert scenario.differences() == []
    assert not scenario.hypervisor.running
    assert [r.final for r in state.history] == [False, False, False, True]


@pytest.mark.fault(1, 42)
def test_killed_at_every_call_lands_equal(evidence: Evidence) -> None:
    points = unequal = 0
    for seed in (1,):
        for number in range(1, recorded_calls(seed) + 1):
            for fault in (Fault.KILL_BEFORE, Fault.KILL_AFTER):
                scenario = Scenario(seed)
                scenario.run(Script([(number, fault)]))
                points += 1
                unequal += bool(scenario.differences())
    evidence("kill points", f"{points}, unequal: {unequal}")
    assert unequal == 0
    assert points >= 100


@pytest.mark.fault(19)
def test_each_call_failing_once_is_survived(evidence: Evidence) -> None:
    points = unequal = 0
    for number in range(1, recorded_calls(seed=3) + 1):
        for fault in (Fault.FAIL_BEFORE, Fault.FAIL_AFTER):
            script = Script([(number, fault)])
            scenario = Scenario(seed=3)
            scenario.run(script)
            assert script.unexercised == []
            points += 1
            unequal += bool(scenario.differences())
    evidence("transient faults", f"{points}, unequal: {unequal}")
    assert unequal == 0
