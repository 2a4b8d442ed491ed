"""A target that takes a disk once: refused for whatever sends what changed after that."""

from sealift.config import Target
from sealift.endpoints import Check
from sealift.errors import ConfigError

_WHY = "target.azure.method: upload writes a disk once and takes no changes after that"
_STEP = "set target.azure.method to staging; upload is for failover and restore of a point"


def refuse_one_shot(target: Target | None, what: str) -> None:
    """Raise before anything is taken from the source, for every later round would be refused.

    Args:
        target: of the plan.
        what: that takes rounds, as people say it.

    Raises:
        ConfigError: the target's method is a one-shot one.
    """
    if is_one_shot(target):
        raise ConfigError(f"{what} takes rounds, and {_WHY}", next_step=_STEP)


def is_one_shot(target: Target | None) -> bool:
    """Whether a disk is written once there."""
    return target is not None and target.azure is not None and target.azure.method == "upload"


def rounds_row(target: Target | None) -> list[Check]:
    """The failed row of a migration's preflight; none where rounds are taken."""
    if not is_one_shot(target):
        return []
    return [Check("method", ok=False, found=_WHY, next_step=_STEP, error=ConfigError)]
