"""The image of a point: a copy of each disk's blob snapshot.

Machines are made of these copies, so that whatever happens to a machine, or to what it was
made of, never touches the replica (I7).
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from azure.core import MatchConditions

from connectors.azure.actions import DELETE, WRITE
from connectors.azure.chain import Base, Chains, Label, Point, State
from connectors.azure.errors import MissingError, azure_call
from connectors.azure.staging import Staging, races_again
from sealift.endpoints import SnapshotRef, SourceVm
from sealift.errors import CredentialsError, TargetDeniedError, TargetError, TransientError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ImageBlobs:
    """The images of one migration; an image's id is a prefix of blob names.

    Args:
        staging: where the points are.
    """

    staging: Staging

    def publish(self, seq: int, vm: SourceVm, snapshots: Mapping[str, SnapshotRef]) -> str:
        """Copy (or find) every disk of point ``seq``; returns once all copies are whole.

        Copies run in the service; all are started before one is waited for. Who is refused
        knows no id to remove the image by, so the copies that were made go first.

        Raises:
            TargetError: a disk has no complete point, or the service refuses; there is no image.
            TransientError: not whole yet; call it again.
        """
        image_id = self.staging.owner.image_id(seq)
        missing = [disk.id for disk in vm.disks if disk.id not in snapshots]
        if missing or not vm.disks:
            raise TargetError(f"no snapshot for disk {', '.join(missing) or '(no disks)'}")
        try:
            self._copy(image_id, vm, snapshots)
        except (CredentialsError, TargetDeniedError):
            raise
        except TargetError:
            self.unpublish(image_id)
            raise
        return image_id

    def _copy(self, image_id: str, vm: SourceVm, snapshots: Mapping[str, SnapshotRef]) -> None:
        points = {disk.id: self._point(snapshots[disk.id]) for disk in vm.disks}
        there = self._blobs(image_id)
        for disk_id, point in points.items():
            name = self.staging.owner.image_blob_name(image_id, disk_id)
            self._start(name, there.get(name), point)
        for disk_id, point in points.items():
            self._await(self.staging.owner.image_blob_name(image_id, disk_id), point)

    def _point(self, ref: SnapshotRef) -> Point:
        point = self.staging.point(ref.id)
        if point is None:
            raise TargetError(f"{ref.id} is not complete", snapshot=ref.id)
        return point

    def _blobs(self, prefix: str) -> dict[str, Base]:
        chains = Chains(self.staging.clients).below(f"{prefix}/")
        return {name: chain.base for name, chain in chains.items() if chain.base is not None}

    def _start(self, name: str, there: Base | None, point: Point) -> None:
        wanted = _label(point)
        if there is not None:
            if there.label is None or there.label.migration != wanted.migration:
                raise TargetError(
                    f"blob {name} exists and was not made by this migration",
                    next_step="remove the blob, then run the same command again",
                    blob=name,
                )
            if there.label == wanted and there.copy_status in ("pending", "success"):
                return
            if there.copy_status == "pending":
                raise TransientError(f"another copy into {name} is under way", blob=name)
        source = self.staging.clients.blob(point.blob, point.stamp).url
        with races_again(name), azure_call(WRITE):
            self.staging.clients.blob(name).start_copy_from_url(
                source, metadata=wanted.metadata(), **_only_over(there)
            )

    def _await(self, name: str, point: Point) -> None:
        def whole() -> bool | None:
            base = Chains(self.staging.clients).of(name).base
            if base is None or base.label != _label(point):
                raise TransientError(f"image blob {name} is not there (any more)", blob=name)
            if base.copy_status == "pending":
                return None
            if base.copy_status != "success":
                raise TransientError(f"the copy into {name} ended as {base.copy_status!r}")
            return True

        self.staging.waiter.until(whole, self.staging.copy_timeout_seconds, f"copying to {name}")

    def creations(self, image_id: str, vm: SourceVm) -> list[dict[str, Any]]:
        """``creationData`` of each disk of a machine, in device order: imports.

        Raises:
            MissingError: the image is not whole (any more).
        """
        self._check_ours(image_id)
        blobs = self._blobs(image_id)
        found: list[dict[str, Any]] = []
        for disk in vm.disks:
            name = self.staging.owner.image_blob_name(image_id, disk.id)
            base = blobs.get(name)
            if base is None or base.copy_status != "success":
                raise MissingError(
                    f"image {image_id} has no whole copy of disk {disk.id}",
                    next_step="cut over again: it is copied anew",
                    image_id=image_id,
                )
            found.append(
                {
                    "createOption": "Import",
                    "sourceUri": self.staging.clients.blob(name).url,
                    "storageAccountId": self.staging.clients.spec.account_id,
                }
            )
        return found

    def unpublish(self, image_id: str) -> None:
        """Remove the copies; the points stay. Fine when they are gone already.

        Raises:
            TargetError: it is not this migration's.
        """
        self._check_ours(image_id)
        for name, base in self._blobs(image_id).items():
            if base.label is None or base.label.state is not State.IMAGE:
                continue
            try:
                if base.leased:
                    self.staging.leases.broken(name)
                with races_again(name), azure_call(DELETE):
                    self.staging.clients.blob(name).delete_blob(delete_snapshots="include")
            except MissingError:
                log.debug("blob %s is gone already", name)

    def _check_ours(self, image_id: str) -> None:
        _, _, seq = image_id.rpartition("/")
        if not seq.isdigit() or self.staging.owner.image_id(int(seq)) != image_id:
            raise TargetError(
                f"image {image_id} does not belong to {self.staging.owner.migration_id}",
                image_id=image_id,
            )

    def owned(self) -> list[str]:
        """Every image of the migration."""
        prefix = self.staging.owner.image_id(0).rpartition("/")[0]
        found = {name.rpartition("/")[0] for name in self._blobs(prefix)}
        return sorted(found, key=lambda image_id: int(image_id.rpartition("/")[2]))


def _only_over(there: Base | None) -> dict[str, Any]:
    """The condition that nothing else has come there meanwhile."""
    if there is None:
        return {"match_condition": MatchConditions.IfMissing}
    return {"etag": there.etag, "match_condition": MatchConditions.IfNotModified}


def _label(point: Point) -> Label:
    """What the copy says of itself: it follows from the point, so another point never fits."""
    return replace(point.label, state=State.IMAGE)
