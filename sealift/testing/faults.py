"""Faults at chosen calls of the ports, and a record of every call.

A ``Script`` counts the calls that pass through the ports wrapped with ``tapped``, over as
many processes as a history takes. At a chosen call, or at the next one where it can happen,
it kills (a ``BaseException``, as ``kill -9`` gives nobody a chance), fails, lies, or changes
the world. A fault that no call hit is reported.
"""

import random
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any, Protocol, TypeVar, cast

from sealift.cancel import CancelToken
from sealift.endpoints import Fenced, Health
from sealift.errors import (
    CredentialsError,
    LocalStateError,
    OutOfSpaceError,
    QuotaError,
    SealiftError,
    SourceError,
    SourceReadError,
    TargetDeniedError,
    TargetError,
    ThrottledError,
    TransientError,
)

T = TypeVar("T")

TIMEOUT_SECONDS = 1000.0
"""How long a call hangs before it fails: longer than any patience."""


class Killed(BaseException):
    """The process is gone; nothing in it runs any more."""


class Fault(Enum):
    """What happens at a call."""

    KILL_BEFORE = "killed before the call"
    KILL_AFTER = "killed after the call took effect"
    POWER_CUT = "our host lost power after the call"
    FAIL_BEFORE = "failed before the call"
    FAIL_AFTER = "failed after the call took effect"
    TIMEOUT = "timed out, outcome unknown"
    THROTTLE = "throttled"
    THROTTLE_NAMED = "throttled with a named delay"
    REFUSE = "refused for good"
    QUOTA = "quota reached"
    DENIED = "permission missing"
    CREDENTIALS = "credentials expired until they are renewed"
    UNEXPECTED = "an exception that nobody expected"
    FULL = "local disk full until there is room"
    STOP = "stop asked for by a signal"
    STALE = "answered with an earlier answer"
    FLIP = "one bit of the data is wrong"
    SHORT = "the end of the data is missing"
    UNKNOWN = "fence unknown"
    SICK = "machine reported sick"
    LATE = "guest powers off too late"
    RESTART = "hypervisor restarted"
    STARTED = "somebody starts the source"
    BITMAP_GONE = "bitmap removed by somebody"
    BITMAP_STOPPED = "bitmap stopped by somebody"
    POINT_GONE = "open point no longer readable"
    SNAPSHOT_GONE = "snapshot deleted by somebody"
    SNAPSHOT_FAILED = "pending snapshot given up by the cloud"
    LIE = "bitmap forgets a change"
    GROWN = "disk grown"
    CLOCK_BACK = "wall clock ten years back"
    CLOCK_FORWARD = "wall clock one year forward"


KILLS = frozenset({Fault.KILL_BEFORE, Fault.KILL_AFTER, Fault.POWER_CUT})
WORLD = frozenset(
    {
        Fault.RESTART,
        Fault.STARTED,
        Fault.BITMAP_GONE,
        Fault.BITMAP_STOPPED,
        Fault.POINT_GONE,
        Fault.SNAPSHOT_GONE,
        Fault.SNAPSHOT_FAILED,
        Fault.LIE,
        Fault.GROWN,
        Fault.CLOCK_BACK,
        Fault.CLOCK_FORWARD,
    }
)
"""Faults that happen to the world, whatever call is under way."""

DATA = frozenset({Fault.FLIP, Fault.SHORT, Fault.LIE})
"""Faults after which bytes are not what somebody says; only these excuse an ``IntegrityError``."""

_LOCAL = frozenset({"state", "journal"})
_REMOTE = frozenset({"cloud", "disk-writer", "target-reader", "objects", "service"})
_MAKES = frozenset(
    {
        *("begin_snapshot", "publish", "launch", "write", "commit", "put"),
        *("make_disk", "make_card", "make_machine"),
    }
)
_DATA_CALLS: dict[Fault, frozenset[tuple[str, str]]] = {
    Fault.FLIP: frozenset(
        {
            ("target-reader", "read_into"),
            ("disk-writer", "write"),
            ("objects", "get"),
            ("objects", "get_into"),
            ("objects", "put"),
        }
    ),
    Fault.SHORT: frozenset(
        {("target-reader", "read_into"), ("objects", "get"), ("objects", "get_into")}
    ),
}
_QUERIES = frozenset(
    {
        *(("hypervisor", name) for name in ("describe", "tracking", "find_point", "fence")),
        *(("cloud", name) for name in ("snapshot_state", "health", "owned", "find_launched")),
        ("objects", "list"),
    }
)
_ANSWERS: dict[Fault, tuple[str, str]] = {
    Fault.UNKNOWN: ("hypervisor", "fence"),
    Fault.SICK: ("cloud", "health"),
    Fault.LATE: ("hypervisor", "shutdown"),
}


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a port: ``number`` counts from 1 over all ports."""

    number: int
    port: str
    name: str


def applicable(call: Call) -> frozenset[Fault]:
    """What can happen at this call; faults of the world and stale answers depend on more."""
    found = {Fault.KILL_BEFORE, Fault.KILL_AFTER, Fault.STOP, Fault.UNEXPECTED, Fault.REFUSE}
    found |= {Fault.FAIL_BEFORE, Fault.FAIL_AFTER, Fault.POWER_CUT}
    if call.port in _LOCAL:
        found |= {Fault.FULL} if call.name in ("save", "append", "sync", "log", "delete") else set()
    else:
        found |= {Fault.TIMEOUT}
    if call.port in _REMOTE:
        found |= {Fault.THROTTLE, Fault.THROTTLE_NAMED, Fault.CREDENTIALS, Fault.DENIED}
        found |= {Fault.QUOTA} if call.name in _MAKES else set()
    here = (call.port, call.name)
    found |= {f for f, places in _DATA_CALLS.items() if here in places}
    return frozenset(found | {f for f, at in _ANSWERS.items() if at == here})


Question = tuple[str, str, str]
"""Port, call and arguments."""


class World(Protocol):
    """What faults of the world happen to."""

    rng: random.Random

    def disturb(self, fault: Fault) -> bool:
        """Let it happen; False when it cannot happen now."""

    def pass_time(self, seconds: float) -> None:
        """Move the clock."""


class Script:
    """Faults by call number, over all processes of a history. Thread-safe.

    Attributes:
        calls: every call so far.
        answers: the newest answer to each question.
        fired: the faults that happened, with their calls.
        stale: numbers of calls for which an earlier answer to the same question differed.
        on_call: looks on before each call.
        after_call: looks on after each call that returned.
        kill_after: (port, name) whose next call is the process's last, once.
    """

    def __init__(
        self,
        faults: Iterable[tuple[int, Fault]] = (),
        world: World | None = None,
        answers: "dict[Question, Any] | None" = None,
    ) -> None:
        self._faults = dict(faults)
        self._world = world
        self._lock = threading.Lock()
        self._dead = False
        self._persistent: set[Fault] = set()
        self.answers = {} if answers is None else answers
        self.cancel: CancelToken | None = None
        self.calls: list[Call] = []
        self.fired: list[tuple[Call, Fault]] = []
        self.stale: set[int] = set()
        self.on_call: Callable[[Call], None] | None = None
        self.after_call: Callable[[Call], None] | None = None
        self.kill_after: tuple[str, str] | None = None

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

    @property
    def pending(self) -> frozenset[int]:
        """Call numbers whose fault is still to come."""
        return frozenset(self._faults)

    def restart(self, cancel: CancelToken | None = None) -> None:
        """A new process begins: credentials are renewed and there is room again."""
        self._dead = False
        self._persistent.clear()
        self.cancel = cancel

    def around(
        self,
        port: str,
        name: str,
        effect: Callable[[], T],
        args: tuple[Any, ...] = (),
        earlier: Callable[[], T] | None = None,
    ) -> T:
        """Let one call through, with its fault.

        Args:
            port: whose call it is.
            name: of the call.
            effect: the call.
            args: of the call.
            earlier: what a service may still answer that has not seen its newest changes; of
                other questions it is what they were answered with before.
        """
        with self._lock:
            if self._dead:
                raise Killed
            call = Call(len(self.calls) + 1, port, name)
            self.calls.append(call)
            fault = self._due(call)
        if self.on_call is not None:
            self.on_call(call)
        self._raise_persistent(call)
        if fault is Fault.STALE and earlier is not None:
            self._fire(call, fault)
            result = earlier()
        elif fault is not None:
            result = self._disturbed(call, fault, effect, args)
        else:
            result = self._answered(call, effect, args)
            if earlier is not None and earlier() != result:
                self.stale.add(call.number)
        if self.kill_after == (port, name):
            self.kill_after = None
            self._die()
        if self.after_call is not None:
            self.after_call(call)
        return result

    # ------------------------------------------------------------------ one fault

    def _due(self, call: Call) -> Fault | None:
        """The fault of this call; one that cannot happen here waits for the next call."""
        fault = self._faults.get(call.number)
        if fault is None or fault in WORLD or fault is Fault.STALE or fault in applicable(call):
            return fault
        self._wait(call)
        return None

    def _wait(self, call: Call) -> None:
        self._faults.setdefault(call.number + 1, self._faults.pop(call.number))

    def _disturbed(
        self, call: Call, fault: Fault, effect: Callable[[], T], args: tuple[Any, ...]
    ) -> T:
        if fault in WORLD:
            if self._world is not None and self._world.disturb(fault):
                self._fire(call, fault)
            else:
                self._wait(call)
            return self._answered(call, effect, args)
        if fault is Fault.STALE:
            return cast(T, self._stale_answer(call, args, effect))
        self._fire(call, fault)
        self._fail_before(call, fault)
        if fault is Fault.FLIP and call.name in ("write", "put"):
            _flip(args[1], self._rng())
        result = self._answered(call, effect, args)
        self._fail_after(call, fault)
        return cast(T, self._wrong_answer(call, fault, result, args))

    def _fire(self, call: Call, fault: Fault) -> None:
        self._faults.pop(call.number)
        self.fired.append((call, fault))

    def _fail_before(self, call: Call, fault: Fault) -> None:
        if fault is Fault.KILL_BEFORE:
            self._die()
        if fault in (Fault.CREDENTIALS, Fault.FULL):
            self._persistent.add(fault)
            self._raise_persistent(call)
        if fault is Fault.TIMEOUT and call.number % 2:
            self._hang(call)
        if fault is Fault.STOP and self.cancel is not None:
            self.cancel.cancel("SIGTERM")
        error = _error(fault, call)
        if error is not None:
            raise error

    def _fail_after(self, call: Call, fault: Fault) -> None:
        if fault is Fault.POWER_CUT and self._world is not None:
            self._world.disturb(fault)
        if fault in KILLS:
            self._die()
        if fault is Fault.TIMEOUT:
            self._hang(call)
        if fault is Fault.FAIL_AFTER:
            raise _passing(call, "after")

    def _raise_persistent(self, call: Call) -> None:
        if Fault.CREDENTIALS in self._persistent and call.port in _REMOTE:
            raise CredentialsError(f"injected at {call.name}: expired")
        writes = call.name not in ("load", "names")
        if Fault.FULL in self._persistent and call.port in _LOCAL and writes:
            raise OutOfSpaceError(f"injected at {call.name}: no space left on device")

    def _hang(self, call: Call) -> None:
        if self._world is not None:
            self._world.pass_time(TIMEOUT_SECONDS)
        raise TransientError(f"injected: {call.port}.{call.name} timed out")

    def _die(self) -> None:
        self._dead = True
        raise Killed

    def _rng(self) -> random.Random:
        return self._world.rng if self._world is not None else random.Random(0)  # noqa: S311

    # ------------------------------------------------------------------ answers

    def _answered(self, call: Call, effect: Callable[[], T], args: tuple[Any, ...]) -> T:
        result = effect()
        if (call.port, call.name) in _QUERIES:
            key = (call.port, call.name, repr(args))
            if self.answers.get(key, result) != result:
                self.stale.add(call.number)
            self.answers[key] = result
        return result

    def _stale_answer(self, call: Call, args: tuple[Any, ...], effect: Callable[[], Any]) -> Any:
        key = (call.port, call.name, repr(args))
        if key not in self.answers:
            self._wait(call)
            return self._answered(call, effect, args)
        self._fire(call, Fault.STALE)
        return self.answers[key]

    def _wrong_answer(self, call: Call, fault: Fault, result: Any, args: tuple[Any, ...]) -> Any:
        if fault is Fault.UNKNOWN:
            return Fenced.UNKNOWN
        if fault is Fault.SICK:
            return Health("failed", "injected: impaired")
        if fault is Fault.LATE:
            return False
        if call.name == "get":
            return self._wrong_bytes(fault, result)
        if fault is Fault.FLIP and call.name in ("read_into", "get_into"):
            _flip(args[-1], self._rng())
        if fault is Fault.SHORT:
            half = len(args[-1]) // 2
            args[-1][half:] = bytes(byte ^ 0xFF for byte in args[-1][half:])
        return result

    def _wrong_bytes(self, fault: Fault, data: bytes) -> bytes:
        """What a get answers instead of what is stored."""
        wrong = bytearray(data)
        if fault is Fault.FLIP:
            _flip(wrong, self._rng())
        return bytes(wrong[: len(wrong) // 2] if fault is Fault.SHORT else wrong)


def _flip(data: memoryview | bytearray, rng: random.Random) -> None:
    if len(data):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _passing(call: Call, when: str) -> SealiftError:
    """Local state knows no passing failure: what fails there once may work the next time."""
    kind = LocalStateError if call.port in _LOCAL else TransientError
    return kind(f"injected {when} {call.port}.{call.name}")


def _error(fault: Fault, call: Call) -> Exception | None:
    """What is raised before the call takes effect."""
    text = f"injected at {call.port}.{call.name}: {fault.value}"
    if fault is Fault.FAIL_BEFORE:
        return _passing(call, "before")
    if fault is Fault.REFUSE:
        return _REFUSALS[call.port](text)
    if fault is Fault.THROTTLE_NAMED:
        return ThrottledError(text, retry_after_seconds=5.0)
    kinds: dict[Fault, type[Exception]] = {
        Fault.THROTTLE: ThrottledError,
        Fault.QUOTA: QuotaError,
        Fault.DENIED: TargetDeniedError,
        Fault.UNEXPECTED: RuntimeError,
    }
    return kinds[fault](text) if fault in kinds else None


_REFUSALS: dict[str, type[SealiftError]] = {
    "hypervisor": SourceError,
    "disk-reader": SourceReadError,
    "cloud": TargetError,
    "disk-writer": TargetError,
    "target-reader": TargetError,
    "objects": TargetError,
    "service": TargetError,
    "state": LocalStateError,
    "journal": LocalStateError,
    "reader": SourceReadError,
    "writer": TargetError,
}


# ---------------------------------------------------------------------- taps

_QUIET = frozenset({"close", "volume_size", "records"})
_RETURNS_PORT = {
    ("hypervisor", "reader"): "disk-reader",
    ("cloud", "reader"): "target-reader",
    ("cloud", "writer"): "disk-writer",
    ("state", "log"): "journal",
}


class _Tap:
    def __init__(self, target: object, port: str, script: Script) -> None:
        self._target, self._port, self._script = target, port, script

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)
        if not callable(found) or name in _QUIET:
            return found

        if self._port == "objects":
            return partial(_objects_call, self._script, name, found)

        def call(*args: Any) -> Any:
            result = self._script.around(self._port, name, lambda: found(*args), args)
            inner = _RETURNS_PORT.get((self._port, name))
            return _Tap(result, inner, self._script) if inner else result

        return call


def _objects_call(
    script: Script, name: str, found: Callable[..., Any], *args: Any, **options: Any
) -> Any:
    """A call of an object store; a list is one call, with all that it says."""
    if name == "list":
        asked = (*args, *options.values())
        return iter(script.around("objects", name, lambda: list(found(*args, **options)), asked))
    if name == "put":
        args = (
            args[0],
            bytearray(args[1]),
        )  # a fault may change what is stored, never the caller's
    return script.around("objects", name, lambda: found(*args, **options), args)


def tapped(target: T, port: str, script: Script) -> T:
    """``target`` with every call going through ``script``; what it opens is tapped too."""
    return cast(T, _Tap(target, port, script))
