"""From a recovery point to files and to a cloud: each a ``sync`` like any other."""

from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path

from connectors.local import ImageWriter, RawFileWriter, WriterSettings
from converters.image import ImageFormat
from flows.points import OpenPoint
from sealift.disk import DiskWriter
from sealift.endpoints import CloudTarget, SnapshotRef
from sealift.errors import UsageError
from sealift.journal import JournalKey, SyncJournal
from sealift.progress import DiskProgress
from sealift.repository.points import PointDisk
from sealift.store import StateStore
from sealift.sync import SyncContext, SyncReport, sync

FORMATS: Mapping[str, ImageFormat] = {
    "raw": ImageFormat.RAW,
    "qcow2": ImageFormat.QCOW2,
    "vmdk": ImageFormat.VMDK,
    "vhd": ImageFormat.VHD,
    "vhdx": ImageFormat.VHDX,
}
_SEQ = 1  # one restore makes one snapshot of each disk, so all have this number


@dataclass(frozen=True, slots=True)
class Restored:
    """A disk that was restored.

    Attributes:
        disk: its id.
        to: path of the file, or id of the snapshot or managed disk.
        size: bytes of the disk as the guest saw it.
        written: bytes that were written; the rest reads as zeroes without.
        seconds: it took.
    """

    disk: str
    to: str
    size: int
    written: int
    seconds: float


def format_named(name: str) -> ImageFormat:
    """The format of a file to restore to.

    Raises:
        UsageError: there is no such one.
    """
    if name not in FORMATS:
        raise UsageError(f"--format {name}: there are {', '.join(FORMATS)}", next_step="choose one")
    return FORMATS[name]


def restore_to_file(
    point: OpenPoint, disk: PointDisk, path: Path, form: ImageFormat, context: SyncContext
) -> Restored:
    """Write one disk into a new file, which is there whole or not at all.

    Raises:
        TargetError: the file exists, or cannot be made there.
        OutOfSpaceError: no room; nothing is left of it.
        IntegrityError: a chunk of the point is damaged or missing; no file is made.
    """
    with closing(point.reader(disk)) as reader, closing(_writer(path, form, disk, context)) as out:
        try:
            report = sync(reader, out, context, label=_label(point, disk))
        except BaseException:
            out.abort()
            raise
    return _restored(disk, str(path), report)


def _writer(path: Path, form: ImageFormat, disk: PointDisk, context: SyncContext) -> DiskWriter:
    if form is ImageFormat.RAW:
        return RawFileWriter.create(path, disk.tree.size)
    settings = WriterSettings(clock=context.clock, cancel=context.cancel)
    return ImageWriter.create(path, form, disk.tree.size, settings)


def restore_to_snapshot(
    point: OpenPoint, disk: PointDisk, cloud: CloudTarget, context: SyncContext, state: StateStore
) -> tuple[SnapshotRef, Restored]:
    """Make one disk a completed snapshot; a restore that was killed goes on where it was.

    Args:
        point: to restore.
        disk: of it.
        cloud: whose tags name this restore.
        context: see ``SyncContext``.
        state: keeps what was sent.
    """
    retry = context.retrier()
    ref = retry.call(lambda: cloud.begin_snapshot(_SEQ, disk.disk, None))
    with ExitStack() as ends:
        reader = ends.enter_context(closing(point.reader(disk)))
        writer = ends.enter_context(closing(retry.call(lambda: cloud.writer(ref, None))))
        key = JournalKey.of(reader, writer)
        name = f"journal-{disk.disk.id}-{_SEQ}"
        journal = ends.enter_context(closing(SyncJournal(state, name, key, context.clock)))
        report = sync(reader, writer, context, journal=journal, label=_label(point, disk))
    return ref, _restored(disk, ref.id, report)


def restore_to_cloud(
    point: OpenPoint, disk: PointDisk, cloud: CloudTarget, context: SyncContext, state: StateStore
) -> Restored:
    """Make one disk what the cloud's people attach to machines: see ``CloudTarget.make_volume``.

    A restore that was killed goes on where it was, and one that was done already says so.

    Raises:
        TargetError: the cloud refuses; what was sent stays, and the next run goes on with it.
    """
    retry, vm = context.retrier(), point.manifest.vm
    began = context.clock.monotonic()
    there = retry.call(lambda: cloud.find_volume(_SEQ, disk.disk))
    if there is not None:
        return Restored(disk.disk.id, there, disk.tree.size, 0, context.clock.monotonic() - began)
    ref, done = restore_to_snapshot(point, disk, cloud, context, state)
    landed = retry.call(lambda: cloud.make_volume(_SEQ, vm, disk.disk, ref))
    return replace(done, to=landed, seconds=context.clock.monotonic() - began)


def _label(point: OpenPoint, disk: PointDisk) -> DiskProgress:
    return DiskProgress(disk.disk.id, point.ref.seq)


def _restored(disk: PointDisk, to: str, report: SyncReport) -> Restored:
    return Restored(disk.disk.id, to, disk.tree.size, report.progress.sent, report.seconds)
