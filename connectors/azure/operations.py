"""Long-running operations of Resource Manager, on our clock and never without a bound.

"Track asynchronous Azure operations" is the page: the first answer names an address to ask,
in ``Azure-AsyncOperation`` or ``Location``, and in ``Retry-After`` how long to wait before. The
SDK's own poller sleeps in a thread on the machine's clock, knows no stop and no end; here every
question goes through the waiter.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from azure.core.rest import HttpRequest

from connectors.azure.errors import MissingError, azure_call, refusal_of
from connectors.sdk_errors import delay_seconds
from sealift.errors import SealiftError, TransientError
from sealift.wait import Waiter

_ENDED = frozenset({"succeeded", "failed", "canceled", "cancelled"})
_LONGEST_RETRY_AFTER_SECONDS = 60.0
"""A service that asks for more is asked after a minute all the same, to keep to our bound."""


@dataclass
class _Answer:
    """The first answer of an operation, as the SDK hands it to a hook."""

    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    address: str = ""

    def __call__(self, response: Any) -> None:
        self.status = response.http_response.status_code
        self.headers = {k.lower(): v for k, v in response.http_response.headers.items()}
        self.address = response.http_request.url

    @property
    def retry_after(self) -> float:
        found = delay_seconds(self.headers.get("retry-after"))
        return min(found or 0.0, _LONGEST_RETRY_AFTER_SECONDS)


@dataclass(frozen=True, slots=True)
class Operations:
    """Starts operations and waits for their ends.

    Args:
        waiter: clock and stop token.
        timeout_seconds: longest wait for one.
    """

    waiter: Waiter
    timeout_seconds: float

    def run(self, client: Any, action: str, start: Callable[..., Any], what: str) -> Any:
        """Start an operation and wait until the service says how it ended.

        Args:
            client: SDK client that polls.
            action: as roles name it.
            start: the SDK's ``begin_...`` with everything but ``polling`` and the hook.
            what: for messages.

        Returns:
            The document at ``Location`` once it has ended, or None where there is none.

        Raises:
            SealiftError: of the error tree, by the code that the operation ended with.
            TransientError: it has not ended in time; it may go on by itself.
        """
        first = _Answer()
        with azure_call(action):
            start(polling=False, raw_response_hook=first)
        monitor = self._same_origin(first, "azure-asyncoperation")
        location = self._same_origin(first, "location")
        if monitor:
            self._poll(client, action, first, monitor, what, _operation_ended)
        elif location and first.status in (201, 202):
            return self._poll(client, action, first, location, what, _location_ended)
        if monitor and location:
            answer = self._asked(client, action, location)
            return answer.body if answer.status == 200 else None
        return None

    def begin(self, action: str, start: Callable[..., Any]) -> None:
        """Start an operation and wait for nothing; see ``run``."""
        with azure_call(action):
            start(polling=False, raw_response_hook=_Answer())

    def _poll(
        self,
        client: Any,
        action: str,
        first: _Answer,
        address: str,
        what: str,
        ended: Callable[["_Asked", str], bool],
    ) -> Any:
        hint = first.retry_after

        def probe() -> _Asked | None:
            nonlocal hint
            self.waiter.cancel.sleep(self.waiter.clock, hint)
            answer = self._asked(client, action, address)
            hint = answer.retry_after
            return answer if ended(answer, action) else None

        return self.waiter.until(probe, self.timeout_seconds, what).body

    def _asked(self, client: Any, action: str, address: str) -> "_Asked":
        with azure_call(action):
            response = client.send_request(HttpRequest("GET", address))
            status, headers = response.status_code, dict(response.headers)
            text = response.text()
            body = response.json() if text.strip() else {}
        if status >= 400:
            raise refusal_of(action, status, headers, body)
        seconds = delay_seconds({k.lower(): v for k, v in headers.items()}.get("retry-after"))
        return _Asked(status, body, min(seconds or 0.0, _LONGEST_RETRY_AFTER_SECONDS))

    def _same_origin(self, first: _Answer, header: str) -> str:
        """The address to ask; "" where the token would go to somebody else's server."""
        address = first.headers.get(header, "")
        if not address:
            return ""
        ours, theirs = urlsplit(first.address), urlsplit(address)
        if (ours.scheme, ours.netloc) == (theirs.scheme, theirs.netloc):
            return address
        regional = theirs.hostname or ""
        if theirs.scheme == "https" and regional.endswith(".management.azure.com"):
            return address
        return ""

    def until_gone(self, find: Callable[[], object | None], what: str) -> None:
        """Wait until the service does not know a resource any more."""
        self.waiter.until(
            lambda: True if find() is None else None, self.timeout_seconds, f"deleting {what}"
        )


@dataclass(frozen=True, slots=True)
class _Asked:
    status: int
    body: Any
    retry_after: float


def _operation_ended(answer: _Asked, action: str) -> bool:
    body = answer.body if isinstance(answer.body, Mapping) else {}
    status = str(body.get("status", "")).lower()
    if status in ("failed", "canceled", "cancelled"):
        raise _failure(action, body, status)
    if not status:
        raise TransientError(f"{action}: the operation's answer has no status", action=action)
    return status in _ENDED


def _location_ended(answer: _Asked, action: str) -> bool:
    return answer.status != 202


def _failure(action: str, body: Mapping[str, Any], status: str) -> SealiftError:
    """The typed error of an operation that was accepted and failed later.

    Classified by its code as the same refusal at the start would be; without a code it may
    be anything, and is permanent.
    """
    document = body if isinstance(body.get("error"), Mapping) else {}
    error = refusal_of(action, 400, {}, document)
    error.operands["operation_status"] = status
    return error


def provisioning_state(resource: Any) -> str:
    """``succeeded``, ``creating``, ... of a disk, a card or a machine; "" when it says nothing."""
    return word(getattr(resource.properties, "provisioning_state", None)).lower()


def word(value: object) -> str:
    """What the service sent, where the SDK made a member of an enumeration of it."""
    return str(getattr(value, "value", value) or "")


def found(action: str, get: Callable[[], Any]) -> Any | None:
    """What ``get`` answers; None when the service does not know the resource."""
    try:
        with azure_call(action):
            return get()
    except MissingError:
        return None
