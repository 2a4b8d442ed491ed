"""The faults that calls to AWS can meet, and the log of its requests; see ``sandbox.faults``."""

from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import TypeAlias

from sandbox import faults
from sandbox.aws.wire import Call, Service
from sealift.clock import Clock


class FaultKind(Enum):
    """What happens to a call."""

    THROTTLE = "throttle"
    """Refused with the service's throttling error, nothing done."""
    ERROR_BEFORE = "error-before"
    """HTTP 5xx, nothing done."""
    ERROR_AFTER = "error-after"
    """HTTP 5xx although the call took effect."""
    OK_WITH_ERROR_BODY = "ok-with-error-body"
    """HTTP 200 (or the call's own success status) around an error document, nothing done."""
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
    """ExpiredTokenException (EC2: RequestExpired), nothing done."""
    ACCESS_DENIED = "access-denied"
    """AccessDeniedException (EC2: UnauthorizedOperation), nothing done."""
    API_ERROR = "api-error"
    """The error named by ``code`` with ``status``, nothing done."""
    EMPTY_PAGE = "empty-page"
    """A listing answers no entries but a next token."""
    WRONG_RANGE = "wrong-range"
    """A ranged read of S3 is answered with the bytes of another range."""
    WHOLE_OBJECT = "whole-object"
    """A ranged read of S3 is answered with 200, as if the object were no longer than that."""
    ENCODED = "encoded"
    """An object of S3 comes compressed by somebody on the way."""
    PAGE_AGAIN = "page-again"
    """A list of S3 whose next token leads to the same page."""
    PAGE_REVERSED = "page-reversed"
    """A list of S3 out of order."""
    PAGE_DOUBLED = "page-doubled"
    """A list of S3 that names every object twice."""
    LAUNCH_TERMINATED = "launch-terminated"
    """RunInstances succeeds, the instance ends at once; ``code`` is its state reason."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault to come.

    Args:
        kind: what happens.
        operation: the SDK's name, such as ``PutSnapshotBlock``; ``*`` fits every one.
        times: how many calls it hits; 0 means all from then on.
        skip: how many fitting calls pass before the first hit.
        service: only calls of this service.
        snapshot_id: only calls on this snapshot.
        block_index: only calls on this block.
        status: HTTP status of 5xx and ``API_ERROR``.
        code: error or state reason, where the kind takes one.
        reason: ``Reason`` member of throttling and ``API_ERROR``, where the service has it.
        message: text of the error.
        seconds: length of stalls, in real time.
        retry_after_seconds: sent as ``Retry-After`` with throttling and 5xx.
    """

    kind: FaultKind
    operation: str = "*"
    times: int = 1
    skip: int = 0
    service: Service | None = None
    snapshot_id: str | None = None
    block_index: int | None = None
    status: int = 500
    code: str = ""
    reason: str = ""
    message: str = ""
    seconds: float = 0.0
    retry_after_seconds: int | None = None

    def fits(self, call: Call) -> bool:
        """Whether the call is one that this fault counts."""
        return (
            self.operation in ("*", call.operation)
            and self.service in (None, call.service)
            and self.snapshot_id in (None, call.snapshot_id)
            and self.block_index in (None, call.block_index)
        )


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One request as it arrived, and how it was answered (0: no answer was sent)."""

    number: int
    at: datetime
    monotonic_seconds: float
    service: Service
    operation: str
    snapshot_id: str | None
    block_index: int | None
    status: int
    fault: FaultKind | None
    sent_bytes: int
    received_bytes: int


Armed: TypeAlias = faults.Armed[Fault]
FaultBook: TypeAlias = faults.FaultBook[Fault]


class RequestLog(faults.RecordLog[RequestRecord]):
    """The last requests, oldest first; safe from several threads."""

    def __init__(self, clock: Clock, limit: int = 200_000) -> None:
        super().__init__(limit)
        self._clock = clock

    def add(self, call: Call, status: int, fault: Fault | None, sent_bytes: int) -> RequestRecord:
        """Take note of an answered request."""
        record = RequestRecord(
            number=self.next_number(),
            at=self._clock.now(),
            monotonic_seconds=self._clock.monotonic(),
            service=call.service,
            operation=call.operation,
            snapshot_id=call.snapshot_id,
            block_index=call.block_index,
            status=status,
            fault=fault.kind if fault else None,
            sent_bytes=sent_bytes,
            received_bytes=len(call.body),
        )
        return self.append(record)

    def select(
        self, operation: str | None = None, snapshot_id: str | None = None
    ) -> tuple[RequestRecord, ...]:
        """The requests of an operation, of a snapshot, or all."""
        return tuple(r for r in self.of(operation) if snapshot_id in (None, r.snapshot_id))

    def count(self, operation: str | None = None, snapshot_id: str | None = None) -> int:
        """How many requests of that kind came in."""
        return len(self.select(operation, snapshot_id))
