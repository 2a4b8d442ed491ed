"""Stopping: one token that every long loop looks at between two operations."""

import threading

from sealift.errors import StoppedError


class CancelToken:
    """Set once, seen by all; after it is set no writer call starts (checked per operation)."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._reason = ""

    def cancel(self, reason: str) -> None:
        """Ask everyone to stop; the first reason is kept."""
        if not self._event.is_set():
            self._reason = reason
        self._event.set()

    @property
    def cancelled(self) -> bool:
        """Whether a stop was asked for."""
        return self._event.is_set()

    def check(self) -> None:
        """Raise ``StoppedError`` when a stop was asked for."""
        if self._event.is_set():
            raise StoppedError(
                f"stopped: {self._reason}", next_step="run the same command again to go on"
            )
