"""What Python raises when the host runs out of something, as an error of the tree."""

import errno
import mmap
import resource
from pathlib import Path

from sealift.errors import HostLimitError, OutOfSpaceError, SealiftError
from sealift.units import format_size

_LIMITS = {
    errno.EMFILE: "no file descriptor is left (see `ulimit -n`)",
    errno.ENFILE: "the system has no file descriptor left",
    errno.ENOMEM: "no memory is left",
}
_THREAD_ROOM_BYTES = 32 << 20
"""A stack of 8 MiB, which is the usual ``ulimit -s``, and what the interpreter takes at once."""
ADDRESS_SPACE_BYTES = 1 << 30
"""What a run may take of its address space: 2 disks beside each other on 2 cores took 963 MiB,
most of it stacks of threads and allocator arenas that are reserved and never touched."""
_MEMORY = Path("/proc/meminfo")
_OWN_SIZE = Path("/proc/self/statm")
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


def host_limit(error: Exception) -> SealiftError | None:
    """The typed error for an exhausted host; None when ``error`` says something else.

    Such an exception may come from any line, so nothing but the end of a run looks for it.
    """
    if isinstance(error, OSError) and error.errno in _NO_SPACE:
        return OutOfSpaceError(str(error.strerror), next_step=_again("make room"))
    found = _exhausted(error)
    if found is None:
        return None
    return HostLimitError(f"this host is at a limit: {found}", next_step=_again("raise the limit"))


def check_address_space() -> None:
    """Refuse a run under a limit of address space (``ulimit -v``) that it would meet half-way.

    CPython 3.11 does not survive that everywhere: a library's thread that finds no memory as it
    begins is waited for without end. So this is asked before the run takes anything.

    Raises:
        HostLimitError: less than ``ADDRESS_SPACE_BYTES`` is left of the limit.
    """
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return
    used = int(_OWN_SIZE.read_text().split()[0]) * resource.getpagesize()
    if limit - used < ADDRESS_SPACE_BYTES:
        raise HostLimitError(
            f"the limit of address space leaves {format_size(max(0, limit - used))}, "
            f"a run may take {format_size(ADDRESS_SPACE_BYTES)}",
            next_step=_again("raise the limit (see `ulimit -v`)"),
        )


def check_memory_beside(needed: int, reserve: int) -> None:
    """Refuse what would take memory from whatever else runs on this host.

    Args:
        needed: bytes that are about to be used.
        reserve: bytes that have to stay available.

    Raises:
        HostLimitError: the kernel has less to give without swapping.
    """
    rows = dict(line.split(":", 1) for line in _MEMORY.read_text().splitlines())
    available = int(rows["MemAvailable"].split()[0]) * 1024
    if available < needed + reserve:
        raise HostLimitError(
            f"{format_size(available)} of memory are available, {format_size(needed)} are needed "
            f"and {format_size(reserve)} have to stay",
            next_step=_again("use less, or another host"),
        )


def check_room_for_thread() -> None:
    """Refuse to start a thread where there is no memory for it; call it before each start.

    A thread that begins and then finds no memory dies unseen, and CPython 3.11's
    ``Thread.start`` waits for it for ever. Address space is asked for and given back, no
    memory is touched.

    Raises:
        MemoryError: there is not.
    """
    try:
        mmap.mmap(-1, _THREAD_ROOM_BYTES, prot=mmap.PROT_READ).close()
    except OSError as error:
        raise MemoryError("no room for a thread") from error


def _exhausted(error: Exception) -> str | None:
    if isinstance(error, MemoryError):
        return _LIMITS[errno.ENOMEM]
    if isinstance(error, RuntimeError) and str(error) == "can't start new thread":
        return "no thread can be started (see `ulimit -u` and the memory limit)"
    return _LIMITS.get(error.errno or 0) if isinstance(error, OSError) else None


def _again(first: str) -> str:
    return f"{first}, then run the same command again"
