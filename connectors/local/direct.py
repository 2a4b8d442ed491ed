"""Writing a file past the page cache, where that can be done.

What is written and flushed at once, and read again months later or never, gains nothing from the
cache: copying into pages that the kernel has to find first took a fifth of the processor time of
a seed into a folder, and pushed out what others had there.
"""

import errno
import fcntl
import os
from pathlib import Path

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


def _written_directly(file: int, data: memoryview) -> int:
    """How many bytes were written so; 0 where it cannot be done."""
    flags = fcntl.fcntl(file, fcntl.F_GETFL)
    done, whole = 0, len(data) // _ALIGNMENT * _ALIGNMENT
    try:
        fcntl.fcntl(file, fcntl.F_SETFL, flags | os.O_DIRECT)
        while done < whole:
            done += os.write(file, data[done:whole])
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
