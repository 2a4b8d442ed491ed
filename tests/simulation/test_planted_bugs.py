"""A sweep that cannot fail proves nothing: bugs planted on purpose are found, each of them."""

import pytest

from sealift.testing.model import Violation
from sealift.testing.simulation import record
from sealift.testing.sweep import Found, case_of, run, single_faults
from tests.conftest import Evidence
from tests.simulation.planted import BUGS, Bug

SEEDS = range(1, 7)
_found: dict[str, str] = {}


def search(bug: Bug) -> Found | None:
    """The first case of the sweep that shows it; over more worlds when the first does not."""
    for seed in SEEDS:
        case = case_of(bug.history, seed)
        try:
            record(case)
        except Violation as violation:
            return Found(case, violation)
        for case, recorded in single_faults(bug.history, seed):
            if case.faults[0][1] in bug.kinds and (found := run(case, recorded)):
                return found
    return None


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("bug", BUGS, ids=[b.name for b in BUGS])
def test_a_planted_bug_is_found(bug: Bug, evidence: Evidence) -> None:
    with bug.planted():
        found = search(bug)
    if found is not None:
        _found[bug.name] = found.violation.invariant
        evidence(f"planted bug, {bug.name}", f"found by {found.violation.invariant}")
    evidence("planted bugs", f"{BUGS.index(bug) + 1}, found: {len(_found)}")
    assert found is not None
    assert run(found.case) is None, "the same case without the bug"
