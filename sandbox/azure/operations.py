"""Asynchronous operations: what was accepted and is not done yet.

"Track asynchronous Azure operations": the first answer names a place to ask; that place says
InProgress until it says Succeeded, Failed or Canceled. An operation's effect happens when the
sandbox's clock has passed its end and anybody asks for anything.
"""

import logging
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any

from sandbox.azure.arm_errors import ArmError
from sealift.clock import Clock

_log = logging.getLogger(__name__)
Effect = Callable[[], Mapping[str, Any] | None]
Failed = Callable[[str], None]


class OperationEnd(Enum):
    """How an operation is going to end."""

    AS_IT_SHOULD = "as it should"
    FAILS = "fails"
    """Without its effect."""
    FAILS_AFTER_EFFECT = "fails after effect"
    CANCELED = "canceled"
    """Without its effect."""
    NEVER = "never"


@dataclass(slots=True)
class Operation:
    """One operation.

    Attributes:
        id: a UUID.
        resource: key of the resource it works on.
        due_seconds: monotonic time of its end.
        effect: makes it happen; gives the operation's output. May refuse by ``ArmError``.
        failed: told the end, ``Failed`` or ``Canceled``, when there is no effect.
        status: ``InProgress``, ``Succeeded``, ``Failed`` or ``Canceled``.
    """

    id: str
    resource: str
    due_seconds: float
    started: datetime
    end: OperationEnd
    error: ArmError
    effect: Effect
    failed: Failed
    status: str = "InProgress"
    ended: datetime | None = None
    output: Mapping[str, Any] | None = None

    @property
    def running(self) -> bool:
        """Whether it is not done."""
        return self.status == "InProgress"

    def document(self) -> dict[str, Any]:
        """What ``Azure-AsyncOperation`` answers."""
        shown: dict[str, Any] = {
            "startTime": self.started.isoformat(),
            "status": self.status,
            "name": self.id,
        }
        if self.ended is not None:
            shown["endTime"] = self.ended.isoformat()
        if self.status in ("Failed", "Canceled"):
            shown["error"] = self.error.document()
        if self.status == "Succeeded" and self.output is not None:
            shown["properties"] = {"output": dict(self.output)}
        return shown


class OperationBook:
    """The operations of a subscription; used under its lock."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._operations: dict[str, Operation] = {}

    def start(
        self,
        resource: str,
        seconds: float,
        effect: Effect,
        failed: Failed,
        *,
        end: OperationEnd = OperationEnd.AS_IT_SHOULD,
        error: ArmError | None = None,
    ) -> Operation:
        """Accept an operation."""
        operation = Operation(
            id=str(uuid.uuid4()),
            resource=resource,
            due_seconds=self._clock.monotonic() + seconds,
            started=self._clock.now(),
            end=end,
            error=error or ArmError(500, "InternalExecutionError", "An internal error occurred."),
            effect=effect,
            failed=failed,
        )
        self._operations[operation.id] = operation
        return operation

    def find(self, operation_id: str) -> Operation | None:
        """An operation by its id."""
        return self._operations.get(operation_id)

    def busy(self, resource: str) -> bool:
        """Whether something goes on with a resource."""
        return any(o.running and o.resource == resource for o in self._operations.values())

    def forget(self, resource: str) -> None:
        """End whatever goes on with a resource, because it is being removed."""
        for operation in self._operations.values():
            if operation.running and operation.resource == resource:
                self._finish(operation, "Canceled")
                operation.error = ArmError(409, "OperationPreempted", "Preempted by a delete.")

    def settle(self) -> None:
        """Let everything happen whose time has come."""
        now_seconds = self._clock.monotonic()
        for operation in list(self._operations.values()):
            due = operation.running and operation.due_seconds <= now_seconds
            if due and operation.end is not OperationEnd.NEVER:
                self._settle(operation)

    def _settle(self, operation: Operation) -> None:
        status = {
            OperationEnd.FAILS: "Failed",
            OperationEnd.CANCELED: "Canceled",
            OperationEnd.FAILS_AFTER_EFFECT: "Failed",
        }.get(operation.end, "Succeeded")
        if operation.end in (OperationEnd.FAILS, OperationEnd.CANCELED):
            operation.failed(status)
        else:
            try:
                operation.output = operation.effect()
            except ArmError as error:
                operation.error, status = error, "Failed"
                operation.failed(status)
            except Exception:  # else every later call would meet it again
                _log.exception("an operation on %s failed", operation.resource)
                status = "Failed"
                operation.failed(status)
        self._finish(operation, status)

    def _finish(self, operation: Operation, status: str) -> None:
        operation.status = status
        operation.ended = self._clock.now()
