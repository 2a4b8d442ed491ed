"""A file under construction beside the place where it will appear (I6)."""

import errno
import os
import re
import uuid
from pathlib import Path

from sealift.errors import OutOfSpaceError, SealiftError, TargetDeniedError, TargetError

_IDENTITY = re.compile(r"partial:(?P<token>[0-9a-f]{32}):(?P<inode>\d+):(?P<path>.+)", re.DOTALL)


def failure(error: OSError, what: str) -> SealiftError:
    """What a failing call on a target file means."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutOfSpaceError(f"{what}: {error.strerror}", next_step="make room, then run again")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return TargetDeniedError(f"{what}: {error.strerror}")
    return TargetError(f"{what}: {error.strerror}", errno=error.errno)


class PartialFile:
    """``NAME.TOKEN.partial``, renamed to ``NAME`` when it is whole.

    The token makes each construction its own: what an abandoned one left behind is never
    taken for ours. The identity carries token and inode, so that another process finds
    the same file, and sees whether it was published already.

    Make one with ``create`` or ``reopen``.
    """

    def __init__(self, final: Path, token: str, inode: int, *, published: bool) -> None:
        self._final = final
        self._token = token
        self._inode = inode
        self.published = published

    @classmethod
    def create(cls, final: Path) -> "PartialFile":
        """A new, empty file; its name is durable.

        Raises:
            TargetError: ``final`` exists, or nothing can be made there.
            OutOfSpaceError: no room.
        """
        whole = final.absolute()
        if os.path.lexists(whole):
            raise TargetError(
                f"{whole} exists already", next_step="remove it or choose another name"
            )
        made = cls(whole, uuid.uuid4().hex, 0, published=False)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            file = os.open(made.path, flags, 0o600)
            made._inode = os.fstat(file).st_ino
            os.close(file)
            _sync(whole.parent)
        except OSError as error:
            raise failure(error, str(made.path)) from error
        return made

    @classmethod
    def reopen(cls, identity: str) -> "PartialFile":
        """The file that an earlier process made.

        Raises:
            TargetError: it is neither there nor published: what was written is gone.
        """
        match = _IDENTITY.fullmatch(identity)
        if match is None:
            raise TargetError(f"{identity!r} does not name a file under construction")
        found = cls(Path(match["path"]), match["token"], int(match["inode"]), published=False)
        if _inode(found.path) == found._inode:
            return found
        if _inode(found._final) == found._inode:
            found.published = True
            return found
        raise TargetError(
            f"{found.path} is gone, and with it what was written",
            next_step="start over",
            path=str(found.path),
        )

    @property
    def identity(self) -> str:
        """Names this construction."""
        return f"partial:{self._token}:{self._inode}:{self._final}"

    @property
    def path(self) -> Path:
        """Where the file is now."""
        if self.published:
            return self._final
        return self._final.with_name(f"{self._final.name}.{self._token}.partial")

    def sync(self) -> None:
        """Make content and size durable, whoever wrote them.

        Raises:
            TargetError, OutOfSpaceError: they are not.
        """
        try:
            _sync(self.path)
        except OSError as error:
            raise failure(error, str(self.path)) from error

    def publish(self) -> None:
        """Make content and name durable, and the file visible; idempotent (I6).

        Raises:
            TargetError: something else took the name meanwhile; it stays.
        """
        if self.published:
            return
        if os.path.lexists(self._final):
            raise TargetError(f"{self._final} appeared meanwhile", next_step="move it away")
        self.sync()
        try:
            self.path.rename(self._final)
            self.published = True
            _sync(self._final.parent)
        except OSError as error:
            raise failure(error, str(self._final)) from error

    def remove(self) -> None:
        """Remove the file unless it was published; idempotent."""
        if not self.published:
            self.path.unlink(missing_ok=True)


def _inode(path: Path) -> int:
    try:
        return path.lstat().st_ino
    except OSError:
        return 0


def _sync(path: Path) -> None:
    """Make a file or a folder durable."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)
