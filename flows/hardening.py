"""What the process keeps to itself while it holds credentials and a disk's plaintext.

A core dump would write both to a disk, and a debugger of the same user could read them.
"""

import ctypes
import logging
import resource
from contextlib import suppress
from pathlib import Path

log = logging.getLogger(__name__)

_PR_SET_DUMPABLE = 4  # linux/prctl.h
_DUMP_FILTER = Path("/proc/self/coredump_filter")


def keep_memory_private() -> None:
    """No core dump of this process or its children, no debugger of the same user.

    Idempotent. What the system does not allow is logged and left: none of it is a reason not
    to run.
    """
    leave_no_core()
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        log.warning("the process can be dumped: error %d", ctypes.get_errno())


def leave_no_core() -> None:
    """No core dump of this process or its children; idempotent.

    ``RLIMIT_CORE`` and the dump filter pass to children; the filter also holds where dumps
    are piped to a program, which knows no limit (core(5)).
    """
    with suppress(OSError):  # a kernel without core dumps has no filter
        _DUMP_FILTER.write_text("0")
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (OSError, ValueError) as error:
        log.warning("core dumps are not switched off: %s", error)
