"""AWS behind the cloud port: one object per migration, driven by values only."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from connectors.aws.ebs_reader import EbsSnapshotReader
from connectors.aws.ebs_writer import EbsSnapshotWriter
from connectors.aws.errors import MissingError, aws_call, field_of
from connectors.aws.image import Images, snapshot_ids
from connectors.aws.instance_types import MachineTypes
from connectors.aws.instances import Instances
from connectors.aws.preflight import Preflight
from connectors.aws.session import AwsClients
from connectors.aws.snapshots import Snapshots
from connectors.aws.spec import AwsSpec
from connectors.aws.tags import Owner
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
from sealift.ratelimit import RateLimit
from sealift.units import GiB, round_up
from sealift.wait import Waiter

if TYPE_CHECKING:
    from mypy_boto3_ec2.type_defs import VolumeTypeDef


class AwsTarget:
    """One migration's side of AWS; implements ``CloudTarget``.

    Holds no state of its own: everything is found again by tags and client tokens, so any
    number of processes may be killed and started again. Safe in any number of threads.

    Args:
        spec: the plan.
        migration_id: goes into every tag, name and client token.
        clock: for waits.
        cancel: looked at in every wait.
        put_limit: the account's rate of PutSnapshotBlock, shared by all disks.
        clients: to share connections with other targets of the same plan; not closed here.
    """

    def __init__(
        self,
        spec: AwsSpec,
        migration_id: str,
        clock: Clock,
        *,
        cancel: CancelToken | None = None,
        put_limit: RateLimit | None = None,
        clients: AwsClients | None = None,
    ) -> None:
        self._spec = spec
        self._put_limit = put_limit
        self._waiter = Waiter(clock, cancel or CancelToken())
        self._owner = Owner(migration_id, spec.tags)
        self._shared = clients is not None
        self.clients = clients or AwsClients(spec)
        self._snapshots = Snapshots(self.clients, spec, self._owner, clock)
        self._images = Images(self.clients, spec, self._owner, self._waiter)
        self._types = MachineTypes(self.clients, spec.subnet_id)
        self._instances = Instances(
            self.clients,
            spec,
            self._owner,
            self._images,
            self._snapshots,
            self._waiter,
            self._types,
        )

    def preflight(self, vm: SourceVm) -> Sequence[Check]:
        """See ``Preflight.run``."""
        return Preflight(self.clients, self._spec, self._snapshots, self._types).run(vm)

    def begin_snapshot(self, seq: int, disk: VmDisk, parent: SnapshotRef | None) -> SnapshotRef:
        """See ``Snapshots.begin``."""
        return self._snapshots.begin(seq, disk, parent)

    def snapshot_state(self, snapshot_id: str) -> SnapshotState:
        """See ``Snapshots.state``."""
        return self._snapshots.state(snapshot_id)

    def writer(self, ref: SnapshotRef, parent: SnapshotRef | None) -> DiskWriter:
        """The writer of a pending snapshot, by any process; see ``EbsSnapshotWriter``.

        Raises:
            TransientError: the snapshot is not visible yet.
        """
        return EbsSnapshotWriter(
            self.clients.ebs,
            self.clients.blocks,
            self._snapshots,
            ref,
            unwritten=self._snapshots.unwritten(ref, parent),
            waiter=self._waiter,
            put_limit=self._put_limit,
            concurrency=self._spec.concurrency,
            complete_timeout_seconds=self._spec.complete_timeout_seconds,
        )

    def reader(self, ref: SnapshotRef, base: SnapshotRef | None = None) -> EbsSnapshotReader:
        """A completed snapshot as a disk, incremental with a base of its lineage.

        Raises:
            PointLostError: there is no such snapshot.
        """
        facts = self._snapshots.facts(ref.id)
        if facts is None:
            raise PointLostError(f"snapshot {ref.id} is gone", snapshot_id=ref.id)
        return EbsSnapshotReader(
            self.clients.ebs,
            ref.id,
            facts.size,
            encrypted=facts.encrypted,
            base_id=base.id if base else None,
        )

    def sends_zeroes(self) -> bool:
        """Whether every zero block has to be sent, because volumes come out encrypted."""
        return self._spec.encrypted or self._snapshots.launches_encrypted()

    def volume_size(self, disk_size: int) -> int:
        """Bytes of the volume that a disk needs: whole GiB, at least one."""
        return round_up(max(disk_size, 1), GiB)

    def seal_point(
        self,
        seq: int,
        vm: SourceVm,
        info: PointInfo,
        snapshots: Mapping[str, SnapshotRef],
        taken: float,
    ) -> str:
        """Nothing to do: completed snapshots are visible, and their tags say what they are of."""
        return ""

    def delete_snapshot(self, snapshot_id: str) -> None:
        """See ``Snapshots.delete``."""
        self._snapshots.delete(snapshot_id)

    def publish(self, seq: int, vm: SourceVm, snapshots: Mapping[str, SnapshotRef]) -> str:
        """See ``Images.publish``."""
        return self._images.publish(seq, vm, snapshots)

    def unpublish(self, image_id: str) -> None:
        """See ``Images.unpublish``."""
        self._images.unpublish(image_id)

    def find_volume(self, seq: int, disk: VmDisk) -> str | None:
        """None: a snapshot that is there is found by ``begin_snapshot``."""
        return None

    def make_volume(self, seq: int, vm: SourceVm, disk: VmDisk, ref: SnapshotRef) -> str:
        """The snapshot itself: a volume is made of it in the zone of the machine that needs it."""
        return ref.id

    def launch(self, seq: int, attempt: int, image_id: str, vm: SourceVm) -> str:
        """See ``Instances.launch``."""
        return self._instances.launch(seq, attempt, image_id, vm)

    def find_launched(self, seq: int, attempt: int) -> str | None:
        """See ``Instances.find_launched``."""
        return self._instances.find_launched(seq, attempt)

    def health(self, instance_id: str) -> Health:
        """See ``Instances.health``."""
        return self._instances.health(instance_id)

    def console(self, instance_id: str) -> MachineConsole:
        """See ``Instances.console``."""
        return self._instances.console(instance_id)

    def terminate(self, instance_id: str) -> None:
        """See ``Instances.terminate``."""
        self._instances.terminate(instance_id)

    def owned(self) -> Sequence[str]:
        """Ids of instances, images, snapshots and volumes with the migration's tags.

        Terminated instances are left out: EC2 forgets them by itself.
        """
        images = [str(image.get("ImageId", "")) for image in self._images.owned()]
        snapshots = [snapshot.id for snapshot in self._snapshots.owned()]
        volumes = [str(volume.get("VolumeId", "")) for volume in self._volumes()]
        return [*self._instances.owned(), *images, *snapshots, *volumes]

    def sweep(self, keep: frozenset[str]) -> Sequence[str]:
        """Remove everything of this migration except ``keep`` and what that stands on.

        In the order of use: instances, images, snapshots, volumes. The snapshots of a kept
        image stay, and so do volumes that are attached to something. Run it again after a
        failure: it removes what is left.

        Raises:
            TransientError: an instance is not gone yet, or something is still in use.
        """
        return list(self._swept(keep))

    def _swept(self, keep: frozenset[str]) -> Iterator[str]:
        for instance_id in [i for i in self._instances.owned() if i not in keep]:
            self._instances.terminate(instance_id)
            yield instance_id
        needed = set(keep)
        for image in self._images.owned():
            image_id = str(field_of(image, "ImageId", "ec2:DescribeImages"))
            if image_id in keep:
                needed.update(snapshot_ids(image))
                continue
            self._images.unpublish(image_id)
            yield image_id
        for snapshot in [s for s in self._snapshots.owned() if s.id not in needed]:
            self._snapshots.delete(snapshot.id)
            yield snapshot.id
        yield from self._swept_volumes(needed)

    def _swept_volumes(self, needed: set[str]) -> Iterator[str]:
        for volume in self._volumes():
            volume_id = str(field_of(volume, "VolumeId", "ec2:DescribeVolumes"))
            if volume_id in needed or volume.get("State") != "available":
                continue
            try:
                with aws_call("ec2:DeleteVolume"):
                    self.clients.ec2.delete_volume(VolumeId=volume_id)
            except MissingError:
                continue
            yield volume_id

    def _volumes(self) -> "list[VolumeTypeDef]":
        with aws_call("ec2:DescribeVolumes"):
            pages = self.clients.ec2.get_paginator("describe_volumes").paginate(
                Filters=self._owner.filters()
            )
            answers: list[Any] = list(pages)
        found: list[VolumeTypeDef] = []
        for answer in answers:
            found += field_of(answer, "Volumes", "ec2:DescribeVolumes")
        return found

    def close(self) -> None:
        """Free connections; what was made stays."""
        if not self._shared:
            self.clients.close()
