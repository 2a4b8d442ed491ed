"""Folders and files for their owner alone, whatever the umask and whoever was here first.

A path can be changed between a look at it and its use, and a mode given to ``open`` is cut
by the umask. So a folder is opened without following links, looked at through its
descriptor, and entered through it; a file is opened so that neither a link nor a pipe in
its place can lead us away or hold us, and then given its mode.
"""

import errno
import os
import stat
from collections.abc import Iterator, Set
from contextlib import contextmanager, suppress
from pathlib import Path

from sealift.errors import LocalStateError

_FILE_MODE = 0o600
_FOLDER_MODE = 0o700
_NOT_A_FOLDER = frozenset({errno.ELOOP, errno.ENOTDIR})
_NO_FOLLOWING = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


def make_private_folder(path: Path) -> None:
    """Make a folder and what is missing above it, each 0700; all survive a power cut.

    A folder that is there and its owner's becomes 0700; what is above it stays as it is.

    Raises:
        LocalStateError: a link, no folder, or another user's.
        OSError: it cannot be made.
    """
    for folder in (*reversed(path.parents), path):
        if not os.path.lexists(folder):
            with suppress(FileExistsError):  # somebody was faster; looked at below
                folder.mkdir(_FOLDER_MODE)
                os.chmod(folder, _FOLDER_MODE)  # the umask may have taken even this
            _sync(folder.parent)
    with entered(path) as descriptor:
        if stat.S_IMODE(os.fstat(descriptor).st_mode) != _FOLDER_MODE:
            os.fchmod(descriptor, _FOLDER_MODE)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def entered(path: Path) -> Iterator[int]:
    """A descriptor of a folder that is no link and belongs to this user.

    Raises:
        LocalStateError: it is something else.
        OSError: there is none, or it may not be entered.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | _NO_FOLLOWING)
    except OSError as error:
        if error.errno in _NOT_A_FOLDER:
            raise _foreign(path) from None
        raise
    try:
        if os.fstat(descriptor).st_uid != os.geteuid():
            raise _foreign(path)
        yield descriptor
    finally:
        os.close(descriptor)


def open_private(folder: Path, name: str, flags: int) -> int:
    """Open a regular file of this user in a folder of this user; 0600 when it is made now.

    Raises:
        LocalStateError: a link, a pipe, a device, or another user's; nothing was written.
        OSError: it cannot be opened.
    """
    with entered(folder) as inside:
        return _opened(inside, folder / name, flags)


def _opened(inside: int, path: Path, flags: int) -> int:
    truncate = flags & os.O_TRUNC
    given = (flags & ~os.O_TRUNC) | _NO_FOLLOWING
    try:
        descriptor = os.open(path.name, given, _FILE_MODE, dir_fd=inside)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # a link; a pipe that nobody reads
            raise _foreign(path) from None
        raise
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
            raise _foreign(path)
        if flags & os.O_CREAT and stat.S_IMODE(found.st_mode) != _FILE_MODE:
            os.fchmod(descriptor, _FILE_MODE)
        if truncate:
            os.ftruncate(descriptor, 0)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def others_may_replace(path: Path, trusted: Set[int]) -> bool:
    """Whether users other than ``trusted`` and root could put something else in its place.

    Looks at every folder above it. A folder that a group may write to counts as its
    owner's: groups of one user are common.
    """
    for folder in path.parent.resolve().joinpath("x").parents:
        found = folder.stat()
        open_to_all = found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX
        if open_to_all or found.st_uid not in trusted | {0}:
            return True
    return False


def _foreign(path: Path) -> LocalStateError:
    return LocalStateError(
        f"{path} is a link or a special file, or belongs to another user",
        next_step="see who made it and remove it, or choose another state directory",
        path=str(path),
    )
