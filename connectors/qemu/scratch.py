"""Bounded temporary space for what the guest overwrites while a point is open.

Per disk: a sparse file of fixed size, ``raw`` with that size over it, so that writing past
the end fails with ENOSPC however much the file system has, and qcow2 on top. QEMU makes
the files itself, with its own rights. When the space is full the filter breaks the
snapshot, never the guest (tried: reads of the point fail, the guest writes on).
"""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from connectors.qemu import answers
from connectors.qemu.machine import Disk
from connectors.qemu.names import Names, Part
from connectors.qemu.qmp import QmpSession
from sealift.clock import Clock
from sealift.errors import OutOfSpaceError, SourceError, TransientError
from sealift.units import KiB, MiB, format_size, round_up

_log = logging.getLogger(__name__)

_LEAST_BYTES = 1 * MiB
_JOB_SECONDS = 30.0
_POLL_SECONDS = 0.002
_NO_FLUSH = {"cache": {"no-flush": True}, "discard": "unmap"}
"""What is lost with the host is of no use afterwards, so it is never flushed."""


def shares(limit_bytes: int, disks: Sequence[Disk]) -> dict[str, int]:
    """How the limit is divided: by size, never more than a disk can need at worst.

    The worst is every cluster overwritten, with qcow2's tables: 8 bytes per 64 KiB for L2,
    2 for refcounts, and a few clusters.

    Raises:
        OutOfSpaceError: the limit is below 1 MiB per disk.
    """
    if limit_bytes < _LEAST_BYTES * len(disks):
        raise OutOfSpaceError(
            f"the limit for temporary space, {format_size(limit_bytes)}, is too small "
            f"for {len(disks)} disks",
            next_step="allow more temporary space",
        )
    total = sum(disk.vm.size for disk in disks) or 1
    spare = limit_bytes - _LEAST_BYTES * len(disks)
    return {
        disk.id: min(_worst(disk.vm.size), _LEAST_BYTES + _down(spare * disk.vm.size // total))
        for disk in disks
    }


def check_room(directory: Path, needed: Mapping[str, int]) -> None:
    """Refuse before anything is made when the file system could become full.

    A full file system hurts whoever else writes to it, maybe the guest's own image.

    Raises:
        OutOfSpaceError: less is free than may be needed.
    """
    try:
        facts = os.statvfs(directory)
    except OSError as error:
        raise SourceError(
            f"the directory for temporary space cannot be used: {directory}: {error.strerror}",
            next_step="create it, writable for QEMU",
        ) from error
    free, total = facts.f_bavail * facts.f_frsize, sum(needed.values())
    if free < total:
        raise OutOfSpaceError(
            f"{directory} has {format_size(free)} free, up to {format_size(total)} may be needed",
            next_step="make room, or lower the limit for temporary space",
            free_bytes=free,
            needed_bytes=total,
        )


class Scratch:
    """Makes the nodes of one disk's temporary space.

    Args:
        qmp: the session.
        names: of the migration.
        directory: where QEMU makes the files.
        clock: for waiting on QEMU.
    """

    def __init__(self, qmp: QmpSession, names: Names, directory: Path, clock: Clock) -> None:
        self._qmp = qmp
        self._names = names
        self._directory = directory
        self._clock = clock

    def create(self, seq: int, disk: Disk, size: int) -> str:
        """Make file and nodes; the node whose backing is the disk itself.

        That backing is what makes QEMU serialise copying with our reads ("fleecing").

        Raises:
            SourceError: QEMU cannot make it; what exists by then, ``remove`` knows by name.
        """
        path = self._directory / self._names.scratch_file(seq, disk.id)
        file, limit, top = (
            self._names.node(seq, disk.id, part) for part in (Part.FILE, Part.LIMIT, Part.SCRATCH)
        )
        self._create({"driver": "file", "filename": str(path), "size": size}, file)
        self._add(driver="file", node_name=file, filename=str(path))
        self._add(driver="raw", node_name=limit, file=file, size=size)
        self._create({"driver": "qcow2", "file": limit, "size": disk.vm.size}, file)
        self._add(driver="qcow2", node_name=top, file=limit, backing=disk.source)
        return top

    def _add(self, **options: object) -> None:
        self._qmp.execute("blockdev-add", **options, **_NO_FLUSH)

    def _create(self, options: Mapping[str, object], job: str) -> None:
        self._qmp.execute("blockdev-create", job_id=job, options=dict(options))
        deadline = self._clock.monotonic() + _JOB_SECONDS
        while (error := _job_outcome(self._qmp, job)) is None:
            if self._clock.monotonic() > deadline:
                raise TransientError("QEMU takes too long to create temporary space")
            self._clock.sleep(_POLL_SECONDS)
        self._qmp.execute("job-dismiss", id=job)
        if error:
            raise SourceError(
                f"QEMU cannot create temporary space in {self._directory}: {error}",
                next_step="make the directory writable for QEMU's user",
            )


def dismiss_jobs(qmp: QmpSession, prefix: str) -> None:
    """Remove what a killed Sealift left of creating files."""
    for job in answers.objects(qmp.execute("query-jobs"), "jobs"):
        job_id = answers.text(job, "id")
        if job_id.startswith(prefix) and answers.text(job, "status") == "concluded":
            qmp.execute("job-dismiss", id=job_id)


def remove_file(path: Path) -> None:
    """Remove a scratch file; what cannot be removed costs space only, and is logged."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        _log.warning("temporary file %s stays: %s", path, error.strerror)


def _job_outcome(qmp: QmpSession, job_id: str) -> str | None:
    """None while it runs, "" when it succeeded, else the reason it did not."""
    for job in answers.objects(qmp.execute("query-jobs"), "jobs"):
        if job.get("id") == job_id:
            done = answers.text(job, "status") == "concluded"
            return answers.optional_text(job, "error") if done else None
    raise SourceError(f"QEMU lost job {job_id}")


def _worst(size: int) -> int:
    return round_up(size + size // 4096 + 2 * MiB, 64 * KiB)


def _down(value: int) -> int:
    return value // (64 * KiB) * 64 * KiB
