"""Bounded workers over a lazy stream: one producer, N workers, first error wins.

Two executors with one contract: threads for real use, inline for simulations in one
thread on a virtual clock. Nothing waits on a dead partner: the queue closes on the
first error or stop, which wakes both sides.
"""

import mmap
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Generic, Protocol, TypeVar

from sealift.cancel import CancelToken
from sealift.clock import Clock, SystemClock
from sealift.host_limits import check_room_for_thread
from sealift.memory import Pages

T = TypeVar("T")

FIRST_WORKERS = 4
"""How many begin: where the processor is the limit, more take the interpreter's lock from each
other."""


class Executor(Protocol):
    """Runs ``work`` once for each item; which thread and which order is its own affair."""

    def run(
        self,
        items: Iterable[T],
        work: Callable[[T], None],
        workers: int,
        cancel: CancelToken,
        first: int | None = None,
    ) -> None:
        """Return when every item was worked on, by ``first`` workers or by up to ``workers``.

        ``first`` None is for whoever does not know better.

        Raises the first error of the producer or of a worker, after every worker has
        stopped; no ``work`` starts after it or after a stop.
        """


class InlineExecutor:
    """Everything in the caller's thread, in order."""

    def run(
        self,
        items: Iterable[T],
        work: Callable[[T], None],
        workers: int,
        cancel: CancelToken,
        first: int | None = None,
    ) -> None:
        """See ``Executor.run``; the numbers of workers have no effect."""
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
    """Worker threads over a bounded queue of two items a worker, as many as pay off.

    Args:
        clock: measures whether more workers pay off; the machine's when not given.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()

    def run(
        self,
        items: Iterable[T],
        work: Callable[[T], None],
        workers: int,
        cancel: CancelToken,
        first: int | None = None,
    ) -> None:
        """See ``Executor.run``; ``workers`` is the most at once, see ``Crew``."""
        crew = Crew(workers, self._clock.monotonic(), first or FIRST_WORKERS)
        _Run(work, crew, cancel, self._clock).over(items)


class Crew:
    """How many workers pay off: twice as many as long as that makes it faster.

    Calls that wait for a distant service want dozens of workers. Where the processor is
    the limit, dozens only take the interpreter's lock from each other: with 32 workers a
    local server got a fifth less than with 4. So a crew begins small, tries twice its size
    for a moment, keeps that when it was faster by a sixth or more, and else goes back and
    tries again some seconds later. Not thread-safe.

    Args:
        most: workers at once.
        now: of ``Clock.monotonic``.
        first: workers to begin with.
    """

    _WINDOW_SECONDS = 0.2
    _HOLD_SECONDS = 5.0
    _GAIN = 1.15

    def __init__(self, most: int, now: float, first: int = FIRST_WORKERS) -> None:
        self.size = min(most, first)
        self.most = most
        self._since = now
        self._finished = 0
        self._warm = False  # the first window is full of opening connections
        self._tried_from: tuple[int, float] | None = None
        self._held_until = now

    def finished(self, now: float) -> int:
        """Book one finished item; returns how many workers there should be from now on."""
        self._finished += 1
        seconds = now - self._since
        if seconds < self._WINDOW_SECONDS or self._finished < 2 * self.size:
            return self.size
        rate = self._finished / seconds
        self._since, self._finished = now, 0
        if self._warm:
            self._judge(rate, now)
        self._warm = True
        return self.size

    def _judge(self, rate: float, now: float) -> None:
        if self._tried_from is not None:
            (size, before), self._tried_from = self._tried_from, None
            if rate < before * self._GAIN:
                self.size, self._held_until = size, now + self._HOLD_SECONDS
        if self.size < self.most and now >= self._held_until:
            self._tried_from = (self.size, rate)
            self.size = min(self.most, 2 * self.size)


class _Run(Generic[T]):
    def __init__(
        self, work: Callable[[T], None], crew: Crew, cancel: CancelToken, clock: Clock
    ) -> None:
        self._work = work
        self._cancel = cancel
        self._clock = clock
        self._queue: BoundedQueue[T] = BoundedQueue(2 * crew.most)
        self._errors: list[BaseException] = []
        self._lock = threading.Lock()
        self._crew = crew
        self._threads: list[threading.Thread] = []
        self._running = 0
        self._produced = False

    def over(self, items: Iterable[T]) -> None:
        try:
            with self._lock:
                self._hire_locked(self._crew.size)
            self._produce(items)
        except BaseException as error:
            self._fail(error)
        finally:
            with self._lock:
                self._produced = True
            self._queue.close()
            for thread in self._threads:
                thread.join()
        if self._errors:
            raise self._errors[0]
        self._cancel.check()

    def _hire_locked(self, wanted: int) -> None:
        if self._running >= wanted or self._produced:
            return
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        while self._running < wanted:
            check_room_for_thread()
            thread = threading.Thread(target=self._loop, name="sealift-worker", daemon=True)
            thread.start()
            self._threads.append(thread)
            self._running += 1

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
                if self._leaves():
                    return
        except Closed:
            return
        except BaseException as error:
            self._fail(error)

    def _leaves(self) -> bool:
        """Keep the crew at its size; True when this worker is one too many."""
        with self._lock:
            wanted = self._crew.finished(self._clock.monotonic())
            self._hire_locked(wanted)
            if self._running <= wanted:
                return False
            self._running -= 1
            return True

    def _fail(self, error: BaseException) -> None:
        self._errors.append(error)
        self._queue.close(drop=True)


class BufferPool:
    """Reused buffers, at most one per worker: memory is workers x ``size`` bytes.

    They begin at a page, so that a writer may hand them to a disk as they are.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._free: list[mmap.mmap] = []
        self._lock = threading.Lock()

    def take(self) -> mmap.mmap:
        """A buffer with undefined content; give it back with ``give``."""
        with self._lock:
            if self._free:
                return self._free.pop()
        return Pages(self._size)

    def give(self, buffer: mmap.mmap) -> None:
        """Return a buffer; the caller keeps no view of it."""
        with self._lock:
            self._free.append(buffer)
