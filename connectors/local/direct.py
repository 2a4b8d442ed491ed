"""Writing and reading a file past the page cache, where that can be done.

What is written and flushed at once, and read again months later or never, gains nothing from the
cache: copying into pages that the kernel has to find first took a fifth of the processor time of
a seed into a folder, and pushed out what others had there. So it is with packs that a restore
reads whole, once.
"""

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

from sealift.memory import Pages
from sealift.units import KiB, MiB

LEAST_BYTES = MiB
"""Smaller ones are through faster with the cache than without."""
LEAST_RANGE_BYTES = 256 * KiB
"""Of a large file, written in ranges by many threads: a write of this size waits for the disk no
longer than it takes to seal or open as much."""
_ALIGNMENT = 4 * KiB
"""Memory, place and length of a direct write: what nearly every file system and disk takes."""


def write_whole(file: int, data: memoryview) -> None:
    """Write all of ``data`` at the place where the file is; not durable before an fsync.

    Large data whose memory begins at a page goes straight to the disk, but for what is behind
    its last whole page; anything else, and on file systems that cannot do that, through the cache.

    Args:
        file: opened for writing, at a place that is a multiple of 4 KiB.
        data: what to write.

    Raises:
        OSError: how much was written is unknown.
    """
    done = _written_directly(file, data) if len(data) >= LEAST_BYTES else 0
    while done < len(data):
        done += os.write(file, data[done:])


def read_directly(file: int, buffer: memoryview, start: int) -> int:
    """Read whole pages into ``buffer``, as far as that can be done; how many bytes it was.

    The rest is the caller's to read through the cache: what is behind the last whole page, what
    is small, and all of it where memory, place or file system do not fit.

    Args:
        file: opened for reading; its place does not matter and stays.
        buffer: to fill from its beginning; a part of ``Pages``: other memory may not be read
            into while this process forks.
        start: first byte in the file.

    Raises:
        OSError: what the buffer holds is unknown.
    """
    if len(buffer) < LEAST_BYTES or start % _ALIGNMENT or not isinstance(buffer.obj, Pages):
        return 0

    def read(at: int, end: int) -> int:
        return os.preadv(file, [buffer[at:end]], start + at)

    return _directly(file, len(buffer), read)


def _written_directly(file: int, data: memoryview) -> int:
    """How many bytes were written so; 0 where it cannot be done."""
    return _directly(file, len(data), lambda at, end: os.write(file, data[at:end]))


def _directly(file: int, length: int, moved: Callable[[int, int], int]) -> int:
    """Call ``moved`` for what is left of the whole pages until nothing is, or the file ends."""
    flags = fcntl.fcntl(file, fcntl.F_GETFL)
    done, whole = 0, length // _ALIGNMENT * _ALIGNMENT
    try:
        fcntl.fcntl(file, fcntl.F_SETFL, flags | os.O_DIRECT)
        while done < whole and (more := moved(done, whole)):
            done += more
    except OSError as error:
        if error.errno != errno.EINVAL:  # of memory or a file system that does not fit
            raise
    finally:
        fcntl.fcntl(file, fcntl.F_SETFL, flags)
    return done


class DirectFile:
    """A second way into a file that is open already: past the page cache. Thread-safe.

    A restore of a whole disk through the cache copies every byte once more, fills the cache with
    what nobody reads, and has all of it still to be written when it comes to its flush.

    Args:
        path: the file, which nobody replaces meanwhile.
    """

    def __init__(self, path: Path) -> None:
        self._file = -1
        try:
            self._file = os.open(path, os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC | os.O_NOFOLLOW)
            self._usable = True
        except OSError:  # a file system that cannot do it
            self._usable = False

    def write(self, data: memoryview, offset: int) -> int:
        """Write whole pages of ``data``, as far as that can be done; how many bytes it was.

        Not durable before an fdatasync. The rest is the caller's to write through the cache.

        Raises:
            OSError: how much was written is unknown.
        """
        if not self._usable or len(data) < LEAST_RANGE_BYTES or offset % _ALIGNMENT:
            return 0
        done, whole = 0, len(data) // _ALIGNMENT * _ALIGNMENT
        try:
            while done < whole:
                done += os.pwrite(self._file, data[done:whole], offset + done)
        except OSError as error:
            if error.errno != errno.EINVAL:  # of memory or a file system that does not fit
                raise
            self._usable = False
        return done

    def close(self) -> None:
        """Free it; idempotent."""
        self._usable = False
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
