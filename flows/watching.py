"""How old the newest point of a machine is, and whether that is too old."""

from dataclasses import dataclass

from sealift.config_repository import ReplicationPlan
from sealift.errors import RpoExceededError, UsageError
from sealift.repository.commits import Commit
from sealift.units import format_duration


@dataclass(frozen=True, slots=True)
class Freshness:
    """The newest point of a replication against what its plan allows.

    Attributes:
        replication: its name.
        point: id of the newest point, hexadecimal; None when there is none.
        age_seconds: of it; None when there is none.
        rpo_seconds: what the plan allows.
    """

    replication: str
    point: str | None
    age_seconds: float | None
    rpo_seconds: float

    @property
    def exceeded(self) -> bool:
        """Whether more may be lost than the plan allows; without a point everything may."""
        return self.age_seconds is None or self.age_seconds > self.rpo_seconds

    @property
    def text(self) -> str:
        """In one sentence."""
        allowed = format_duration(self.rpo_seconds)
        if self.age_seconds is None:
            return f"replication {self.replication} has no point; allowed are {allowed}"
        age = format_duration(self.age_seconds)
        return f"the newest point of {self.replication} is {age} old; allowed are {allowed}"


def freshness(commit: Commit, plan: ReplicationPlan, now: float) -> Freshness:
    """Of the plan's replication.

    Args:
        commit: head of the repository.
        plan: names the replication, and allows.
        now: seconds of the epoch.

    Raises:
        UsageError: the plan allows nothing in particular.
    """
    if plan.rpo is None:
        raise UsageError("the plan has no rpo", next_step="add rpo: 1h, or what may be lost")
    ours = [p for p in commit.points if p.plan == plan.name]
    newest = max(ours, key=lambda p: (p.taken_ms, p.seq), default=None)
    if newest is None:
        return Freshness(plan.name, None, None, plan.rpo)
    age = max(0.0, now - newest.taken_ms / 1000)
    return Freshness(plan.name, newest.id.hex(), age, plan.rpo)


def refuse_stale(found: Freshness) -> None:
    """Raise when the plan's RPO is exceeded.

    Raises:
        RpoExceededError: it is; the operands have the figures.
    """
    if found.exceeded:
        raise RpoExceededError(
            found.text,
            next_step="sealift replicate, and see why the last ones failed",
            replication=found.replication,
            age_seconds=found.age_seconds,
            rpo_seconds=found.rpo_seconds,
        )
