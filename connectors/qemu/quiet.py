"""How quiet the guest is at the instant of a point, said truthfully."""

from pathlib import Path
from types import TracebackType

from connectors.qemu.freezer import Freezer
from connectors.qemu.power import RunState
from sealift.clock import Clock
from sealift.endpoints import Consistency

FREEZE_SECONDS = 10.0
"""How long the agent may take to freeze; what it still has in flight then is thawed later."""
HOLD_SECONDS = 10.0
"""How long file systems stay frozen at most; the instant itself takes milliseconds."""


class Quiet:
    """Freezes file systems around the instant when there is an agent; a context manager.

    ``consistency`` and ``note`` are final only after the context has ended: file systems
    count as frozen when the agent said so both before and after the instant.

    Args:
        agent: Unix socket of the guest agent, or None.
        clock: for deadlines.
        state: of the guest now.
    """

    def __init__(self, agent: Path | None, clock: Clock, state: RunState) -> None:
        self.running = state is RunState.RUNNING
        self.consistency = Consistency.CRASH
        self.note = "no guest agent"
        self._freezer: Freezer | None = None
        self._frozen = False
        if state is RunState.SHUTDOWN:
            self.consistency = Consistency.FILESYSTEM
            self.note = "the guest was shut down"
        elif not self.running:
            self.note = "the guest was paused"
        elif agent is not None:
            self._freezer = Freezer(
                agent, clock, freeze_seconds=FREEZE_SECONDS, hold_seconds=HOLD_SECONDS
            )

    def __enter__(self) -> "Quiet":
        if self._freezer is not None:
            self._freezer.__enter__()
            result = self._freezer.freeze()
            self._frozen, self.note = result.frozen, result.note
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._freezer is None:
            return
        held = self._frozen and self._freezer.thaw()
        self._freezer.__exit__(kind, error, trace)
        if held:
            self.consistency = Consistency.FILESYSTEM
        elif self._frozen:
            self.note = "the guest agent did not keep the file systems frozen"
