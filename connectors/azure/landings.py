"""A restored disk: a managed disk out of a complete point, and nothing of what it was made of.

The disk is made as a machine's is, of a copy of the point ("Disks - Create Or Update",
createOption Import; of an upload Copy), as what the service copies must not change under it.
Copy and point go once the disk is whole: the bytes would be paid for three times.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from connectors.azure import names
from connectors.azure.disks import Disks, boot_document
from connectors.azure.operations import provisioning_state, word
from sealift.endpoints import SnapshotRef, SourceVm, VmDisk
from sealift.errors import CredentialsError, SealiftError, TargetDeniedError, TargetError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Landings:
    """The managed disks that points of one migration were restored to.

    Args:
        disks: makes, finds and removes them.
        location: region, looked up when a disk is made.
        publish: makes the copy that a disk is made of; its id.
        creations: ``creationData`` of each disk of such a copy.
        unpublish: removes the copy.
        point_id: the point of a number and a disk.
        delete_point: removes a point.
    """

    disks: Disks
    location: Callable[[], str]
    publish: Callable[[int, SourceVm, Mapping[str, SnapshotRef]], str]
    creations: Callable[[str, SourceVm], list[dict[str, Any]]]
    unpublish: Callable[[int], None]
    point_id: Callable[[int, VmDisk], str]
    delete_point: Callable[[str], None]

    def find(self, seq: int, disk: VmDisk) -> str | None:
        """The whole managed disk of a point, if there is one; ends what its maker began.

        Raises:
            TargetError: its name is taken by a disk that is not ours, or it was attached to a
                machine since, so that its bytes may be others than the point's.
        """
        there = self.disks.find(self._name(seq, disk))
        if there is None or provisioning_state(there) != "succeeded":
            return None
        _check_untouched(there)
        self._clear(seq, disk)
        return str(there.id)

    def make(self, seq: int, vm: SourceVm, disk: VmDisk, ref: SnapshotRef) -> str:
        """Make (or find) the managed disk of a complete point; its id.

        Killed or failed at any call it is repeated as a whole: all names follow from the
        point. What is refused for good leaves the point alone, so that what was sent is not
        sent again; a half-made disk and the copy are removed.

        Raises:
            TargetError: the service refuses, or the name is taken.
            TransientError: unknown whether it is there; repeat it.
        """
        found = self.find(seq, disk)
        if found is not None:
            return found
        try:
            made = self._made(seq, vm, disk, ref)
        except (CredentialsError, TargetDeniedError):
            raise
        except TargetError:
            self._give_up(seq, disk)
            raise
        self._clear(seq, disk)
        return made

    def _made(self, seq: int, vm: SourceVm, disk: VmDisk, ref: SnapshotRef) -> str:
        alone = replace(vm, disks=(disk,))
        boots = disk.id == vm.disks[0].id
        boot = boot_document(self.disks.spec, alone, boots=boots)
        (creation,) = self.creations(self.publish(seq, alone, {disk.id: ref}), alone)
        tags = {names.POINT: str(seq), names.DISK: disk.id, "Name": f"{vm.name} {disk.id}"[:100]}
        return self.disks.ensure(
            self._name(seq, disk),
            {**boot, "creationData": creation},
            self.location(),
            self.disks.owner.tags(tags),
        )

    def _name(self, seq: int, disk: VmDisk) -> str:
        return self.disks.owner.restored_name(seq, disk.id)

    def _clear(self, seq: int, disk: VmDisk) -> None:
        """Nothing but the managed disk is left."""
        self.unpublish(seq)
        self.delete_point(self.point_id(seq, disk))

    def _give_up(self, seq: int, disk: VmDisk) -> None:
        """Take half of a disk and the copy away; what fails here is less than why."""
        name = self._name(seq, disk)
        steps: list[tuple[str, Callable[[], None]]] = [
            (f"disk {name}", lambda: self.disks.delete(name)),
            (f"the copy of point {seq}", lambda: self.unpublish(seq)),
        ]
        for what, remove in steps:
            try:
                remove()
            except SealiftError as error:
                log.warning("%s is left after a failure: %s", what, error.message)


def _check_untouched(disk: Any) -> None:
    """Nobody has had it: ``LastOwnershipUpdateTime`` tells when it was last attached, if ever."""
    properties = disk.properties
    since = getattr(properties, "last_ownership_update_time", None)
    state = word(getattr(properties, "disk_state", None)).lower()
    if since is None and not disk.managed_by and state != "attached":
        return
    raise TargetError(
        f"disk {disk.name}, to which this point was restored before, was attached to a machine "
        "since; its bytes may be others than the point's",
        next_step="delete that disk, or take a copy of it and delete it, then restore again",
        disk=str(disk.name),
    )
