"""A sweep that cannot fail proves nothing: bugs planted on purpose are found, each of them."""

import pytest

from sealift.testing.sweep import run, single_faults
from tests.conftest import Evidence
from tests.simulation.planted import BUGS, Bug, search

SEEDS = range(1, 7)
_found: dict[str, str] = {}


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("bug", BUGS, ids=[b.name for b in BUGS])
def test_a_planted_bug_is_found(bug: Bug, evidence: Evidence) -> None:
    with bug.planted():
        found = search(bug, SEEDS, single_faults)
    if found is not None:
        _found[bug.name] = found.violation.invariant
        evidence(f"planted bug, {bug.name}", f"found by {found.violation.invariant}")
    evidence("planted bugs", f"{BUGS.index(bug) + 1}, found: {len(_found)}")
    assert found is not None
    assert run(found.case) is None, "the same case without the bug"
