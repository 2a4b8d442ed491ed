"""Memory that a disk may read into and write from as it is."""

import mmap
from typing import Self


class Pages(mmap.mmap):
    """New memory that begins at a page and that a child process does not inherit.

    A disk that reads straight into memory must not meet a fork meanwhile: what arrives may end in
    the child's copy of it (open(2), on O_DIRECT). Memory that is not inherited has no copy.

    Args:
        length: bytes, more than 0; content undefined.
    """

    def __new__(cls, length: int) -> Self:
        """See the class."""
        made = super().__new__(cls, -1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        made.madvise(mmap.MADV_DONTFORK)
        return made
