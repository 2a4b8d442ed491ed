"""What a booted guest says it found on its disks."""

import re
from dataclasses import dataclass

from sealift.errors import ToolError

FOUND_PATTERN = (
    r"found records: A=(\w+) B=(\w+) holes=(\d+) corrupt=(\d+) stale=(\d+) torn=(\d+)"
    r" in_step=(yes|no) (intact|DAMAGED)"
)


@dataclass(frozen=True, slots=True)
class FoundRecords:
    """The guest's own verdict, taken from its disks before it writes anything.

    Attributes:
        on_root: records 1..n are on the root disk, each with a valid checksum.
        on_data: the same of the data disk; None for a guest with one disk.
        data_missing: a data disk should be there and is not.
        holes: records that are absent although a later one is there.
        corrupt: records or blocks with a wrong checksum that no power cut explains.
        stale: overwritten, zeroed or discarded blocks with content of another time.
        torn: damage at the very end, never acknowledged; harmless.
        in_step: the root disk is at the data disk's record or one ahead, as at every
            single instant of the guest's life.
        intact: none of the above is wrong.
    """

    on_root: int
    on_data: int | None
    data_missing: bool
    holes: int
    corrupt: int
    stale: int
    torn: int
    in_step: bool
    intact: bool

    @property
    def durable(self) -> int:
        """Records 1..n are on every disk."""
        if self.data_missing:
            return 0
        return self.on_root if self.on_data is None else min(self.on_root, self.on_data)

    def lost(self, acknowledged: int) -> int:
        """How many of the acknowledged records are not on every disk."""
        return max(0, acknowledged - self.durable)


def parse_found(text: str) -> FoundRecords:
    """The last report in a console text.

    Raises:
        ToolError: there is none.
    """
    reports = re.findall(FOUND_PATTERN, text)
    if not reports:
        raise ToolError("the guest reported no records", tail=text[-500:])
    root, data, holes, corrupt, stale, torn, in_step, verdict = reports[-1]
    return FoundRecords(
        on_root=int(root) if root.isdigit() else 0,
        on_data=int(data) if data.isdigit() else None,
        data_missing=data == "missing",
        holes=int(holes),
        corrupt=int(corrupt),
        stale=int(stale),
        torn=int(torn),
        in_step=in_step == "yes",
        intact=verdict == "intact",
    )
