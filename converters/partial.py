"""A file that appears under its name only when it is whole and durable (I6)."""

import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sealift.display import printable
from sealift.errors import LocalStateError, LockedError, OutOfSpaceError, UsageError

SUFFIX = ".partial"

# One byte far beyond any image. QEMU locks bytes 100 to 203 of its files with the same
# kind of lock; flock() would clash with those on NFS, where it covers the whole file.
_LOCK_OFFSET = 2**62
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS)


@contextmanager
def partial_file(target: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Give ``TARGET.partial`` to write into; on success sync it and rename it to ``target``.

    After an exception in the body the partial file is gone and ``target`` is untouched.
    After a kill the partial file stays; the next call takes it over, because the lock
    on it died with its owner. Readable for the owner only: it is a guest's disk.

    Args:
        target: absolute; its directory exists.
        overwrite: replace an existing ``target``, atomically.

    Raises:
        UsageError: ``target`` exists.
        LockedError: another process writes the same target now.
        OutOfSpaceError, LocalStateError: the file system refused.
    """
    if not overwrite and target.exists():
        raise _exists(target)
    partial = target.with_name(target.name + SUFFIX)
    with _local(target):
        descriptor = _locked(partial)
    try:
        yield partial
        with _local(target):
            os.fsync(descriptor)
            _publish(partial, target, overwrite=overwrite)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)


def _locked(partial: Path) -> int:
    descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        lock = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, _LOCK_OFFSET, 1, 0)
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, lock)
        # The owner may have published or removed it between our open and our lock.
        if not os.path.samestat(os.fstat(descriptor), partial.lstat()):
            raise BlockingIOError
    except (BlockingIOError, PermissionError, FileNotFoundError) as error:
        os.close(descriptor)
        raise LockedError(
            f"another process is writing {printable(str(partial))}",
            next_step="wait for it, or choose another target",
            path=str(partial),
        ) from error
    return descriptor


def _publish(partial: Path, target: Path, *, overwrite: bool) -> None:
    if overwrite:
        partial.replace(target)
    else:
        _link(partial, target)
    directory = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _link(partial: Path, target: Path) -> None:
    """Rename without replacing: a link fails when the name was taken meanwhile."""
    try:
        target.hardlink_to(partial)
    except FileExistsError:
        raise _exists(target) from None
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        partial.rename(target)  # a file system without links: the check above has to do
        return
    partial.unlink()


def _exists(target: Path) -> UsageError:
    return UsageError(
        f"{printable(str(target))} exists",
        next_step="choose another name, or ask for it to be replaced",
        path=str(target),
    )


@contextmanager
def _local(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        shown = printable(str(target))
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutOfSpaceError(
                f"no room for {shown}", next_step="make room, then run again", path=str(target)
            ) from error
        raise LocalStateError(
            f"{shown} cannot be written: {error.strerror}",
            next_step="check that its directory exists and may be written to",
            path=str(target),
        ) from error
