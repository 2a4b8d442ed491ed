"""The screen of the machine in the cloud, where the cloud shows it."""

import logging
from typing import Protocol, runtime_checkable

from sealift.endpoints import CloudTarget
from sealift.errors import SealiftError
from sealift.migration import Migration

log = logging.getLogger(__name__)


@runtime_checkable
class ConsoleScreenshots(Protocol):
    """A cloud that shows a machine's screen."""

    def console_screenshot(self, instance_id: str) -> bytes | None:
        """PNG or JPEG; None when there is none yet."""


def console_picture(cloud: CloudTarget, m: Migration) -> bytes | None:
    """The screen of the launched machine; None without one. A missing picture fails nothing."""
    instance = m.cutover.instance_id if m.cutover else None
    if instance is None or not isinstance(cloud, ConsoleScreenshots):
        return None
    try:
        return cloud.console_screenshot(instance)
    except SealiftError as error:
        log.warning("no picture of %s: %s", instance, error.message)
        return None
