"""``sealift demo``: a live guest moves to an offline cloud, and its records are counted."""

import sys
from pathlib import Path

from flows.cli.output import Output
from flows.cli.summaries import Demonstrated
from sandbox.commands import stopped_in_order
from sandbox.demo import Demo
from sandbox.demo_cloud import OpenCloud, aws_cloud
from sealift.endpoints import Firmware
from sealift.errors import IntegrityError, UsageError


def demo(output: Output, folder: Path, firmware: Firmware, target: str, *, prefect: bool) -> None:
    """Run it; the last line counts.

    Raises:
        UsageError: the folder cannot be made, or there is no such target.
        SealiftError: a command failed, or a record is missing.
    """
    cloud = _cloud(target)
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
    shown = Demo(folder, firmware, output.say, cloud=cloud, prefect=prefect, stdout=stdout)
    with stopped_in_order():
        outcome = shown.run()
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


def _cloud(target: str) -> OpenCloud:
    if target == "aws":
        return aws_cloud
    if target == "azure":
        from sandbox.demo_azure import azure_cloud

        return azure_cloud
    raise UsageError(f"--target {target}: there are aws, azure", next_step="choose one")
