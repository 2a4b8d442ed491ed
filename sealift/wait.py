"""Waiting for the cloud to get somewhere, on the injected clock and never without a bound."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from sealift.cancel import CancelToken
from sealift.clock import Clock
from sealift.errors import TransientError

T = TypeVar("T")

_FIRST_SECONDS = 0.25
_LONGEST_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Waiter:
    """Asks again and again, first soon and then every few seconds.

    Args:
        clock: where it sleeps.
        cancel: looked at before every question.
    """

    clock: Clock
    cancel: CancelToken = field(default_factory=CancelToken)

    def until(self, probe: Callable[[], T | None], timeout_seconds: float, what: str) -> T:
        """The first answer of ``probe`` that is not None.

        Raises:
            TransientError: not within ``timeout_seconds``; the wait can be repeated.
            StoppedError: a stop was asked for.
        """
        deadline = self.clock.monotonic() + timeout_seconds
        pause = _FIRST_SECONDS
        while True:
            self.cancel.check()
            answer = probe()
            if answer is not None:
                return answer
            left = deadline - self.clock.monotonic()
            if left <= 0:
                raise TransientError(
                    f"{what} took longer than {timeout_seconds:.0f} seconds",
                    next_step="run the same command again to go on waiting",
                )
            self.cancel.sleep(self.clock, min(pause, left))
            pause = min(pause * 2, _LONGEST_SECONDS)
