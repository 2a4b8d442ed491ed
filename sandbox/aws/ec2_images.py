"""Registered images: everything RegisterImage was given, checked and kept.

moto keeps only name and description; the rules here are those of the EC2 API reference
(``docs/sandbox.md``).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moto.core.utils import utcnow
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models.amis import Ami

_NAME = re.compile(r"[A-Za-z0-9()\[\] ./\-'@_]{3,128}")
_UEFI_DATA_MAX = 64_000
_SIZES_GIB = {
    "gp2": range(1, 16_385),
    "gp3": range(1, 65_537),
    "io1": range(4, 16_385),
    "io2": range(4, 65_537),
    "st1": range(125, 16_385),
    "sc1": range(125, 16_385),
    "standard": range(1, 1_025),
}
"""EC2 API reference, ``EbsBlockDevice.VolumeSize``."""
_NEVER_ROOT = ("st1", "sc1")


@dataclass(frozen=True, slots=True)
class Device:
    """One block device mapping; ``size_gib`` is never below the snapshot's."""

    name: str
    snapshot_id: str | None
    size_gib: int
    volume_type: str = "gp2"
    delete_on_termination: bool = True
    iops: int | None = None
    throughput: int | None = None
    encrypted: bool | None = None
    kms_key_id: str | None = None


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """What an image is registered with; defaults are those of RegisterImage."""

    name: str
    description: str = ""
    architecture: str = "i386"
    virtualization: str = "paravirtual"
    root_device_name: str = ""
    devices: tuple[Device, ...] = ()
    boot_mode: str | None = None
    ena_support: bool = False
    sriov_support: str | None = None
    imds_support: str | None = None
    tpm_support: str | None = None
    uefi_data: str | None = None


class SandboxImage(Ami):
    """An image as moto's EC2 backend keeps it, with the whole specification.

    moto's own constructor is left out: it would make a volume and a snapshot of its own.
    """

    def __init__(self, ec2_backend: Any, ami_id: str, spec: ImageSpec) -> None:
        self.ec2_backend = ec2_backend
        self.id = ami_id
        self.spec = spec
        self.state = "available"
        self.name = spec.name
        self.description = spec.description
        self.image_type = "machine"
        self.owner_id = ec2_backend.account_id
        self.owner_alias = None
        self.image_location = f"{self.owner_id}/{spec.name}"
        self.virtualization_type = spec.virtualization
        self.architecture = spec.architecture
        self.kernel_id = None
        self.platform = None
        self.hypervisor = "xen"
        self.root_device_name = spec.root_device_name
        self.root_device_type = "ebs"
        self.creation_date = utcnow()
        self.product_codes = set()
        self.boot_mode = spec.boot_mode  # type: ignore[assignment]
        self.instance_id = None
        self.launch_permissions = []

    def uses(self, snapshot_id: str) -> bool:
        """Whether a device of the image is backed by the snapshot."""
        return any(device.snapshot_id == snapshot_id for device in self.spec.devices)

    def description_document(self) -> dict[str, Any]:
        """The image as DescribeImages shows it."""
        spec = self.spec
        document = {
            "ImageId": self.id,
            "Name": spec.name,
            "Description": spec.description,
            "ImageLocation": self.image_location,
            "ImageType": self.image_type,
            "State": self.state,
            "OwnerId": self.owner_id,
            "Public": self.is_public,
            "CreationDate": self.creation_date,
            "Architecture": spec.architecture,
            "VirtualizationType": spec.virtualization,
            "Hypervisor": self.hypervisor,
            "PlatformDetails": "Linux/UNIX",
            "UsageOperation": "RunInstances",
            "RootDeviceType": self.root_device_type,
            "RootDeviceName": spec.root_device_name,
            "BlockDeviceMappings": [_mapping(self, device) for device in spec.devices],
            "BootMode": spec.boot_mode,
            "EnaSupport": spec.ena_support,
            "SriovNetSupport": spec.sriov_support,
            "ImdsSupport": spec.imds_support,
            "TpmSupport": spec.tpm_support,
            "SourceInstanceId": self.instance_id,
            "Tags": self.get_tags(),
        }
        return {key: value for key, value in document.items() if value is not None}


def _mapping(image: SandboxImage, device: Device) -> dict[str, Any]:
    encrypted = device.encrypted
    if device.snapshot_id in image.ec2_backend.snapshots:
        encrypted = image.ec2_backend.snapshots[device.snapshot_id].encrypted
    ebs = {
        "SnapshotId": device.snapshot_id,
        "VolumeSize": device.size_gib,
        "VolumeType": device.volume_type,
        "DeleteOnTermination": device.delete_on_termination,
        "Encrypted": bool(encrypted),
        "Iops": device.iops,
        "Throughput": device.throughput,
    }
    shown = {key: value for key, value in ebs.items() if value is not None}
    return {"DeviceName": device.name, "Ebs": shown}


def refuse(code: str, message: str) -> EC2ClientError:
    """An EC2 refusal (HTTP 400)."""
    return EC2ClientError(code, message)


def parse_image(params: Mapping[str, Any], snapshot_sizes: "SnapshotSizes") -> ImageSpec:
    """Check RegisterImage's arguments and turn them into a specification.

    Args:
        params: the arguments, parsed by the SDK's model.
        snapshot_sizes: looks up completed snapshots.

    Raises:
        EC2ClientError: the arguments break a rule.
    """
    devices = tuple(
        parse_device(mapping, snapshot_sizes, launching=False)
        for mapping in params.get("BlockDeviceMappings", [])
    )
    spec = ImageSpec(
        name=params.get("Name", ""),
        description=params.get("Description", ""),
        architecture=params.get("Architecture", "i386"),
        virtualization=params.get("VirtualizationType", "paravirtual"),
        root_device_name=params.get("RootDeviceName", ""),
        devices=devices,
        boot_mode=params.get("BootMode"),
        ena_support=bool(params.get("EnaSupport")),
        sriov_support=params.get("SriovNetSupport"),
        imds_support=params.get("ImdsSupport"),
        tpm_support=params.get("TpmSupport"),
        uefi_data=params.get("UefiData"),
    )
    _check_spec(spec)
    _check_tags(params.get("TagSpecifications", []))
    return spec


class SnapshotSizes:
    """Answers how large a completed snapshot is; refuses all others.

    A base for the backend's look-up, so that parsing needs no backend.
    """

    def size_gib(self, snapshot_id: str) -> int:
        """Size of a completed snapshot; ``EC2ClientError`` when unknown or not completed."""
        raise NotImplementedError


def parse_device(mapping: Mapping[str, Any], sizes: SnapshotSizes, *, launching: bool) -> Device:
    """Check one block device mapping.

    Args:
        mapping: the mapping as the SDK's model parsed it.
        sizes: looks up the snapshot.
        launching: RunInstances may state encryption beside a snapshot; RegisterImage not.
    """
    name, ebs = mapping.get("DeviceName", ""), mapping.get("Ebs", {})
    snapshot_id = ebs.get("SnapshotId")
    if snapshot_id and not launching and "Encrypted" in ebs:
        message = f"the encrypted flag cannot be specified since device {name} has a snapshot"
        raise refuse("InvalidBlockDeviceMapping", message)
    floor_gib = sizes.size_gib(snapshot_id) if snapshot_id else 1
    size_gib = ebs.get("VolumeSize") or (floor_gib if snapshot_id else None)
    if size_gib is None:
        raise refuse("MissingParameter", f"Device {name} needs a snapshot or a volume size")
    _check_size(name, ebs.get("VolumeType", "gp2"), int(size_gib), floor_gib, snapshot_id)
    return Device(
        name=name,
        snapshot_id=snapshot_id,
        size_gib=int(size_gib),
        volume_type=ebs.get("VolumeType", "gp2"),
        delete_on_termination=ebs.get("DeleteOnTermination", True),
        iops=ebs.get("Iops"),
        throughput=ebs.get("Throughput"),
        encrypted=ebs.get("Encrypted"),
        kms_key_id=ebs.get("KmsKeyId"),
    )


def _check_size(
    name: str, volume_type: str, size_gib: int, floor_gib: int, snapshot_id: str | None
) -> None:
    if size_gib < floor_gib:
        raise refuse(
            "InvalidBlockDeviceMapping",
            f"Volume of size {size_gib}GB is smaller than snapshot '{snapshot_id}', "
            f"expect size >= {floor_gib}GB",
        )
    if size_gib not in _SIZES_GIB.get(volume_type, range(0)):
        message = f"Device {name}: {size_gib} GiB is not a size for volume type {volume_type}"
        raise refuse("InvalidParameterValue", message)


def _check_spec(spec: ImageSpec) -> None:
    if not _NAME.fullmatch(spec.name):
        message = "AMI names must be 3 to 128 characters of the documented set"
        raise refuse("InvalidAMIName.Malformed", message)
    _check_devices(spec)
    if spec.virtualization != "hvm" and (spec.ena_support or spec.sriov_support):
        raise refuse("InvalidParameterCombination", "Enhanced networking needs hvm")
    if spec.tpm_support is not None and spec.boot_mode != "uefi":
        raise refuse("InvalidParameterCombination", "TpmSupport needs BootMode uefi")
    if spec.uefi_data is not None and len(spec.uefi_data) > _UEFI_DATA_MAX:
        raise refuse("InvalidParameterValue", "UefiData is longer than 64000 characters")
    if spec.architecture == "arm64" and spec.boot_mode == "legacy-bios":
        raise refuse("InvalidParameterCombination", "arm64 images boot by uefi only")


def _check_devices(spec: ImageSpec) -> None:
    names = [device.name for device in spec.devices]
    if len(set(names)) != len(names):
        raise refuse("InvalidBlockDeviceMapping", "A device name is used twice")
    root = next((d for d in spec.devices if d.name == spec.root_device_name), None)
    if root is None or root.snapshot_id is None:
        raise refuse("InvalidBlockDeviceMapping", "No root snapshot specified in device mapping")
    if root.volume_type in _NEVER_ROOT:
        message = f"A {root.volume_type} volume cannot be a root device"
        raise refuse("InvalidBlockDeviceMapping", message)


def _check_tags(specifications: Sequence[Mapping[str, Any]]) -> None:
    for specification in specifications:
        if specification.get("ResourceType") != "image":
            message = "The resource type of a tag specification of RegisterImage is image"
            raise refuse("InvalidParameterValue", message)
