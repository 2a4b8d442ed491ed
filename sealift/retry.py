"""The one retry layer. Connectors classify, SDK retries are off, nothing else repeats a call."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from sealift.cancel import CancelToken
from sealift.clock import Clock
from sealift.errors import SealiftError, ThrottledError

if TYPE_CHECKING:
    from tenacity import RetryCallState

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential back-off with full jitter.

    Full jitter (a uniform draw below the exponential bound) spreads clients best after a
    shared outage; see "Exponential Backoff And Jitter", AWS Architecture Blog.

    Attributes:
        first_seconds: bound of the first wait.
        longest_seconds: bound that the exponential growth stops at.
        patience_seconds: no new attempt starts after this much time; 180 s outlasts the
            2 minutes in which a fresh snapshot may not exist yet.
    """

    first_seconds: float = 0.2
    longest_seconds: float = 20.0
    patience_seconds: float = 180.0


@dataclass
class Retrier:
    """Repeats calls that failed with a retryable error.

    Args:
        policy: how long and how often.
        clock: where waits happen.
        cancel: looked at before each attempt and while waiting.
        rng: source of jitter; seeded in simulations.
    """

    policy: RetryPolicy
    clock: Clock
    cancel: CancelToken = field(default_factory=CancelToken)
    rng: random.Random = field(default_factory=random.Random)
    retries: int = 0

    def call(self, fn: Callable[[], T]) -> T:
        """Result of ``fn``, repeated while it raises retryable errors and patience lasts.

        Raises:
            SealiftError: the last error as it was, when patience ran out or it is permanent.
            StoppedError: a stop was asked for.
        """
        started = self.clock.monotonic()
        self.cancel.check()
        try:
            return fn()
        except SealiftError as error:
            if not error.retryable:
                raise
            failed = error
        return self._repeat(fn, started, failed)

    def _repeat(self, fn: Callable[[], T], started: float, failed: SealiftError) -> T:
        """The attempts after the first, which ended with ``failed``.

        Apart from the first because the library's loop costs 40 us a call, on every block of
        every disk, and nearly every first attempt succeeds.
        """
        from tenacity import Retrying, retry_if_exception  # 50 ms that few commands need

        made = False

        def out_of_patience(state: "RetryCallState") -> bool:
            elapsed = self.clock.monotonic() - started
            return elapsed + state.upcoming_sleep > self.policy.patience_seconds

        def attempt() -> T:
            nonlocal made
            if not made:
                made = True
                raise failed
            self.cancel.check()
            return fn()

        return Retrying(
            sleep=self._sleep,
            wait=self._wait,
            stop=out_of_patience,
            retry=retry_if_exception(_is_retryable),
            reraise=True,
        )(attempt)

    def _wait(self, state: "RetryCallState") -> float:
        self.retries += 1
        exponent = min(state.attempt_number - 1, 16)
        bound = min(self.policy.longest_seconds, self.policy.first_seconds * 2**exponent)
        wait = self.rng.uniform(0, bound)
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, ThrottledError) and error.retry_after_seconds is not None:
            return max(wait, error.retry_after_seconds)
        return wait

    def _sleep(self, seconds: float) -> None:
        self.cancel.sleep(self.clock, seconds)


def _is_retryable(error: BaseException) -> bool:
    return isinstance(error, SealiftError) and error.retryable
