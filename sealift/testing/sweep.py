"""Every kind of fault at every call of every port, pairs of them, and random histories.

Short histories exhaustively before long ones at random: most known crash bugs need no more
than three operations (CrashMonkey, TOCS 2019).
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

from sealift.testing.faults import Fault, applicable
from sealift.testing.model import Violation
from sealift.testing.scenario import Scenario
from sealift.testing.simulation import Case, History, Recorded, Simulation, record


@dataclass(frozen=True, slots=True)
class Found:
    """A case that the engine did not survive."""

    case: Case
    violation: Violation

    def __str__(self) -> str:
        return f"{self.violation}\n  {self.case}"


class Unexercised(AssertionError):
    """A fault was planned that no call met: the sweep would prove less than it says."""


def case_of(history: History, seed: int, scenario: type[Scenario] = Scenario) -> Case:
    """The canonical case of a history, without faults."""
    throttle = history is History.THROTTLED
    return Case(seed, history.value, throttle=throttle, scenario=scenario)


def run(case: Case, recorded: Recorded | None = None, *, all_hit: bool = False) -> Found | None:
    """Run one case; None when everything held.

    Args:
        case: what happens.
        recorded: an undisturbed run of it, which makes it faster.
        all_hit: every fault has to happen.

    Raises:
        Unexercised: one did not.
    """
    simulation = Simulation(case, recorded)
    try:
        simulation.run()
    except Violation as violation:
        return Found(case, violation)
    if all_hit and simulation.script.pending:
        raise Unexercised(str(case))
    return None


def faults_at(recorded: Recorded, number: int) -> list[Fault]:
    """Every fault that can happen at a call, in a fixed order."""
    call = recorded.calls[number - 1]
    found = applicable(call) | recorded.possible[number - 1]
    if number in recorded.stale:
        found |= {Fault.STALE}
    return [fault for fault in Fault if fault in found]


def calls_of_interest(history: History, recorded: Recorded) -> range:
    """Calls that no shorter history has made already."""
    first = {History.FORWARD: 0, History.THROTTLED: 1}.get(history, 1)
    return range(recorded.starts[first][0] + 1, len(recorded.calls) + 1)


def single_faults(
    history: History, seed: int, scenario: type[Scenario] = Scenario
) -> Iterator[tuple[Case, Recorded]]:
    """Every fault at every call of a history."""
    case = case_of(history, seed, scenario)
    recorded = record(case)
    for number in calls_of_interest(history, recorded):
        for fault in faults_at(recorded, number):
            yield replace(case, faults=((number, fault),)), recorded


def several_faults(
    history: History, seed: int, count: int, faults: int
) -> Iterator[tuple[Case, Recorded]]:
    """``count`` random cases of ``faults`` faults each, at ascending calls."""
    case = case_of(history, seed)
    recorded = record(case)
    rng = random.Random(f"{history.name} {seed} {faults}")  # noqa: S311
    numbers = calls_of_interest(history, recorded)
    for _ in range(count):
        chosen = sorted(rng.sample(numbers, faults))
        picked = tuple((n, rng.choice(faults_at(recorded, n))) for n in chosen)
        yield replace(case, faults=picked), recorded


def kills_in_recovery(history: History, seed: int, count: int) -> Iterator[tuple[Case, Recorded]]:
    """A kill, another while that is recovered from, and a third in the recovery of that."""
    case = case_of(history, seed)
    recorded = record(case)
    rng = random.Random(f"recovery {history.name} {seed}")  # noqa: S311
    kills = (Fault.KILL_BEFORE, Fault.KILL_AFTER)
    numbers = calls_of_interest(history, recorded)
    for _ in range(count):
        at = rng.choice(numbers)
        chosen = []
        for _ in range(3):
            chosen.append((at, rng.choice(kills)))
            at += rng.randrange(1, 12)
        yield replace(case, faults=tuple(chosen)), recorded
