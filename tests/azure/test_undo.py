"""Cutovers to Azure that fail at a call: the source works again, or the target runs (I10).

The engine is the real one, and so are the connector and everything behind it; the source is in
memory, so that a sweep has time for a whole migration per call.
"""

import itertools
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from connectors.azure.target import AzureTarget
from sandbox.azure.faults import FaultKind
from sealift.cancel import CancelToken
from sealift.errors import SealiftError
from sealift.migration import Phase
from sealift.migrator import Migrator
from sealift.pipeline import InlineExecutor
from sealift.ports import MigrationPolicy, Ports, StopPolicy
from sealift.retry import RetryPolicy
from sealift.sync import SyncContext
from sealift.testing.source import SimulatedHypervisor
from sealift.testing.state import MemoryStateStore
from sealift.units import KiB
from tests.conftest import Evidence

from .conftest import Subscription
from .killing import Blade, Killed, Mortal

pytestmark = pytest.mark.sandbox

GRANULE = 64 * KiB
NUMBERS = itertools.count(1)
STARTS_SOMETHING = (
    "Disks_CreateOrUpdate",
    "NetworkInterfaces_CreateOrUpdate",
    "VirtualMachines_CreateOrUpdate",
)
IN_THE_END = (
    FaultKind.OPERATION_FAILS,
    FaultKind.OPERATION_FAILS_AFTER_EFFECT,
    FaultKind.OPERATION_CANCELED,
    FaultKind.OPERATION_HANGS,
)
Call = tuple[str, int]
Choose = Callable[[list[Call]], list[tuple[Call, FaultKind]]]


@dataclass
class Move:
    """A source with two disks on its way to Azure, driven by one process after another."""

    subscription: Subscription
    name: str = field(default_factory=lambda: f"undo-{next(NUMBERS)}")
    store: MemoryStateStore = field(default_factory=MemoryStateStore)

    def __post_init__(self) -> None:
        content = random.Random(7).randbytes(GRANULE)
        disks = {"vd0": content + bytes(GRANULE) + content, "vd1": content[:512] + bytes(GRANULE)}
        self.source = SimulatedHypervisor(disks, granule=GRANULE)

    def target(self) -> AzureTarget:
        return self.subscription.target(self.name)

    def policy(self) -> MigrationPolicy:
        return MigrationPolicy(stop=StopPolicy(shutdown=False), verify_blocks=2)

    def process(self, target: AzureTarget | None = None) -> Migrator:
        """What a command opens; nothing but state folder, source and cloud is shared."""
        cancel = CancelToken()
        context = SyncContext(
            self.subscription.clock,
            cancel,
            executor=InlineExecutor(),
            retry=RetryPolicy(0.1, 1.0, 30.0),
            rng=random.Random(1),
        )
        ports = Ports(self.source, target or self.target(), self.store, context, self.policy())
        return Migrator.open(ports, self.name)

    def prepared(self) -> "Move":
        """With one point in Azure, and something written since."""
        self.process().replicate()
        self.source.guest_write("vd0", GRANULE, b"since the point")
        return self

    def machines(self) -> list[str]:
        return [owned for owned in self.target().owned() if "/virtualMachines/" in owned]

    def only_the_source_runs(self) -> bool:
        return self.source.running and self.machines() == []

    def landed(self) -> bool:
        """One machine runs, not the source, and every byte of its disks is the source's."""
        (machine,) = self.machines()
        disks = self.subscription.machine(machine).disks
        equal = [
            self._equal(self.subscription.box.disk_bytes(disk), bytes(content))
            for disk, content in zip(disks, self.source.disks.values(), strict=True)
        ]
        return all(equal) and not self.source.running

    def _equal(self, landed: bytes, content: bytes) -> bool:
        return landed[: len(content)] == content and not any(landed[len(content) :])

    def clear(self) -> None:
        """Make room for the next: quotas count what runs."""
        target = self.target()
        for machine in self.machines():
            target.terminate(machine)
        target.sweep(frozenset())


def calls_of_a_cutover(subscription: Subscription) -> list[Call]:
    """Every call of an undisturbed one, numbered per operation."""
    move = Move(subscription).prepared()
    subscription.box.requests.clear()
    move.process().cutover()
    requests = subscription.box.requests.all()
    assert move.landed()
    move.clear()
    seen: Counter[str] = Counter()
    calls = []
    for request in requests:
        calls.append((request.operation, seen[request.operation]))
        seen[request.operation] += 1
    return calls


def refused(calls: list[Call]) -> list[tuple[Call, FaultKind]]:
    """The first and the last call of each operation."""
    ends = {call[0]: call for call in calls}
    chosen = [call for call in calls if call[1] == 0 or ends[call[0]] == call]
    return [(call, FaultKind.ACCESS_DENIED) for call in chosen]


def started(calls: list[Call]) -> list[tuple[Call, FaultKind]]:
    """Every bad end of the first operation of each kind."""
    firsts = [(name, 0) for name in STARTS_SOMETHING]
    assert set(firsts) <= set(calls)
    return [(call, kind) for call in firsts for kind in IN_THE_END]


def struck(subscription: Subscription, call: Call, kind: FaultKind) -> tuple[bool, bool]:
    """Whether the cutover was undone, and whether all was well in the end."""
    operation, number = call
    move = Move(subscription).prepared()
    subscription.box.faults.clear()
    subscription.fault(kind, operation, skip=number)
    undone = False
    try:
        move.process().cutover()
    except SealiftError:
        undone = True
        subscription.box.faults.clear()
        if move.process().state.phase in (Phase.CUTTING_OVER, Phase.UNDOING):
            move.process().undo()
        well = move.only_the_source_runs()
        move.source.guest_write("vd1", 0, b"after the undo")
        move.process().cutover()
    else:
        well = True
    subscription.box.faults.clear()
    well &= move.landed()
    move.clear()
    return undone, well


def sweep(subscription: Subscription, choose: Choose) -> str:
    undone, wrong = 0, []
    chosen = choose(calls_of_a_cutover(subscription))
    for call, kind in chosen:
        was_undone, well = struck(subscription, call, kind)
        undone += was_undone
        if not well:
            wrong.append((call, kind))
    assert wrong == []
    assert undone > len(chosen) / 2, "most failures must end a cutover"
    return f"{len(chosen)} failures, undone: {undone}, source or target lost: 0"


@pytest.mark.fault(40, 41)
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_operation_that_fails_or_never_ends(
    subscription: Subscription, evidence: Evidence
) -> None:
    """One that never ends must not keep the source from its work: it did, in an undo."""
    evidence("azure cutover undo, operations", sweep(subscription, started))


@pytest.mark.fault(19, 40)
@pytest.mark.parametrize(
    "kind", [FaultKind.OPERATION_FAILS_AFTER_EFFECT, FaultKind.OPERATION_HANGS]
)
def test_a_start_that_fails_later_or_never_ends(
    subscription: Subscription, kind: FaultKind
) -> None:
    """Each once left both or neither at work."""
    assert struck(subscription, ("VirtualMachines_CreateOrUpdate", 0), kind) == (True, True)


@pytest.mark.fault(40, 41)
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_call_that_is_refused(subscription: Subscription, evidence: Evidence) -> None:
    evidence("azure cutover undo, refusals", sweep(subscription, refused))


@pytest.mark.fault(1, 40)
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_cutover_killed_after_any_call_is_undone(
    subscription: Subscription, evidence: Evidence
) -> None:
    undisturbed = Blade()
    move = Move(subscription).prepared()
    with Mortal(subscription, move.name, undisturbed) as mortal:
        move.process(mortal.target()).cutover()
    move.clear()
    numbers = [number for number, changes in enumerate(undisturbed.changes, 1) if changes]
    undone = 0
    for number in numbers:
        move = Move(subscription).prepared()
        blade = Blade(number, after=True)
        with Mortal(subscription, move.name, blade) as mortal, pytest.raises(Killed):
            move.process(mortal.target()).cutover()
        if move.process().state.phase is not Phase.CUT_OVER:
            undone += 1
            move.process().undo()
            assert move.only_the_source_runs(), number
            move.process().cutover()
        assert move.landed(), number
        move.clear()
    assert undone > len(numbers) / 2
    evidence(
        "azure cutover kills",
        f"{len(numbers)}, undone: {undone}, landed equal: {len(numbers)}",
    )
