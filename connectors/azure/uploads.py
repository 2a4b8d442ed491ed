"""The one-shot way: a disk is uploaded straight into a managed disk.

"Disks - Create Or Update" and "Upload a VHD to Azure" state the rules: a disk can be made for
upload and is then ``ReadyToUpload``; a write grant makes it ``ActiveUpload``; taking the grant
back ends the upload for good, and the disk is ``Unattached``. Until then it can be neither
attached nor copied (I6). An upload cannot be begun again on the same disk, so there is one
round, and what was given up is deleted. Machines get copies of the uploaded disk (I7).

A disk is complete when it is no longer in upload *and* carries our seal, a tag that is set
before the grant is taken back: one whose grant was taken back by anybody else is not.
"""

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from connectors.azure import names
from connectors.azure.disks import WRITE, Disks
from connectors.azure.errors import MissingError, field_of
from connectors.azure.operations import provisioning_state, word
from connectors.azure.staging import disk_bytes
from converters.vhd import FOOTER_BYTES
from sealift.endpoints import SnapshotRef, SnapshotState, SourceVm, VmDisk
from sealift.errors import PointLostError, TargetError, TransientError
from sealift.units import MiB

log = logging.getLogger(__name__)

GRANT = "Microsoft.Compute/disks/beginGetAccess/action"
REVOKE = "Microsoft.Compute/disks/endGetAccess/action"
GRANT_SECONDS = 4 * 3600
"""Life of a write address; renewed at half of it. How long one may live is not documented."""

_SEALED = "sealift-sealed"
_LEAST_BYTES = 20 * MiB
"""``uploadSizeBytes`` is at least 20 MiB and a footer ("Disks - Create Or Update")."""
_IMAGE = re.compile(r"^(?P<migration>.+)/uploads/(?P<seq>\d+)$")
_IN_UPLOAD = ("readytoupload", "activeupload")
_GRANTED = ("activeupload", "activesas")


def uploaded_bytes(size: int) -> int:
    """Bytes of a disk that is uploaded: whole MiB, at least 20."""
    return max(disk_bytes(size), _LEAST_BYTES)


def is_upload(identifier: str) -> bool:
    """Whether the id of a point or an image is of this way."""
    return identifier.startswith("/subscriptions/") or bool(_IMAGE.match(identifier))


@dataclass(frozen=True, slots=True)
class Uploads:
    """The uploaded disks of one migration; a point's id is the disk's full ARM id.

    Args:
        disks: makes, finds and removes them.
        location: region, looked up when a disk is made.
    """

    disks: Disks
    location: Callable[[], str]

    @property
    def owner(self) -> names.Owner:
        """Whose they are."""
        return self.disks.owner

    def begin(self, seq: int, disk: VmDisk, parent: SnapshotRef | None) -> SnapshotRef:
        """Make (or find) the disk that is uploaded to.

        Raises:
            TargetError: there is a parent; an upload is whole.
        """
        if parent is not None:
            raise TargetError(
                "an upload into a managed disk cannot be gone on with in another round",
                next_step="use method: staging for a migration in rounds",
                disk=disk.id,
            )
        size = uploaded_bytes(disk.size)
        document = {
            "creationData": {"createOption": "Upload", "uploadSizeBytes": size + FOOTER_BYTES}
        }
        tags = self.owner.tags({names.POINT: str(seq), names.DISK: disk.id})
        name = self._name(seq, disk.id)
        return SnapshotRef(self.disks.ensure(name, document, self.location(), tags), size)

    def point_id(self, seq: int, disk: VmDisk) -> str:
        """The id that ``begin`` gives, whether there is such a disk or not."""
        name = self._name(seq, disk.id)
        return f"{self.disks.spec.group_id}/providers/Microsoft.Compute/disks/{name}"

    def _name(self, seq: int, disk_id: str) -> str:
        return self.owner.upload_name(seq, disk_id)

    def state(self, snapshot: str) -> SnapshotState:
        """Where an upload stands."""
        disk = self.disks.find(self.name_of(snapshot))
        if disk is None or provisioning_state(disk) == "failed":
            return SnapshotState.MISSING
        if _state(disk) in _IN_UPLOAD:
            return SnapshotState.PENDING
        return SnapshotState.COMPLETED if _sealed(disk) else SnapshotState.FAILED

    def grant(self, snapshot: str, *, write: bool) -> str:
        """An address under which the disk's bytes are; a secret.

        Raises:
            PointLostError: there is no such disk.
        """
        compute, name = self.disks.clients.compute, self.name_of(snapshot)
        body = {
            "access": "Write" if write else "Read",
            "durationInSeconds": GRANT_SECONDS,
            "fileFormat": "VHD",
        }
        begin = partial(
            compute.disks.begin_grant_access,
            self.disks.spec.resource_group,
            name,
            cast(Any, body),
        )
        try:
            answer = self.disks.operations.run(compute, GRANT, begin, f"access to disk {name}")
        except MissingError as error:
            raise PointLostError(f"disk {name} is gone: {error.message}") from None
        document = answer if isinstance(answer, Mapping) else {}
        return str(field_of(document, "accessSAS", GRANT))

    def revoke(self, snapshot: str) -> None:
        """Take back every address that was given out; fine when there is none."""
        self._revoke(self.name_of(snapshot))

    def _revoke(self, name: str) -> None:
        compute = self.disks.clients.compute
        begin = partial(compute.disks.begin_revoke_access, self.disks.spec.resource_group, name)
        try:
            self.disks.operations.run(compute, REVOKE, begin, f"end of access to disk {name}")
        except MissingError:
            log.debug("disk %s is gone already", name)

    def seal(self, snapshot: str) -> None:
        """Make the disk complete: the seal first, then the end of the upload.

        Raises:
            TargetError: the upload was ended by somebody else.
            TransientError: not complete yet; call it again.
        """
        name = self.name_of(snapshot)
        disk = self.disks.find(name)
        if disk is None:
            raise PointLostError(f"disk {name} is gone")
        if not _sealed(disk):
            if _state(disk) not in _IN_UPLOAD:
                raise self.ended(name)
            self._tag(name, {**(disk.tags or {}), _SEALED: "yes"})
        self._revoke(name)
        if self.state(snapshot) is not SnapshotState.COMPLETED:
            raise TransientError(f"disk {name} is still in upload")

    def ended(self, name: str) -> TargetError:
        """What the user is told when an upload was ended half-way by somebody else."""
        return TargetError(
            f"the upload into disk {name} was ended before it was complete",
            next_step="run the same command again: it uploads into a new disk",
            disk=name,
        )

    def _tag(self, name: str, tags: Mapping[str, str]) -> None:
        compute = self.disks.clients.compute
        begin = partial(
            compute.disks.begin_update,
            self.disks.spec.resource_group,
            name,
            cast(Any, {"tags": dict(tags)}),
        )
        self.disks.operations.run(compute, WRITE, begin, f"sealing disk {name}")

    def delete(self, snapshot: str) -> None:
        """Remove the disk, also one that is stuck in upload; fine when it is gone.

        A disk with an address that is still good cannot be deleted, so that is taken back
        first ("Disks - Delete").
        """
        self.remove(self.name_of(snapshot))

    def remove(self, name: str) -> None:
        """As ``delete``, by the disk's name."""
        disk = self.disks.find(name)
        if disk is None:
            return
        if _state(disk) in _GRANTED:
            self._revoke(name)
        self.disks.delete(name)

    def publish(self, seq: int, vm: SourceVm, snapshots: Mapping[str, SnapshotRef]) -> str:
        """Nothing is copied: the image is the uploaded disks.

        Raises:
            TargetError: one is not complete.
        """
        for disk in vm.disks:
            ref = snapshots.get(disk.id)
            if ref is None or self.state(ref.id) is not SnapshotState.COMPLETED:
                raise TargetError(f"disk {disk.id} is not complete", disk=disk.id)
        return f"{self.owner.migration_id}/uploads/{seq}"

    def creations(self, image_id: str, vm: SourceVm) -> list[dict[str, Any]]:
        """``creationData`` of each disk of a machine, in device order: copies.

        Raises:
            MissingError: an uploaded disk is gone.
        """
        match = _IMAGE.match(image_id)
        if match is None or match["migration"] != self.owner.migration_id:
            raise TargetError(f"image {image_id} does not belong to {self.owner.migration_id}")
        made = []
        for disk in vm.disks:
            name = self._name(int(match["seq"]), disk.id)
            there = self.disks.find(name)
            if there is None or not _sealed(there) or _state(there) in _IN_UPLOAD:
                raise TargetError(
                    f"image {image_id} has no complete disk {disk.id}",
                    next_step="run the same command again: it is uploaded anew",
                )
            if _state(there) in _GRANTED:
                self._revoke(name)
            made.append({"createOption": "Copy", "sourceResourceId": str(there.id)})
        return made

    def name_of(self, snapshot: str) -> str:
        """The disk's name in its id."""
        prefix, _, name = snapshot.rpartition("/")
        wanted = f"{self.disks.spec.group_id}/providers/Microsoft.Compute/disks"
        if prefix.lower() != wanted.lower():
            raise TargetError(f"{snapshot} is no disk in {self.disks.spec.resource_group}")
        return name


def _state(disk: Any) -> str:
    return word(getattr(disk.properties, "disk_state", None)).lower()


def _sealed(disk: Any) -> bool:
    return (disk.tags or {}).get(_SEALED) == "yes"
