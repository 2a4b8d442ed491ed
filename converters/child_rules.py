"""What holds for every child process: it dies with us, and it sees no credentials."""

import ctypes
import os
import signal
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_KEPT = ("PATH", "TMPDIR", "HOME")

# Looked up before any fork: between fork and exec nothing may import, log or lock.
_prctl = ctypes.CDLL(None, use_errno=True).prctl
_prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
_prctl.restype = ctypes.c_int


def die_with(parent_pid: int) -> Callable[[], None]:
    """For the child, between fork and exec: two system calls, no lock, no import.

    ``PR_SET_PDEATHSIG`` fires when the *thread* that forked ends, so a child needs a
    thread of its own that lives as long as it does.
    """

    def prepare() -> None:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent_pid:  # the parent died before the request was in force
            os._exit(255)

    return prepare


def plain_environment(**more: str) -> dict[str, str]:
    """Only what a tool needs: hostile input then finds no credentials to send anywhere."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return {**kept, "LC_ALL": "C", **more}
