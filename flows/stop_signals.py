"""Signals become a stop that is asked for, once; the second one ends the process."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from sealift.cancel import CancelToken

_WATCHED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
HARD_EXIT = 130
_SHOW_CURSOR = b"\x1b[?25h"
_HARD = b"\nstopped hard; nothing is lost: run the same command again, or see sealift status\n"


class StopSignals:
    """While entered, SIGINT, SIGTERM and SIGHUP set the token instead of ending the process.

    Nothing is raised from a handler, so no lock is left held and no call half done: whoever
    works looks at the token. A second SIGINT or SIGTERM ends the process at once with 130;
    its children die with it, and its files are good for the next run.

    Outside the main thread this does nothing: only the main thread receives signals.
    """

    def __init__(self, cancel: CancelToken) -> None:
        self._cancel = cancel
        self._before: dict[signal.Signals, Any] = {}
        self.received: signal.Signals | None = None

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            for number in _WATCHED:
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        received = signal.Signals(number)
        if not self._cancel.cancelled:
            self.received = received
            self._cancel.cancel(received.name)
        elif received is not signal.SIGHUP:  # a closing terminal sends more than one
            if sys.stderr is not None and os.isatty(2):
                os.write(2, _SHOW_CURSOR)
            with contextlib.suppress(OSError):
                os.write(2, _HARD)
            os._exit(HARD_EXIT)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """SIGINT raises ``KeyboardInterrupt`` inside: for waiting on a person's answer."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
