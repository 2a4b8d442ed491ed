"""Every kind of fault at every call of every port, then pairs, then kills of recoveries."""

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Protocol

import pytest

from sealift.testing.faults import Fault
from sealift.testing.simulation import Case, History, Recorded, record
from sealift.testing.sweep import (
    case_of,
    kills_in_recovery,
    run,
    several_faults,
    single_faults,
)

SEED, SHUTDOWN_SEED = 1, 2
HISTORIES = list(History)
EVERY = {History.BACK: 4, History.AGAIN: 3}
"""What these two share with the others is not swept whole again: CI has minutes, not hours."""

BY_NAME = pytest.mark.parametrize("history", HISTORIES, ids=[h.name for h in HISTORIES])

ROWS = (1, 3, 4, 6, 7, 9, 11, 19, 23, 24, 25, 26, 31, 34, 36, 38, 39, 40, 41, 42, 43)
"""Rows of docs/faults.md that the kinds of ``Fault`` stand for."""


class Evidence(Protocol):
    def __call__(self, name: str, figures: str) -> None: ...


class Tally:
    """Counts over all histories, for one line of evidence."""

    def __init__(self, name: str, bad: str = "violations") -> None:
        self.name, self.bad = name, bad
        self.cases = self.violations = 0
        self.kinds: Counter[Fault] = Counter()

    def over(self, cases: Iterable[tuple[Case, Recorded]], evidence: Evidence) -> None:
        """Run all; the first that is not survived fails the test, with all that it follows from."""
        try:
            for case, recorded in cases:
                self.cases += 1
                self.kinds.update(fault for _, fault in case.faults)
                found = run(case, recorded, all_hit=len(case.faults) == 1)
                self.violations += found is not None
                assert found is None, str(found)
        finally:
            evidence(self.name, f"{self.cases}, {self.bad}: {self.violations}")


SINGLE, PAIRS, RECOVERY = Tally("faults"), Tally("fault pairs"), Tally("kills in recoveries")


@BY_NAME
def test_an_undisturbed_history_violates_nothing(history: History) -> None:
    recorded = record(case_of(history, SEED))
    assert {call.port for call in recorded.calls} >= {"hypervisor", "cloud", "state", "journal"}


@pytest.mark.timeout(300)
@pytest.mark.fault(1, 42)
def test_killed_at_every_call_lands_equal(evidence: Evidence) -> None:
    tally = Tally("kill points", "unequal")
    tally.over(only({Fault.KILL_BEFORE, Fault.KILL_AFTER}), evidence)
    assert tally.cases >= 500


@pytest.mark.timeout(300)
@pytest.mark.fault(4, 42)
def test_a_power_cut_at_every_call_lands_equal(evidence: Evidence) -> None:
    """What a committed target holds is known from synced records alone."""
    tally = Tally("power cuts at calls", "unequal")
    tally.over(only({Fault.POWER_CUT}), evidence)
    assert tally.cases >= 250


def only(kinds: set[Fault]) -> Iterator[tuple[Case, Recorded]]:
    return (c for c in single_faults(History.FORWARD, SEED) if c[0].faults[0][1] in kinds)


@pytest.mark.fault(*ROWS)
@BY_NAME
def test_every_thirtieth_fault(history: History, evidence: Evidence) -> None:
    """The part of the sweep that every run of the tests makes."""
    Tally(f"faults of {history.name.lower()}, a sample").over(
        islice(single_faults(history, SEED), 0, None, 30), evidence
    )


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.fault(*ROWS)
@BY_NAME
def test_every_fault_at_every_call(history: History, evidence: Evidence) -> None:
    SINGLE.over(islice(single_faults(history, SEED), 0, None, EVERY.get(history, 1)), evidence)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.fault(*ROWS)
@pytest.mark.parametrize("history", [History.FORWARD, History.UNDO], ids=lambda h: h.name)
def test_every_fault_at_a_shutdown(history: History, evidence: Evidence) -> None:
    """The histories of ``SEED`` pause the source; these shut it down."""
    before = SINGLE.cases
    SINGLE.over(at_shutdown(history), evidence)
    assert SINGLE.cases > before


def at_shutdown(history: History) -> Iterator[tuple[Case, Recorded]]:
    for case, recorded in single_faults(history, SHUTDOWN_SEED):
        if recorded.calls[case.faults[0][0] - 1].name == "shutdown":
            yield case, recorded


@pytest.mark.slow
@pytest.mark.fault(*ROWS)
def test_the_sweep_was_whole() -> None:
    """A kind that no case had, or a sweep that became small, proves nothing."""
    assert SINGLE.cases >= 5000
    assert [fault.name for fault in Fault if not SINGLE.kinds[fault]] == []


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.fault(*ROWS)
@pytest.mark.parametrize("seed", [3, 4])
@BY_NAME
def test_pairs_of_faults(history: History, seed: int, evidence: Evidence) -> None:
    PAIRS.over(several_faults(history, seed, 84, faults=2), evidence)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.fault(2)
@BY_NAME
def test_killed_in_the_recovery_of_a_recovery(history: History, evidence: Evidence) -> None:
    RECOVERY.over(kills_in_recovery(history, SEED, 50), evidence)
