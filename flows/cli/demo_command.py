"""``sealift demo``: a live guest moves to the offline AWS, and its records are counted."""

import sys
from pathlib import Path

from flows.cli.output import Output
from flows.cli.summaries import Demonstrated
from sandbox.demo import Demo
from sealift.endpoints import Firmware
from sealift.errors import IntegrityError, UsageError


def demo(output: Output, folder: Path, firmware: Firmware, *, prefect: bool) -> None:
    """Run it; the last line counts.

    Raises:
        UsageError: the folder cannot be made.
        SealiftError: a command failed, or a record is missing.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise UsageError(
            f"{folder} is a file", next_step="name a folder with --output FOLDER"
        ) from None
    except OSError as error:
        raise UsageError(
            f"{folder}: {error.strerror}", next_step="name a folder with --output FOLDER"
        ) from None
    stdout = sys.stderr.fileno() if output.machine else None
    outcome = Demo(folder, firmware, output.say, prefect=prefect, stdout=stdout).run()
    counted = (
        f"records acknowledged: {outcome.acknowledged}, found on the landed disk: "
        f"{outcome.found}, lost: {outcome.lost}"
    )
    if outcome.lost != 0 or outcome.acknowledged == 0:
        raise IntegrityError(counted, next_step=f"see {folder} for the consoles of both machines")
    output.summary(
        Demonstrated(
            text=counted,
            acknowledged=outcome.acknowledged,
            found=outcome.found,
            lost=outcome.lost,
            picture=str(outcome.picture),
        )
    )
