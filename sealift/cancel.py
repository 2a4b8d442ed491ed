"""Stopping: one token that every long loop looks at between two operations."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from sealift.clock import Clock
from sealift.errors import StoppedError

_SLEEP_STEP_SECONDS = 0.5


class CancelToken:
    """Set once, seen by all; after it is set no writer call starts (checked per operation)."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._reason = ""
        self._shields = 0

    def cancel(self, reason: str) -> None:
        """Ask everyone to stop; the first reason is kept."""
        if not self._event.is_set():
            self._reason = reason
        self._event.set()

    @property
    def cancelled(self) -> bool:
        """Whether a stop was asked for."""
        return self._event.is_set()

    @contextmanager
    def shielded(self) -> Iterator[None]:
        """What runs inside is finished although a stop was asked for.

        For an undo: connectors hold this same token, so it is the token that has to wait.
        """
        self._shields += 1
        try:
            yield
        finally:
            self._shields -= 1

    def check(self) -> None:
        """Raise ``StoppedError`` when a stop was asked for and nothing shields from it."""
        if self._event.is_set() and not self._shields:
            raise StoppedError(
                f"stopped: {self._reason}", next_step="run the same command again to go on"
            )

    def sleep(self, clock: Clock, seconds: float) -> None:
        """Sleep on ``clock``, but no longer than half a second after a stop was asked for.

        Raises:
            StoppedError: a stop was asked for before the time was over.
        """
        while seconds > 0:
            self.check()
            step = min(seconds, _SLEEP_STEP_SECONDS)
            clock.sleep(step)
            seconds -= step
