"""``sealift demo``: a live guest moves to the offline AWS, and its records are counted."""

import sys
from pathlib import Path

from flows.cli.output import Output
from sandbox.demo import Demo
from sealift.endpoints import Firmware
from sealift.errors import IntegrityError


def demo(output: Output, folder: Path, firmware: Firmware, *, prefect: bool) -> None:
    """Run it; the last line counts.

    Raises:
        SealiftError: a command failed, or a record is missing.
    """
    stdout = sys.stderr.fileno() if output.machine else None
    outcome = Demo(folder, firmware, output.say, prefect=prefect, stdout=stdout).run()
    counted = (
        f"records acknowledged: {outcome.acknowledged}, found on the landed disk: "
        f"{outcome.found}, lost: {outcome.lost}"
    )
    if outcome.lost != 0 or outcome.acknowledged == 0:
        raise IntegrityError(counted, next_step=f"see {folder} for the consoles of both machines")
    output.summary(
        counted,
        acknowledged=outcome.acknowledged,
        found=outcome.found,
        lost=outcome.lost,
        picture=str(outcome.picture),
    )
