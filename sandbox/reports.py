"""What booting a launched machine showed, whatever the cloud."""

from dataclasses import dataclass
from enum import Enum


class CheckStatus(Enum):
    """Outcome of a machine's boot; the values are those of EC2's ``SummaryStatus``."""

    INITIALIZING = "initializing"
    OK = "ok"
    IMPAIRED = "impaired"


@dataclass(frozen=True, slots=True)
class BootReport:
    """What booting the machine's disks showed.

    Attributes:
        status: whether it came up.
        console: what it said on its serial port.
        screenshot: PNG of its screen.
    """

    status: CheckStatus
    console: bytes = b""
    screenshot: bytes = b""
