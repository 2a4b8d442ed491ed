"""What a plan says about the AWS side. Values only; the plan file is checked elsewhere."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol


class ClientSettings(Protocol):
    """What a client of the SDK is made from, whatever it is for."""

    @property
    def region(self) -> str | None:
        """None takes the profile's or the environment's."""

    @property
    def profile(self) -> str | None:
        """Of the shared AWS configuration; None for the default chain."""

    @property
    def endpoint(self) -> str | None:
        """URL for every service; None leaves it to ``AWS_ENDPOINT_URL`` and the profile."""

    @property
    def concurrency(self) -> int:
        """Calls in flight."""

    @property
    def connect_timeout_seconds(self) -> float:
        """Of one connection attempt."""

    @property
    def read_timeout_seconds(self) -> float:
        """Longest silence of the service within a call."""


class VolumeType(Enum):
    """EBS volume types that a migrated machine may be launched on."""

    GP3 = "gp3"
    GP2 = "gp2"
    IO1 = "io1"
    IO2 = "io2"
    ST1 = "st1"
    SC1 = "sc1"
    STANDARD = "standard"

    @property
    def bootable(self) -> bool:
        """Whether a root volume may have this type: st1 and sc1 do not boot (EBS user guide)."""
        return self not in (VolumeType.ST1, VolumeType.SC1)

    @property
    def max_gib(self) -> int:
        """Largest volume in GiB (EBS user guide, "Amazon EBS volume types")."""
        return _MAX_GIB[self]

    @property
    def min_gib(self) -> int:
        """Smallest volume in GiB (EBS user guide, "Amazon EBS volume types")."""
        return _MIN_GIB.get(self, 1)


_MAX_GIB = {
    VolumeType.GP3: 65_536,
    VolumeType.IO2: 65_536,
    VolumeType.GP2: 16_384,
    VolumeType.IO1: 16_384,
    VolumeType.ST1: 16_384,
    VolumeType.SC1: 16_384,
    VolumeType.STANDARD: 1_024,
}
_MIN_GIB = {VolumeType.IO1: 4, VolumeType.IO2: 4, VolumeType.ST1: 125, VolumeType.SC1: 125}


@dataclass(frozen=True, slots=True)
class AwsSpec:
    """The target of one migration.

    Attributes:
        subnet_id: where the machine is launched; its zone decides which types are offered.
        security_group_ids: of the launched machine; at least one.
        region: None takes the profile's or the environment's.
        profile: of the shared AWS configuration; None for the default chain.
        endpoint: URL for every service; None leaves it to ``AWS_ENDPOINT_URL`` and the profile.
        instance_type: fixed type; None chooses from what EC2 offers.
        encrypted: snapshots are made encrypted.
        kms_key_id: key id, alias or ARN for snapshots and launched volumes; None = account key.
        launch_encrypted: volumes are encrypted at launch even though snapshots are not.
        volume_type: of all launched volumes.
        tags: put on everything in addition to Sealift's own.
        snapshot_timeout_minutes: 10 to 4,320. EBS gives up a snapshot that saw no block for
            so long. The longest is the default because a run that stopped on a Friday
            evening is then resumed on Monday without sending anything again; what is
            abandoned is deleted by ``sweep`` and does not wait for this.
        concurrency: PutSnapshotBlock calls in flight per disk.
        connect_timeout_seconds: of one connection attempt.
        read_timeout_seconds: longest silence of the service within a call.
        complete_timeout_seconds: how long ``commit`` waits for a snapshot to be completed.
        terminate_timeout_seconds: how long ``terminate`` waits for an instance to be gone.
    """

    subnet_id: str
    security_group_ids: tuple[str, ...]
    region: str | None = None
    profile: str | None = None
    endpoint: str | None = None
    instance_type: str | None = None
    encrypted: bool = False
    kms_key_id: str | None = None
    launch_encrypted: bool = False
    volume_type: VolumeType = VolumeType.GP3
    tags: Mapping[str, str] = field(default_factory=dict)
    snapshot_timeout_minutes: int = 4320
    concurrency: int = 32
    connect_timeout_seconds: float = 10.0
    read_timeout_seconds: float = 60.0
    complete_timeout_seconds: float = 900.0
    terminate_timeout_seconds: float = 600.0
