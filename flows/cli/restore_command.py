"""``sealift restore``: disks of a point into files, or into the plan's target."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from converters.image import ImageFormat
from flows.cli.output import Output
from flows.cli.repository_lines import PointRestored, RestoredDisk
from flows.cli.repository_runs import At, opened_point
from flows.points import OpenPoint, find_disks
from flows.recovery import recovery_target
from flows.restoring import Restored, format_named, restore_to_cloud, restore_to_file
from sealift.config_repository import ReplicationPlan
from sealift.errors import UsageError
from sealift.repository.points import PointDisk
from sealift.units import format_duration, format_size


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked for.

    Attributes:
        point: by its id or ``newest``.
        disk: one disk; None is all.
        to: a new file for one disk, a folder for several.
        form: of the files.
        cloud: into the plan's account instead.
    """

    point: str
    disk: str | None
    to: Path | None
    form: str
    cloud: bool


def restore(output: Output, plan: ReplicationPlan, asked: Asked) -> None:
    """Restore what was asked for; each file is there whole or not at all."""
    if (asked.to is None) is not asked.cloud:
        raise UsageError("say where to: either --to FILE or --cloud", next_step="add one of them")
    form = format_named(asked.form)
    with opened_point(output, plan, "restore", asked.point) as (at, point):
        disks = find_disks(point.manifest, asked.disk)
        if asked.to is None:
            done = _to_cloud(at, point, disks)
        else:
            done = _to_files(at, point, disks, asked.to, form, several=asked.disk is None)
    for one in done:
        output.emit(_line(one))
    output.table(
        "restored",
        ("disk", "to", "size", "written", "time"),
        [_row(one) for one in done],
    )
    written = sum(one.written for one in done)
    output.summary(
        PointRestored(
            text=f"{len(done)} disks of point {point.ref.id.hex()} are restored, "
            f"{format_size(written)} written",
            point=point.ref.id.hex(),
            disks=len(done),
            written_bytes=written,
        )
    )


def _to_files(
    at: At,
    point: OpenPoint,
    disks: Sequence[PointDisk],
    to: Path,
    form: ImageFormat,
    *,
    several: bool,
) -> list[Restored]:
    if not several:
        return [restore_to_file(point, disks[0], to, form, at.context)]
    if to.exists() and not to.is_dir():
        raise UsageError(f"{to} is a file", next_step="name a folder, or one disk with --disk")
    to.mkdir(parents=True, exist_ok=True)
    suffix = "vhd" if form is ImageFormat.VHD else form.value
    paths = [to / f"{disk.disk.id}.{suffix}" for disk in disks]
    _refuse_existing(paths)
    return [
        restore_to_file(point, disk, path, form, at.context)
        for disk, path in zip(disks, paths, strict=True)
    ]


def _refuse_existing(paths: Sequence[Path]) -> None:
    """Before the first disk is restored, not after hours of it."""
    for path in paths:
        if path.exists():
            raise UsageError(f"{path} is there already", next_step="name another folder")


def _to_cloud(at: At, point: OpenPoint, disks: Sequence[PointDisk]) -> list[Restored]:
    target, state = recovery_target(at.plan, point, at.around, at.stack, "restore")
    return [restore_to_cloud(point, disk, target, at.context, state) for disk in disks]


def _line(one: Restored) -> RestoredDisk:
    return RestoredDisk(
        disk=one.disk,
        to=one.to,
        size_bytes=one.size,
        written_bytes=one.written,
        restore_seconds=one.seconds,
    )


def _row(one: Restored) -> tuple[str, ...]:
    size, written = format_size(one.size), format_size(one.written)
    return one.disk, one.to, size, written, format_duration(one.seconds)
