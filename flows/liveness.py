"""Whether somebody works on a migration."""

from enum import Enum


class Liveness(Enum):
    """Whether somebody works on it."""

    IDLE = "idle"
    """Nobody, and the last run ended in order."""
    RUNNING = "running"
    STALLED = "stalled"
    """A run owns it, and nothing has moved for two minutes."""
    SILENT = "silent"
    """A run owns it and no longer gives a sign of life: stopped or hanging."""
    INTERRUPTED = "interrupted"
    """The last run died without ending; the next one goes on."""
