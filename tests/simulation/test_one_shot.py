"""A cutover without a round before it: every kind of fault at every call, as of all others."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from sealift.testing.faults import Fault
from sealift.testing.simulation import Case, Command, Recorded, record
from sealift.testing.sweep import faults_at, run
from tests.conftest import Evidence
from tests.simulation.one_shot import OneShotScenario

HISTORIES = {
    "forward": (Command.CUTOVER,),
    "back": (Command.FULL_CUTOVER, Command.SICK_CUTOVER, Command.CUTOVER),
    "undo": (Command.CUT_SHORT, Command.UNDO, Command.CUTOVER),
    "abandon": (Command.CUT_SHORT, Command.ABANDON),
}
ROWS = (1, 3, 4, 7, 19, 23, 40, 41)
SEED, SHUTDOWN_SEED = 1, 2


def case_of(name: str, seed: int) -> Case:
    return Case(seed, HISTORIES[name], scenario=OneShotScenario)


def faults(name: str, seed: int) -> Iterator[tuple[Case, Recorded]]:
    case = case_of(name, seed)
    recorded = record(case)
    for number in range(1, len(recorded.calls) + 1):
        for fault in faults_at(recorded, number):
            yield replace(case, faults=((number, fault),)), recorded


def swept(name: str, seed: int, step: int) -> int:
    cases = 0
    for at, (case, recorded) in enumerate(faults(name, seed)):
        if at % step == 0:
            found = run(case, recorded, all_hit=True)
            assert found is None, str(found)
            cases += 1
    return cases


@pytest.mark.parametrize("name", HISTORIES)
@pytest.mark.parametrize("seed", [SEED, SHUTDOWN_SEED])
def test_an_undisturbed_history_violates_nothing(name: str, seed: int) -> None:
    """Each disk is sent as a whole, once for every cutover, and never built on."""
    calls = [call.name for call in record(case_of(name, seed)).calls]
    cutovers = sum(command is not Command.UNDO for command in HISTORIES[name])
    cutovers -= Command.ABANDON in HISTORIES[name]
    assert calls.count("begin_snapshot") == 2 * cutovers


@pytest.mark.fault(*ROWS)
@pytest.mark.parametrize("name", HISTORIES)
def test_every_hundredth_fault(name: str) -> None:
    assert swept(name, SEED, 100) > 5


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.fault(*ROWS)
def test_every_fault_at_every_call(evidence: Evidence) -> None:
    """What longer histories share with the shortest is not swept whole again."""
    cases = swept("forward", SEED, 2) + swept("forward", SHUTDOWN_SEED, 3)
    cases += swept("undo", SEED, 8) + swept("back", SEED, 12) + swept("abandon", SEED, 8)
    evidence("faults of a cutover in one shot", f"{cases}, violations: 0")
    assert cases >= 1500


@pytest.mark.slow
@pytest.mark.fault(1)
def test_killed_at_every_call_lands_equal(evidence: Evidence) -> None:
    kills = {Fault.KILL_BEFORE, Fault.KILL_AFTER, Fault.POWER_CUT}
    cases = [one for one in faults("undo", SHUTDOWN_SEED) if one[0].faults[0][1] in kills]
    assert [str(found) for found in (run(*one) for one in cases) if found is not None] == []
    evidence("kill points of a cutover in one shot", f"{len(cases)}, unequal: 0")
    assert len(cases) >= 200
