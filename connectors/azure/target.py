"""Azure behind the cloud port: one object per migration, driven by values only."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from connectors.azure.consoles import Consoles
from connectors.azure.disks import Disks
from connectors.azure.image_blobs import ImageBlobs
from connectors.azure.landings import Landings
from connectors.azure.machines import Machines
from connectors.azure.names import Owner, snapshot_id
from connectors.azure.network import Cards
from connectors.azure.operations import Operations
from connectors.azure.page_reader import PageBlobReader, point_reader
from connectors.azure.page_writer import PageBlobWriter
from connectors.azure.preflight import Preflight
from connectors.azure.session import AzureClients
from connectors.azure.sizes import Sizes
from connectors.azure.spec import AzureSpec, Method
from connectors.azure.staging import Staging, disk_bytes
from connectors.azure.upload_writer import UploadWriter
from connectors.azure.uploads import Uploads, is_upload, uploaded_bytes
from sealift.cancel import CancelToken
from sealift.clock import Clock
from sealift.disk import DiskWriter
from sealift.endpoints import (
    Check,
    Health,
    MachineConsole,
    PointInfo,
    SnapshotRef,
    SnapshotState,
    SourceVm,
    VmDisk,
)
from sealift.errors import PointLostError
from sealift.wait import Waiter


class AzureTarget:
    """One migration's side of Azure; implements ``CloudTarget``.

    Holds no state of its own: everything is found again by names, metadata and tags, so any
    number of processes may be killed and started again. Safe in any number of threads.

    Args:
        spec: the plan.
        migration_id: goes into every name, lease and tag.
        clock: for waits.
        cancel: looked at in every wait.
        clients: to share connections with other targets of the same plan; not closed here.
    """

    def __init__(
        self,
        spec: AzureSpec,
        migration_id: str,
        clock: Clock,
        *,
        cancel: CancelToken | None = None,
        clients: AzureClients | None = None,
    ) -> None:
        self._spec = spec
        self._waiter = Waiter(clock, cancel or CancelToken())
        self._owner = Owner(migration_id, spec.tags)
        self._shared = clients is not None
        self.clients = clients or AzureClients(spec)
        timeout = spec.operation_timeout_seconds
        operations = Operations(self._waiter, timeout)
        self._staging = Staging(self.clients, self._owner, self._waiter, timeout)
        self._images = ImageBlobs(self._staging)
        self._disks = Disks(self.clients, spec, self._owner, operations)
        self._cards = Cards(self.clients, spec, self._owner, operations)
        self._sizes = Sizes(self.clients, spec)
        self._machines = Machines(
            self.clients,
            spec,
            self._owner,
            operations,
            self._disks,
            self._cards,
            self._creations,
            self._sizes,
        )
        self._uploads = Uploads(self._disks, self._machines.location)
        self._landings = Landings(
            self._disks,
            self._machines.location,
            self.publish,
            self._creations,
            lambda seq: self._images.unpublish(self._owner.image_id(seq)),
            self._point_id,
            self.delete_snapshot,
        )

    def preflight(self, vm: SourceVm) -> Sequence[Check]:
        """See ``Preflight.run``."""
        return Preflight(self.clients, self._spec, self._machines, self._sizes, self._staging).run(
            vm
        )

    def begin_snapshot(self, seq: int, disk: VmDisk, parent: SnapshotRef | None) -> SnapshotRef:
        """See ``Staging.begin`` and ``Uploads.begin``: the plan's method decides."""
        if self._spec.method is Method.UPLOAD:
            return self._uploads.begin(seq, disk, parent)
        return self._staging.begin(seq, disk, parent)

    def snapshot_state(self, snapshot_id: str) -> SnapshotState:
        """See ``Staging.state`` and ``Uploads.state``."""
        if is_upload(snapshot_id):
            return self._uploads.state(snapshot_id)
        return self._staging.state(snapshot_id)

    def writer(self, ref: SnapshotRef, parent: SnapshotRef | None) -> DiskWriter:
        """The writer of a pending point; see ``PageBlobWriter`` and ``UploadWriter``."""
        if is_upload(ref.id):
            return UploadWriter(
                self._uploads,
                ref,
                self.clients.pages,
                self._waiter.clock,
                concurrency=self._spec.concurrency,
            )
        return PageBlobWriter(
            self._staging,
            ref,
            has_parent=parent is not None,
            concurrency=self._spec.concurrency,
        )

    def reader(self, ref: SnapshotRef, base: SnapshotRef | None = None) -> PageBlobReader:
        """A point as a disk, incremental with an earlier point of the same disk.

        Raises:
            PointLostError: there is no such point.
        """
        if is_upload(ref.id):
            return self._uploaded(ref)
        points = [self._staging.point(r.id) for r in (ref, base) if r is not None]
        if points[0] is None or points[-1] is None:
            raise PointLostError(f"point {ref.id} or its base is gone", snapshot=ref.id)
        return point_reader(self.clients, points[0], points[1] if base else None)

    def _uploaded(self, ref: SnapshotRef) -> PageBlobReader:
        """A complete upload, under a read address that is taken back when the reader closes."""
        blob = self.clients.signed_blob(self._uploads.grant(ref.id, write=False))
        revoke = partial(self._uploads.revoke, ref.id)
        return PageBlobReader(blob, ref.size, ref.id, on_close=revoke)

    def volume_size(self, disk_size: int) -> int:
        """Bytes of the disk in Azure: whole MiB; of an upload at least 20."""
        if self._spec.method is Method.UPLOAD:
            return uploaded_bytes(disk_size)
        return disk_bytes(disk_size)

    def _creations(self, image_id: str, vm: SourceVm) -> list[dict[str, Any]]:
        if is_upload(image_id):
            return self._uploads.creations(image_id, vm)
        return self._images.creations(image_id, vm)

    def seal_point(
        self,
        seq: int,
        vm: SourceVm,
        info: PointInfo,
        snapshots: Mapping[str, SnapshotRef],
        taken: float,
    ) -> str:
        """Nothing to do: blob snapshots are visible, and their metadata says what they are of."""
        return ""

    def delete_snapshot(self, snapshot_id: str) -> None:
        """See ``Staging.delete`` and ``Uploads.delete``."""
        if is_upload(snapshot_id):
            self._uploads.delete(snapshot_id)
        else:
            self._staging.delete(snapshot_id)

    def publish(self, seq: int, vm: SourceVm, snapshots: Mapping[str, SnapshotRef]) -> str:
        """See ``ImageBlobs.publish`` and ``Uploads.publish``."""
        if all(is_upload(ref.id) for ref in snapshots.values()) and snapshots:
            return self._uploads.publish(seq, vm, snapshots)
        return self._images.publish(seq, vm, snapshots)

    def unpublish(self, image_id: str) -> None:
        """See ``ImageBlobs.unpublish``; of uploads there is nothing that was copied."""
        if not is_upload(image_id):
            self._images.unpublish(image_id)

    def find_volume(self, seq: int, disk: VmDisk) -> str | None:
        """See ``Landings.find``."""
        return self._landings.find(seq, disk)

    def make_volume(self, seq: int, vm: SourceVm, disk: VmDisk, ref: SnapshotRef) -> str:
        """See ``Landings.make``: a managed disk, with nothing left of what it was made of."""
        return self._landings.make(seq, vm, disk, ref)

    def _point_id(self, seq: int, disk: VmDisk) -> str:
        if self._spec.method is Method.UPLOAD:
            return self._uploads.point_id(seq, disk)
        return snapshot_id(self._owner.blob_name(disk.id), seq)

    def launch(self, seq: int, attempt: int, image_id: str, vm: SourceVm) -> str:
        """See ``Machines.launch``."""
        return self._machines.launch(seq, attempt, image_id, vm)

    def find_launched(self, seq: int, attempt: int) -> str | None:
        """See ``Machines.find_launched``."""
        return self._machines.find_launched(seq, attempt)

    def health(self, instance_id: str) -> Health:
        """See ``Machines.health``."""
        return self._machines.health(instance_id)

    def console(self, instance_id: str) -> MachineConsole:
        """See ``Consoles.of``."""
        return Consoles(self.clients, self._spec).of(self._machines.name_of(instance_id))

    def terminate(self, instance_id: str) -> None:
        """See ``Machines.terminate``."""
        self._machines.terminate(instance_id)

    def owned(self) -> Sequence[str]:
        """Ids of machines, cards, disks, images and points with the migration's name."""
        cards = [str(card.id) for card in self._cards.owned({})]
        disks = [str(disk.id) for disk in self._disks.owned({})]
        return [
            *self._machines.owned(),
            *cards,
            *disks,
            *self._images.owned(),
            *self._staging.owned(),
        ]

    def sweep(self, keep: frozenset[str]) -> Sequence[str]:
        """Remove everything of this migration except ``keep`` and what that stands on.

        In the order of use: machines with their cards and disks, cards, disks, images,
        points. Cards and disks of a kept machine stay. Run it again after a failure: it
        removes what is left.

        Raises:
            TransientError: something is not gone yet, or still in use.
        """
        return list(self._swept(keep))

    def _swept(self, keep: frozenset[str]) -> Iterator[str]:
        kept = tuple(f"{i.rpartition('/')[2]}-" for i in keep if "/virtualMachines/" in i)
        for machine in [i for i in self._machines.owned() if i not in keep]:
            self._machines.terminate(machine)
            yield machine
        for card in list(self._cards.owned({})):
            if not str(card.name).startswith(kept or ("/",)) and card.id not in keep:
                self._cards.delete(str(card.name))
                yield str(card.id)
        for disk in list(self._disks.owned({})):
            if not str(disk.name).startswith(kept or ("/",)) and disk.id not in keep:
                self._uploads.remove(str(disk.name))
                yield str(disk.id)
        for image in [i for i in self._images.owned() if i not in keep]:
            self._images.unpublish(image)
            yield image
        for point in [p for p in self._staging.owned() if p not in keep]:
            self._staging.delete(point)
            yield point

    def close(self) -> None:
        """Free connections; what was made stays."""
        if not self._shared:
            self.clients.close()
