"""RunInstances: what must fit together before a machine starts."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from moto.ec2.models.instance_types import INSTANCE_TYPES

from sandbox.aws.ec2_backend import SandboxEc2Backend
from sandbox.aws.ec2_images import Device, ImageSpec, SandboxImage, parse_device, refuse

_BOOT_MODES = {
    "uefi-preferred": ("uefi", "legacy-bios"),
    "uefi": ("uefi",),
    "legacy-bios": ("legacy-bios",),
}


def plan_launch(
    backend: SandboxEc2Backend, params: Mapping[str, Any]
) -> tuple[SandboxImage, list[dict[str, Any]]]:
    """Check a launch and work out the devices the instance gets.

    Args:
        backend: the region.
        params: RunInstances' arguments, parsed by the SDK's model.

    Returns:
        The image, and the complete block device mappings: the image's, with what the
        call changes or adds.

    Raises:
        EC2ClientError: something does not exist or does not fit.
    """
    image = _image(backend, params.get("ImageId", ""))
    instance_type = params.get("InstanceType", "m1.small")
    facts = INSTANCE_TYPES.get(instance_type)
    if facts is None:
        message = f"Invalid value '{instance_type}' for InstanceType."
        raise refuse("InvalidParameterValue", message)
    _check_machine(image.spec, instance_type, facts)
    _check_network(backend, params)
    _check_key_pair(backend, params.get("KeyName"))
    overrides = params.get("BlockDeviceMappings", [])
    return image, [_as_mapping(d) for d in _devices(backend, image.spec, overrides)]


def boot_mode_of(spec: ImageSpec, instance_type: str) -> str:
    """The firmware a machine of this type starts the image with (EC2 guide, boot modes)."""
    supported = INSTANCE_TYPES[instance_type].get("SupportedBootModes", ["legacy-bios"])
    if spec.boot_mode is None:
        return "uefi" if spec.architecture == "arm64" else "legacy-bios"
    wanted = _BOOT_MODES[spec.boot_mode]
    return next((mode for mode in wanted if mode in supported), "")


def _image(backend: SandboxEc2Backend, image_id: str) -> SandboxImage:
    image = backend.amis.get(image_id)
    if not isinstance(image, SandboxImage):
        message = f"The image id '[{image_id}]' does not exist"
        raise refuse("InvalidAMIID.NotFound", message)
    if image.state != "available":
        raise refuse("InvalidAMIID.Unavailable", f"The image '{image_id}' is {image.state}")
    return image


def _check_machine(spec: ImageSpec, instance_type: str, facts: Mapping[str, Any]) -> None:
    architectures = facts["ProcessorInfo"]["SupportedArchitectures"]
    if spec.architecture not in architectures:
        raise refuse(
            "InvalidParameterValue",
            f"The architecture '{','.join(architectures)}' of the specified instance type does "
            f"not match the architecture '{spec.architecture}' of the specified AMI",
        )
    if spec.virtualization not in facts["SupportedVirtualizationTypes"]:
        message = f"'{instance_type}' does not support virtualization '{spec.virtualization}'"
        raise refuse("InvalidParameterCombination", message)
    if facts["NetworkInfo"].get("EnaSupport") == "required" and not spec.ena_support:
        message = f"ENA is required for the '{instance_type}' instance type"
        raise refuse("InvalidParameterCombination", message)
    if boot_mode_of(spec, instance_type) not in facts.get("SupportedBootModes", []):
        message = f"'{instance_type}' does not support boot mode '{spec.boot_mode}'"
        raise refuse("UnsupportedOperation", message)
    if spec.tpm_support is not None and facts.get("NitroTpmSupport") != "supported":
        raise refuse("UnsupportedOperation", f"'{instance_type}' does not support NitroTPM")


def _check_network(backend: SandboxEc2Backend, params: Mapping[str, Any]) -> None:
    nics = params.get("NetworkInterfaces", [])
    subnet_id = params.get("SubnetId") or next((n["SubnetId"] for n in nics if "SubnetId" in n), "")
    vpc_id = backend.get_subnet(subnet_id).vpc_id if subnet_id else backend.default_vpc.id
    wanted = [*params.get("SecurityGroupIds", [])]
    wanted += [group for nic in nics for group in nic.get("Groups", [])]
    for group_id in wanted:
        group = backend.get_security_group_from_id(group_id)
        if group is None:
            message = f"The security group '{group_id}' does not exist"
            raise refuse("InvalidGroup.NotFound", message)
        if group.vpc_id != vpc_id:
            where = f"Security group {group_id} and subnet {subnet_id}"
            raise refuse("InvalidParameter", f"{where} belong to different networks")


def _check_key_pair(backend: SandboxEc2Backend, name: str | None) -> None:
    if name is not None:
        backend.describe_key_pairs(key_names=[name])


def _devices(
    backend: SandboxEc2Backend, spec: ImageSpec, overrides: Sequence[Mapping[str, Any]]
) -> list[Device]:
    chosen = {device.name: device for device in spec.devices}
    for override in overrides:
        name = override.get("DeviceName", "")
        if "NoDevice" in override:
            chosen.pop(name, None)
            continue
        merged = {**_as_mapping(chosen[name])["Ebs"]} if name in chosen else {}
        merged.update(override.get("Ebs", {}))
        mapping = {"DeviceName": name, "Ebs": merged}
        chosen[name] = parse_device(mapping, backend, launching=True)
    _check_still_there(backend, chosen.values())
    return list(chosen.values())


def _check_still_there(backend: SandboxEc2Backend, devices: Iterable[Device]) -> None:
    for device in devices:
        if device.snapshot_id is not None:
            record = backend.completed(device.snapshot_id)
            if device.encrypted is False and record.facts.encrypted:
                message = "Encryption of an encrypted snapshot cannot be removed"
                raise refuse("InvalidParameterValue", message)


def _as_mapping(device: Device) -> dict[str, Any]:
    ebs = {
        "SnapshotId": device.snapshot_id,
        "VolumeSize": device.size_gib,
        "VolumeType": device.volume_type,
        "DeleteOnTermination": device.delete_on_termination,
        "Iops": device.iops,
        "Throughput": device.throughput,
        "Encrypted": device.encrypted,
        "KmsKeyId": device.kms_key_id,
    }
    shown = {key: value for key, value in ebs.items() if value is not None}
    return {"DeviceName": device.name, "Ebs": shown}
