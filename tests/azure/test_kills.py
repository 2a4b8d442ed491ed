"""A process killed at every call that it makes; the next one goes on, or gives the round up.

Everything is counted: the bytes of every point and of the machine's disks, what is left at the
end, and that the kill happened at all.
"""

import itertools
from collections.abc import Callable, Iterator

import pytest

from sealift.endpoints import SnapshotRef, SnapshotState
from sealift.units import MiB
from tests.conftest import Evidence

from .conftest import DATA, ROOT, ZERO, Subscription, block, joined, put, vm
from .killing import Blade, Killed, Mortal

pytestmark = [pytest.mark.sandbox, pytest.mark.slow, pytest.mark.timeout(400)]

FIRST = {0: block("a"), 1: block("b"), 7: block("h")}
GIVEN_UP = {1: block("never"), 2: block("never")}
SECOND = {3: block("c"), 7: ZERO}
NUMBERS = itertools.count(1)

Run = Callable[[Subscription, Blade], int]


def round_(
    mortal: Mortal, seq: int, blocks: dict[int, bytes], parent: SnapshotRef | None
) -> SnapshotRef:
    """As the engine does a round: every step again when it was killed."""
    ref = mortal.step(lambda t: t.begin_snapshot(seq, ROOT, parent))
    for index, data in blocks.items():
        mortal.step(lambda t, i=index, d=data: put(t.writer(ref, parent), {i: d}))  # type: ignore[misc]
    mortal.step(lambda t: t.writer(ref, parent).commit(()))
    return ref


def going_on(subscription: Subscription, blade: Blade) -> int:
    """Two rounds and one that is given up between them; every killed step is done again."""
    mortal = Mortal(subscription, f"kill-{next(NUMBERS)}", blade)
    parent = round_(mortal, 1, FIRST, None)
    lost = mortal.step(lambda t: t.begin_snapshot(2, ROOT, parent))
    mortal.step(lambda t: put(t.writer(lost, parent), GIVEN_UP))
    mortal.step(lambda t: t.delete_snapshot(lost.id))
    child = round_(mortal, 3, SECOND, parent)
    return judged(subscription, mortal.name, parent, child)


def giving_up(subscription: Subscription, blade: Blade) -> int:
    """A round that was killed is given up, without a word to the service or with one.

    The guest then puts the old bytes back, so the next round brings none of them.
    """
    mortal = Mortal(subscription, f"kill-{next(NUMBERS)}", blade)
    parent = round_(mortal, 1, FIRST, None)

    def lost_round() -> None:
        target = mortal.target()
        ref = target.begin_snapshot(2, ROOT, parent)
        put(target.writer(ref, parent), GIVEN_UP)
        target.writer(ref, parent).commit(())

    try:
        lost_round()
    except Killed:
        if blade.at % 2:
            mortal.target().delete_snapshot(f"{mortal.name}/vda.vhd@2")
    child = round_(mortal, 3, SECOND, parent)
    return judged(subscription, mortal.name, parent, child)


def judged(subscription: Subscription, name: str, parent: SnapshotRef, child: SnapshotRef) -> int:
    """How many points are not what they have to be."""
    target = subscription.target(name)
    assert target.snapshot_state(child.id) is SnapshotState.COMPLETED
    wrong = int(subscription.content(target, parent) != joined(FIRST))
    wrong += int(subscription.content(target, child) != joined(FIRST, SECOND))
    target.sweep(frozenset())
    assert target.owned() == []
    return wrong


def launching(subscription: Subscription, blade: Blade) -> int:
    """Image, machine, its end, its image's end, and the sweep."""
    name = f"kill-{next(NUMBERS)}"
    ours = subscription.target(name)
    refs = {
        "vda": subscription.snapshot(ours, FIRST),
        "vdb": subscription.snapshot(ours, {0: block("z")}, disk=DATA),
    }
    mortal = Mortal(subscription, name, blade)
    image = mortal.step(lambda t: t.publish(1, vm(), refs))
    machine = mortal.step(lambda t: t.launch(1, 1, image, vm()))
    started = [m for m in subscription.box.machines() if name in m.name]
    assert [m.id.lower() for m in started] == [machine.lower()]
    disks = [subscription.box.disk_bytes(disk) for disk in started[0].disks]
    wrong = int(disks != [joined(FIRST), joined({0: block("z")}, size=3 * MiB)])
    mortal.step(lambda t: t.terminate(machine))
    mortal.step(lambda t: t.unpublish(image))
    mortal.step(lambda t: t.sweep(frozenset()))
    assert ours.owned() == []
    return wrong


def kills(subscription: Subscription, run: Run) -> Iterator[Blade]:
    """After every call of an undisturbed run that changes anything, and before the first.

    A kill before a call finds the same in the service as one after the last change: what the
    process had read meanwhile is gone with it.
    """
    undisturbed = Blade()
    assert run(subscription, undisturbed) == 0
    numbers = [number for number, changes in enumerate(undisturbed.changes, 1) if changes]
    yield Blade(numbers[0])
    yield from (Blade(number, after=True) for number in numbers)


@pytest.mark.fault(1, 2, 19)
def test_a_kill_at_any_call(subscription: Subscription, evidence: Evidence) -> None:
    points, unequal = 0, 0
    for run in (going_on, giving_up, launching):
        for blade in kills(subscription, run):
            unequal += run(subscription, blade)
            assert blade.fell, (run.__name__, blade.at, blade.after)
            points += 1
    evidence("azure kill points", f"{points}, unequal: {unequal}")
    assert unequal == 0
