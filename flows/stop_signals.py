"""Signals become a stop that is asked for, once; the second one ends the process."""

import atexit
import contextlib
import os
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

from sealift.cancel import CancelToken

_WATCHED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
HARD_EXIT = 130
_SHOW_CURSOR = b"\x1b[?25h"
_HARD = b"\nstopped hard; nothing is lost: run the same command again, or see sealift status\n"
_END = b"\0"  # no signal has the number 0


class StopSignals:
    """While entered, SIGINT, SIGTERM and SIGHUP set the token instead of ending the process.

    Nothing is raised into whatever runs, so no lock is left held and no call half done:
    whoever works looks at the token. A second SIGINT or SIGTERM ends the process at once
    with 130; its children die with it, and its files are good for the next run.

    A thread of its own hears the signals through the wake-up descriptor. Python runs signal
    handlers in the main thread only, and that one may wait for others in a lock that a
    signal delivered to another thread does not interrupt (seen: a stop that was noticed
    when the round was over).

    Outside the main thread this does nothing: only there handlers can be set.

    Args:
        cancel: set by the first signal.
        last: nothing comes after the block but the summary and the end of the process, so
            the handlers stay, and to the very end a late signal changes nothing: what the
            run came to is what the exit code says. A second one still ends it.
    """

    def __init__(self, cancel: CancelToken, *, last: bool = False) -> None:
        self._cancel = cancel
        self._last = last
        self._before: dict[signal.Signals, Any] = {}
        self._wakeup_before = -1
        self._pipe: tuple[int, int] | None = None
        self._thread: threading.Thread | None = None
        self.received: signal.Signals | None = None

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is not threading.main_thread():
            return self
        let_go()
        read, write = self._pipe = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(write, False)
        self._wakeup_before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        for number in _WATCHED:
            self._before[number] = signal.signal(number, _heard_elsewhere)
        self._thread = threading.Thread(
            target=self._listen, args=(read,), name="sealift-signals", daemon=True
        )
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread is None or self._pipe is None:
            return
        if self._last:
            atexit.register(_deafen)
            _staying.append(self)
            return
        self._give_back()

    def _give_back(self) -> None:
        if self._thread is None or self._pipe is None:
            return
        signal.set_wakeup_fd(self._wakeup_before)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        read, write = self._pipe
        os.write(write, _END)
        self._thread.join()
        os.close(write)
        os.close(read)

    def _listen(self, read: int) -> None:
        while True:
            for number in os.read(read, 64):
                if number == 0:
                    return
                if number in _WATCHED:
                    self._hear(signal.Signals(number))

    def _hear(self, number: signal.Signals) -> None:
        if self.received is None:
            self.received = number
            self._cancel.cancel(number.name)
        elif number is not signal.SIGHUP:  # a closing terminal sends more than one
            with contextlib.suppress(OSError):
                os.write(2, (_SHOW_CURSOR if os.isatty(2) else b"") + _HARD)
            _end_companions()
            os._exit(HARD_EXIT)


_staying: list[StopSignals] = []
"""The one whose run was the last of this process, as far as it knew."""


def _end_companions() -> None:
    """Children of our process group, such as Prefect's temporary server, do not end with us.

    All others do, or are meant to stay, as the guardian of a cutover is.
    """
    for listed in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):  # the thread has ended meanwhile
            for pid in map(int, listed.read_text().split()):
                _end_companion(pid)


def _end_companion(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        if os.getpgid(pid) == os.getpgrp():
            os.kill(pid, signal.SIGTERM)


def let_go() -> None:
    """End the handlers that stayed after a run: its process did not end, and goes on to another."""
    while _staying:
        _staying.pop()._give_back()
        atexit.unregister(_deafen)


def _heard_elsewhere(number: int, frame: FrameType | None) -> None:
    """Its being set is what makes Python write to the wake-up descriptor."""


def _deafen() -> None:
    """Python gives every handler back to the system while it shuts down, but leaves this one."""
    for number in _WATCHED:
        signal.signal(number, signal.SIG_IGN)
