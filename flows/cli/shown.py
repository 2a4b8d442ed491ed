"""Rounds and evidence as commands show them."""

from collections.abc import Sequence

from flows.cli.lines import DiskSync, Evidence, Proof, Round
from flows.cli.output import Output
from flows.wording import ROUND_COLUMNS, evidence_rows, round_row
from sealift.lineage import Mode
from sealift.migration import Migration, RoundRecord


def show_rounds(output: Output, records: Sequence[RoundRecord]) -> None:
    """Finished rounds, to whoever listens."""
    for record in records:
        output.emit(round_line(record))
    output.table("rounds", ROUND_COLUMNS, [round_row(r) for r in records])


def show_evidence(output: Output, m: Migration) -> None:
    """What is proven about a cutover, to whoever listens."""
    rows = evidence_rows(m)
    output.emit(Evidence(rows=[Proof(name=name, found=found) for name, found in rows]))
    output.table("evidence", ("what", "found"), rows)


def round_line(record: RoundRecord) -> Round:
    """One finished round, for machines."""
    return Round(
        seq=record.seq,
        final=record.final,
        started=record.started,
        round_seconds=record.seconds,
        dirty_bytes=record.dirty_bytes,
        read_bytes=record.read_bytes,
        sent_bytes=record.sent_bytes,
        unchanged_bytes=record.unchanged_bytes,
        resumed_bytes=record.resumed_bytes,
        dirty_after_bytes=record.dirty_after_bytes,
        pause_seconds=record.pause_seconds,
        consistency=record.consistency,
        disks=[DiskSync(disk=d, mode=Mode(mode), reason=why) for d, mode, why in record.modes],
    )
