"""The deployments of one plan: what ``sealift serve`` registers and ``prefect.yaml`` ships."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sealift.config import MigrationPlan

if TYPE_CHECKING:
    from prefect.deployments.runner import RunnerDeployment

NAMES = ("preflight", "replicate", "migrate", "cutover", "abandon")
"""One deployment per flow, named like it."""

TAGS = ("sealift",)
DEFAULT_CRON = "*/30 * * * *"


def deployments(plan: MigrationPlan, cron: str | None) -> "Sequence[RunnerDeployment]":
    """All deployments of a plan; only ``replicate`` runs by itself.

    Args:
        plan: the parameter of every flow.
        cron: when ``replicate`` runs; None for never.
    """
    from prefect.types.entrypoint import EntrypointType

    from flows import migrating

    parameters: dict[str, Any] = {"plan": plan.model_dump(mode="json")}
    made = []
    for name in NAMES:
        flow = getattr(migrating, name)
        scheduled = cron if name == "replicate" else None
        made.append(
            flow.to_deployment(
                name=plan.migration,
                parameters=parameters,
                cron=scheduled,
                tags=list(TAGS),
                entrypoint_type=EntrypointType.MODULE_PATH,
            )
        )
    return made
