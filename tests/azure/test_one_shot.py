"""A machine that moves in one copy: its disks are uploaded once, while it stands still."""

import itertools
from collections import Counter
from dataclasses import dataclass, field, replace

import pytest

from connectors.azure.spec import Method
from connectors.azure.target import AzureTarget
from sandbox.azure.faults import FaultKind
from sealift.errors import SealiftError, UsageError
from sealift.migration import Phase
from sealift.ports import MigrationPolicy
from tests.conftest import Evidence

from .conftest import Subscription
from .test_undo import GRANULE, Move

pytestmark = pytest.mark.sandbox

NUMBERS = itertools.count(1)


@dataclass
class OneCopy(Move):
    """As ``Move``, without a round before the cutover."""

    name: str = field(default_factory=lambda: f"once-{next(NUMBERS)}")

    def target(self) -> AzureTarget:
        return self.subscription.target(self.name, method=Method.UPLOAD)

    def policy(self) -> MigrationPolicy:
        return replace(super().policy(), one_shot=True)


def struck(subscription: Subscription, operation: str, number: int, kind: FaultKind) -> bool:
    """Whether the cutover failed there; the source ran again, and the next one landed."""
    move = OneCopy(subscription)
    subscription.fault(kind, operation, skip=number)
    failed = False
    try:
        move.process().cutover()
    except SealiftError:
        failed = True
        subscription.box.faults.clear()
        if move.process().state.phase in (Phase.CUTTING_OVER, Phase.UNDOING):
            move.process().undo()
        assert move.only_the_source_runs(), (operation, number, kind)
        move.source.guest_write("vd0", GRANULE, b"after the undo")
        move.process().cutover()
    subscription.box.faults.clear()
    assert move.landed(), (operation, number, kind)
    move.clear()
    assert move.target().owned() == []
    return failed


def test_it_lands_and_there_are_no_rounds(subscription: Subscription) -> None:
    move = OneCopy(subscription)
    for verb in (move.process().replicate, move.process().converge):
        with pytest.raises(UsageError, match="takes each disk once"):
            verb()
    assert move.source.running
    assert not move.source.bitmaps
    assert move.target().owned() == []
    m = move.process().cutover()
    assert m.phase is Phase.CUT_OVER
    assert [mode for _, mode, _ in m.history[-1].modes] == ["full", "full"]
    assert move.landed()
    move.clear()


@pytest.mark.fault(40)
@pytest.mark.parametrize(
    ("operation", "kind"),
    [
        ("Disks_GrantAccess", FaultKind.ACCESS_DENIED),
        ("Disks_RevokeAccess", FaultKind.OPERATION_FAILS),
        ("VirtualMachines_CreateOrUpdate", FaultKind.OPERATION_FAILS_AFTER_EFFECT),
    ],
)
def test_a_failure_puts_the_source_back_and_the_next_copy_is_whole(
    subscription: Subscription, operation: str, kind: FaultKind
) -> None:
    assert struck(subscription, operation, 0, kind)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.fault(40, 41)
def test_a_call_that_is_refused(subscription: Subscription, evidence: Evidence) -> None:
    """The last call of each operation of an undisturbed one."""
    move = OneCopy(subscription)
    subscription.box.requests.clear()
    move.process().cutover()
    counted = Counter(request.operation for request in subscription.box.requests.all())
    move.clear()
    chosen = sorted((name, most - 1) for name, most in counted.items())
    undone = sum(struck(subscription, *call, FaultKind.ACCESS_DENIED) for call in chosen)
    evidence("azure one-shot cutover, refusals", f"{len(chosen)}, undone: {undone}, lost: 0")
    assert undone > len(chosen) / 3
