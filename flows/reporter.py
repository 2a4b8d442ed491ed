"""One thread that shows progress; what is shown never slows or fails what is done."""

import contextvars
import logging
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from flows.board import Board, Picture
from sealift.clock import Clock
from sealift.progress import Noted

log = logging.getLogger(__name__)

_TICK_SECONDS = 0.1


class View(Protocol):
    """Shows progress to someone. Called by one thread at a time."""

    @property
    def interval_seconds(self) -> float:
        """Time between two calls of ``show``."""

    @property
    def shows_end(self) -> bool:
        """Whether ``show`` is called once more at the end, whatever the interval."""

    def note(self, noted: Noted) -> None:
        """A moment, soon after it happened."""

    def show(self, picture: Picture) -> None:
        """The state now."""

    def close(self) -> None:
        """Nothing more comes."""


class Reporter:
    """Feeds views from a board while entered. A view that fails is dropped and logged.

    The thread runs in a copy of the caller's context, so that a view may find the Prefect
    run that it reports to.
    """

    def __init__(self, board: Board, views: Sequence[View], clock: Clock) -> None:
        self._board = board
        self._views = list(views)
        self._clock = clock
        self._due = {id(view): clock.monotonic() for view in views}
        self._ended = threading.Event()
        self._turn = threading.Lock()
        context = contextvars.copy_context()
        self._thread = threading.Thread(
            target=context.run, args=(self._loop,), name="sealift-reporter", daemon=True
        )

    def __enter__(self) -> "Reporter":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._tick(last=True)
        for view in list(self._views):
            self._guarded(view, view.close)

    def _loop(self) -> None:
        while not self._ended.wait(_TICK_SECONDS):
            self._tick(last=False)

    def _tick(self, *, last: bool) -> None:
        with self._turn:
            notes = self._board.take_notes()
            picture = self._board.picture()
            now = self._clock.monotonic()
            for noted in notes:
                log.info("%s: %s", noted.note.value, noted.text)
                for view in list(self._views):
                    self._guarded(view, partial(view.note, noted))
            for view in list(self._views):
                if (last and view.shows_end) or (not last and now >= self._due[id(view)]):
                    self._due[id(view)] = now + view.interval_seconds
                    self._guarded(view, partial(view.show, picture))

    def _guarded(self, view: View, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:
            log.warning("%s shows nothing any more: %r", type(view).__name__, error)
            self._views.remove(view)
