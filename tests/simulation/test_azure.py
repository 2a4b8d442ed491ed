"""The same sweep with Azure's calls: every kind of fault at every call that the connector makes.

The engine, the connector and the reference model are the real ones; below the connector Azure's
rules are kept in memory (``azure_service``), and faults come out as what the SDK raises: an answer
that was lost, a refusal, an operation that fails after it was accepted, a lease that another
writer broke, a region of Resource Manager that does not know yet what was just made. Faults at
the cloud port itself are those of ``test_sweep``.
"""

from collections import Counter
from collections.abc import Container, Iterator
from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from connectors.azure.chain import Label
from connectors.azure.leases import Leases
from connectors.azure.machines import Machines
from connectors.azure.names import Owner
from connectors.azure.page_writer import PageBlobWriter
from connectors.azure.staging import Staging
from sealift.testing.faults import WORLD, Fault
from sealift.testing.simulation import Case, History, Recorded, Simulation, record
from sealift.testing.sweep import calls_of_interest, case_of, run, single_faults
from tests.conftest import Evidence
from tests.simulation.azure_world import AzureScenario, small_pages
from tests.simulation.planted import KILLS, Bug, Patch, search

SEED = 1
OF_AZURE = frozenset({Fault.SNAPSHOT_GONE, Fault.SNAPSHOT_FAILED})
"""What others do to a subscription: a blob snapshot deleted; a lease broken and bytes written."""
EVERY = dict(zip(History, (2, 4, 2, 3, 1, 8), strict=True))
"""What histories share is not swept whole again; the first makes as many calls as all others."""
ROWS = (1, 3, 4, 7, 9, 11, 19, 23, 24, 31, 38, 39, 40, 41)
BY_NAME = pytest.mark.parametrize("history", list(History), ids=[h.name for h in History])


@pytest.fixture(autouse=True)
def small() -> Iterator[None]:
    with small_pages():
        yield


def of_azure(history: History, seed: int = SEED) -> Iterator[tuple[Case, Recorded]]:
    for case, recorded in single_faults(history, seed, AzureScenario):
        ((number, fault),) = case.faults
        here = recorded.calls[number - 1].port == "service"
        if here and (fault not in WORLD or fault in OF_AZURE):
            yield case, recorded


class Tally:
    """Counts over all histories, for one line of evidence."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.cases = self.violations = 0
        self.kinds: Counter[Fault] = Counter()
        self.calls: set[str] = set()

    def over(
        self, history: History, step: int, evidence: Evidence, every: Container[Fault] = ()
    ) -> None:
        """One case of ``step``, and all of the kinds ``every``."""
        try:
            for at, (case, recorded) in enumerate(of_azure(history)):
                ((number, fault),) = case.faults
                if at % step and fault not in every:
                    continue
                self.cases += 1
                self.kinds[fault] += 1
                self.calls.add(recorded.calls[number - 1].name)
                found = run(case, recorded, all_hit=True)
                self.violations += found is not None
                assert found is None, str(found)
        finally:
            evidence(self.name, f"{self.cases}, violations: {self.violations}")


WHOLE, SAMPLE = Tally("azure faults"), Tally("azure faults, a sample")


@BY_NAME
def test_an_undisturbed_history_violates_nothing(history: History) -> None:
    names = {c.name for c in record(case_of(history, SEED, AzureScenario)).calls}
    assert names >= {"put_blob", "put_page", "snapshot_blob", "renew_lease", "list_blobs"}
    if history in (History.FORWARD, History.BACK):
        assert names >= {"copy_blob", "make_disk", "make_machine", "poll_operation"}


@pytest.mark.fault(*ROWS)
@BY_NAME
def test_every_ninetieth_fault(history: History, evidence: Evidence) -> None:
    """The part of the sweep that every run of the tests makes."""
    SAMPLE.over(history, 90, evidence)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.fault(*ROWS)
@BY_NAME
def test_every_fault_at_every_call(history: History, evidence: Evidence) -> None:
    WHOLE.over(history, EVERY[history], evidence, every={Fault.STALE})


@pytest.mark.slow
@pytest.mark.fault(*ROWS)
def test_the_sweep_was_whole() -> None:
    """A kind that no case had, or a call that none met, proves nothing."""
    wanted = {Fault.FAIL_AFTER, Fault.TIMEOUT, Fault.REFUSE, Fault.QUOTA, Fault.DENIED, *KILLS}
    wanted |= {Fault.CREDENTIALS, Fault.THROTTLE, Fault.THROTTLE_NAMED, Fault.STOP, Fault.STALE}
    wanted |= OF_AZURE
    assert wanted <= set(WHOLE.kinds)
    assert WHOLE.cases >= 3000
    assert WHOLE.calls >= {"copy_blob", "clear_pages", "make_card", "delete_machine", "get_blob"}


def lagging_after(history: History) -> Iterator[tuple[Case, Recorded]]:
    """Something is made, its answer is lost or its asker killed, and then it is not shown."""
    case = case_of(history, SEED, AzureScenario)
    recorded = record(case)
    for number in calls_of_interest(history, recorded):
        if recorded.calls[number - 1].name.startswith("make_"):
            for fault in (Fault.FAIL_AFTER, Fault.KILL_AFTER):
                for later in (1, 2, 4, 8):
                    faults = ((number, fault), (number + later, Fault.STALE))
                    yield replace(case, faults=faults), recorded


@pytest.mark.slow
@pytest.mark.fault(1, 19, 40)
def test_what_was_made_unanswered_is_not_shown_either(evidence: Evidence) -> None:
    cases = lagged = 0
    for history in (History.FORWARD, History.BACK, History.UNDO):
        for case, recorded in lagging_after(history):
            simulation = Simulation(case, recorded)
            simulation.run()
            cases += 1
            fired = simulation.script.fired
            lagged += (Fault.STALE, "service") in [(fault, call.port) for call, fault in fired]
    evidence("azure lost answers before a lagging region", f"{cases}, lagged: {lagged}")
    assert lagged > cases / 4


# ---------------------------------------------------------------------- bugs planted on purpose


def _gap_in_a_lease(patch: Patch) -> None:
    kept = Leases.kept

    def trusting(self: Leases, name: str, seq: int, label: Label | None) -> bool:
        if not kept(self, name, seq, label):
            self.acquire(name, seq)
        return True

    patch.setattr(Leases, "kept", trusting)


def _believed_after_a_gap(patch: Patch) -> None:
    patch.setattr(Staging, "_distrusted", lambda self, name, base: base)


def _not_shown_is_not_there(patch: Patch) -> None:
    patch.setattr(Machines, "_started", lambda self, name: self.find(name))


def _failed_start_is_a_refusal(patch: Patch) -> None:
    patch.setattr(Machines, "_end_failed", lambda self, name, failure: None)


def _zeroes_stay(patch: Patch) -> None:
    patch.setattr(PageBlobWriter, "zero", lambda self, offset, length: None)


def _another_name_each_time(patch: Patch) -> None:
    named, numbers = Owner.machine_name, count()

    def machine_name(self: Owner, seq: int, attempt: int) -> str:
        return f"{named(self, seq, attempt)}-{next(numbers)}"

    patch.setattr(Owner, "machine_name", machine_name)


def _not_shown_is_gone(patch: Patch) -> None:
    await_gone = Machines._await_gone

    def at_once(self: Machines, name: str, *, seen: bool) -> None:
        await_gone(self, name, seen=True)

    patch.setattr(Machines, "_await_gone", at_once)


def _parts_wait_for_the_sweep(patch: Patch) -> None:
    def launch(self: Machines, *launched: Any) -> None:
        create: Any = self._create
        create(*launched, [])

    patch.setattr(Machines, "_launch", launch)


BUGS = (
    Bug(
        "a machine that is not shown counts as gone",
        *(_not_shown_is_gone, History.UNDO, (Fault.STALE,)),
    ),
    Bug(
        "parts of a refused launch are left to the last listing",
        *(_parts_wait_for_the_sweep, History.BACK, (Fault.STALE,)),
    ),
    Bug(
        "a lease that was broken counts as held all along",
        *(_gap_in_a_lease, History.FORWARD, (Fault.SNAPSHOT_FAILED,)),
    ),
    Bug(
        "a start that fails after it was accepted leaves its machine",
        *(_failed_start_is_a_refusal, History.FORWARD, (Fault.REFUSE,)),
    ),
    Bug(
        "what a blob says of its bytes is believed once its lease is ours again",
        *(_believed_after_a_gap, History.FORWARD, (Fault.SNAPSHOT_FAILED,)),
    ),
    Bug(
        "a machine that was started and is not shown counts as none",
        *(_not_shown_is_not_there, History.BACK, (Fault.REFUSE,)),
    ),
    Bug("zeroes over a parent are not cleared", _zeroes_stay, History.FORWARD, KILLS),
    Bug("a machine has another name each time", _another_name_each_time, History.AGAIN, KILLS),
)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("bug", BUGS, ids=[b.name for b in BUGS])
def test_a_planted_bug_is_found(bug: Bug, evidence: Evidence) -> None:
    with bug.planted():
        found = search(bug, range(1, 5), of_azure, AzureScenario)
    assert found is not None
    evidence(f"planted bug of azure, {bug.name}", f"found by {found.violation.invariant}")
    assert run(found.case) is None, "the same case without the bug"
