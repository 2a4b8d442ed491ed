"""The image of a point: all disks of a machine, registered so that EC2 can boot them."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from connectors.aws import tags as names
from connectors.aws.errors import MissingError, aws_call, code_of, field_of
from connectors.aws.session import AwsClients
from connectors.aws.spec import AwsSpec
from connectors.aws.wait import VISIBLE_SECONDS
from sealift.endpoints import Firmware, SnapshotRef, SourceVm
from sealift.errors import TargetError, TransientError
from sealift.wait import Waiter

if TYPE_CHECKING:
    from mypy_boto3_ec2.type_defs import (
        BlockDeviceMappingTypeDef,
        ImageTypeDef,
        RegisterImageRequestTypeDef,
    )

log = logging.getLogger(__name__)

ROOT_DEVICE = "/dev/sda1"
"""Root of an hvm image; Nitro instances show it to the guest as NVMe, whatever its name."""

_BOOT_MODES: Mapping[Firmware, Literal["legacy-bios", "uefi"]] = {
    Firmware.BIOS: "legacy-bios",
    Firmware.UEFI: "uefi",
}
_ARCHITECTURES: Mapping[str, Literal["x86_64", "arm64"]] = {"x86_64": "x86_64", "arm64": "arm64"}


def boot_mode(firmware: Firmware) -> Literal["legacy-bios", "uefi"]:
    """EC2's word for how the source boots."""
    return _BOOT_MODES[firmware]


def architecture(vm: SourceVm) -> Literal["x86_64", "arm64"]:
    """EC2's word for the source's processor.

    Raises:
        TargetError: EC2 has no machines for it.
    """
    known = _ARCHITECTURES.get(vm.architecture)
    if known is None:
        raise TargetError(f"EC2 has no machines of architecture {vm.architecture}", vm=vm.name)
    return known


@dataclass(frozen=True, slots=True)
class Images:
    """The images of one migration.

    Args:
        clients: SDK clients.
        spec: the plan.
        owner: whose they are.
        waiter: for the state ``available``.
    """

    clients: AwsClients
    spec: AwsSpec
    owner: names.Owner
    waiter: Waiter

    def publish(self, seq: int, vm: SourceVm, snapshots: Mapping[str, SnapshotRef]) -> str:
        """Register (or find) the image of point ``seq`` and wait until it is available.

        Its name follows from everything that it is made of, so a repeated call finds the
        same image and a changed one never takes an old image for its own.

        Raises:
            TargetError: a disk has no snapshot, or EC2 refuses the image.
            TransientError: not available yet; call it again.
        """
        request = self._request(seq, vm, snapshots)
        image_id = self._find(request["Name"]) or self._register(request)
        self._await_available(image_id)
        return image_id

    def _request(
        self, seq: int, vm: SourceVm, snapshots: Mapping[str, SnapshotRef]
    ) -> "RegisterImageRequestTypeDef":
        mappings = self._mappings(vm, snapshots)
        mode, arch = boot_mode(vm.firmware), architecture(vm)
        name = names.image_name(self.owner.migration_id, seq, [mappings, mode, arch])
        return {
            "Name": name,
            "Description": f"{vm.name[:100]} at point {seq}, made by sealift",
            "Architecture": arch,
            "VirtualizationType": "hvm",
            "EnaSupport": True,
            "BootMode": mode,
            "ImdsSupport": "v2.0",
            "RootDeviceName": ROOT_DEVICE,
            "BlockDeviceMappings": mappings,
            "TagSpecifications": [
                {
                    "ResourceType": "image",
                    "Tags": self.owner.tags(name, {names.POINT: str(seq)}),
                }
            ],
        }

    def _mappings(
        self, vm: SourceVm, snapshots: Mapping[str, SnapshotRef]
    ) -> "Sequence[BlockDeviceMappingTypeDef]":
        missing = [disk.id for disk in vm.disks if disk.id not in snapshots]
        if missing or not vm.disks:
            raise TargetError(f"no snapshot for disk {', '.join(missing) or '(no disks)'}")
        devices = names.device_names(len(vm.disks), ROOT_DEVICE)
        return [
            {
                "DeviceName": device,
                "Ebs": {
                    "SnapshotId": snapshots[disk.id].id,
                    "VolumeType": self.spec.volume_type.value,
                    "DeleteOnTermination": True,
                },
            }
            for device, disk in zip(devices, vm.disks, strict=True)
        ]

    def _register(self, request: "RegisterImageRequestTypeDef") -> str:
        try:
            with aws_call("ec2:RegisterImage"):
                answer = self.clients.ec2.register_image(**request)
        except TargetError as error:
            if code_of(error) != "InvalidAMIName.Duplicate":
                raise
            found = self._find(request["Name"])
            if found is None:
                text = f"image {request['Name']!r} exists but is not visible yet"
                raise TransientError(text) from None
            return found
        return str(field_of(answer, "ImageId", "ec2:RegisterImage"))

    def _find(self, name: str) -> str | None:
        """Id of our image of that name."""
        for image in self.owned():
            if image.get("Name") == name:
                return str(field_of(image, "ImageId", "ec2:DescribeImages"))
        return None

    def _await_available(self, image_id: str) -> None:
        def available() -> bool | None:
            image = self.describe(image_id)
            state = image.get("State", "") if image else "pending"
            if state in ("failed", "error", "invalid", "deregistered", "disabled"):
                reason = (image or {}).get("StateReason", {}).get("Message", "")
                raise TargetError(f"image {image_id} is {state}: {reason}", image_id=image_id)
            return True if state == "available" else None

        self.waiter.until(available, VISIBLE_SECONDS, f"making image {image_id} available")

    def describe(self, image_id: str) -> "ImageTypeDef | None":
        """The image; None when EC2 does not know it."""
        try:
            with aws_call("ec2:DescribeImages"):
                answer = self.clients.ec2.describe_images(ImageIds=[image_id])
        except MissingError:
            return None
        found: list[ImageTypeDef] = field_of(answer, "Images", "ec2:DescribeImages")
        return found[0] if found else None

    def owned(self) -> "list[ImageTypeDef]":
        """Every image of the migration."""
        with aws_call("ec2:DescribeImages"):
            pages = self.clients.ec2.get_paginator("describe_images").paginate(
                Owners=["self"], Filters=self.owner.filters()
            )
            answers = list(pages)
        return [i for a in answers for i in field_of(a, "Images", "ec2:DescribeImages")]

    def unpublish(self, image_id: str) -> None:
        """Deregister it; its snapshots stay. Fine when it is gone already.

        Raises:
            TargetError: it is not this migration's.
        """
        image = self.describe(image_id)
        if image is not None and not self.owner.owns(names.tag_map(image.get("Tags"))):
            raise TargetError(
                f"image {image_id} does not belong to {self.owner.migration_id}",
                image_id=image_id,
            )
        try:
            with aws_call("ec2:DeregisterImage"):
                self.clients.ec2.deregister_image(ImageId=image_id)
        except MissingError:
            log.debug("image %s is gone already", image_id)


def snapshot_ids(image: "ImageTypeDef | Mapping[str, Any]") -> list[str]:
    """Snapshots that an image is made of."""
    found = [m.get("Ebs", {}).get("SnapshotId") for m in image.get("BlockDeviceMappings", [])]
    return [snapshot_id for snapshot_id in found if snapshot_id]
