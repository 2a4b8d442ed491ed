"""A target that takes a disk once: refused for whatever sends what changed after that."""

from sealift.config import Target
from sealift.endpoints import Check
from sealift.errors import ConfigError
from sealift.migration import Phase

_UPLOAD = "target.azure.method: upload"
_ROUNDS = "set target.azure.method to staging"
MOVED_AT_ONCE = (
    f"{_ROUNDS}; or move the machine while it stands still for the whole copy: "
    "sealift cutover --no-rounds"
)
"""What may be done about a migration."""
FROM_A_POINT = f"{_ROUNDS}; with upload, stop the machine and start a point of it: sealift failover"
"""What may be done about a planned failover."""


def refuse_one_shot(target: Target | None, what: str, next_step: str) -> None:
    """Raise before anything is taken from the source, for every later round would be refused.

    Args:
        target: of the plan.
        what: that takes rounds, as people say it.
        next_step: what to do instead.

    Raises:
        ConfigError: each disk is taken once there.
    """
    if target is not None and target.one_shot:
        raise ConfigError(
            f"{what} takes rounds, and {_UPLOAD} takes each disk once", next_step=next_step
        )


def refuse_rounds(target: Target, phase: Phase) -> None:
    """Raise where a cutover would begin with rounds; one that is under way has none any more.

    Raises:
        ConfigError: as of ``refuse_one_shot``.
    """
    if phase not in (Phase.CUTTING_OVER, Phase.CUT_OVER):
        refuse_one_shot(target, "a cutover with rounds", MOVED_AT_ONCE)


def rounds_row(target: Target) -> list[Check]:
    """What a migration's preflight says of it; nothing where rounds are taken."""
    if not target.one_shot:
        return []
    found = "upload: each disk is taken once, while the machine stands still"
    return [Check("method", ok=True, found=found, next_step=MOVED_AT_ONCE)]
