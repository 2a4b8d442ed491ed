"""What a run brings along, whatever its plan says."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from sealift.cancel import CancelToken
from sealift.clock import Clock
from sealift.ports import DiskRunner, side_by_side
from sealift.progress import Sink


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
