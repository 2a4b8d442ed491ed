"""Faults on demand and the log of requests, whatever the cloud.

A fault waits for a call that fits it, lets ``skip`` of those pass, then hits ``times``
times. One that nothing hit is named by ``unexercised()``: a test that asks for a fault
which never happens proves nothing.
"""

import itertools
import threading
from collections import deque
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar


class AnyFault(Protocol):
    """What a fault book needs to know of a fault."""

    @property
    def times(self) -> int:
        """How many calls it hits; 0 means all from then on."""

    @property
    def skip(self) -> int:
        """How many fitting calls pass before the first hit."""

    def fits(self, call: Any) -> bool:
        """Whether the call is one that this fault counts."""


class AnyRecord(Protocol):
    """What a log needs to know of a request."""

    @property
    def operation(self) -> str:
        """The SDK's name of the operation."""


F = TypeVar("F", bound=AnyFault)
R = TypeVar("R", bound=AnyRecord)


@dataclass(frozen=True, slots=True)
class Armed(Generic[F]):
    """A fault with its number and what became of it so far."""

    number: int
    fault: F
    seen: int
    hits: int

    @property
    def spent(self) -> bool:
        """Whether it will not hit again."""
        return self.fault.times > 0 and self.hits >= self.fault.times


class FaultBook(Generic[F]):
    """The faults of a sandbox; safe from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._armed: dict[int, Armed[F]] = {}
        self._struck = threading.Event()

    def add(self, fault: F) -> int:
        """Arm a fault; its number."""
        with self._lock:
            number = next(self._numbers)
            self._armed[number] = Armed(number, fault, 0, 0)
            return number

    def remove(self, number: int) -> None:
        """Disarm one fault; harmless when unknown."""
        with self._lock:
            self._armed.pop(number, None)

    def clear(self) -> None:
        """Disarm and forget all."""
        with self._lock:
            self._armed.clear()

    def all(self) -> tuple[Armed[F], ...]:
        """Every fault that was added, spent ones too."""
        with self._lock:
            return tuple(self._armed.values())

    def unexercised(self) -> tuple[Armed[F], ...]:
        """The faults that hit nothing, or less often than was asked."""
        return tuple(a for a in self.all() if a.hits < max(a.fault.times, 1))

    def wait_struck(self, timeout_seconds: float) -> bool:
        """Wait until any fault has hit a call."""
        return self._struck.wait(timeout_seconds)

    def strike(self, call: Any) -> F | None:
        """The fault that hits this call; at most one, the oldest first.

        Every fault that fits counts the call.
        """
        struck: F | None = None
        with self._lock:
            for number, armed in self._armed.items():
                if not armed.fault.fits(call):
                    continue
                hit = struck is None and not armed.spent and armed.seen >= armed.fault.skip
                self._armed[number] = Armed(
                    number, armed.fault, armed.seen + 1, armed.hits + int(hit)
                )
                if hit:
                    struck = armed.fault
                    self._struck.set()
        return struck


class RecordLog(Generic[R]):
    """The last requests, oldest first; safe from several threads."""

    def __init__(self, limit: int = 200_000) -> None:
        self._records: deque[R] = deque(maxlen=limit)
        self._numbers = itertools.count(1)
        self._added = threading.Condition()

    def next_number(self) -> int:
        """Numbers requests from 1."""
        return next(self._numbers)

    def append(self, record: R) -> R:
        """Take note of an answered request."""
        with self._added:
            self._records.append(record)
            self._added.notify_all()
        return record

    def all(self) -> tuple[R, ...]:
        """Every request that is still known."""
        return tuple(self._records)

    def of(self, operation: str | None = None) -> tuple[R, ...]:
        """The requests of an operation, or all."""
        return tuple(r for r in self.all() if operation in (None, r.operation))

    def wait(self, count: int, operation: str | None = None, *, timeout_seconds: float) -> bool:
        """Wait until so many requests of an operation were answered."""
        with self._added:
            return self._added.wait_for(lambda: len(self.of(operation)) >= count, timeout_seconds)

    def clear(self) -> None:
        """Forget all."""
        self._records.clear()
