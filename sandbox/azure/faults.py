"""The faults that calls to Azure can meet, and the log of its requests; see ``sandbox.faults``."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import TypeAlias

from sandbox import faults
from sandbox.azure.https import Delivery, Reply
from sandbox.azure.operations import OperationEnd
from sealift.clock import Clock

_PAGE = b"<html><body><h1>Sign in</h1>This network asks you to sign in.</body></html>"


class FaultKind(Enum):
    """What happens to a call."""

    THROTTLE = "throttle"
    """429 (blobs: 503 ServerBusy) with Retry-After, nothing done."""
    ERROR_BEFORE = "error-before"
    """HTTP 5xx, nothing done."""
    ERROR_AFTER = "error-after"
    """HTTP 5xx although the call took effect."""
    OK_WITH_PROXY_PAGE = "ok-with-proxy-page"
    """HTTP 200 with a proxy's HTML page, nothing done."""
    EMPTY_BODY = "empty-body"
    """HTTP 200 with no body and no headers of the service, nothing done."""
    RESET_BEFORE = "reset-before"
    """Connection reset, nothing done."""
    RESET_AFTER = "reset-after"
    """Connection reset although the call took effect."""
    TRUNCATED = "truncated"
    """The call took effect, its answer ends after half of the announced length."""
    CORRUPT = "corrupt"
    """The call took effect, one bit of its answer's body is flipped."""
    STALL = "stall"
    """Nothing is sent for ``seconds``, then the call is done as usual."""
    STALL_BODY = "stall-body"
    """The call took effect; half of the answer, then nothing for ``seconds``."""
    EXPIRED_TOKEN = "expired-token"  # noqa: S105 - a kind of fault
    """401, nothing done."""
    ACCESS_DENIED = "access-denied"
    """403 AuthorizationFailed (blobs: AuthorizationPermissionMismatch), nothing done."""
    API_ERROR = "api-error"
    """The error named by ``code`` with ``status``, nothing done."""
    WRONG_RANGE = "wrong-range"
    """A ranged read of a blob is answered with another range."""
    WHOLE_OBJECT = "whole-object"
    """A ranged read of a blob is answered with 200, as if it were no longer than that."""
    ENCODED = "encoded"
    """A blob comes compressed by somebody on the way."""
    EMPTY_PAGE = "empty-page"
    """A list answers no entries but a next marker."""
    PAGE_AGAIN = "page-again"
    """A list answers the same page without end."""
    PAGE_REVERSED = "page-reversed"
    """The entries of a page come in the reverse order."""
    PAGE_DOUBLED = "page-doubled"
    """Every entry of a page comes twice."""
    OPERATION_FAILS = "operation-fails"
    """The call is accepted; its operation ends as Failed with ``code``, without its effect."""
    OPERATION_FAILS_AFTER_EFFECT = "operation-fails-after-effect"
    """As before, but the effect is there."""
    OPERATION_CANCELED = "operation-canceled"
    """The operation ends as Canceled, without its effect."""
    OPERATION_HANGS = "operation-hangs"
    """The operation never ends."""
    DAMAGED_UPLOAD = "damaged-upload"
    """One bit of the request's body is flipped before a blob service sees it."""
    COPY_FAILS = "copy-fails"
    """Copy Blob is accepted, its status is failed in the end, the destination holds zeros."""


ENDS = {
    FaultKind.OPERATION_FAILS: OperationEnd.FAILS,
    FaultKind.OPERATION_FAILS_AFTER_EFFECT: OperationEnd.FAILS_AFTER_EFFECT,
    FaultKind.OPERATION_CANCELED: OperationEnd.CANCELED,
    FaultKind.OPERATION_HANGS: OperationEnd.NEVER,
}


@dataclass(frozen=True, slots=True)
class Call:
    """A call, as faults and the log look at it.

    Attributes:
        operation: ``GROUP_Action`` of the REST specification for Resource Manager, such as
            ``Disks_CreateOrUpdate``; the name of the blob service's reference for blobs,
            such as ``PutPage``; empty when unknown.
        target: path of the resource.
    """

    operation: str
    target: str


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault to come.

    Attributes:
        kind: what happens.
        operation: see ``Call``; ``*`` fits every one.
        times: how many calls it hits; 0 means all from then on.
        skip: how many fitting calls pass before the first hit.
        target: only calls whose path has this in it, without regard to case.
        status: HTTP status of 5xx and ``API_ERROR``.
        code: error code, where the kind takes one.
        message: text of the error.
        seconds: length of stalls, in real time.
        retry_after_seconds: sent as ``Retry-After`` with throttling, 5xx and ``API_ERROR``.
    """

    kind: FaultKind
    operation: str = "*"
    times: int = 1
    skip: int = 0
    target: str = ""
    status: int = 500
    code: str = ""
    message: str = ""
    seconds: float = 0.0
    retry_after_seconds: int | None = None

    def fits(self, call: Call) -> bool:
        """Whether the call is one that this fault counts."""
        named = self.operation in ("*", call.operation)
        return named and self.target.lower() in call.target.lower()


Armed: TypeAlias = faults.Armed[Fault]
FaultBook: TypeAlias = faults.FaultBook[Fault]


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One request as it arrived, and how it was answered (0: no answer was sent)."""

    number: int
    at: datetime
    monotonic_seconds: float
    operation: str
    method: str
    target: str
    status: int
    fault: FaultKind | None
    sent_bytes: int
    received_bytes: int


class RequestLog(faults.RecordLog[RequestRecord]):
    """The last requests, oldest first; safe from several threads."""

    def __init__(self, clock: Clock, limit: int = 200_000) -> None:
        super().__init__(limit)
        self._clock = clock

    def add(
        self,
        call: Call,
        method: str,
        status: int,
        fault: Fault | None,
        *,
        sent_bytes: int,
        received_bytes: int,
    ) -> RequestRecord:
        """Take note of an answered request."""
        record = RequestRecord(
            number=self.next_number(),
            at=self._clock.now(),
            monotonic_seconds=self._clock.monotonic(),
            operation=call.operation,
            method=method,
            target=call.target,
            status=status,
            fault=fault.kind if fault else None,
            sent_bytes=sent_bytes,
            received_bytes=received_bytes,
        )
        return self.append(record)

    def select(self, operation: str | None = None, target: str = "") -> tuple[RequestRecord, ...]:
        """The requests of an operation, with something in their path."""
        wanted = target.lower()
        return tuple(r for r in self.of(operation) if wanted in r.target.lower())

    def count(self, operation: str | None = None, target: str = "") -> int:
        """How many requests of that kind came in."""
        return len(self.select(operation, target))


Refuse: TypeAlias = Callable[[int, str, str], Reply]
"""Makes the service's own error of a status, a code and a message."""


@dataclass(frozen=True, slots=True)
class Codes:
    """How a service calls the refusals that faults ask for: (status, code)."""

    throttle: tuple[int, str]
    server: str
    expired: tuple[int, str]
    denied: tuple[int, str]


def refusal(fault: Fault, codes: Codes, refuse: Refuse) -> Delivery | None:
    """How a fault keeps a call from being done; ``None`` for faults that do not."""
    if fault.kind is FaultKind.RESET_BEFORE:
        return Delivery(None)
    if fault.kind is FaultKind.OK_WITH_PROXY_PAGE:
        return Delivery(Reply(200, _PAGE, (("Content-Type", "text/html"),)))
    if fault.kind is FaultKind.EMPTY_BODY:
        return Delivery(Reply(200))
    known = {
        FaultKind.THROTTLE: codes.throttle,
        FaultKind.ERROR_BEFORE: (fault.status, codes.server),
        FaultKind.EXPIRED_TOKEN: codes.expired,
        FaultKind.ACCESS_DENIED: codes.denied,
        FaultKind.API_ERROR: (fault.status, fault.code),
    }.get(fault.kind)
    if known is None:
        return None
    return Delivery(_error(fault, *known, refuse))


def spoiled(fault: Fault, codes: Codes, refuse: Refuse, reply: Reply) -> Delivery:
    """The call was done; what of its reply arrives."""
    if fault.kind is FaultKind.ERROR_AFTER:
        return Delivery(_error(fault, fault.status, codes.server, refuse))
    if fault.kind is FaultKind.RESET_AFTER:
        return Delivery(None)
    if fault.kind is FaultKind.TRUNCATED:
        return Delivery(reply, cut=True)
    if fault.kind is FaultKind.STALL_BODY:
        return Delivery(reply, stall_seconds=fault.seconds)
    if fault.kind is FaultKind.CORRUPT:
        return Delivery(Reply(reply.status, flipped(reply.body), reply.headers))
    return Delivery(reply)


def flipped(body: bytes) -> bytes:
    """A body with one bit in its middle changed; an empty one stays."""
    middle = len(body) // 2
    changed = bytes([body[middle] ^ 1]) if body else b""
    return body[:middle] + changed + body[middle + 1 :]


def _error(fault: Fault, status: int, code: str, refuse: Refuse) -> Reply:
    code = fault.code or code
    reply = refuse(status, code, fault.message or f"{code} on demand")
    seconds = fault.retry_after_seconds
    if seconds is None:
        return reply
    return Reply(reply.status, reply.body, (*reply.headers, ("Retry-After", str(seconds))))
