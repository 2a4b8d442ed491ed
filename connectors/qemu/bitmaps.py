"""Change tracking: which bitmaps are ours, what they may be used for, how they change.

A bitmap ``since N`` records from before point N becomes an instant, and the one before it
stops only after that instant. So each knows at least what it must (I9), at the price of a
few granules that both know.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from connectors.qemu.graph import Bitmap, BlockState
from connectors.qemu.machine import Disk
from connectors.qemu.names import Names
from connectors.qemu.qmp import Command
from sealift.endpoints import Tracking, TrackingState
from sealift.errors import SourceError, TrackingLostError
from sealift.units import KiB

GRANULARITY_BYTES = 64 * KiB
"""qcow2's cluster and QEMU's default: a 4 KiB write costs 64 KiB, a bit costs 1/8 byte."""


@dataclass(frozen=True, slots=True)
class Ours:
    """One of our bitmaps and the point it counts from."""

    since: int
    bitmap: Bitmap


def ours_on(state: BlockState, names: Names, node: str) -> tuple[Ours, ...]:
    """Our bitmaps on a node, oldest first."""
    found = [(names.since(b.name), b) for b in state.bitmaps(node)]
    return tuple(sorted((Ours(s, b) for s, b in found if s is not None), key=lambda o: o.since))


def tracking(state: BlockState, names: Names, disks: Iterable[Disk]) -> list[Tracking]:
    """Our bitmaps on the guest's own nodes; what hangs elsewhere tracks nothing."""
    return [
        Tracking(disk.id, our.since, _state(our.bitmap), our.bitmap.count)
        for disk in disks
        for our in ours_on(state, names, disk.source)
    ]


def _state(bitmap: Bitmap) -> TrackingState:
    if bitmap.inconsistent:
        return TrackingState.INCONSISTENT
    return TrackingState.RECORDING if bitmap.recording else TrackingState.STOPPED


def check_bases(
    state: BlockState, names: Names, disks: Sequence[Disk], bases: Mapping[str, int | None]
) -> None:
    """Whether every base can be trusted; changes nothing.

    Raises:
        TrackingLostError: a bitmap is missing, inconsistent, or did not record.
        SourceError: a newer point was opened and neither committed nor aborted.
    """
    for disk in disks:
        base = bases[disk.id]
        if base is not None:
            _check_base(disk, base, ours_on(state, names, disk.source))


def _check_base(disk: Disk, base: int, ours: Sequence[Ours]) -> None:
    newer = [our.since for our in ours if our.since > base]
    if newer:
        raise SourceError(
            f"disk {disk.id}: point {newer[0]} was opened and never closed",
            next_step=f"abort point {newer[0]} first",
            disk=disk.id,
        )
    found = next((our.bitmap for our in ours if our.since == base), None)
    if found is None:
        raise _lost(disk, base, "is not there")
    if found.inconsistent:
        raise _lost(disk, base, "is inconsistent: QEMU ended without storing it")
    if not found.recording:
        raise _lost(disk, base, "does not record")
    if found.busy:
        raise SourceError(
            f"disk {disk.id}: its change tracking is in use by another operation",
            next_step="wait for the other tool",
            disk=disk.id,
        )


def _lost(disk: Disk, base: int, why: str) -> TrackingLostError:
    return TrackingLostError(
        f"disk {disk.id}: the bitmap of changes since point {base} {why}",
        next_step="compare the disk with its replica, or copy it in full",
        disk=disk.id,
        since=base,
    )


def start_recording(
    state: BlockState, names: Names, disks: Sequence[Disk], seq: int, *, persistent: bool
) -> Command:
    """One transaction: a new bitmap on every disk, and what cannot be trusted goes.

    Stopped and inconsistent bitmaps go now, so that later every stopped bitmap is one that
    this point stopped, which is what makes merging back right.
    """
    actions: list[dict[str, object]] = []
    for disk in disks:
        for our in ours_on(state, names, disk.source):
            if our.bitmap.inconsistent or not our.bitmap.recording:
                actions.append(_action("remove", disk.source, our.bitmap.name))
        stored = persistent and disk.driver == "qcow2"
        actions.append(
            _action(
                "add",
                disk.source,
                names.bitmap(seq),
                granularity=GRANULARITY_BYTES,
                persistent=stored,
            )
        )
    return _transaction(actions)


def stop_recording(
    names: Names, disks: Sequence[Disk], bases: Mapping[str, int | None]
) -> Command | None:
    """One transaction that stops the bitmap of every base; None without any base."""
    actions = [
        _action("disable", disk.source, names.bitmap(base))
        for disk in disks
        if (base := bases[disk.id]) is not None
    ]
    return _transaction(actions) if actions else None


def forget_older(state: BlockState, names: Names, seq: int) -> Command | None:
    """One transaction that removes what a durable point made superfluous (I4).

    Only where the bitmap since ``seq`` is alive: where it is not, nothing covers what came
    after, and the older one, though of no use to a sync, is not ours to call superfluous.
    """
    actions = []
    for node in state.nodes:
        ours = ours_on(state, names, node)
        if any(o.since == seq and _state(o.bitmap) is TrackingState.RECORDING for o in ours):
            actions += [_action("remove", node, o.bitmap.name) for o in ours if o.since < seq]
    return _transaction(actions) if actions else None


def merge_back(state: BlockState, names: Names, seq: int) -> Command | None:
    """One transaction that makes tracking what it was before point ``seq`` (I4).

    On each node: the stopped bitmap goes on recording, then receives what the newer one
    recorded, then the newer one goes. In this order no write falls between them. What
    cannot be merged, because either side is inconsistent, is removed with its partner:
    a bitmap that misses changes must never look as if it were whole (I9).
    """
    actions = []
    for node in state.nodes:
        actions += _merge_on(node, ours_on(state, names, node), names.bitmap(seq), seq)
    return _transaction(actions) if actions else None


def _merge_on(node: str, ours: Sequence[Ours], newer: str, seq: int) -> list[dict[str, object]]:
    new = next((o.bitmap for o in ours if o.since == seq), None)
    if new is None:
        return []
    older = [o.bitmap for o in ours if o.since < seq]
    if not older:
        return [_action("remove", node, newer)]
    base = older[-1]
    if new.inconsistent or base.inconsistent or not new.recording:
        lost = [b for b in (base, new) if b.inconsistent or not b.recording or b is new]
        return [_action("remove", node, bitmap.name) for bitmap in lost]
    merge = {"node": node, "target": base.name, "bitmaps": [newer]}
    return [
        _action("enable", node, base.name),
        {"type": "block-dirty-bitmap-merge", "data": merge},
        _action("remove", node, newer),
    ]


def remove_all(state: BlockState, names: Names) -> Command | None:
    """One transaction that removes all our bitmaps, wherever they hang."""
    actions = [
        _action("remove", node, our.bitmap.name)
        for node in state.nodes
        for our in ours_on(state, names, node)
    ]
    return _transaction(actions) if actions else None


def _action(verb: str, node: str, name: str, **more: object) -> dict[str, object]:
    data = {"node": node, "name": name, **more}
    return {"type": f"block-dirty-bitmap-{verb}", "data": data}


def _transaction(actions: Sequence[Mapping[str, object]]) -> Command:
    return Command("transaction", {"actions": list(actions)})
