"""Words and tables about a migration, the same on a terminal, in JSON and in Prefect."""

from sealift.migration import Cutover, Migration, RoundRecord
from sealift.units import format_duration, format_rate, format_size

ROUND_COLUMNS = (
    "round",
    "sync",
    "dirty",
    "sent",
    "unchanged",
    "time",
    "rate",
    "changed meanwhile",
    "guest paused",
    "consistency",
)


def round_row(record: RoundRecord) -> tuple[str, ...]:
    """One finished round, a cell per entry of ``ROUND_COLUMNS``."""
    modes = sorted({mode for _, mode, _ in record.modes})
    rate = record.sent_bytes / record.seconds if record.seconds > 0 else 0.0
    return (
        f"{record.seq}{' (final)' if record.final else ''}",
        ", ".join(modes),
        format_size(record.dirty_bytes),
        format_size(record.sent_bytes),
        format_size(record.unchanged_bytes),
        format_duration(record.seconds),
        format_rate(rate),
        format_size(record.dirty_after_bytes),
        format_duration(record.pause_seconds),
        record.consistency,
    )


def evidence_rows(m: Migration) -> list[tuple[str, str]]:
    """What is proven about the last cutover: (name, finding)."""
    c = m.cutover
    rows = [("virtual machine", f"{m.vm_name} ({m.vm_uuid})"), ("state", m.phase.value)]
    rows += [
        (f"disk {b.disk_id}", f"point {b.seq} in {b.snapshot.id}, {format_size(b.snapshot.size)}")
        for b in m.bases
    ]
    return rows + (_cutover_rows(c) if c is not None else [])


def _cutover_rows(c: Cutover) -> list[tuple[str, str]]:
    rows = [("cutover attempt", str(c.attempt)), ("source stopped by", c.stopped_by or "-")]
    rows += [(f"step {name}", format_duration(seconds)) for name, seconds in c.steps]
    rows.append(("read back and equal", format_size(c.verified_bytes)))
    if c.image_id:
        rows.append(("image", c.image_id))
    if c.instance_id:
        rows.append(("machine", c.instance_id))
    rows.append(("forecast of the final sync", format_duration(c.forecast_seconds)))
    if c.downtime_seconds is not None:
        rows.append(("measured downtime", format_duration(c.downtime_seconds)))
    if c.failure:
        rows.append(("undone because", c.failure))
    return rows


def durable_bytes(m: Migration) -> int:
    """Size of what is durable on the target."""
    return sum(b.snapshot.size for b in m.bases)


def lag_seconds(m: Migration, now: float) -> float | None:
    """Age of the newest durable point: what would be lost if the source vanished now.

    Args:
        m: the migration.
        now: seconds of the epoch.
    """
    points = [r.started for r in m.history]
    return max(0.0, now - points[-1]) if points else None
