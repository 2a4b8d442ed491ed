"""Faults at chosen calls of the ports, and a record of every call.

A ``Script`` counts the calls that pass through the ports wrapped with ``tapped``. At a
chosen call it kills (a ``BaseException``, as ``kill -9`` gives nobody a chance), or
fails before or after the call took effect. A fault that no call hit is reported.
"""

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar, cast

from sealift.errors import TransientError

T = TypeVar("T")


class Killed(BaseException):
    """The process is gone; nothing in it runs any more."""


class Fault(Enum):
    """What happens at a call."""

    KILL_BEFORE = "killed before the call"
    KILL_AFTER = "killed after the call took effect"
    FAIL_BEFORE = "failed before the call"
    FAIL_AFTER = "failed after the call took effect"


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a port: ``number`` counts from 1 over all ports."""

    number: int
    port: str
    name: str


class Script:
    """Faults by call number. Thread-safe."""

    def __init__(self, faults: Iterable[tuple[int, Fault]] = ()) -> None:
        self._faults = dict(faults)
        self._lock = threading.Lock()
        self._dead = False
        self.calls: list[Call] = []
        self.on_call: Callable[[Call], None] | None = None

    @classmethod
    def parse(cls, text: str) -> "Script":
        """``"..E.K"``: ok, ok, error, ok, killed; lower case means after taking effect."""
        letters = {
            "E": Fault.FAIL_BEFORE,
            "e": Fault.FAIL_AFTER,
            "K": Fault.KILL_BEFORE,
            "k": Fault.KILL_AFTER,
        }
        return cls((n, letters[c]) for n, c in enumerate(text, 1) if c != ".")

    @property
    def unexercised(self) -> list[int]:
        """Call numbers whose fault never happened."""
        return sorted(self._faults)

    def around(self, port: str, name: str, effect: Callable[[], T]) -> T:
        """Let one call through, with its fault."""
        with self._lock:
            if self._dead:
                raise Killed
            call = Call(len(self.calls) + 1, port, name)
            self.calls.append(call)
            fault = self._faults.pop(call.number, None)
        if self.on_call is not None:
            self.on_call(call)
        if fault is Fault.KILL_BEFORE:
            self._die()
        if fault is Fault.FAIL_BEFORE:
            raise TransientError(f"injected before {port}.{name}")
        result = effect()
        if fault is Fault.KILL_AFTER:
            self._die()
        if fault is Fault.FAIL_AFTER:
            raise TransientError(f"injected after {port}.{name}")
        return result

    def _die(self) -> None:
        self._dead = True
        raise Killed


_QUIET = frozenset({"close", "volume_size", "records", "throttle_now"})
_RETURNS_PORT = {"reader": "disk-reader", "writer": "disk-writer", "log": "journal"}


class _Tap:
    def __init__(self, target: object, port: str, script: Script) -> None:
        self._target, self._port, self._script = target, port, script

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)
        if not callable(found) or name in _QUIET:
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            result = self._script.around(self._port, name, lambda: found(*args, **kwargs))
            inner = _RETURNS_PORT.get(name)
            return _Tap(result, inner, self._script) if inner else result

        return call


def tapped(target: T, port: str, script: Script) -> T:
    """``target`` with every call going through ``script``; what it opens is tapped too."""
    return cast(T, _Tap(target, port, script))
