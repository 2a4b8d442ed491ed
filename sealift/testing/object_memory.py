"""Object stores in memory: an honest one, and one whose lists lag behind."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace

from sealift.clock import Clock
from sealift.errors import (
    IntegrityError,
    ObjectExistsError,
    ObjectMissingError,
    TargetDeniedError,
    TargetError,
)
from sealift.objects import (
    Bytes,
    ObjectInfo,
    ObjectStore,
    StoreCaps,
    checked_conditions,
    checked_name,
    checked_prefix,
    checked_range,
)
from sealift.testing.clock import VirtualClock

ALL_CAPS = StoreCaps(conditional_put=True, conditional_replace=True, object_lock=True)


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One object, with what the store knows of it."""

    data: bytes
    info: ObjectInfo
    locked_until: float = 0.0


class MemoryObjectStore:
    """Keeps the whole contract of ``ObjectStore``; survives the end of a simulated process.

    Attributes:
        objects: what is stored, for tests to look at and to put back an older copy of.
    """

    def __init__(
        self,
        clock: Clock | None = None,
        *,
        caps: StoreCaps = ALL_CAPS,
        identity: str = "memory:test",
    ) -> None:
        self.identity = identity
        self.caps = caps
        self.objects: dict[str, StoredObject] = {}
        self._clock = clock or VirtualClock()
        self._lock = threading.Lock()
        self._versions = 0

    def put(
        self,
        name: str,
        data: Bytes,
        *,
        if_absent: bool = False,
        if_match: str | None = None,
        lock_until: float | None = None,
    ) -> ObjectInfo:
        """See ``ObjectStore.put``."""
        checked_name(name)
        checked_conditions(if_absent=if_absent, if_match=if_match)
        self._check_lockable(lock_until)
        if len(data) > self.caps.max_object_bytes:
            raise TargetError(f"{name}: {len(data)} bytes are more than this store takes")
        with self._lock:
            found = self.objects.get(name)
            self._check_condition(name, found, if_absent, if_match)
            if found is not None and not self.caps.versioned:
                self._check_unlocked(found)
            return self._stored(name, bytes(data), lock_until or 0.0)

    def _check_condition(
        self, name: str, found: StoredObject | None, if_absent: bool, if_match: str | None
    ) -> None:
        if if_absent and self.caps.conditional_put and found is not None:
            raise ObjectExistsError(f"{name} exists already")
        if if_match is None or not self.caps.conditional_replace:
            return
        if found is None:
            raise ObjectMissingError(f"{name} does not exist")
        if found.info.version != if_match:
            raise ObjectExistsError(f"{name} has another version")

    def _stored(self, name: str, data: bytes, locked_until: float) -> ObjectInfo:
        self._versions += 1
        info = ObjectInfo(name, len(data), f"v{self._versions}", self._now())
        self.objects[name] = StoredObject(data, info, locked_until)
        return info

    def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        """See ``ObjectStore.get``."""
        checked_range(start, length)
        data = self._found(name).data
        end = len(data) if length is None else start + length
        if end > len(data) or (start and start >= len(data)):
            raise IntegrityError(f"{name} ends at {len(data)}, before byte {end}")
        return data[start:end]

    def get_into(self, name: str, start: int, buffer: memoryview) -> None:
        """See ``ObjectStore.get_into``."""
        buffer[:] = self.get(name, start, len(buffer))

    def head(self, name: str) -> ObjectInfo | None:
        """See ``ObjectStore.head``."""
        found = self.objects.get(checked_name(name))
        return found.info if found else None

    def list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        """See ``ObjectStore.list``; as it was when the first object was asked for."""
        checked_prefix(prefix)
        with self._lock:
            found = [o.info for n, o in self.objects.items() if n.startswith(prefix) and n > after]
        yield from sorted(found, key=lambda info: info.name)

    def delete(self, name: str) -> None:
        """See ``ObjectStore.delete``."""
        checked_name(name)
        with self._lock:
            found = self.objects.get(name)
            if found is not None:
                self._check_unlocked(found)
                del self.objects[name]

    def extend_lock(self, name: str, until: float) -> None:
        """See ``ObjectStore.extend_lock``."""
        self._check_lockable(until)
        with self._lock:
            found = self._found(name)
            longer = max(found.locked_until, until)
            self.objects[name] = replace(found, locked_until=longer)

    def close(self) -> None:
        """See ``ObjectStore.close``."""

    def tamper(self, name: str, data: bytes) -> None:
        """Other bytes in place of an object's, as whoever owns the store can put them there."""
        with self._lock:
            self._stored(name, data, 0.0)

    def _found(self, name: str) -> StoredObject:
        found = self.objects.get(checked_name(name))
        if found is None:
            raise ObjectMissingError(f"{name} does not exist")
        return found

    def _check_lockable(self, until: float | None) -> None:
        if until is not None and not self.caps.object_lock:
            raise TargetError(f"{self.identity} cannot lock objects")

    def _check_unlocked(self, found: StoredObject) -> None:
        if found.locked_until > self._now():
            raise TargetDeniedError(f"{found.info.name} is locked")

    def _now(self) -> float:
        return self._clock.now().timestamp()


class LaggingObjectStore:
    """A store whose lists show an earlier state; everything else is strongly consistent.

    Args:
        inner: where the objects are.
        clock: of the simulation.
        lag_seconds: a list does not know what was put or deleted within this time.
    """

    def __init__(self, inner: ObjectStore, clock: Clock, lag_seconds: float) -> None:
        self._inner = inner
        self._clock = clock
        self._lag = lag_seconds
        self._lock = threading.Lock()
        self._history: list[tuple[float, dict[str, ObjectInfo]]] = [
            (float("-inf"), {info.name: info for info in inner.list("")})
        ]

    @property
    def identity(self) -> str:
        """See ``ObjectStore.identity``."""
        return self._inner.identity

    @property
    def caps(self) -> StoreCaps:
        """See ``ObjectStore.caps``."""
        return self._inner.caps

    def put(
        self,
        name: str,
        data: Bytes,
        *,
        if_absent: bool = False,
        if_match: str | None = None,
        lock_until: float | None = None,
    ) -> ObjectInfo:
        """See ``ObjectStore.put``."""
        info = self._inner.put(
            name, data, if_absent=if_absent, if_match=if_match, lock_until=lock_until
        )
        self._happened(name, info)
        return info

    def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        """See ``ObjectStore.get``."""
        return self._inner.get(name, start, length)

    def get_into(self, name: str, start: int, buffer: memoryview) -> None:
        """See ``ObjectStore.get_into``."""
        buffer[:] = self.get(name, start, len(buffer))

    def head(self, name: str) -> ObjectInfo | None:
        """See ``ObjectStore.head``."""
        return self._inner.head(name)

    def list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        """See ``ObjectStore.list``; as it was ``lag_seconds`` ago."""
        checked_prefix(prefix)
        with self._lock:
            self._forget()
            shown = self._history[0][1]
        for name in sorted(shown):
            if name.startswith(prefix) and name > after:
                yield shown[name]

    def delete(self, name: str) -> None:
        """See ``ObjectStore.delete``."""
        self._inner.delete(name)
        self._happened(name, None)

    def extend_lock(self, name: str, until: float) -> None:
        """See ``ObjectStore.extend_lock``."""
        self._inner.extend_lock(name, until)

    def close(self) -> None:
        """See ``ObjectStore.close``."""
        self._inner.close()

    def _happened(self, name: str, info: ObjectInfo | None) -> None:
        with self._lock:
            state = dict(self._history[-1][1])
            state.pop(name, None)
            if info is not None:
                state[name] = info
            self._history.append((self._clock.monotonic(), state))
            self._forget()

    def _forget(self) -> None:
        """Drop states that no list shows any more; the first one left is what lists show."""
        seen = self._clock.monotonic() - self._lag
        while len(self._history) > 1 and self._history[1][0] <= seen:
            del self._history[0]
