"""Random long histories; and that a simulation is what it claims to be."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sealift.testing import rehearsal
from sealift.testing.faults import Fault, Script
from sealift.testing.rehearsal import random_case, shrunk
from sealift.testing.simulation import Case, Command, History, Simulation
from sealift.testing.sweep import Unexercised, case_of, run
from tests.conftest import Evidence
from tests.simulation.planted import BUGS

ROOT = Path(__file__).parents[2]
LONG = 400


def call_log(seed: int) -> str:
    simulation = Simulation(random_case(seed))
    simulation.run()
    return "\n".join(map(str, [*simulation.script.calls, *simulation.script.fired]))


@pytest.mark.parametrize("seed", range(1, 6))
def test_same_seed_same_run(seed: int) -> None:
    assert call_log(seed) == call_log(seed)
    assert call_log(seed) != call_log(seed + 1)


def test_same_seed_same_run_in_another_process() -> None:
    """Nothing may follow from the order of a set, which is another in every process."""
    code = "from tests.simulation.test_rehearsal import call_log; print(call_log(7))"
    environ = {**os.environ, "PYTHONHASHSEED": "12345"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        check=True,
    )
    digests = [hashlib.sha256(t.strip().encode()).hexdigest() for t in (done.stdout, call_log(7))]
    assert digests[0] == digests[1]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.fault(1, 2, 3, 11, 19, 23, 24, 31, 38, 39, 42)
def test_long_histories_at_random(evidence: Evidence) -> None:
    violations = 0
    for seed in range(1, LONG + 1):
        found = run(random_case(seed))
        violations += found is not None
        assert found is None, f"{shrunk(found)}\nmake simulate SEED={seed} RUNS=1"
    evidence("simulated long histories", f"{LONG}, violations: {violations}")


def test_the_command_shows_progress_and_ends_with_a_count(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert rehearsal.main(["--seed", "11", "--runs", "5"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("simulated 5 of 5 histories, ")
    assert out[-1].startswith("simulate: seeds 11 to 15, ")
    assert out[-1].endswith("violations: 0")


def test_a_failure_is_shrunk_and_says_what_to_run(capsys: pytest.CaptureFixture[str]) -> None:
    """A world in which the undo forgets to resume: one sick cutover shows it."""
    (bug,) = [b for b in BUGS if b.name == "the undo forgets to resume"]
    with bug.planted():
        assert rehearsal.main(["--seed", "1", "--runs", "60"]) == 1
    out = capsys.readouterr().out
    assert "the shortest that shows it:\nI10: nobody runs the machine" in out
    assert "run it again: make simulate SEED=" in out
    short = out[out.index("the shortest") :]
    assert "no fault" in short
    assert "disks (1,)" in short


def test_a_fault_that_no_call_meets_is_reported() -> None:
    case = Case(1, (Command.REPLICATE,), faults=((10_000, Fault.KILL_AFTER),))
    with pytest.raises(Unexercised, match="KILL_AFTER at call 10000"):
        run(case, all_hit=True)


def test_a_fault_waits_for_a_call_where_it_can_happen() -> None:
    case = case_of(History.FORWARD, 1)
    simulation = Simulation(Case(1, case.commands, faults=((1, Fault.UNKNOWN),)))
    simulation.run()
    ((call, fault),) = simulation.script.fired
    assert (call.port, call.name, fault) == ("hypervisor", "fence", Fault.UNKNOWN)
    assert not simulation.script.pending


def test_the_mini_language_of_faults() -> None:
    script = Script.parse("..Ek")
    assert script.pending == {3, 4}
