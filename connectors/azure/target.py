"""Azure behind the cloud port: one object per migration, driven by values only."""

from collections.abc import Mapping

from connectors.azure.names import Owner
from connectors.azure.page_reader import PageBlobReader
from connectors.azure.page_writer import PageBlobWriter
from connectors.azure.session import AzureClients
from connectors.azure.spec import AzureSpec
from connectors.azure.staging import Staging, disk_bytes
from sealift.cancel import CancelToken
from sealift.clock import Clock
from sealift.disk import DiskWriter
from sealift.endpoints import PointInfo, SnapshotRef, SnapshotState, SourceVm, VmDisk
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
        self._staging = Staging(
            self.clients, self._owner, self._waiter, spec.operation_timeout_seconds
        )

    def begin_snapshot(self, seq: int, disk: VmDisk, parent: SnapshotRef | None) -> SnapshotRef:
        """See ``Staging.begin``."""
        return self._staging.begin(seq, disk, parent)

    def snapshot_state(self, snapshot_id: str) -> SnapshotState:
        """See ``Staging.state``."""
        return self._staging.state(snapshot_id)

    def writer(self, ref: SnapshotRef, parent: SnapshotRef | None) -> DiskWriter:
        """The writer of a pending point, by any process; see ``PageBlobWriter``."""
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
        points = [self._staging.point(r.id) for r in (ref, base) if r is not None]
        if points[0] is None or points[-1] is None:
            raise PointLostError(f"point {ref.id} or its base is gone", snapshot=ref.id)
        return PageBlobReader(self.clients, points[0], points[1] if base else None)

    def volume_size(self, disk_size: int) -> int:
        """Bytes of the disk in Azure: whole MiB, at least one."""
        return disk_bytes(disk_size)

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
        """See ``Staging.delete``."""
        self._staging.delete(snapshot_id)

    def close(self) -> None:
        """Free connections; what was made stays."""
        if not self._shared:
            self.clients.close()
