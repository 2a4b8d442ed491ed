"""One disk of one round, synced: in the process of the run, or in any that reaches the same ends.

Everything is found by values (point, disk, snapshot), so it does not matter which process does
it, as long as only one does: see ``sealift.leases``. Nothing of the migration's record is
read or written here; the journal is all that is kept.
"""

from collections.abc import Callable
from contextlib import ExitStack

from sealift.audit import AuditingReader
from sealift.blockmap import BlockMap
from sealift.disk import DiskReader, DiskWriter, KnownBlocks, Unwritten, WriterCaps
from sealift.errors import PointLostError
from sealift.journal import JournalKey, SyncJournal
from sealift.ledger import journal_name, load_block_map
from sealift.lineage import Lineage, Mode
from sealift.migration import DiskFigures
from sealift.ports import DiskDone, DiskOrder, ReplicaPorts
from sealift.progress import DiskProgress, Note, Noted, Sink
from sealift.sync import SyncReport, sync
from sealift.units import format_size


def unguarded(writer: DiskWriter) -> DiskWriter:
    """The writer as it is."""
    return writer


def sync_disk_here(order: DiskOrder, ports: ReplicaPorts) -> DiskDone:
    """``sync_disk`` under the disk's lease, for the process that owns the migration.

    Raises:
        DiskHeldError: another process works on the disk.
        SealiftError: as ``sync_disk``.
    """
    with ports.leases.held(order.disk_id):
        return sync_disk(order, ports)


def sync_disk(
    order: DiskOrder, ports: ReplicaPorts, guard: Callable[[DiskWriter], DiskWriter] = unguarded
) -> DiskDone:
    """Make the snapshot equal to the point, and complete it; only under the disk's lease.

    Args:
        order: which disk, of which point, into which snapshot.
        ports: reach both ends and the state.
        guard: what stands before the writer.

    Raises:
        TrackingWrongError: a block that was called unchanged has changed.
        SealiftError: what the journal holds stays durable for the next run.
    """
    disk_id, lineage, begun = order.disk_id, order.disk.lineage, order.disk.snapshot
    if begun is None:
        raise ValueError("snapshot not begun")
    retry = ports.context.retrier()
    with ExitStack() as ends:
        reader = retry.call(lambda: ports.hypervisor.reader(order.seq, disk_id))
        ends.callback(reader.close)
        if reader.size != order.disk.size:
            raise PointLostError(f"disk {disk_id} was resized while the round began")
        writer = guard(retry.call(lambda: ports.target.writer(begun, lineage.parent)))
        ends.callback(writer.close)
        base = _base_map(order, ports, writer.caps)
        known = writer.caps.base if writer.caps.keeps_digests else base
        journal = _journal(order, ports, reader, writer)
        ends.callback(journal.close)
        _say_resumed(disk_id, journal, writer.caps, ports.context.sink)
        label = DiskProgress(disk_id, order.seq)
        audited = _audited(order, ports, reader, known)
        report = sync(audited, writer, ports.context, journal=journal, base=known, label=label)
    merged = None if writer.caps.keeps_digests else _merged(base, report, lineage, writer.caps)
    return DiskDone(_figures(report), merged)


def _journal(
    order: DiskOrder, ports: ReplicaPorts, reader: DiskReader, writer: DiskWriter
) -> SyncJournal:
    name = journal_name(order.disk_id, order.seq)
    return SyncJournal(ports.store, name, JournalKey.of(reader, writer), ports.context.clock)


def _audited(
    order: DiskOrder, ports: ReplicaPorts, reader: DiskReader, base: KnownBlocks | None
) -> DiskReader:
    """The reader; what it calls unchanged is not taken on trust alone."""
    if not reader.incremental or base is None or order.audited == 0:
        return reader
    return AuditingReader(reader, base, blocks=order.audited, disk_id=order.disk_id, rng=ports.rng)


def _base_map(order: DiskOrder, ports: ReplicaPorts, caps: WriterCaps) -> BlockMap | None:
    if order.disk.lineage.parent is None or order.base_seq is None or caps.keeps_digests:
        return None
    known = load_block_map(ports.store, order.disk_id, order.base_seq)
    if known is None or known.block_size != caps.block_size:
        return None
    return known if known.digest.name == caps.digest.name else None


def _say_resumed(disk_id: str, journal: SyncJournal, caps: WriterCaps, sink: Sink) -> None:
    if not journal.resumed_blocks:
        return
    there = journal.resumed_blocks * caps.block_size
    text = f"disk {disk_id}: resuming, {format_size(there)} already there and verified"
    sink(Noted(Note.RESUMED, text, (("disk", disk_id), ("bytes", there))))


def _merged(
    base: BlockMap | None, report: SyncReport, lineage: Lineage, caps: WriterCaps
) -> BlockMap:
    if base is not None and lineage.mode is not Mode.FULL:
        return base.overlay(report.blocks)
    fresh = caps.unwritten is Unwritten.ZERO
    written = report.blocks
    empty = BlockMap(
        written.blocks, written.block_size, absent_is_zero=fresh, digest=written.digest
    )
    return empty.overlay(written)


def _figures(report: SyncReport) -> DiskFigures:
    p = report.progress
    return DiskFigures(
        p.done, p.read, p.sent, p.unchanged, p.resumed, report.seconds, report.retries
    )
