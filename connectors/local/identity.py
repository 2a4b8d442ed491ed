"""What makes a file the same file with the same content."""

import os
import stat
import uuid
from dataclasses import dataclass
from pathlib import Path

from sealift.errors import PointLostError


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """A regular file at one instant, as far as the file system can tell.

    Modification times advance with the kernel's tick (4 ms or less), so a write within
    the same tick as ours goes unseen; a reader looks after every read.

    Attributes:
        path: absolute, links resolved.
        inode: of the file; another file under the same name has another one.
        size: bytes.
        modified_ns: last write.
        changed_ns: last write or change of attributes; cannot be set back.
        nonce: unique for block devices, which tell nothing: two openings never equal.
    """

    path: Path
    inode: int
    size: int
    modified_ns: int
    changed_ns: int
    nonce: str = ""

    def __str__(self) -> str:
        parts = (self.inode, self.size, self.modified_ns, self.changed_ns)
        numbers = ":".join(map(str, parts)) + (f":{self.nonce}" if self.nonce else "")
        return f"file:{self.path}:{numbers}"

    @classmethod
    def of(cls, path: Path) -> "FileIdentity":
        """Identity of the file now.

        Raises:
            OSError: it cannot be looked at.
        """
        whole = path.resolve(strict=True)
        found = whole.stat()
        if stat.S_ISREG(found.st_mode):
            return cls._of_stat(whole, found)
        return cls(whole, found.st_ino, 0, 0, 0, uuid.uuid4().hex)

    @classmethod
    def _of_stat(cls, path: Path, found: os.stat_result) -> "FileIdentity":
        return cls(path, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)

    def check(self) -> None:
        """Return if the file is still the same (I1).

        Raises:
            PointLostError: it was changed, replaced or removed.
        """
        if self.nonce:
            return
        try:
            now: object = self._of_stat(self.path, self.path.stat())
        except OSError as error:
            now = error.strerror
        if now != self:
            raise PointLostError(
                f"{self.path} changed while it was read",
                next_step="stop whoever writes to it, then run again",
                path=str(self.path),
            )
