"""Looking on at an object store: what is called, how often, how much, how long."""

import logging
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from sealift.clock import Clock
from sealift.errors import SealiftError
from sealift.objects import ObjectStore
from sealift.objects_decorator import StoreCall, StoreDecorator, T

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Observed:
    """One call that ended.

    Attributes:
        call: what was asked.
        seconds: how long it took.
        received_bytes: that a get returned.
        error: code of what it ended with; "" when it succeeded.
    """

    call: StoreCall
    seconds: float
    received_bytes: int = 0
    error: str = ""


class StoreObserver(Protocol):
    """Is told of every call; in any thread, so quick."""

    def called(self, observed: Observed) -> None:
        """A call ended."""


class ObservedStore(StoreDecorator):
    """Tells an observer of every call; nothing else changes.

    Below the retry layer it sees attempts, above it what callers see.

    Args:
        inner: the store.
        observer: see there.
        clock: measures.
    """

    def __init__(self, inner: ObjectStore, observer: StoreObserver, clock: Clock) -> None:
        super().__init__(inner)
        self._observer = observer
        self._clock = clock

    def _around(self, call: StoreCall, effect: Callable[[], T]) -> T:
        began = self._clock.monotonic()
        try:
            result = effect()
        except SealiftError as error:
            self._tell(call, began, 0, error.code)
            raise
        except BaseException as error:
            self._tell(call, began, 0, type(error).__name__)
            raise
        received = len(result) if isinstance(result, bytes) else call.asked_bytes
        self._tell(call, began, received, "")
        return result

    def _tell(self, call: StoreCall, began: float, received: int, error: str) -> None:
        seconds = self._clock.monotonic() - began
        self._observer.called(Observed(call, seconds, received, error))


@dataclass
class CallCounter:
    """Counts calls, bytes, seconds and errors; thread-safe.

    Attributes:
        calls: by verb.
        errors: by verb and code.
        sent_bytes: handed over by puts that succeeded.
        received_bytes: returned by gets.
        seconds: by verb, all threads together.
    """

    calls: Counter[str] = field(default_factory=Counter)
    errors: Counter[tuple[str, str]] = field(default_factory=Counter)
    sent_bytes: int = 0
    received_bytes: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def called(self, observed: Observed) -> None:
        """See ``StoreObserver.called``."""
        verb = observed.call.verb
        with self._lock:
            self.calls[verb] += 1
            self.seconds[verb] = self.seconds.get(verb, 0.0) + observed.seconds
            self.received_bytes += observed.received_bytes
            if observed.error:
                self.errors[verb, observed.error] += 1
            else:
                self.sent_bytes += observed.call.sent_bytes


class CallLog:
    """Writes a line for every call into the log, errors as warnings. Names and sizes only."""

    def called(self, observed: Observed) -> None:
        """See ``StoreObserver.called``."""
        call = observed.call
        level = logging.WARNING if observed.error else logging.DEBUG
        moved = call.sent_bytes or observed.received_bytes
        _log.log(
            level,
            "%s %s: %s, %d bytes, %.3f s",
            call.verb,
            call.name,
            observed.error or "ok",
            moved,
            observed.seconds,
        )
