"""A whole small migration, with a fault at every call that it makes, one at a time.

Each step runs on a target that knows nothing of the step before, as after a kill, and is
repeated by the engine's retry layer alone. Between the two rounds one is given up.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from sandbox.azure.faults import FaultKind
from sealift.endpoints import SnapshotRef
from tests.conftest import Evidence

from .conftest import ROOT, ZERO, Subscription, block, joined, put, vm

pytestmark = pytest.mark.sandbox

FIRST = {0: block("a"), 7: block("h")}
GIVEN_UP = {0: block("never")}
SECOND = {3: block("c"), 7: ZERO}
SOURCE = vm(disks=(ROOT,))
BEFORE = (
    FaultKind.ERROR_BEFORE,
    FaultKind.RESET_BEFORE,
    FaultKind.OK_WITH_PROXY_PAGE,
    FaultKind.EMPTY_BODY,
    FaultKind.THROTTLE,
)
AFTER = (FaultKind.ERROR_AFTER, FaultKind.RESET_AFTER, FaultKind.TRUNCATED)
MAKES_SOMETHING = frozenset(
    {
        "PutBlob",
        "PutPage",
        "ClearPages",
        "SnapshotBlob",
        "SetBlobMetadata",
        "LeaseBlob",
        "CopyBlob",
        "DeleteBlob",
        "Disks_CreateOrUpdate",
        "NetworkInterfaces_CreateOrUpdate",
        "VirtualMachines_CreateOrUpdate",
        "VirtualMachines_Delete",
    }
)
NUMBERS = itertools.count(1)
Call = tuple[str, int]
Run = Callable[[Subscription], bool]


def rounds(subscription: Subscription) -> bool:
    """Two rounds with one between them that is given up; whether all points are right."""
    name = f"sweep-{next(NUMBERS)}"
    retry = subscription.retrier()

    def round_(seq: int, blocks: dict[int, bytes], parent: SnapshotRef | None) -> SnapshotRef:
        ref = retry.call(lambda: subscription.target(name).begin_snapshot(seq, ROOT, parent))
        writer = retry.call(lambda: subscription.target(name).writer(ref, parent))
        for index in blocks:
            retry.call(lambda i=index: put(writer, {i: blocks[i]}))  # type: ignore[misc]
        again = retry.call(lambda: subscription.target(name).writer(ref, parent))
        if blocks is not GIVEN_UP:
            retry.call(lambda: again.commit(()))
        return ref

    parent = round_(1, FIRST, None)
    lost = round_(2, GIVEN_UP, parent)
    retry.call(lambda: subscription.target(name).delete_snapshot(lost.id))
    child = round_(3, SECOND, parent)
    right = read(subscription, name, parent) == joined(FIRST)
    right &= read(subscription, name, child) == joined(FIRST, SECOND)
    retry.call(lambda: subscription.target(name).delete_snapshot(parent.id))
    retry.call(lambda: subscription.target(name).sweep(frozenset()))
    assert retry.call(subscription.target(name).owned) == []
    return right


def read(subscription: Subscription, name: str, ref: SnapshotRef) -> bytes:
    """A whole point through the reader, range by range of its extents."""
    retry = subscription.retrier()
    reader = retry.call(lambda: subscription.target(name).reader(ref))
    extents = retry.call(lambda: list(reader.extents(0, reader.size)))
    data = bytearray(reader.size)
    for extent in (e for e in extents if e.kind.name == "DATA"):
        view = memoryview(data)[extent.start : extent.end]
        retry.call(lambda e=extent, v=view: reader.read_into(e.start, v))  # type: ignore[misc]
    return bytes(data)


def machine(subscription: Subscription) -> bool:
    """Image, machine, its end and the sweep; whether it was one machine with the right bytes."""
    name = f"sweep-{next(NUMBERS)}"
    retry = subscription.retrier()
    ref = retry.call(lambda: begun(subscription, name))
    image = retry.call(lambda: subscription.target(name).publish(1, SOURCE, {"vda": ref}))
    started = retry.call(lambda: subscription.target(name).launch(1, 1, image, SOURCE))
    assert retry.call(lambda: subscription.target(name).health(started)).state == "ok"
    machines = [m for m in subscription.box.machines() if name in m.name]
    assert [m.id.lower() for m in machines] == [started.lower()]
    right = subscription.box.disk_bytes(machines[0].disks[0]) == joined(FIRST)
    retry.call(lambda: subscription.target(name).terminate(started))
    retry.call(lambda: subscription.target(name).unpublish(image))
    retry.call(lambda: subscription.target(name).sweep(frozenset()))
    assert retry.call(subscription.target(name).owned) == []
    return right


def begun(subscription: Subscription, name: str) -> SnapshotRef:
    """A complete point; beginning and writing it again changes nothing."""
    target = subscription.target(name)
    ref = target.begin_snapshot(1, ROOT, None)
    if target._staging.point(ref.id) is None:
        writer = target.writer(ref, None)
        put(writer, FIRST)
        writer.commit(())
    return ref


def numbered_calls(subscription: Subscription, run: Run) -> list[Call]:
    """Every call of an undisturbed run, numbered per operation."""
    subscription.box.requests.clear()
    assert run(subscription)
    seen: Counter[str] = Counter()
    calls = []
    for record in subscription.box.requests.all():
        calls.append((record.operation, seen[record.operation]))
        seen[record.operation] += 1
    return calls


def faults(calls: list[Call]) -> Iterator[tuple[Call, FaultKind]]:
    """Where a call makes something two kinds after its effect and one before; else one before.

    What only asks is asked again and again while something is made: its first three calls.
    """
    before, after = itertools.cycle(BEFORE), itertools.cycle(AFTER)
    for call in calls:
        makes = call[0] in MAKES_SOMETHING
        if makes or call[1] < 3:
            yield call, next(before)
        if makes:
            yield call, next(after)
            yield call, next(after)


@pytest.mark.fault(14, 18, 19, 20, 24)
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_one_fault_at_any_call_changes_nothing(
    subscription: Subscription, evidence: Evidence
) -> None:
    injected, unequal = 0, 0
    for run in (rounds, machine):
        for (operation, number), kind in faults(numbered_calls(subscription, run)):
            subscription.box.faults.clear()
            subscription.fault(kind, operation, skip=number)
            unequal += not run(subscription)
            assert not subscription.box.faults.unexercised(), (operation, number, kind)
            injected += 1
    evidence("azure call faults", f"{injected} injected, unequal: {unequal}, left behind: 0")
    assert unequal == 0


@pytest.mark.fault(18, 19)
@pytest.mark.parametrize("run", [rounds, machine])
def test_many_faults_at_once(subscription: Subscription, run: Run) -> None:
    """Of each kind that makes something one call fails before and one after its effect."""
    calls = {operation for operation, _ in numbered_calls(subscription, run)}
    never_again = {"SetBlobMetadata"} if run is machine else set()  # of a point that is there
    for operation in sorted((calls & MAKES_SOMETHING) - never_again):
        for kind in (FaultKind.ERROR_BEFORE, FaultKind.RESET_AFTER):
            subscription.fault(kind, operation)
    assert run(subscription)
    assert not subscription.box.faults.unexercised()
