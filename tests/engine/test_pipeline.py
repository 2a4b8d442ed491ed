"""Bounded workers: first error wins, nobody waits on the dead, stops are obeyed."""

import threading
from collections.abc import Iterator

import pytest

from sealift.cancel import CancelToken
from sealift.errors import SourceError, StoppedError
from sealift.pipeline import (
    BoundedQueue,
    BufferPool,
    Closed,
    Executor,
    InlineExecutor,
    ThreadExecutor,
)

BOTH = pytest.mark.parametrize("executor", [InlineExecutor(), ThreadExecutor()], ids=type)


@BOTH
def test_every_item_once(executor: Executor) -> None:
    seen: list[int] = []
    executor.run(range(500), seen.append, 4, CancelToken())
    assert sorted(seen) == list(range(500))


@BOTH
def test_first_error_of_a_worker_reaches_the_caller(executor: Executor) -> None:
    def work(item: int) -> None:
        if item == 7:
            raise SourceError("seven")

    with pytest.raises(SourceError, match="seven"):
        executor.run(iter(range(10_000)), work, 4, CancelToken())


@BOTH
def test_error_of_the_producer_reaches_the_caller(executor: Executor) -> None:
    def items() -> Iterator[int]:
        yield 1
        raise SourceError("producer")

    with pytest.raises(SourceError, match="producer"):
        executor.run(items(), lambda _: None, 4, CancelToken())


@BOTH
def test_no_work_starts_after_a_stop(executor: Executor) -> None:
    cancel, worked = CancelToken(), []

    def work(item: int) -> None:
        worked.append(item)
        cancel.cancel("test")

    with pytest.raises(StoppedError, match="test"):
        executor.run(iter(range(10_000)), work, 1, cancel)
    assert worked == [0]


@pytest.mark.fault(8)
def test_no_thread_is_left_and_memory_is_bounded() -> None:
    before = threading.active_count()
    produced: list[int] = []
    gate = threading.Event()

    def items() -> Iterator[int]:
        for n in range(1000):
            produced.append(n)
            if n == 6:
                gate.set()
            yield n

    def work(_: int) -> None:
        gate.wait(60)
        assert len(produced) <= 1000

    ThreadExecutor().run(items(), work, 2, CancelToken())
    assert threading.active_count() == before


def test_closing_wakes_both_sides() -> None:
    queue: BoundedQueue[int] = BoundedQueue(1)
    queue.put(1)
    outcomes: list[str] = []

    def put() -> None:
        try:
            queue.put(2)
        except Closed:
            outcomes.append("put")

    thread = threading.Thread(target=put)
    thread.start()
    queue.close(drop=True)
    thread.join(60)
    with pytest.raises(Closed):
        queue.get()
    assert outcomes == ["put"]


def test_buffers_are_reused() -> None:
    pool = BufferPool(10)
    first = pool.take()
    pool.give(first)
    assert pool.take() is first
