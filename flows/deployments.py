"""The deployments of one plan: what ``sealift serve`` registers and ``prefect.yaml`` ships."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from flows.one_shot import MOVED_AT_ONCE, refuse_one_shot
from sealift.config import MigrationPlan
from sealift.config_load import AnyPlan

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.deployments.runner import RunnerDeployment

NAMES = ("preflight", "replicate", "migrate", "cutover", "abandon")
"""One deployment per flow of a migration, named like it."""

REPLICATION_NAMES = (
    *("replicate", "watch", "verify", "prune", "drill"),
    *("failover", "failover_planned"),
)
"""The same for a replication."""

TAGS = ("sealift",)
DEFAULT_CRON = "*/30 * * * *"


WATCH_CRON = "*/5 * * * *"
PRUNE_CRON = "17 3 * * *"
VERIFY_CRON = "47 4 * * *"


def deployments(plan: AnyPlan, cron: str | None) -> "Sequence[RunnerDeployment]":
    """All deployments of a plan.

    Of a migration only ``replicate`` runs by itself; of a replication so do the watch, when the
    plan has an RPO, and once a day verify and prune.

    Args:
        plan: the parameter of every flow.
        cron: when ``replicate`` runs; None for never, and then nothing else does.

    Raises:
        ConfigError: it is a migration to where nothing is written twice.
    """
    if isinstance(plan, MigrationPlan):
        refuse_one_shot(plan.target, "a migration that is served", MOVED_AT_ONCE)
        from flows import migrating

        crons = {name: cron if name == "replicate" else None for name in NAMES}
        return [_deployed(getattr(migrating, name), plan, when) for name, when in crons.items()]
    from flows import replicating

    scheduled = {
        "replicate": cron,
        "watch": WATCH_CRON if plan.rpo is not None else None,
        "verify": VERIFY_CRON,
        "prune": PRUNE_CRON,
        "drill": plan.drill.schedule,
    }
    crons = {name: cron and scheduled.get(name) for name in REPLICATION_NAMES}
    return [_deployed(getattr(replicating, name), plan, when) for name, when in crons.items()]


def _deployed(flow: "Flow[..., Any]", plan: AnyPlan, cron: str | None) -> "RunnerDeployment":
    from prefect.types.entrypoint import EntrypointType

    made = flow.to_deployment(
        name=plan.name,
        parameters={"plan": plan.model_dump(mode="json")},
        cron=cron,
        tags=list(TAGS),
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    return cast("RunnerDeployment", made)  # a coroutine only inside an event loop
