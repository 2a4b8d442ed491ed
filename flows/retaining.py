"""The plan's retention as the repository takes it."""

from sealift.config_repository import RetentionPlan
from sealift.repository.retention import Retention


def retention_of(plan: RetentionPlan) -> Retention:
    """How many points of a machine stay."""
    return Retention(
        last=plan.last,
        hourly=plan.hourly,
        daily=plan.daily,
        weekly=plan.weekly,
        monthly=plan.monthly,
        yearly=plan.yearly,
    )
