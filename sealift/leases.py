"""Who works on a disk: one process at a time, and only for whoever still owns the migration.

A run may hand a disk to another process, which may outlive it: killed, cancelled, or taken for
dead because a network was. Two things of the kernel keep such a process from harm, both in the
state folder, both gone with their process however that ends:

- a *lease* per disk: whoever syncs a disk holds it for as long as it works;
- an *errand* per batch of disks: the run that sent them holds it. A worker whose errand is
  removed, or held by nobody, has been given up and stops.

A run takes a disk back in this order: the errand goes first, then it waits for the lease. A
worker takes the lease first and then looks at its errand. So once the lease was free, nobody
works on the disk, and nobody of that errand ever will again.

Where locks are seen: see ``docs/adr/0025-disks-in-other-processes.md``.
"""

import json
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, flock
from pathlib import Path
from typing import Protocol

from sealift.cancel import CancelToken
from sealift.clock import Clock
from sealift.errors import DiskHeldError, LocalStateError, StoppedError
from sealift.private import entered, open_private

LEASE_PATIENCE_SECONDS = 120.0
"""How long a disk is waited for. A worker that was given up stops between two operations, and
the longest one is a request to the cloud with its own deadline."""
CONFIRM_SECONDS = 1.0
"""How often a worker asks whether it is still wanted."""
STALE_SECONDS = 10.0
"""Without an answer for so long it stops by itself: far below the 90 seconds after which an NFS
server gives the locks of a silent client to others (RFC 8881, lease_time; nfsd's default)."""
_POLL_SECONDS = 0.2
_ERRAND = "errand-"
_LEASE = "lease-"
_MAX_HOLDER_BYTES = 4096


class Leases(Protocol):
    """The right to work on a disk of this migration."""

    def held(self, disk_id: str) -> AbstractContextManager[None]:
        """Work on a disk, alone.

        Raises:
            DiskHeldError: another process still does; it was waited for.
            StoppedError: a stop was asked for while waiting.
        """

    def recall(self, disk_ids: Iterable[str]) -> None:
        """Afterwards nobody works on these disks any more, whoever was sent.

        Raises:
            DiskHeldError, StoppedError: as for ``held``; no disk may be given up.
        """


class NoLeases:
    """For a state that no other process can reach."""

    def held(self, disk_id: str) -> AbstractContextManager[None]:
        """See ``Leases.held``."""
        return nullcontext()

    def recall(self, disk_ids: Iterable[str]) -> None:
        """See ``Leases.recall``."""


@dataclass(frozen=True, slots=True)
class FileLeases:
    """Leases in a state folder.

    Args:
        directory: of the migration's state.
        clock: where it waits.
        cancel: ends a wait.
        patience_seconds: see ``LEASE_PATIENCE_SECONDS``.
        holder: how one who waits in vain is told about us.
    """

    directory: Path
    clock: Clock
    cancel: CancelToken
    holder: str
    patience_seconds: float = LEASE_PATIENCE_SECONDS

    @contextmanager
    def held(self, disk_id: str) -> Iterator[None]:
        """See ``Leases.held``. The file stays: a lock on one that was removed locks nothing."""
        with _stated(f"lease of disk {disk_id}"):
            descriptor = open_private(self.directory, f"{_LEASE}{disk_id}", os.O_RDWR | os.O_CREAT)
        try:
            self._wait(descriptor, disk_id)
            with _stated(f"lease of disk {disk_id}"):
                self._sign(descriptor)
            yield
        finally:
            os.close(descriptor)

    def recall(self, disk_ids: Iterable[str]) -> None:
        """See ``Leases.recall``."""
        remove_errands(self.directory)
        for disk_id in disk_ids:
            with self.held(disk_id):
                pass

    def _wait(self, descriptor: int, disk_id: str) -> None:
        deadline = self.clock.monotonic() + self.patience_seconds
        while not _locked(descriptor, LOCK_EX):
            if self.clock.monotonic() >= deadline:
                holder = _holder(descriptor)
                raise DiskHeldError(
                    f"disk {disk_id} is still being worked on by {holder}",
                    next_step="end that process, then run the same command again",
                    disk=disk_id,
                    holder=holder,
                )
            self.cancel.sleep(self.clock, _POLL_SECONDS)

    def _sign(self, descriptor: int) -> None:
        host = os.uname().nodename
        name = json.dumps({"pid": os.getpid(), "host": host, "run": self.holder}).encode()
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, name[:_MAX_HOLDER_BYTES], 0)


def _holder(descriptor: int) -> str:
    try:
        known = json.loads(os.pread(descriptor, _MAX_HOLDER_BYTES, 0))
        return f"process {known['pid']} on {known['host']} ({known['run']})"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "a process that has not written its name"


def _locked(descriptor: int, kind: int) -> bool:
    """Whether the lock is ours now."""
    try:
        flock(descriptor, kind | LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise LocalStateError(
            f"the state folder takes no locks: {error.strerror}",
            next_step="keep it on a local file system, or on NFS version 4",
        ) from error
    return True


@contextmanager
def _stated(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LocalStateError(f"{what}: {error.strerror}") from error


class Errand:
    """Held by a run while disks that it has sent away are worked on; a context manager.

    Args:
        directory: of the migration's state.

    Attributes:
        token: names it; never used twice.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.token = secrets.token_hex(16)
        self._fd = -1

    def __enter__(self) -> "Errand":
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
        with _stated("errand"):
            self._fd = open_private(self._directory, f"{_ERRAND}{self.token}", flags)
        if not _locked(self._fd, LOCK_EX):
            raise LocalStateError("a new file is locked by somebody else already")
        return self

    def revoke(self) -> None:
        """Have every worker of it stop; idempotent."""
        with _stated("errand"), suppress(FileNotFoundError), entered(self._directory) as inside:
            os.unlink(f"{_ERRAND}{self.token}", dir_fd=inside)

    def __exit__(self, *_: object) -> None:
        try:
            self.revoke()
        finally:
            os.close(self._fd)


def remove_errands(directory: Path) -> None:
    """Have every worker that anybody has sent stop; only for who owns the migration."""
    with _stated("errands"), entered(directory) as inside:
        for name in os.listdir(inside):
            if name.startswith(_ERRAND):
                with suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=inside)


class ErrandWatch:
    """A worker's view of its errand. Thread-safe.

    Args:
        directory: of the migration's state.
        token: of the errand.
        clock: for the age of the last answer.
        cancel: the worker's own token; set when the errand is over.
    """

    def __init__(self, directory: Path, token: str, clock: Clock, cancel: CancelToken) -> None:
        self._directory, self._name = directory, f"{_ERRAND}{token}"
        self._clock, self._cancel = clock, cancel
        self._confirmed_at = clock.monotonic()

    def confirm(self) -> None:
        """Ask now.

        Raises:
            StoppedError: the run that sent the disk has taken it back, or is gone; or locks of
                other processes are not to be seen here, which is the same to us.
            LocalStateError: not known.
        """
        asked_at = self._clock.monotonic()
        if not self._stands():
            reason = "the run that sent this disk has taken it back or is gone"
            self._cancel.cancel(reason)
            raise StoppedError(f"stopped: {reason}", next_step="run the same command again")
        self._confirmed_at = asked_at

    def check(self) -> None:
        """Go on only if the last answer is fresh; costs nothing, for every operation.

        Raises:
            StoppedError: a stop was asked for, or there was no answer for too long.
        """
        if self._clock.monotonic() - self._confirmed_at > STALE_SECONDS:
            self._cancel.cancel("the state folder does not answer")
        self._cancel.check()

    def keep_asking(self) -> None:
        """One turn of a thread that asks every second; never raises."""
        with suppress(StoppedError, LocalStateError):
            self.confirm()

    def _stands(self) -> bool:
        with _stated("errand"):
            try:
                descriptor = open_private(self._directory, self._name, os.O_RDWR)
            except FileNotFoundError:
                return False
        try:
            return not _locked(descriptor, LOCK_SH)
        finally:
            os.close(descriptor)
