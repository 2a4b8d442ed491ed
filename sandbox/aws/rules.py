"""Everything about the sandbox that a test or a rehearsal may want to set."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Quotas:
    """Request rates and counts; ``None`` means no limit.

    Defaults are AWS's (EBS user guide, "Quotas for Amazon EBS"); ``unlimited()`` keeps
    only the count of pending snapshots.
    """

    put_per_snapshot: float | None = 1000
    get_per_snapshot: float | None = 1000
    put_per_account: float | None = 1000
    get_per_account: float | None = 1000
    list_changed: float | None = 50
    list_blocks: float | None = 50
    start_per_account: float | None = 10
    complete_per_account: float | None = 10
    pending_snapshots: int = 100

    @classmethod
    def unlimited(cls) -> "Quotas":
        """No request rate limits, for tests on a clock that stands still."""
        return cls(None, None, None, None, None, None, None, None)


@dataclass(frozen=True, slots=True)
class Rules:
    """How the sandbox behaves where AWS leaves room.

    Args:
        visibility_delay_seconds: how long after StartSnapshot other calls answer
            "does not exist" (seen for up to about two minutes; coldsnap 43, 56).
        completing_delay_seconds: above 0, CompleteSnapshot answers ``pending`` and the
            snapshot reads ``completed`` this much later.
        block_token_seconds: life of block tokens (ListSnapshotBlocks, ``ExpiryTime``).
        page_token_seconds: life of page tokens.
        status_check_seconds: how long status checks read ``initializing`` after a launch.
        hold_status_checks: status checks stay ``initializing`` until something is
            attached to the instance.
        quotas: request rates and counts.
    """

    visibility_delay_seconds: float = 0.0
    completing_delay_seconds: float = 0.0
    block_token_seconds: float = 7 * 86_400
    page_token_seconds: float = 3_600
    status_check_seconds: float = 0.0
    hold_status_checks: bool = False
    quotas: Quotas = field(default_factory=Quotas.unlimited)
