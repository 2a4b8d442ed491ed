"""A whole small migration, with a fault at every call that it makes, one at a time.

Each step runs on a target that knows nothing of the step before, as after a kill, and is
repeated by the engine's retry layer alone.
"""

import itertools
from collections import Counter
from collections.abc import Iterator

import pytest

from sandbox.aws.faults import FaultKind
from sealift.endpoints import SnapshotRef
from sealift.testing.clock import VirtualClock
from tests.conftest import Evidence

from .conftest import ROOT, ZERO, Account, OpenAccount, block, put, vm

pytestmark = pytest.mark.sandbox

FIRST = {0: block("a"), 1: block("b")}
SECOND = {1: ZERO, 3: block("c")}
LANDED = block("a") + ZERO + ZERO + block("c")
BEFORE = (
    FaultKind.ERROR_BEFORE,
    FaultKind.RESET_BEFORE,
    FaultKind.OK_WITH_ERROR_BODY,
    FaultKind.OK_WITH_PROXY_PAGE,
    FaultKind.EMPTY_BODY,
    FaultKind.THROTTLE,
)
AFTER = (FaultKind.ERROR_AFTER, FaultKind.RESET_AFTER, FaultKind.TRUNCATED)
MAKES_SOMETHING = (
    "StartSnapshot",
    "PutSnapshotBlock",
    "CompleteSnapshot",
    "CreateTags",
    "RegisterImage",
    "RunInstances",
    "TerminateInstances",
    "DeregisterImage",
    "DeleteSnapshot",
)
NUMBERS = itertools.count(1)
EXPECTED = (LANDED, Counter(snap=2, ami=1, i=1, vol=1))
Call = tuple[str, int]


def migrate(account: Account) -> tuple[bytes, Counter[str]]:
    """Two rounds, image, launch; what the machine reads, and what there is by kind."""
    name = f"mig-{next(NUMBERS)}"
    retry = account.retrier()

    def round_(seq: int, blocks: dict[int, bytes], parent: SnapshotRef | None) -> SnapshotRef:
        ref = retry.call(lambda: account.target(name).begin_snapshot(seq, ROOT, parent))
        writer = retry.call(lambda: account.target(name).writer(ref, parent))
        written = [retry.call(lambda i=i: put(writer, {i: blocks[i]})) for i in sorted(blocks)]  # type: ignore[misc]
        again = retry.call(lambda: account.target(name).writer(ref, parent))
        retry.call(lambda: again.commit([pair for pairs in written for pair in pairs]))
        return ref

    parent = round_(1, FIRST, None)
    child = round_(2, SECOND, parent)
    source = vm(disks=(ROOT,))
    image = retry.call(lambda: account.target(name).publish(2, source, {"vda": child}))
    machine = retry.call(lambda: account.target(name).launch(2, 1, image, source))
    assert retry.call(lambda: account.target(name).health(machine)).state == "ok"
    landed = account.volume_bytes(account.volumes_of(machine)[0], 4)
    there = Counter(i.partition("-")[0] for i in retry.call(account.target(name).owned))
    retry.call(lambda: account.target(name).terminate(machine))
    retry.call(lambda: account.target(name).unpublish(image))
    retry.call(lambda: account.target(name).delete_snapshot(parent.id))
    retry.call(lambda: account.target(name).sweep(frozenset()))
    assert retry.call(account.target(name).owned) == []
    return landed, there


def numbered_calls(account: Account) -> list[Call]:
    """Every call of an undisturbed run, numbered per operation."""
    account.box.requests.clear()
    assert migrate(account) == EXPECTED
    seen: Counter[str] = Counter()
    calls = []
    for record in account.box.requests.select():
        calls.append((record.operation, seen[record.operation]))
        seen[record.operation] += 1
    assert set(MAKES_SOMETHING) < set(seen)
    return calls


def faults(calls: list[Call]) -> Iterator[tuple[Call, FaultKind]]:
    """Every kind after the effect; in turns those before it, one where a call only looks."""
    kinds = itertools.cycle(BEFORE)
    for call in calls:
        if call[0] in MAKES_SOMETHING:
            yield from ((call, kind) for kind in (*AFTER, next(kinds), next(kinds), next(kinds)))
        else:
            yield call, next(kinds)


@pytest.mark.fault(14, 18, 19, 20, 24)
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_one_fault_at_any_call_changes_nothing(account: Account, evidence: Evidence) -> None:
    injected = 0
    for (operation, number), kind in faults(numbered_calls(account)):
        account.box.faults.clear()
        account.fault(kind, operation, skip=number)
        assert migrate(account) == EXPECTED, (operation, number, kind)
        assert not account.box.faults.unexercised(), (operation, number, kind)
        injected += 1
    evidence("AWS call faults", f"{injected} injected, unequal: 0, left behind: 0")


@pytest.mark.fault(18, 19)
def test_many_faults_at_once(open_account: OpenAccount) -> None:
    """Every second call of each kind that makes something fails, before or after its effect."""
    account = open_account(clock=VirtualClock())
    for operation, kind in itertools.product(MAKES_SOMETHING, (BEFORE[0], AFTER[0])):
        account.fault(kind, operation)
    assert migrate(account) == EXPECTED
    assert not account.box.faults.unexercised()
