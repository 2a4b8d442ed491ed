"""Bounded workers over a lazy stream: one producer, N workers, first error wins.

Two executors with one contract: threads for real use, inline for simulations in one
thread on a virtual clock. Nothing waits on a dead partner: the queue closes on the
first error or stop, which wakes both sides.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Generic, Protocol, TypeVar

from sealift.cancel import CancelToken

T = TypeVar("T")


class Executor(Protocol):
    """Runs ``work`` once for each item; which thread and which order is its own affair."""

    def run(
        self, items: Iterable[T], work: Callable[[T], None], workers: int, cancel: CancelToken
    ) -> None:
        """Return when every item was worked on.

        Raises the first error of the producer or of a worker, after every worker has
        stopped; no ``work`` starts after it or after a stop.
        """


class InlineExecutor:
    """Everything in the caller's thread, in order."""

    def run(
        self, items: Iterable[T], work: Callable[[T], None], workers: int, cancel: CancelToken
    ) -> None:
        """See ``Executor.run``; ``workers`` has no effect."""
        for item in items:
            cancel.check()
            work(item)
        cancel.check()


class Closed(Exception):
    """The queue was closed; stop."""


class BoundedQueue(Generic[T]):
    """A closable FIFO of at most ``limit`` items.

    An item wakes one waiting taker and a free place one waiting putter, not all of them:
    dozens of workers that wake for nothing would spend their time on the interpreter's lock.
    """

    def __init__(self, limit: int) -> None:
        self._items: deque[T] = deque()
        self._limit = limit
        self._closed = False
        self._lock = threading.Lock()
        self._filled = threading.Condition(self._lock)
        self._freed = threading.Condition(self._lock)

    def put(self, item: T) -> None:
        """Append, waiting for room; ``Closed`` once the queue is closed."""
        with self._lock:
            while not self._closed and len(self._items) >= self._limit:
                self._freed.wait()
            if self._closed:
                raise Closed
            self._items.append(item)
            self._filled.notify()

    def get(self) -> T:
        """Take the oldest, waiting for one; ``Closed`` once closed and drained."""
        with self._lock:
            while not self._closed and not self._items:
                self._filled.wait()
            if not self._items:
                raise Closed
            item = self._items.popleft()
            self._freed.notify()
            return item

    def close(self, *, drop: bool = False) -> None:
        """No more items; with ``drop`` what waits is thrown away. Idempotent."""
        with self._lock:
            self._closed = True
            if drop:
                self._items.clear()
            self._filled.notify_all()
            self._freed.notify_all()


class ThreadExecutor:
    """Worker threads over a bounded queue of two items a worker."""

    def run(
        self, items: Iterable[T], work: Callable[[T], None], workers: int, cancel: CancelToken
    ) -> None:
        """See ``Executor.run``."""
        _Run(work, workers, cancel).over(items)


class _Run(Generic[T]):
    def __init__(self, work: Callable[[T], None], workers: int, cancel: CancelToken) -> None:
        self._work = work
        self._cancel = cancel
        self._queue: BoundedQueue[T] = BoundedQueue(2 * workers)
        self._errors: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._loop, name=f"sealift-worker-{n}", daemon=True)
            for n in range(workers)
        ]

    def over(self, items: Iterable[T]) -> None:
        for thread in self._threads:
            thread.start()
        try:
            self._produce(items)
        except BaseException as error:
            self._fail(error)
        finally:
            self._queue.close()
            for thread in self._threads:
                thread.join()
        if self._errors:
            raise self._errors[0]
        self._cancel.check()

    def _produce(self, items: Iterable[T]) -> None:
        for item in items:
            self._cancel.check()
            try:
                self._queue.put(item)
            except Closed:
                return

    def _loop(self) -> None:
        try:
            while True:
                item = self._queue.get()
                self._cancel.check()
                self._work(item)
        except Closed:
            return
        except BaseException as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        self._errors.append(error)
        self._queue.close(drop=True)


class BufferPool:
    """Reused buffers, at most one per worker: memory is workers x ``size`` bytes."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._free: list[bytearray] = []
        self._lock = threading.Lock()

    def take(self) -> bytearray:
        """A buffer with undefined content; give it back with ``give``."""
        with self._lock:
            return self._free.pop() if self._free else bytearray(self._size)

    def give(self, buffer: bytearray) -> None:
        """Return a buffer; the caller keeps no view of it."""
        with self._lock:
            self._free.append(buffer)
