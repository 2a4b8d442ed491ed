"""What a run brings along, whatever its plan says."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from sealift.cancel import CancelToken
from sealift.clock import Clock
from sealift.config_load import AnyPlan
from sealift.ports import DiskRunner, side_by_side
from sealift.progress import Sink
from sealift.ratelimit import RateLimit, TokenBucket, Unlimited
from sealift.retry import RetryPolicy
from sealift.sync import SyncContext
from sealift.units import MiB

_BURST_BYTES = 4 * MiB


@dataclass(frozen=True, slots=True)
class Around:
    """What a run brings along, whatever the plan says.

    Attributes:
        clock: time.
        cancel: stops the run.
        sink: receives progress.
        environ: for places of files.
        run_disks: how the disks of a round are run.
        run_name: how another run that is refused is told about this one.
        patience_seconds: caps the plan's patience, for commands that somebody waits for.
        sharers: how many processes divide the plan's limits among them, this one included.
    """

    clock: Clock
    cancel: CancelToken
    sink: Sink
    environ: Mapping[str, str]
    run_name: str
    run_disks: DiskRunner = side_by_side
    patience_seconds: float = math.inf
    sharers: int = 1


def context_of(plan: AnyPlan, around: Around) -> SyncContext:
    """What a sync runs in, by the plan's limits."""
    return SyncContext(
        clock=around.clock,
        cancel=around.cancel,
        retry=RetryPolicy(patience_seconds=min(plan.limits.patience, around.patience_seconds)),
        bandwidth=_bandwidth(plan, around),
        sink=around.sink,
    )


def _bandwidth(plan: AnyPlan, around: Around) -> RateLimit:
    if not plan.limits.bandwidth:
        return Unlimited()
    rate = max(1.0, plan.limits.bandwidth / around.sharers)
    return TokenBucket(rate, min(rate, _BURST_BYTES), around.clock, around.cancel)
