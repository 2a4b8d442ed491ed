"""Work that is not torn apart when the main thread is interrupted."""

import os
import signal
import threading
from types import FrameType

import pytest

from flows.aside import aside
from sealift.cancel import CancelToken
from sealift.errors import SourceError, StoppedError


class Terminated(BaseException):
    """As Prefect's TerminationSignal."""


@pytest.fixture(autouse=True)
def _raising_handler() -> object:
    def handle(number: int, frame: FrameType | None) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, handle)
    yield
    signal.signal(signal.SIGTERM, before)


def test_the_outcome_is_that_of_the_work() -> None:
    done: list[str] = []
    aside(
        lambda: done.append(threading.current_thread().name),
        CancelToken(),
        prefect_owns_signals=True,
    )
    assert done == ["sealift-work"]
    with pytest.raises(SourceError, match="gone"):
        aside(failing, CancelToken(), prefect_owns_signals=True)


def failing() -> None:
    raise SourceError("gone")


@pytest.mark.parametrize("owns", [True, False])
def test_an_interruption_waits_for_the_work_to_end_in_order(owns: bool) -> None:
    cancel, steps = CancelToken(), []

    def work() -> None:
        steps.append("stopped the source")
        os.kill(os.getpid(), signal.SIGTERM)
        wait_for(cancel)
        for _ in range(20):  # longer than one turn of the waiting thread
            threading.Event().wait(0.05)
        steps.append("resumed the source")
        cancel.check()

    expected = Terminated if owns else StoppedError
    with pytest.raises(expected):
        aside(work, cancel, prefect_owns_signals=owns)
    assert steps == ["stopped the source", "resumed the source"]


def wait_for(cancel: CancelToken) -> None:
    while not cancel.cancelled:
        threading.Event().wait(0.01)


def test_a_second_interruption_is_not_held_back() -> None:
    cancel, let_go = CancelToken(), threading.Event()

    def work() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        wait_for(cancel)
        os.kill(os.getpid(), signal.SIGTERM)
        let_go.wait(30)

    with pytest.raises(Terminated):
        aside(work, cancel, prefect_owns_signals=True)
    let_go.set()
