"""The local-state port: what survives the process. Small files and append-only logs."""

import json
import os
import stat
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from errno import EINVAL
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from typing import Protocol

from sealift.errors import LocalStateError, LockedError, OutOfSpaceError

_FRAME = struct.Struct("<II")  # payload length, CRC-32 of the payload
_MAX_RECORD_BYTES = 1 << 20
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

    Directory 0700 and files 0600 whatever the umask; symbolic links are refused, so that
    nobody can plant a file to be overwritten or read.

    Args:
        directory: made when missing; must belong to this user.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        with _local_errors(f"state directory {directory}"):
            _make_directory(directory)
            info = os.lstat(directory)
        if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.getuid():
            raise LocalStateError(
                f"state directory {directory} is a link or belongs to another user",
                next_step="choose another state directory",
            )
        os.chmod(directory, 0o700)

    def load(self, name: str) -> bytes | None:
        """See ``StateStore.load``."""
        with _local_errors(f"state {name}"):
            try:
                fd = _open_file(self.directory / name, os.O_RDONLY)
            except FileNotFoundError:
                return None
            with os.fdopen(fd, "rb") as file:
                return file.read()

    def save(self, name: str, data: bytes) -> None:
        """See ``StateStore.save``: temporary file, fsync, rename, fsync of the directory."""
        temporary = self.directory / f"{name}.new"
        with _local_errors(f"state {name}"):
            self._write_whole(temporary, data)
            os.replace(temporary, self.directory / name)
            _sync_directory(self.directory)

    def _write_whole(self, path: Path, data: bytes) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        try:
            with os.fdopen(_open_file(path, flags), "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            # never written over: what an fsync has failed for counts as written from then on
            with suppress(OSError):
                os.unlink(path)
            raise

    def delete(self, name: str) -> None:
        """See ``StateStore.delete``."""
        with _local_errors(f"state {name}"), suppress(FileNotFoundError):
            os.unlink(self.directory / name)

    def names(self) -> frozenset[str]:
        """See ``StateStore.names``."""
        with _local_errors(f"state directory {self.directory}"):
            found = os.listdir(self.directory)
        return frozenset(n for n in found if n != "lock" and not n.endswith(".new"))

    def log(self, name: str) -> AppendLog:
        """See ``StateStore.log``."""
        with _local_errors(f"journal {name}"):
            log = FileAppendLog(self.directory / name)
            _sync_directory(self.directory)
            return log


def _make_directory(directory: Path) -> None:
    """Make it and what is missing above it, so that all of it survives a power cut."""
    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in reversed(missing):
        _sync_directory(path.parent)


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _open_file(path: Path, flags: int) -> int:
    """Open a plain file of ours; never waits for the other end of a pipe, never follows a link."""
    fd = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(EINVAL, "not a plain file")
        if flags & os.O_CREAT:
            os.fchmod(fd, 0o600)
    except OSError:
        os.close(fd)
        raise
    return fd


class FileAppendLog:
    """Framed records with a CRC each, in one file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = _open_file(path, os.O_RDWR | os.O_CREAT)
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
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        with _local_errors("lock"):
            self._fd = os.open(self._path, flags, 0o600)
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
        try:
            known = json.loads(os.pread(self._fd, 4096, 0))
            return f"{known['run']} (process {known['pid']})"
        except (ValueError, KeyError, TypeError):
            return "a process that has not written its name yet"

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


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
