"""What goes around an object store: one place that every call of it passes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from sealift.objects import Bytes, ObjectInfo, ObjectStore, StoreCaps

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StoreCall:
    """One call of a store.

    Attributes:
        verb: ``put``, ``get``, ``head``, ``list``, ``delete`` or ``extend_lock``.
        name: of the object, or the prefix of a list.
        sent_bytes: that a put hands over.
        asked_bytes: that a get asks for, when it says how many.
    """

    verb: str
    name: str
    sent_bytes: int = 0
    asked_bytes: int = 0


class StoreDecorator:
    """A store that lets every call of another one through ``_around``.

    Args:
        inner: the store; closed with this one.
    """

    def __init__(self, inner: ObjectStore) -> None:
        self._inner = inner

    def _around(self, call: StoreCall, effect: Callable[[], T]) -> T:
        """Make one call; of a list it is the first page."""
        return effect()

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
        return self._around(
            StoreCall("put", name, sent_bytes=len(data)),
            lambda: self._inner.put(
                name, data, if_absent=if_absent, if_match=if_match, lock_until=lock_until
            ),
        )

    def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        """See ``ObjectStore.get``."""
        call = StoreCall("get", name, asked_bytes=length or 0)
        return self._around(call, lambda: self._inner.get(name, start, length))

    def get_into(self, name: str, start: int, buffer: memoryview) -> None:
        """See ``ObjectStore.get_into``; a ``get`` for whoever counts, slows down or repeats."""
        call = StoreCall("get", name, asked_bytes=len(buffer))
        self._around(call, lambda: self._inner.get_into(name, start, buffer))

    def head(self, name: str) -> ObjectInfo | None:
        """See ``ObjectStore.head``."""
        return self._around(StoreCall("head", name), lambda: self._inner.head(name))

    def list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        """See ``ObjectStore.list``."""
        call = StoreCall("list", prefix)
        walk = self._around(call, lambda: _begun(self._inner.list(prefix, after)))
        yield from walk

    def delete(self, name: str) -> None:
        """See ``ObjectStore.delete``."""
        self._around(StoreCall("delete", name), lambda: self._inner.delete(name))

    def extend_lock(self, name: str, until: float) -> None:
        """See ``ObjectStore.extend_lock``."""
        call = StoreCall("extend_lock", name)
        self._around(call, lambda: self._inner.extend_lock(name, until))

    def close(self) -> None:
        """See ``ObjectStore.close``."""
        self._inner.close()


def _begun(walk: Iterator[ObjectInfo]) -> Iterator[ObjectInfo]:
    """The same walk, with its first page asked for already: so an error of it is seen here."""
    first = next(walk, None)

    def whole() -> Iterator[ObjectInfo]:
        if first is not None:
            yield first
            yield from walk

    return whole()
