"""A planned failover as commands and flows run it: what can be done before, then the handover."""

from flows.guardian import Guardian
from flows.one_shot import FROM_A_POINT, refuse_one_shot
from flows.replica_session import FailingOver
from sealift.config_repository import ReplicationPlan
from sealift.migration import Migration
from sealift.migrator import Approve, CutoverForecast


def moved(plan: ReplicationPlan, opened: FailingOver, approve: Approve | None) -> Migration:
    """Bring a point to the cloud, then stop, sync, start; one that was interrupted goes on.

    Raises:
        ConfigError: the account takes each disk once; nothing was done.
        SealiftError: it failed; unless the error says otherwise the source runs again.
    """
    refuse_one_shot(plan.target, "a planned failover", FROM_A_POINT)
    failover = opened.failover
    if failover.rounds_come_first:
        failover.prepare()
    with Guardian(plan):
        return failover.cutover(approve)


def approval_of(typed: str) -> Approve:
    """Whether the machine's name was typed before."""

    def approve(facts: CutoverForecast) -> bool:
        return typed == facts.vm_name

    return approve
