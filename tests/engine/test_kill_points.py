"""Sealift is killed at every recorded call; the next run must end as an undisturbed one."""

from typing import Protocol

import pytest

from sealift.migration import Phase
from sealift.testing.faults import Fault, Killed, Script
from sealift.testing.scenario import Scenario
from sealift.testing.world import MemoryLog, MemoryStateStore


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


class SyncedOnly(MemoryStateStore):
    """Local state that loses what no sync has reached when the power goes."""

    def __init__(self) -> None:
        super().__init__()
        self.safe: dict[str, int] = {}

    def log(self, name: str) -> MemoryLog:
        return _SyncedLog(self, name)

    def delete(self, name: str) -> None:
        super().delete(name)
        self.safe.pop(name, None)

    def power_cut(self) -> None:
        for name, records in self.logs.items():
            del records[self.safe.get(name, 0) :]


class _SyncedLog(MemoryLog):
    def __init__(self, store: SyncedOnly, name: str) -> None:
        self._store, self._name = store, name
        super().__init__(store.logs.setdefault(name, []))

    def sync(self) -> None:
        self._store.safe[self._name] = len(self._store.logs[self._name])


@pytest.mark.fault(4, 42)
def test_a_power_cut_at_every_call_lands_equal(evidence: Evidence) -> None:
    """What a committed target holds is known from synced records alone."""
    cuts = unequal = 0
    for number in range(1, recorded_calls(seed=6) + 1):
        store = SyncedOnly()
        scenario = Scenario(seed=6, store=store)
        script = Script([(number, Fault.KILL_AFTER)])
        try:
            while scenario.step(script).phase is not Phase.CUT_OVER:
                pass
        except Killed:
            store.power_cut()
        scenario.run(Script())
        cuts += 1
        unequal += bool(scenario.differences())
    evidence("power cuts at calls", f"{cuts}, unequal: {unequal}")
    assert unequal == 0
    assert cuts > 100
