"""The local-state port: what survives the process. Small files and append-only logs."""

import json
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from typing import Protocol

from sealift.errors import LocalStateError, LockedError, OutOfSpaceError
from sealift.private import entered, make_private_folder, open_private

_FRAME = struct.Struct("<II")  # payload length, CRC-32 of the payload
_MAX_RECORD_BYTES = 1 << 20
_MAX_OWNER_BYTES = 4096
_NO_SPACE = frozenset({28, 122})  # ENOSPC, EDQUOT


class AppendLog(Protocol):
    """Records in order. A torn last record is dropped on opening; nothing before it is."""

    def records(self) -> Iterator[bytes]:
        """What was appended before this object was opened."""

    def append(self, payload: bytes) -> None:
        """Add a record; survives the end of this process, and after ``sync`` a power cut."""

    def sync(self) -> None:
        """Make what was appended survive a power cut; after a failure the log is closed."""

    def close(self) -> None:
        """Free the file; idempotent."""


class StateStore(Protocol):
    """Named values and logs of one migration. Names are plain: letters, digits, ``-._``."""

    def load(self, name: str) -> bytes | None:
        """The value as last saved, whole; None when there is none."""

    def save(self, name: str, data: bytes) -> None:
        """Replace the value atomically and durably: after a power cut old or new, never mixed.

        After an error too the value is the old or the new one, and which is not known.
        """

    def delete(self, name: str) -> None:
        """Remove a value or a log; fine when it is gone."""

    def names(self) -> frozenset[str]:
        """Everything that is stored."""

    def log(self, name: str) -> AppendLog:
        """Open a log, creating it when it is not there."""


class FileStateStore:
    """A private directory of one migration.

    Directory 0700 and files 0600 whatever the umask; links, pipes and what belongs to
    another user are refused at every access, so that nobody can plant a file to be
    overwritten, read or waited for. See ``sealift.private``.

    Args:
        directory: made when missing; must belong to this user.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        with _local_errors(f"state directory {directory}"):
            make_private_folder(directory)

    def load(self, name: str) -> bytes | None:
        """See ``StateStore.load``."""
        with _local_errors(f"state {name}"):
            try:
                fd = open_private(self.directory, name, os.O_RDONLY)
            except FileNotFoundError:
                return None
            with os.fdopen(fd, "rb") as file:
                return file.read()

    def save(self, name: str, data: bytes) -> None:
        """See ``StateStore.save``: temporary file, fsync, rename, fsync of the directory."""
        temporary = f"{name}.new"
        with _local_errors(f"state {name}"):
            self._write_whole(temporary, data)
            with entered(self.directory) as inside:
                os.replace(temporary, name, src_dir_fd=inside, dst_dir_fd=inside)
                os.fsync(inside)

    def _write_whole(self, name: str, data: bytes) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        try:
            with os.fdopen(open_private(self.directory, name, flags), "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            # never written over: what an fsync has failed for counts as written from then on
            with suppress(OSError):
                os.unlink(self.directory / name)
            raise

    def delete(self, name: str) -> None:
        """See ``StateStore.delete``."""
        with (
            _local_errors(f"state {name}"),
            suppress(FileNotFoundError),
            entered(self.directory) as inside,
        ):
            os.unlink(name, dir_fd=inside)

    def names(self) -> frozenset[str]:
        """See ``StateStore.names``."""
        with _local_errors(f"state directory {self.directory}"):
            found = os.listdir(self.directory)
        return frozenset(n for n in found if n != "lock" and not n.endswith(".new"))

    def log(self, name: str) -> AppendLog:
        """See ``StateStore.log``."""
        with _local_errors(f"journal {name}"):
            log = FileAppendLog(self.directory / name)
            with entered(self.directory) as inside:
                os.fsync(inside)
            return log


class FileAppendLog:
    """Framed records with a CRC each, in one file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = open_private(path.parent, path.name, os.O_RDWR | os.O_CREAT)
        self._end = 0
        self._failed = False
        for _ in self._scan():
            pass
        os.ftruncate(self._fd, self._end)

    def _scan(self) -> Iterator[bytes]:
        self._end = 0
        with open(os.dup(self._fd), "rb") as file:
            file.seek(0)
            while header := file.read(_FRAME.size):
                if len(header) < _FRAME.size:
                    return
                length, crc = _FRAME.unpack(header)
                # zeroes are what a power cut leaves of unwritten blocks; they have a valid CRC
                if not 0 < length <= _MAX_RECORD_BYTES:
                    return
                payload = file.read(length)
                if len(payload) < length or zlib.crc32(payload) != crc:
                    return
                self._end = file.tell()
                yield payload

    def records(self) -> Iterator[bytes]:
        """See ``AppendLog.records``."""
        return self._scan()

    def append(self, payload: bytes) -> None:
        """See ``AppendLog.append``."""
        frame = _FRAME.pack(len(payload), zlib.crc32(payload)) + payload
        with self._errors():
            written = os.pwrite(self._fd, frame, self._end)
            if written != len(frame):
                os.ftruncate(self._fd, self._end)
                raise OSError(28, "short write")
            self._end += written

    def sync(self) -> None:
        """See ``AppendLog.sync``.

        The kernel forgets pages that it could not write: the next fdatasync would succeed
        without them.
        """
        with self._errors():
            try:
                os.fdatasync(self._fd)
            except OSError:
                self._failed = True
                raise

    def _errors(self) -> "_local_errors":
        if self._failed:
            raise LocalStateError(f"journal {self._path.name}: could not be written before")
        return _local_errors(f"journal {self._path.name}")

    def close(self) -> None:
        """See ``AppendLog.close``."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class StateLock:
    """Exclusive ownership of a state directory for as long as this process lives.

    An advisory lock of the kernel: it goes with the process, however that ends, so there
    is no stale lock to clear by hand. A process that is stopped (SIGSTOP) keeps it.
    """

    def __init__(self, directory: Path, owner: str) -> None:
        self._path = directory / "lock"
        self._owner = owner
        self._fd = -1

    def __enter__(self) -> "StateLock":
        with _local_errors("lock"):
            self._fd = open_private(self._path.parent, self._path.name, os.O_RDWR | os.O_CREAT)
        try:
            flock(self._fd, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            holder = self._holder()
            os.close(self._fd)
            raise LockedError(
                f"another run owns this migration: {holder}",
                next_step="wait for it, or stop it with Ctrl-C or SIGTERM",
                holder=holder,
            ) from None
        with _local_errors("lock"):
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, json.dumps({"pid": os.getpid(), "run": self._owner}).encode(), 0)
        return self

    def _holder(self) -> str:
        owner = _owner(os.pread(self._fd, _MAX_OWNER_BYTES, 0))
        if owner is None:
            return "a process that has not written its name yet"
        return f"{owner.run} (process {owner.pid})"

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


@dataclass(frozen=True, slots=True)
class LockOwner:
    """Who wrote its name into a lock: the process and what it runs."""

    pid: int
    run: str


def lock_owner(path: Path) -> LockOwner | None:
    """The name in a lock's file; None when there is none that can be read."""
    try:
        with os.fdopen(open_private(path.parent, path.name, os.O_RDONLY), "rb") as file:
            return _owner(file.read(_MAX_OWNER_BYTES))
    except (OSError, LocalStateError):
        return None


def _owner(data: bytes) -> LockOwner | None:
    try:
        known = json.loads(data)
        pid, run = known["pid"], known["run"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    good = isinstance(pid, int) and 0 < pid < 1 << 32 and isinstance(run, str)
    return LockOwner(pid, run) if good else None


class _local_errors:
    """Turns the operating system's errors into typed ones that name the thing."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
            cls = OutOfSpaceError if error.errno in _NO_SPACE else LocalStateError
            step = "make room, then run the same command again" if cls is OutOfSpaceError else ""
            raise cls(f"{self._what}: {error.strerror}", next_step=step) from error
