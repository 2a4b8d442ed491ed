"""moto's EC2 backend of one region, with snapshots, volumes and images that hold data.

A subclass that is put in moto's registry for the sandbox's own account only, so other
users of moto in the same process see no change.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from moto.ec2.exceptions import InvalidSnapshotIdError, InvalidSnapshotInUse
from moto.ec2.models import EC2Backend
from moto.ec2.models.amis import Ami
from moto.ec2.models.elastic_block_store import Snapshot, Volume, VolumeAttachment
from moto.ec2.utils import random_ami_id, random_snapshot_id
from moto.kms.models import kms_backends

from sandbox.aws.blocks import BLOCK_BYTES, BLOCKS_PER_GIB, BlockMap, export, read_block
from sandbox.aws.direct import DirectApi
from sandbox.aws.ec2_images import (
    Device,
    ImageSpec,
    SandboxImage,
    SnapshotSizes,
    parse_image,
    refuse,
)
from sandbox.aws.errors import Reason, validation
from sandbox.aws.snapshots import SnapshotFacts, SnapshotRecord, SnapshotState
from sealift.clock import Clock


@dataclass(frozen=True, slots=True)
class _VolumeStandIn:
    """What a direct API snapshot shows for its volume: AWS's placeholder id."""

    id: str
    size: int


class SandboxSnapshot(Snapshot):
    """A snapshot as EC2 shows it; state and content are those of its record."""

    def __init__(self, ec2_backend: Any, record: SnapshotRecord, volume_id: str) -> None:
        self.record = record
        facts = record.facts
        super().__init__(
            ec2_backend,
            record.snapshot_id,
            volume=_VolumeStandIn(volume_id, facts.size_gib),
            description=facts.description,
            encrypted=facts.encrypted,
            kms_key_id=facts.kms_key_arn,
        )
        self.start_time = facts.started_at

    @property
    def status(self) -> str:
        """The true state as of now."""
        return self.record.state.value

    @status.setter
    def status(self, value: str) -> None:
        """Ignored: moto sets what it believes; the record knows."""

    @property
    def progress(self) -> str:
        """100% only when completed."""
        return "100%" if self.record.state is SnapshotState.COMPLETED else "0%"

    def description_document(self) -> dict[str, Any]:
        """The snapshot as DescribeSnapshots shows it."""
        facts = self.record.facts
        document = {
            "SnapshotId": self.id,
            "VolumeId": self.volume.id,
            "State": self.status,
            "Progress": self.progress,
            "StartTime": facts.started_at,
            "OwnerId": self.owner_id,
            "Description": facts.description,
            "VolumeSize": facts.size_gib,
            "Encrypted": facts.encrypted,
            "KmsKeyId": facts.kms_key_arn,
            "StorageTier": self.storage_tier,
            "Tags": self.get_tags(),
        }
        return {key: value for key, value in document.items() if value is not None}


@dataclass(frozen=True, slots=True)
class VolumeContent:
    """What a volume holds; noise where it is encrypted and nobody wrote."""

    blocks: BlockMap
    lineage: str


class SandboxEc2Backend(EC2Backend, SnapshotSizes):
    """One region's EC2. Calls are serialised by the server's control lock."""

    def __init__(self, region_name: str, account_id: str, clock: Clock) -> None:
        self.clock = clock
        self.contents: dict[str, VolumeContent] = {}
        self._direct: DirectApi | None = None
        super().__init__(region_name, account_id)

    @property
    def direct(self) -> DirectApi:
        """The EBS direct API that shares this region's snapshots."""
        if self._direct is None:
            raise AssertionError("the region is not connected")
        return self._direct

    def connect(self, direct: DirectApi) -> None:
        """Join EC2 and the EBS direct API of the region; once, before any call."""
        self._direct = direct

    def reset(self) -> None:
        """Nothing: a global reset of moto leaves the sandbox alone."""

    def _load_amis(self) -> None:
        """No images but those registered here."""

    # What the EBS direct API asks of its host.

    def new_snapshot_id(self) -> str:
        """See ``SnapshotHost``."""
        return random_snapshot_id()

    def publish(self, record: SnapshotRecord, tags: Sequence[tuple[str, str]]) -> None:
        """See ``SnapshotHost``."""
        snapshot = SandboxSnapshot(self, record, "vol-ffffffff")
        self.snapshots[record.snapshot_id] = snapshot
        snapshot.add_tags(dict(tags))

    def encryption_by_default(self) -> bool:
        """See ``SnapshotHost``."""
        return self.ebs_encryption_by_default

    def default_key_arn(self) -> str:
        """See ``SnapshotHost``."""
        return self.default_kms_key_id or self._create_default_encryption_key()

    def check_key(self, arn: str) -> None:
        """See ``SnapshotHost``."""
        if not self._usable(arn):
            raise validation("The KMS key cannot be used", Reason.INVALID_CUSTOMER_KEY)

    def _usable(self, key_arn: str) -> bool:
        keys = kms_backends[self.account_id][self.region_name].keys
        key = keys.get(key_arn.rpartition("/")[2])
        return key is not None and key.arn == key_arn and key.enabled

    # Snapshots.

    def size_gib(self, snapshot_id: str) -> int:
        """See ``SnapshotSizes``."""
        return self._completed(snapshot_id).facts.size_gib

    def create_snapshot(
        self,
        volume_id: str,
        description: str,
        owner_id: str | None = None,
        from_ami: str | None = None,
    ) -> "SandboxSnapshot":
        """A snapshot that shares the volume's blocks."""
        volume = self.get_volume(volume_id)
        content = self.contents[volume_id]
        facts = SnapshotFacts(
            snapshot_id=random_snapshot_id(),
            size_gib=volume.size,
            lineage=content.lineage,
            started_at=self.clock.now(),
            description=description or "",
            kms_key_arn=volume.kms_key_id,
            encrypted=bool(volume.encrypted),
        )
        return self._adopt(facts, content.blocks, volume_id)

    def copy_snapshot(
        self,
        source_snapshot_id: str,
        source_region: str,
        description: str,
        kms_key_id: str | None,
        encrypt: bool = False,
    ) -> "SandboxSnapshot":
        """A copy that shares the source's blocks but starts a lineage of its own."""
        source_backend = self._region(source_region)
        source = source_backend.completed(source_snapshot_id)
        encrypted = bool(
            source.facts.encrypted or kms_key_id or encrypt or self.ebs_encryption_by_default
        )
        key_arn = self._key_arn(kms_key_id, source.facts.kms_key_arn) if encrypted else None
        snapshot_id = random_snapshot_id()
        facts = SnapshotFacts(
            snapshot_id=snapshot_id,
            size_gib=source.facts.size_gib,
            lineage=snapshot_id,
            started_at=self.clock.now(),
            description=description or "",
            kms_key_arn=key_arn,
            encrypted=encrypted,
        )
        return self._adopt(facts, source.blocks, "vol-ffffffff")

    def delete_snapshot(self, snapshot_id: str) -> Snapshot:
        """Delete it and free its blocks; refused while a registered image uses it."""
        snapshot = self.snapshots.get(snapshot_id)
        if snapshot is None:
            raise InvalidSnapshotIdError()
        for image in self.amis.values():
            if isinstance(image, SandboxImage) and image.uses(snapshot_id):
                raise InvalidSnapshotInUse(snapshot_id, image.id)
        del self.snapshots[snapshot_id]
        self.direct.drop(snapshot_id)
        return snapshot

    def completed(self, snapshot_id: str) -> SnapshotRecord:
        """The record of a completed snapshot; ``EC2ClientError`` otherwise."""
        return self._completed(snapshot_id)

    def _completed(self, snapshot_id: str) -> SnapshotRecord:
        snapshot = self.snapshots.get(snapshot_id)
        if not isinstance(snapshot, SandboxSnapshot):
            raise refuse(
                "InvalidSnapshot.NotFound", f"The snapshot '{snapshot_id}' does not exist."
            )
        state = snapshot.record.state
        if state is not SnapshotState.COMPLETED:
            raise refuse("IncorrectState", f"Snapshot {snapshot_id} is {state.value}")
        return snapshot.record

    def _adopt(self, facts: SnapshotFacts, blocks: BlockMap, volume_id: str) -> SandboxSnapshot:
        record = SnapshotRecord(facts, None, blocks.share(), self.clock)
        self.direct.adopt(record)
        snapshot = SandboxSnapshot(self, record, volume_id)
        self.snapshots[facts.snapshot_id] = snapshot
        return snapshot

    def _region(self, name: str) -> "SandboxEc2Backend":
        from moto.ec2.models import ec2_backends

        backend = ec2_backends[self.account_id][name]
        if not isinstance(backend, SandboxEc2Backend):
            raise refuse("InvalidParameterValue", f"Nothing is in region {name}")
        return backend

    # Volumes.

    def create_volume(
        self,
        size: int,
        zone_name: str,
        snapshot_id: str | None = None,
        encrypted: bool = False,
        kms_key_id: str | None = None,
        volume_type: str | None = None,
        iops: int | None = None,
        throughput: int | None = None,
        multi_attach_enabled: bool | None = None,
    ) -> Volume:
        """A volume that shares the snapshot's blocks; empty without one."""
        record = self._completed(snapshot_id) if snapshot_id else None
        if record is not None:
            size = size or record.facts.size_gib
            encrypted = encrypted or record.facts.encrypted
            self._check_volume_size(size, record)
        encrypted = bool(encrypted or self.ebs_encryption_by_default)
        if encrypted:
            kms_key_id = self._key_arn(kms_key_id, record.facts.kms_key_arn if record else None)
        volume = super().create_volume(
            size, zone_name, snapshot_id, encrypted, kms_key_id, volume_type, iops, throughput,
            multi_attach_enabled,
        )  # fmt: skip
        layers = record.blocks.share() if record else ()
        lineage = record.facts.lineage if record else volume.id
        self.contents[volume.id] = VolumeContent(BlockMap(layers), lineage)
        return volume

    def delete_volume(self, volume_id: str) -> Volume:
        """Delete it and give up its blocks."""
        volume = super().delete_volume(volume_id)
        self.contents.pop(volume_id).blocks.close()
        return volume

    def export_volume(self, volume_id: str, path: Path) -> int:
        """Write what a machine would read from the volume into a new sparse raw file.

        Returns:
            How many blocks hold something; the rest is holes.
        """
        volume = self.get_volume(volume_id)
        noise_of = volume_id if volume.encrypted else None
        size_bytes = volume.size * BLOCKS_PER_GIB * BLOCK_BYTES
        return export(self.contents[volume_id].blocks, size_bytes, noise_of, path)

    def volume_block(self, volume_id: str, index: int) -> bytes:
        """One block as a machine would read it."""
        volume = self.get_volume(volume_id)
        if not 0 <= index < volume.size * BLOCKS_PER_GIB:
            raise IndexError(index)
        noise_of = volume_id if volume.encrypted else None
        return read_block(self.contents[volume_id].blocks, index, noise_of)

    def _check_volume_size(self, size_gib: int, record: SnapshotRecord) -> None:
        if size_gib < record.facts.size_gib:
            raise refuse(
                "InvalidParameterValue",
                f"Volume of size {size_gib}GB is smaller than snapshot "
                f"'{record.snapshot_id}', expect size >= {record.facts.size_gib}GB",
            )

    def _key_arn(self, asked: str | None, inherited: str | None) -> str:
        """ARN of the key for something encrypted; refuses keys that cannot be used."""
        kms = kms_backends[self.account_id][self.region_name]
        arn = inherited or self.default_key_arn()
        if asked:
            arn = kms.describe_key(asked).arn
        if not self._usable(arn):
            raise refuse("InvalidKMSKey.InvalidState", "The KMS key cannot be used")
        return arn

    def attach_volume(
        self,
        volume_id: str,
        instance_id: str,
        device_path: str,
        delete_on_termination: bool = False,
    ) -> VolumeAttachment | None:
        """Attach it; refused while it is in use."""
        if self.get_volume(volume_id).attachment is not None:
            raise refuse("VolumeInUse", f"{volume_id} is already attached to an instance")
        return super().attach_volume(volume_id, instance_id, device_path, delete_on_termination)

    # Images.

    def image_spec(self, params: Mapping[str, Any]) -> ImageSpec:
        """RegisterImage's arguments, checked; the name must be new in the account."""
        spec = parse_image(params, self)
        self._check_name(spec.name)
        return spec

    def create_image(
        self,
        instance_id: str,
        name: str,
        description: str,
        tag_specifications: list[dict[str, Any]],
    ) -> Ami:
        """An image of the instance's volumes as they are, with snapshots of their own."""
        instance = self.get_instance(instance_id)
        source = self.amis.get(instance.image_id or "")
        if not isinstance(source, SandboxImage):
            raise refuse("InvalidAMIID.NotFound", "The instance's image is gone")
        self._check_name(name)
        devices = tuple(
            self._imaged(device_name, block.volume_id)
            for device_name, block in instance.get_block_device_mapping
        )
        spec = replace(source.spec, name=name, description=description, devices=devices)
        image = self.add_image(spec)
        image.instance_id = instance_id
        for specification in tag_specifications:
            if specification["ResourceType"] == "image":
                image.add_tags({tag["Key"]: tag["Value"] for tag in specification["Tags"]})
        return image

    def copy_image(
        self,
        source_image_id: str,
        source_region: str,
        name: str | None = None,
        description: str | None = None,
    ) -> Ami:
        """A copy with copies of the snapshots."""
        backend = self._region(source_region)
        source = backend.amis.get(source_image_id)
        if not isinstance(source, SandboxImage):
            raise refuse("InvalidAMIID.NotFound", f"The image '{source_image_id}' does not exist")
        self._check_name(name or source.spec.name)
        devices = tuple(
            replace(d, snapshot_id=self.copy_snapshot(d.snapshot_id, source_region, "", None).id)
            for d in source.spec.devices
            if d.snapshot_id is not None
        )
        spec = replace(source.spec, name=name or source.spec.name, devices=devices)
        return self.add_image(replace(spec, description=description or spec.description))

    def _imaged(self, device_name: str, volume_id: str) -> Device:
        volume = self.get_volume(volume_id)
        snapshot = self.create_snapshot(volume_id, f"Created by CreateImage for {volume_id}")
        return Device(device_name, snapshot.id, volume.size, volume.volume_type)

    def _check_name(self, name: str) -> None:
        if any(image.name == name for image in self.amis.values()):
            raise refuse("InvalidAMIName.Duplicate", f"AMI name {name} is already in use")

    def add_image(self, spec: ImageSpec) -> SandboxImage:
        """Keep an image."""
        image = SandboxImage(self, random_ami_id(), spec)
        self.amis[image.id] = image
        return image
