"""What was used last, within a bound."""

import threading
from collections import OrderedDict
from collections.abc import Callable


class Recent:
    """The values that were used last. Thread-safe.

    Args:
        limit: on the sum of weights; one value is kept whatever it weighs.
        weight: of a value.
    """

    def __init__(self, limit: int, weight: Callable[[bytes], int]) -> None:
        self._lock = threading.Lock()
        self._held: OrderedDict[bytes | str, bytes] = OrderedDict()
        self._limit, self._weight = limit, weight
        self._weighs = 0

    def get(self, key: bytes | str) -> bytes | None:
        """The value, which counts as used now; None when it is not kept."""
        with self._lock:
            found = self._held.get(key)
            if found is not None:
                self._held.move_to_end(key)
            return found

    def put(self, key: bytes | str, value: bytes) -> None:
        """Keep a value, and let go of those that were not used for longest."""
        with self._lock:
            self._remove(key)
            self._held[key] = value
            self._weighs += self._weight(value)
            while self._weighs > self._limit and len(self._held) > 1:
                self._remove(next(iter(self._held)))

    def drop(self, key: bytes | str) -> None:
        """Keep it no more; fine when it is not kept."""
        with self._lock:
            self._remove(key)

    def _remove(self, key: bytes | str) -> None:
        value = self._held.pop(key, None)
        if value is not None:
            self._weighs -= self._weight(value)
