"""An object store whose every call is under the retry layer."""

from collections.abc import Callable, Iterator
from functools import partial

from sealift.errors import ObjectExistsError, ObjectMissingError, TransientError
from sealift.objects import Bytes, ObjectInfo, ObjectStore
from sealift.objects_decorator import StoreCall, StoreDecorator, T
from sealift.retry import Retrier


class PatientStore(StoreDecorator):
    """Repeats calls, and finds out what became of a conditional put whose answer was lost.

    Such a put may find its own object at the next attempt. When an earlier attempt ended
    without an answer, and what is stored is byte for byte what was to be stored, that is
    success. So whoever needs to know that *he* won puts bytes that nobody else would, as every
    sealed object is.

    Args:
        inner: the real store.
        retrier: how long and how often.
    """

    def __init__(self, inner: ObjectStore, retrier: Retrier) -> None:
        super().__init__(inner)
        self._retrier = retrier

    def _around(self, call: StoreCall, effect: Callable[[], T]) -> T:
        return self._retrier.call(effect)

    def put(
        self,
        name: str,
        data: Bytes,
        *,
        if_absent: bool = False,
        if_match: str | None = None,
        lock_until: float | None = None,
    ) -> ObjectInfo:
        """See ``ObjectStore.put``.

        Raises:
            ObjectExistsError: another object is there; ours was not stored.
        """
        put = partial(
            self._inner.put,
            name,
            data,
            if_absent=if_absent,
            if_match=if_match,
            lock_until=lock_until,
        )
        if not if_absent and if_match is None:
            return self._retrier.call(put)
        return self._retrier.call(_ConditionalPut(self._inner, name, data, put))

    def list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        """See ``ObjectStore.list``; what came before an error does not come again."""
        walk, info = self._retrier.call(partial(self._from, prefix, after))
        while info is not None:
            yield info
            try:
                following = next(walk, None)
            except TransientError:
                walk, following = self._retrier.call(partial(self._from, prefix, info.name))
            info = following

    def _from(self, prefix: str, after: str) -> tuple[Iterator[ObjectInfo], ObjectInfo | None]:
        walk = self._inner.list(prefix, after)
        return walk, next(walk, None)


class _ConditionalPut:
    """The attempts of one put, which remember whether one of them ended without an answer."""

    def __init__(
        self, store: ObjectStore, name: str, data: Bytes, put: Callable[[], ObjectInfo]
    ) -> None:
        self._store, self._name, self._data, self._put = store, name, data, put
        self._unanswered = False

    def __call__(self) -> ObjectInfo:
        try:
            return self._put()
        except TransientError:
            self._unanswered = True
            raise
        except (ObjectExistsError, ObjectMissingError):
            ours = self._ours() if self._unanswered else None
            if ours is None:
                raise
            return ours

    def _ours(self) -> ObjectInfo | None:
        """What the store has, if it is what was to be stored."""
        found = self._store.head(self._name)
        if found is None or found.size != len(self._data):
            return None
        try:
            stored = self._store.get(self._name)
        except ObjectMissingError:
            return None
        return found if stored == self._data else None
