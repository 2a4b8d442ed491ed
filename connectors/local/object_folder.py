"""A folder as object store: local disk, NFS, SMB or anything else that is mounted.

An object is one file. It is written under a temporary name in ``.incoming``, made durable,
then renamed over its name, or linked to it when there must be none: both are atomic, and a
file is never written to twice. A name that begins with a dot is no object's name, so
temporary files are never listed.

Whoever replaces, deletes or compares versions holds a lock on ``.lock`` for the moment in
which the name changes, so that ``if_match`` holds among all processes that use the folder
through Sealift (on NFS among all hosts: Linux turns ``flock`` into a lock of the server).
"""

import errno
import os
import secrets
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fcntl import LOCK_EX, LOCK_NB, LOCK_UN, flock
from pathlib import Path

from connectors.local.direct import write_whole
from connectors.local.exact import fill_exactly, read_exactly
from sealift.clock import Clock, SystemClock
from sealift.errors import (
    HostLimitError,
    ObjectExistsError,
    ObjectMissingError,
    OutOfSpaceError,
    SealiftError,
    TargetDeniedError,
    TargetError,
    TransientError,
)
from sealift.objects import (
    Bytes,
    ObjectInfo,
    StoreCaps,
    checked_conditions,
    checked_name,
    checked_prefix,
    checked_range,
    is_name,
)
from sealift.units import GiB

_INCOMING = ".incoming"
_LOCK = ".lock"
_FILE_MODE, _FOLDER_MODE = 0o600, 0o700
_NEVER_AWAY = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | _NEVER_AWAY
_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})

_KINDS: dict[int, tuple[type[SealiftError], str]] = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), (OutOfSpaceError, "make room, then run again")),
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM, errno.EROFS),
        (TargetDeniedError, "give this user the right to write there"),
    ),
    **dict.fromkeys(
        (errno.EMFILE, errno.ENFILE, errno.ENOMEM), (HostLimitError, "raise the limit of this host")
    ),
    # of network file systems: the server is away or was started anew
    **dict.fromkeys(
        (errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EHOSTDOWN, errno.ENOLCK, errno.EBUSY),
        (TransientError, ""),
    ),
}


@contextmanager
def _folder_errors(what: str) -> Iterator[None]:
    """Turn the operating system's errors into typed ones that name the thing."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENXIO, errno.EISDIR):
            text = f"{what} is reached through a link, or is no file"
            raise TargetError(text, next_step="see who put it there") from error
        kind, step = _KINDS.get(error.errno or 0, (TargetError, ""))
        raise kind(f"{what}: {error.strerror}", next_step=step, errno=error.errno) from error


@dataclass
class _NameLock:
    """One holder at a time among the threads and processes that use the folder."""

    fd: int
    threads: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def held(self) -> Iterator[None]:
        with self.threads:
            flock(self.fd, LOCK_EX)
            try:
                yield
            finally:
                flock(self.fd, LOCK_UN)


class FolderObjectStore:
    """Objects as files of one folder; see ``ObjectStore`` and this module.

    Files are 0600 and folders 0700 whatever the umask. No link is followed below the folder.
    Memory: the names of one subfolder at a time.

    Make one with ``open``.
    """

    def __init__(self, path: Path, root: int, caps: StoreCaps, clock: Clock) -> None:
        self._path = path
        self._root = root
        self._clock = clock
        self._changing: _NameLock | None = None
        self._tidied = False
        self._opening = threading.Lock()
        self.identity = f"folder:{path}"
        self.caps = caps

    @classmethod
    def open(
        cls, path: Path, *, create: bool = False, clock: Clock | None = None
    ) -> "FolderObjectStore":
        """Open a folder; nothing is written to it before the first put.

        Args:
            path: of the folder; may itself be a link.
            create: make it when it is not there; what is above it has to be.
            clock: tells versions apart.

        Raises:
            TargetError: there is none, or it is something else.
            TargetDeniedError: it may not be entered.
        """
        whole = path.absolute()
        with _folder_errors(str(whole)):
            if create:
                _make_root(whole)
            try:
                root = os.open(whole, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except FileNotFoundError:
                raise TargetError(
                    f"{whole} does not exist", next_step="make the folder, or mount it"
                ) from None
        caps = StoreCaps(
            conditional_put=True, conditional_replace=True, max_object_bytes=GiB, takes_pages=True
        )
        return cls(whole, root, caps, clock or SystemClock())

    def put(
        self,
        name: str,
        data: Bytes,
        *,
        if_absent: bool = False,
        if_match: str | None = None,
        lock_until: float | None = None,
    ) -> ObjectInfo:
        """See ``ObjectStore.put``: temporary file, fsync, rename or link, fsync of the folder."""
        checked_name(name)
        checked_conditions(if_absent=if_absent, if_match=if_match)
        view = memoryview(data).cast("B") if len(data) else memoryview(b"")
        if lock_until is not None:
            raise self._no_locks()
        if len(view) > self.caps.max_object_bytes:
            raise TargetError(f"{name}: {len(view)} bytes are more than a folder takes at once")
        with _folder_errors(f"{self._path}/{name}"), self._inside(name, create=True) as folder:
            with self._temporary(view) as (incoming, temporary, info):
                leaf = name.rpartition("/")[2]
                try:
                    self._enter(name, folder, leaf, (incoming, temporary), if_absent, if_match)
                except FileNotFoundError:
                    raise TransientError(f"{name}: its temporary file was taken away") from None
            os.fsync(folder)
            return ObjectInfo(name, len(view), info.version, info.modified)

    def _enter(
        self,
        name: str,
        folder: int,
        leaf: str,
        made: tuple[int, str],
        if_absent: bool,
        if_match: str | None,
    ) -> None:
        """Let the temporary file take its name, if the condition holds."""
        incoming, temporary = made
        if if_absent:
            self._link(name, folder, leaf, incoming, temporary)
            return
        with self._names.held():
            if if_match is not None:
                _check_version(name, folder, leaf, if_match)
            os.rename(temporary, leaf, src_dir_fd=incoming, dst_dir_fd=folder)

    def _link(self, name: str, folder: int, leaf: str, incoming: int, temporary: str) -> None:
        try:
            os.link(temporary, leaf, src_dir_fd=incoming, dst_dir_fd=folder, follow_symlinks=False)
        except FileExistsError:
            # whoever made it may have been killed before this: what is found has to last
            os.fsync(folder)
            raise ObjectExistsError(f"{name} exists already", name=name) from None
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            self._rename_if_absent(name, folder, leaf, incoming, temporary)

    def _rename_if_absent(
        self, name: str, folder: int, leaf: str, incoming: int, temporary: str
    ) -> None:
        """On file systems without links (exFAT, some of SMB): under the lock."""
        with self._names.held():
            if _exists(folder, leaf):
                raise ObjectExistsError(f"{name} exists already", name=name)
            os.rename(temporary, leaf, src_dir_fd=incoming, dst_dir_fd=folder)

    def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        """See ``ObjectStore.get``."""
        checked_name(name)
        checked_range(start, length)
        with _folder_errors(f"{self._path}/{name}"), self._file(name) as file:
            return read_exactly(file, name, start, length)

    def get_into(self, name: str, start: int, buffer: memoryview) -> None:
        """See ``ObjectStore.get_into``."""
        checked_name(name)
        checked_range(start, len(buffer))
        with _folder_errors(f"{self._path}/{name}"), self._file(name) as file:
            fill_exactly(file, name, start, buffer)

    def head(self, name: str) -> ObjectInfo | None:
        """See ``ObjectStore.head``."""
        checked_name(name)
        with _folder_errors(f"{self._path}/{name}"):
            try:
                with self._file(name) as file:
                    return _info(name, os.fstat(file))
            except ObjectMissingError:
                return None

    def list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        """See ``ObjectStore.list``; not stale on a local disk."""
        checked_prefix(prefix)
        above = prefix.rpartition("/")[0]
        with _folder_errors(f"{self._path}/{prefix}"):
            yield from self._walk(above, prefix, after)

    def _walk(self, above: str, prefix: str, after: str) -> Iterator[ObjectInfo]:
        """Objects in one subfolder and below, in order of whole names."""
        try:
            with self._subfolder(above, create=False) as folder:
                entries = _sorted_entries(folder, above)
        except (FileNotFoundError, NotADirectoryError):
            return
        for path, info in entries:
            if info is None:
                within = f"{path}/"
                wanted = within.startswith(prefix) or prefix.startswith(within)
                if wanted and not (within < after and not after.startswith(within)):
                    yield from self._walk(path, prefix, after)
            elif path.startswith(prefix) and path > after:
                yield info

    def delete(self, name: str) -> None:
        """See ``ObjectStore.delete``; durable on return. Empty subfolders stay."""
        checked_name(name)
        with (
            _folder_errors(f"{self._path}/{name}"),
            suppress(FileNotFoundError),
            self._inside(name, create=False) as folder,
            self._names.held(),
        ):
            os.unlink(name.rpartition("/")[2], dir_fd=folder)
            os.fsync(folder)

    def extend_lock(self, name: str, until: float) -> None:
        """A folder has no locks.

        Raises:
            TargetError: always.
        """
        raise self._no_locks()

    def close(self) -> None:
        """See ``ObjectStore.close``."""
        with self._opening:
            if self._changing is not None:
                os.close(self._changing.fd)
                self._changing = None
            if self._root >= 0:
                os.close(self._root)
                self._root = -1

    # ------------------------------------------------------------------ files and folders

    def _no_locks(self) -> TargetError:
        return TargetError(
            f"{self.identity} cannot lock objects",
            next_step="use a bucket with object lock, or a snapshot of the file system",
        )

    @property
    def _names(self) -> _NameLock:
        """Opened at first use: a reader needs no right to write."""
        with self._opening:
            if self._changing is None:
                fd = self._private_file(_LOCK, self._root, os.O_RDWR | os.O_CREAT)
                self._changing = _NameLock(fd)
            return self._changing

    @contextmanager
    def _temporary(self, data: memoryview) -> Iterator[tuple[int, str, ObjectInfo]]:
        """A durable file in ``.incoming`` and what it will be; gone at the end."""
        with self._subfolder(_INCOMING, create=True) as incoming:
            temporary = f"{secrets.token_hex(16)}.part"
            with self._names.held():  # between making and locking it, it looks left behind
                self._tidy(incoming)
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
                file = self._private_file(temporary, incoming, flags)
                flock(file, LOCK_EX)
            try:
                write_whole(file, data)
                os.utime(file, ns=(self._stamp(), self._stamp()))
                os.fsync(file)
                yield incoming, temporary, _info("", os.fstat(file))
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(temporary, dir_fd=incoming)
                os.close(file)

    def _tidy(self, incoming: int) -> None:
        """Remove what killed processes left: nobody holds a lock on it any more."""
        if self._tidied:
            return
        self._tidied = True
        for name in os.listdir(incoming):
            with suppress(FileNotFoundError, BlockingIOError):
                file = os.open(name, os.O_RDONLY | _NEVER_AWAY, dir_fd=incoming)
                try:
                    flock(file, LOCK_EX | LOCK_NB)
                    os.unlink(name, dir_fd=incoming)
                finally:
                    os.close(file)

    def _stamp(self) -> int:
        """Nanoseconds since 1970 whose last three digits are random.

        The kernel's own stamps stand still for milliseconds, in which an inode's number may
        be given to the next file: two objects would have one version.
        """
        return int(self._clock.now().timestamp() * 1e6) * 1000 + secrets.randbelow(1000)

    def _private_file(self, name: str, folder: int, flags: int) -> int:
        file = os.open(name, flags | _NEVER_AWAY, _FILE_MODE, dir_fd=folder)
        if stat.S_IMODE(os.fstat(file).st_mode) != _FILE_MODE:
            with suppress(PermissionError):  # a file system without modes, or another's lock
                os.fchmod(file, _FILE_MODE)
        return file

    @contextmanager
    def _file(self, name: str) -> Iterator[int]:
        """An object opened for reading.

        Raises:
            ObjectMissingError: there is none.
        """
        try:
            with self._inside(name, create=False) as folder:
                leaf = name.rpartition("/")[2]
                file = os.open(leaf, os.O_RDONLY | _NEVER_AWAY, dir_fd=folder)
        except FileNotFoundError:
            raise ObjectMissingError(f"{name} does not exist", name=name) from None
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise ObjectMissingError(f"{name} is no file", name=name)
            yield file
        finally:
            os.close(file)

    def _inside(self, name: str, *, create: bool) -> "_Opened":
        return self._subfolder(name.rpartition("/")[0], create=create)

    def _subfolder(self, path: str, *, create: bool) -> "_Opened":
        return _Opened(self._root, path, create=create)


class _Opened:
    """A subfolder, entered part by part without following a link.

    Args:
        root: descriptor of the folder it is in.
        path: parts between slashes; "" is the root itself.
        create: make what is missing, 0700 and durable.
    """

    def __init__(self, root: int, path: str, *, create: bool) -> None:
        self._root, self._parts, self._create = root, path.split("/") if path else [], create

    def __enter__(self) -> int:
        self._fd = os.dup(self._root)
        try:
            for part in self._parts:
                below = self._entered(part)
                os.close(self._fd)
                self._fd = below
        except BaseException:
            os.close(self._fd)
            raise
        return self._fd

    def _entered(self, part: str) -> int:
        try:
            return os.open(part, _FOLDER, dir_fd=self._fd)
        except FileNotFoundError:
            if not self._create:
                raise
        with suppress(FileExistsError):  # another thread was faster
            os.mkdir(part, _FOLDER_MODE, dir_fd=self._fd)
        os.fsync(self._fd)
        below = os.open(part, _FOLDER, dir_fd=self._fd)
        if stat.S_IMODE(os.fstat(below).st_mode) != _FOLDER_MODE:
            os.fchmod(below, _FOLDER_MODE)
        return below

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def _make_root(path: Path) -> None:
    with suppress(FileExistsError):
        os.mkdir(path, _FOLDER_MODE)
        os.chmod(path, _FOLDER_MODE)
        above = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(above)
        finally:
            os.close(above)


def _info(name: str, found: os.stat_result) -> ObjectInfo:
    version = f"{found.st_ino:x}-{found.st_mtime_ns:x}-{found.st_size:x}"
    return ObjectInfo(name, found.st_size, version, found.st_mtime)


def _exists(folder: int, leaf: str) -> bool:
    try:
        os.stat(leaf, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _check_version(name: str, folder: int, leaf: str, version: str) -> None:
    """Refuse when something else, or nothing, has the name."""
    try:
        found = os.stat(leaf, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        raise ObjectMissingError(f"{name} does not exist", name=name) from None
    if _info(name, found).version != version:
        raise ObjectExistsError(f"{name} has another version", name=name)


def _sorted_entries(folder: int, above: str) -> list[tuple[str, ObjectInfo | None]]:
    """Objects, and subfolders as None, in the order of the names that begin with them."""
    before = f"{above}/" if above else ""
    found: list[tuple[str, ObjectInfo | None]] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if not is_name(before + entry.name):
                continue
            if entry.is_dir(follow_symlinks=False):
                found.append((before + entry.name, None))
            elif entry.is_file(follow_symlinks=False):
                with suppress(FileNotFoundError):  # deleted since
                    info = _info(before + entry.name, entry.stat(follow_symlinks=False))
                    found.append((before + entry.name, info))
    return sorted(found, key=lambda item: item[0] + ("/" if item[1] is None else ""))
