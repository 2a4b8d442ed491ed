"""What the caller of a flow brings along in the same process, beside its parameters."""

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field

from flows.reporter import View
from sealift.cancel import CancelToken
from sealift.migration import Migration
from sealift.migrator import Approve


@dataclass(frozen=True, slots=True)
class Caller:
    """The command line, or a test, that runs a flow itself.

    Attributes:
        views: who sees the progress, beside Prefect.
        cancel: stops the flow; its owner watches the signals.
        approve: asks a person before the cutover; None when the flow's parameters decide.
        finished: receives the migration when a flow is done.
    """

    views: Sequence[View] = ()
    cancel: CancelToken = field(default_factory=CancelToken)
    approve: Approve | None = None
    finished: Callable[[Migration], None] = lambda migration: None


caller: ContextVar[Caller | None] = ContextVar("sealift_caller", default=None)
"""None when Prefect itself runs the flow."""
