"""``sealift watch``: whether the newest point is as young as the plan demands."""

from flows.cli.output import Output
from flows.cli.repository_lines import Watched
from flows.cli.repository_runs import opened
from flows.watching import freshness, refuse_stale
from sealift.config_repository import ReplicationPlan


def watch(output: Output, plan: ReplicationPlan) -> None:
    """Say how old the newest point is.

    Raises:
        RpoExceededError: too old.
    """
    with opened(output, plan, "watch") as (at, found):
        now = at.around.clock.now().timestamp()
        state = freshness(found.repository.head.commit, plan, now)
    refuse_stale(state)
    output.summary(
        Watched(
            text=state.text,
            replication=state.replication,
            point=state.point or "",
            age_seconds=state.age_seconds or 0.0,
            rpo_seconds=state.rpo_seconds,
        )
    )
