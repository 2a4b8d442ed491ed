"""A process that ends at a call: before it is sent, or after the service has done it.

What Sealift knows is gone then; what the service did is not. The next process is a fresh
target with fresh connections.
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Self, TypeVar

from azure.core.pipeline.transport import RequestsTransport

from connectors.azure.session import AzureClients
from connectors.azure.target import AzureTarget
from connectors.http_sender import HttpAnswer, HttpSender

from .conftest import Subscription

T = TypeVar("T")


class Killed(BaseException):
    """The process is no more; nothing may catch this."""


@dataclass
class Blade:
    """Counts calls and ends the process at one of them.

    Attributes:
        at: number of the call, from 1; 0 never.
        after: once the service has done it.
        changes: of every call so far, whether it changes anything.
        fell: whether it ended anybody.
    """

    at: int = 0
    after: bool = False
    changes: list[bool] = field(default_factory=list)
    fell: bool = False

    def send(self, request: Any, send: Callable[[], Any]) -> Any:
        self.changes.append(request.method not in ("GET", "HEAD"))
        mine = len(self.changes) == self.at
        if mine and not self.after:
            self.fell = True
            raise Killed
        answer = send()
        if mine:
            self.fell = True
            raise Killed
        return answer


class _Transport(RequestsTransport):  # type: ignore[misc]
    blade: Blade

    def send(self, request: Any, **named: Any) -> Any:
        return self.blade.send(request, lambda: super(_Transport, self).send(request, **named))


class _Sender:
    """What ``HttpSender`` does, under the blade."""

    def __init__(self, sender: HttpSender, blade: Blade) -> None:
        self._sender, self._blade = sender, blade

    def send(
        self, method: str, url: str, headers: Sequence[tuple[str, str]], body: bytes
    ) -> HttpAnswer:
        request = SimpleNamespace(method=method)
        answer: HttpAnswer = self._blade.send(
            request, lambda: self._sender.send(method, url, headers, body)
        )
        return answer

    def close(self) -> None:
        self._sender.close()


class WatchedClients(AzureClients):
    """Clients whose every call passes under the blade; the credential is not theirs to close."""

    blade: Blade
    shared: Any

    @property
    def credential(self) -> Any:
        return self.shared

    def _transport(self, concurrency: int) -> RequestsTransport:
        made = super()._transport(concurrency)
        made.__class__ = _Transport
        made.blade = self.blade
        return made

    def _sender(self) -> HttpSender:
        return _Sender(super()._sender(), self.blade)  # type: ignore[return-value]


class Mortal:
    """Runs steps, each on a target that knows nothing of the one before.

    Args:
        subscription: where.
        name: of the migration.
        blade: ends one step; that step is done again by the next process.
    """

    def __init__(self, subscription: Subscription, name: str, blade: Blade) -> None:
        self._subscription = subscription
        self.name = name
        self.clients = WatchedClients(subscription.spec)
        self.clients.blade = blade
        self.clients.shared = subscription.clients.credential

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """As the end of a process closes what it has open; the next one opens it anew."""
        self.clients.close()

    def target(self) -> AzureTarget:
        return AzureTarget(
            self._subscription.spec,
            self.name,
            self._subscription.clock,
            clients=self.clients,
        )

    def step(self, work: Callable[[AzureTarget], T]) -> T:
        """The step's answer; done twice when the first was killed."""
        retry = self._subscription.retrier()
        with contextlib.suppress(Killed), self:
            return retry.call(lambda: work(self.target()))
        with self:
            return retry.call(lambda: work(self.target()))
