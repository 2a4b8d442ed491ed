"""Work beside the main thread, which Prefect interrupts wherever it happens to be."""

import contextvars
import threading
from collections.abc import Callable

from sealift.cancel import CancelToken

_TURN_SECONDS = 0.2
_TURNS_TO_LIFE = 10


def aside(work: Callable[[], None], cancel: CancelToken, *, prefect_owns_signals: bool) -> None:
    """Run ``work`` in a thread with this context, and wait for it whatever happens here.

    Prefect's way to cancel is a SIGTERM whose handler raises in the main thread, between
    any two instructions; it has to stay installed for the run to be booked as cancelled.
    Work that holds a machine stopped must not be torn apart like that: here the exception
    only hits the waiting, sets the token, and goes on to Prefect once the work has ended in
    order (a cutover is undone by then). A second one is not held back.

    Args:
        work: looks at the token between its steps.
        cancel: set when this thread is interrupted.
        prefect_owns_signals: the interruption is what the caller wants to see afterwards;
            otherwise the outcome of the work is.

    Raises:
        BaseException: what ``work`` raised, or the interruption.
    """
    failed: list[BaseException] = []
    ended = threading.Event()  # not join(): interrupted, it takes the thread for dead (bpo-45274)

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)
        finally:
            ended.set()

    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(run,), name="sealift-work")
    interruption: BaseException | None = None
    try:
        thread.start()
        _wait(ended)
    except BaseException as error:
        interruption = error
        cancel.cancel(type(error).__name__)
        _wait(ended, thread)
    if interruption is not None and prefect_owns_signals:
        raise interruption
    if failed:
        raise failed[0]


def _wait(ended: threading.Event, perhaps: threading.Thread | None = None) -> None:
    """In short turns, so that a signal that another thread received is noticed here.

    Args:
        ended: set at the end of the work.
        perhaps: the thread, when its start was interrupted and it may never come to life.
    """
    turns = 0
    while not ended.wait(_TURN_SECONDS):
        turns += 1
        if perhaps is not None and perhaps.ident is None and turns > _TURNS_TO_LIFE:
            return
