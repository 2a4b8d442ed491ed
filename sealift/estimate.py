"""What a round would read and send, before anything is made. Upper bounds, and said so."""

from collections.abc import Sequence
from dataclasses import dataclass

from sealift.ledger import Ledger
from sealift.lineage import Evidence, Lineage, Mode, decide
from sealift.migration import Migration
from sealift.ports import Ports
from sealift.rounds import Rounds
from sealift.units import KiB, round_up

_GRANULE_BYTES = 64 * KiB
"""What one bit of a change bitmap stands for in QEMU unless told otherwise."""


@dataclass(frozen=True, slots=True)
class DiskEstimate:
    """One disk of the next round.

    Attributes:
        lineage: how it would be synced, and why.
        size: bytes of the source disk.
        dirty_bytes: what change tracking counts; the disk's size where nothing is tracked.
        read_bytes: what would be read, at most.
        send_bytes: what would be sent, at most: holes and zeroes of a fresh disk, and
            blocks that turn out to be equal, are left out.
    """

    lineage: Lineage
    size: int
    dirty_bytes: int
    read_bytes: int
    send_bytes: int


def estimate(
    ports: Ports, migration: Migration, block_size: int, *, zeroes_are_sent: bool
) -> Sequence[DiskEstimate]:
    """The next round, disk by disk; nothing is made or recorded.

    Args:
        ports: both ends are asked.
        migration: where it stands.
        block_size: bytes of the target's grid; every write is whole blocks of it.
        zeroes_are_sent: nothing reads as zeroes unless it is written, the volume's end too.

    Raises:
        TrackingLostError: a round would stop here by policy.
        SealiftError: an end cannot be asked.
    """
    rounds = Rounds(ports, Ledger(ports.store, migration))
    retry = ports.context.retrier()
    vm = retry.call(ports.hypervisor.describe)
    tracking = retry.call(ports.hypervisor.tracking)
    dirty = {(t.disk_id, t.since): t.dirty_bytes for t in tracking}
    found = []
    for evidence in rounds.evidence(vm):
        lineage = decide(evidence, ports.policy.on_tracking_loss)
        changed = dirty.get((lineage.disk_id, lineage.since or 0), evidence.disk.size)
        end = evidence.volume_size if zeroes_are_sent else evidence.disk.size
        found.append(_estimate(evidence, lineage, changed, block_size, end))
    return found


def _estimate(e: Evidence, lineage: Lineage, dirty: int, block: int, end: int) -> DiskEstimate:
    whole = round_up(end, block)
    if lineage.mode is not Mode.INCREMENTAL:
        return DiskEstimate(lineage, e.disk.size, e.disk.size, e.disk.size, whole)
    blocks = -(-dirty // _GRANULE_BYTES)
    touched = min(whole, blocks * block)
    return DiskEstimate(lineage, e.disk.size, dirty, min(e.disk.size, touched), touched)
