"""``sealift points``: list, show, diff."""

from collections.abc import Sequence
from datetime import UTC, datetime

from flows.cli.output import Output
from flows.cli.repository_lines import (
    Difference,
    DiskOfPoint,
    PointDetails,
    PointLine,
    PointsCompared,
    PointShown,
    PointsListed,
)
from flows.cli.repository_runs import opened
from flows.points import OpenPoint
from sealift.config_repository import ReplicationPlan
from sealift.extents import Kind
from sealift.repository.commits import PointRef
from sealift.repository.points import PointDisk
from sealift.repository.reader import RepositoryReader
from sealift.units import format_duration, format_size

_ID_DIGITS = 12  # enough to tell points apart, and short enough to type
_COLUMNS = ("point", "taken (UTC)", "age", "size", "replication", "number", "machine", "")


def points_list(output: Output, plan: ReplicationPlan, receipt: str | None) -> None:
    """Every live point, the newest last; of a state that is not behind the receipt's."""
    with opened(output, plan, "points list", receipt) as (at, found):
        head = found.repository.head
        now = at.around.clock.now().timestamp()
    points = sorted(head.commit.points, key=lambda p: (p.taken_ms, p.seq))
    for point in points:
        output.emit(_line(point, now))
    if points:
        output.table("points", _COLUMNS, [_row(p, now) for p in points])
    count = len(points) or "no"
    output.summary(
        PointsListed(
            text=f"{count} points; {head.receipt}",
            next="sealift points show newest" if points else "sealift replicate",
            repository=head.commit.repository.hex(),
            points=len(points),
            receipt=head.receipt,
        )
    )


def points_show(output: Output, plan: ReplicationPlan, name: str) -> None:
    """What one point is a point of."""
    with opened(output, plan, "points show") as (at, found):
        point = OpenPoint.find(found.repository, name, plan.replication)
        now = at.around.clock.now().timestamp()
    m, vm = point.manifest, point.manifest.vm
    output.emit(_line(point.ref, now))
    output.emit(
        PointDetails(
            id=point.ref.id.hex(),
            vm=vm.name,
            firmware=vm.firmware.value,
            architecture=vm.architecture,
            vcpus=vm.vcpus,
            memory_bytes=vm.memory_bytes,
            consistency=m.consistency.value,
            note=m.note,
            tool=m.tool,
            disks=[
                DiskOfPoint(disk=d.disk.id, size_bytes=d.tree.size, bus=d.disk.bus) for d in m.disks
            ],
        )
    )
    output.table("point", ("", ""), _details(point, now))
    text = f"point {point.ref.id.hex()[:_ID_DIGITS]} of {vm.name}, {_taken(point.ref)}"
    output.summary(PointShown(text=text, point=point.ref.id.hex()))


def _details(point: OpenPoint, now: float) -> list[tuple[str, str]]:
    m, vm = point.manifest, point.manifest.vm
    rows = [
        ("id", point.ref.id.hex()),
        ("machine", f"{vm.name} ({vm.uuid})"),
        ("hardware", f"{vm.vcpus} vCPU, {format_size(vm.memory_bytes)}, {vm.firmware.value}"),
        ("taken", f"{_taken(point.ref)}, {format_duration(_age(point.ref, now))} ago"),
        ("consistency", f"{m.consistency.value} ({m.note})"),
        ("made by", f"{m.tool}, replication {m.plan}, number {m.seq}"),
        ("pinned", "yes" if point.ref.pinned else "no"),
    ]
    return rows + [
        (f"disk {d.disk.id}", f"{format_size(d.tree.size)} on {d.disk.bus}") for d in m.disks
    ]


def points_diff(output: Output, plan: ReplicationPlan, first: str, second: str) -> None:
    """What changed from one point to another, by the trees alone: no chunk is read."""
    with opened(output, plan, "points diff") as (_, found):
        a = OpenPoint.find(found.repository, first, plan.replication)
        b = OpenPoint.find(found.repository, second, plan.replication)
        lines = _differences(a, b)
    for line in lines:
        output.emit(line)
    rows = [_difference_row(line) for line in lines]
    output.table("differences", ("disk", "changed", "of it zeroes", "ranges", ""), rows)
    changed = sum(line.changed_bytes for line in lines)
    output.summary(
        PointsCompared(
            text=f"{format_size(changed)} differ in {len(lines)} disks",
            first=a.ref.id.hex(),
            second=b.ref.id.hex(),
            changed_bytes=changed,
        )
    )


def _differences(a: OpenPoint, b: OpenPoint) -> list[Difference]:
    lines = []
    for disk in b.manifest.disks:
        old = a.manifest.disk(disk.disk.id)
        lines.append(_difference(b, disk, old))
    gone = [d for d in a.manifest.disks if b.manifest.disk(d.disk.id) is None]
    return lines + [
        Difference(
            disk=d.disk.id,
            only_in="first",
            changed_bytes=_data_bytes(a.reader(d)),
            zeroed_bytes=0,
            ranges=0,
        )
        for d in gone
    ]


def _difference(point: OpenPoint, disk: PointDisk, old: PointDisk | None) -> Difference:
    if old is None or old.tree.chunk_size != disk.tree.chunk_size:
        return Difference(
            disk=disk.disk.id,
            only_in="second" if old is None else None,
            changed_bytes=_data_bytes(point.reader(disk)),
            zeroed_bytes=0,
            ranges=0,
        )
    reader = RepositoryReader(point.repository, disk.tree, "diff", old.tree)
    changed = zeroed = ranges = 0
    before = Kind.CLEAN
    for extent in reader.extents(0, disk.tree.size):
        if extent.kind is not Kind.CLEAN:
            changed += extent.length
            zeroed += extent.length if extent.kind is Kind.ZERO else 0
            ranges += before is Kind.CLEAN
        before = extent.kind
    return Difference(
        disk=disk.disk.id,
        only_in=None,
        changed_bytes=changed,
        zeroed_bytes=zeroed,
        ranges=ranges,
    )


def _data_bytes(reader: RepositoryReader) -> int:
    return sum(e.length for e in reader.extents(0, reader.size) if e.kind is Kind.DATA)


def _difference_row(line: Difference) -> tuple[str, ...]:
    only = f"only in the {line.only_in} point" if line.only_in else ""
    changed, zeroed = format_size(line.changed_bytes), format_size(line.zeroed_bytes)
    return line.disk, changed, zeroed, str(line.ranges), only


def _line(point: PointRef, now: float) -> PointLine:
    return PointLine(
        id=point.id.hex(),
        machine=point.vm,
        replication=point.plan,
        seq=point.seq,
        taken=point.taken_ms / 1000,
        age_seconds=_age(point, now),
        size_bytes=point.size,
        pinned=point.pinned,
        manifest=point.manifest,
    )


def _row(point: PointRef, now: float) -> Sequence[str]:
    return (
        point.id.hex()[:_ID_DIGITS],
        _taken(point),
        format_duration(_age(point, now)),
        format_size(point.size),
        point.plan,
        str(point.seq),
        point.vm,
        "pinned" if point.pinned else "",
    )


def _age(point: PointRef, now: float) -> float:
    return max(0.0, now - point.taken_ms / 1000)


def _taken(point: PointRef) -> str:
    return datetime.fromtimestamp(point.taken_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
