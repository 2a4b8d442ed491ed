"""What would stop a machine from arriving, looked up before anything is made."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from connectors.aws.errors import aws_call, field_of
from connectors.aws.image import architecture
from connectors.aws.instance_types import MachineNeed, MachineType, MachineTypes, unsuitable
from connectors.aws.permissions import Permissions
from connectors.aws.quotas import EbsQuotas, QuotaSource, read_quotas, read_standard_vcpus
from connectors.aws.session import AwsClients
from connectors.aws.snapshots import Snapshots
from connectors.aws.spec import AwsSpec
from connectors.aws.tags import device_names
from sealift.endpoints import Check, SourceVm
from sealift.errors import ConfigError, QuotaError, TargetError
from sealift.units import GiB, format_rate, format_size, round_up

_STANDARD_FAMILIES = "acdhimrtz"
_READABLE = "allow servicequotas:ListServiceQuotas to see the account's own figure"


@dataclass(frozen=True, slots=True)
class Preflight:
    """Checks of one plan. Makes nothing in the account.

    Args:
        clients: SDK clients.
        spec: the plan.
        snapshots: answers what encryption does.
        types: chooses the instance type, and remembers it for the launch.
    """

    clients: AwsClients
    spec: AwsSpec
    snapshots: Snapshots
    types: MachineTypes

    def run(self, vm: SourceVm) -> Sequence[Check]:
        """One row per check; without usable credentials only that row.

        Raises:
            TransientError: AWS could not be asked; repeat it.
        """
        identity = self._row("credentials", self._identity)
        if not identity.ok:
            return [identity]
        machine = cache(lambda: self._machine(vm))
        checks: list[tuple[str, Callable[[], Check]]] = [
            ("subnet", self._subnet),
            ("security groups", self._security_groups),
            ("instance type", lambda: self._instance_type(machine(), vm)),
            ("vCPU quota", lambda: self._vcpu_quota(machine())),
            ("volumes", lambda: self._volumes(vm)),
            ("encryption", self._encryption),
            ("KMS key", self._kms_key),
            ("pending snapshots", lambda: self._pending(vm)),
            ("speed limit", lambda: self._speed(vm)),
        ]
        rows = [self._row(name, check) for name, check in checks]
        if any(not row.ok for row in rows if row.name == "instance type"):
            return [identity, *rows]
        permissions = Permissions(self.clients, self.spec)
        return [identity, *rows, *permissions.run(architecture(vm), machine().name)]

    def _row(self, name: str, check: Callable[[], Check]) -> Check:
        """A refusal becomes a failed row, so that all problems are told at once."""
        try:
            return check()
        except (TargetError, ConfigError) as error:
            step = error.next_step or f"correct the plan's {name}"
            return Check(name, ok=False, found=error.message, next_step=step, error=type(error))

    def _identity(self) -> Check:
        with aws_call("sts:GetCallerIdentity"):
            answer = self.clients.sts.get_caller_identity()
        arn = field_of(answer, "Arn", "sts:GetCallerIdentity")
        return Check("credentials", ok=True, found=f"{arn} in {self.clients.region}")

    def _subnet(self) -> Check:
        subnet = self._describe_subnet()
        free = int(subnet.get("AvailableIpAddressCount", 0))
        state = subnet.get("State", "")
        found = f"{self.spec.subnet_id} in {subnet.get('AvailabilityZone')}, {free} addresses free"
        if state != "available" or free < 1:
            step = "free an address in the subnet or name another one with subnet_id"
            return Check("subnet", ok=False, found=f"{found}, state {state}", next_step=step)
        return Check("subnet", ok=True, found=found)

    def _describe_subnet(self) -> Any:
        with aws_call("ec2:DescribeSubnets"):
            answer = self.clients.ec2.describe_subnets(SubnetIds=[self.spec.subnet_id])
        return field_of(answer, "Subnets", "ec2:DescribeSubnets")[0]

    def _security_groups(self) -> Check:
        groups = list(self.spec.security_group_ids)
        with aws_call("ec2:DescribeSecurityGroups"):
            answer = self.clients.ec2.describe_security_groups(GroupIds=groups)
        found = field_of(answer, "SecurityGroups", "ec2:DescribeSecurityGroups")
        vpc = self._describe_subnet().get("VpcId")
        strangers = [g.get("GroupId", "") for g in found if g.get("VpcId") != vpc]
        if strangers:
            text = f"{', '.join(strangers)} not in {vpc}, where the subnet is"
            step = "name security groups of the subnet's VPC"
            return Check("security groups", ok=False, found=text, next_step=step)
        return Check("security groups", ok=True, found=", ".join(groups))

    def _machine(self, vm: SourceVm) -> MachineType:
        types = self.types
        name = self.spec.instance_type or types.pick(vm)
        machine = types.named(name)
        if machine is None or name not in types.offered_names():
            raise TargetError(
                f"{name} is not offered in {types.zone()}",
                next_step="name another instance_type or leave it out",
            )
        return machine

    def _instance_type(self, machine: MachineType, vm: SourceVm) -> Check:
        reason = unsuitable(machine, MachineNeed.of(vm))
        memory = format_size(machine.memory_bytes)
        found = f"{machine.name}: {machine.vcpus} vCPU, {memory}, boots {vm.firmware.value}"
        if reason:
            step = "name another instance_type or leave it out"
            return Check("instance type", False, f"{machine.name} {reason}", step)
        if not machine.nitro:
            step = "a Nitro type shows its disks as NVMe, as the checks of the guest assume"
            return Check("instance type", ok=True, found=found, next_step=step)
        return Check("instance type", ok=True, found=found)

    def _vcpu_quota(self, machine: MachineType) -> Check:
        if not _is_standard(machine.name):
            text = f"not looked up for {machine.name}"
            return Check("vCPU quota", ok=True, found=text, next_step="see Service Quotas, ec2")
        limit = read_standard_vcpus(self.clients)
        if limit is None:
            return Check("vCPU quota", ok=True, found="not readable", next_step=_READABLE)
        used = sum(_vcpus(i) for i in self._running() if _is_standard(i.get("InstanceType", "")))
        found = f"{used} of {limit:.0f} in use, {machine.vcpus} more needed"
        if used + machine.vcpus > limit:
            step = "raise 'Running On-Demand Standard instances' in Service Quotas"
            return Check("vCPU quota", ok=False, found=found, next_step=step, error=QuotaError)
        return Check("vCPU quota", ok=True, found=found)

    def _running(self) -> Iterator[Any]:
        with aws_call("ec2:DescribeInstances"):
            pages = self.clients.ec2.get_paginator("describe_instances").paginate(
                Filters=[{"Name": "instance-state-name", "Values": ["pending", "running"]}]
            )
            answers: list[Any] = list(pages)
        for answer in answers:
            for reservation in field_of(answer, "Reservations", "ec2:DescribeInstances"):
                yield from reservation.get("Instances", [])

    def _volumes(self, vm: SourceVm) -> Check:
        kind = self.spec.volume_type
        if not kind.bootable:
            step = "set volume_type to gp3"
            return Check("volumes", False, f"{kind.value} volumes cannot boot", step)
        try:
            device_names(len(vm.disks), "root")
        except ValueError as error:
            return Check("volumes", False, str(error), "detach disks from the source")
        for disk in vm.disks:
            gib = round_up(max(disk.size, 1), GiB) // GiB
            if gib > kind.max_gib:
                text = f"disk {disk.id} of {gib} GiB; {kind.value} ends at {kind.max_gib} GiB"
                return Check("volumes", False, text, "set another volume_type")
            if gib < kind.min_gib:
                text = f"disk {disk.id} of {gib} GiB; {kind.value} starts at {kind.min_gib} GiB"
                return Check("volumes", False, text, "set volume_type to gp3")
        total = format_size(sum(disk.size for disk in vm.disks))
        return Check("volumes", ok=True, found=f"{len(vm.disks)} {kind.value}, {total}")

    def _encryption(self) -> Check:
        if self.spec.encrypted:
            found = "snapshots are encrypted: every zero block is sent, or it would read as noise"
            return Check("encryption", ok=True, found=found)
        if self.spec.launch_encrypted:
            found = "volumes are encrypted at launch: every zero block is sent"
            return Check("encryption", ok=True, found=found)
        if self.snapshots.launches_encrypted():
            found = "the account encrypts by default: every zero block is sent"
            step = (
                "an unencrypted snapshot that was made before cannot be a parent any more; "
                "start those disks again with a full copy"
            )
            return Check("encryption", ok=True, found=found, next_step=step)
        return Check("encryption", ok=True, found="none: zero blocks are left out")

    def _kms_key(self) -> Check:
        key_id = self.spec.kms_key_id
        if key_id is None:
            return Check("KMS key", ok=True, found="the account's key for EBS, where one is needed")
        if not (self.spec.encrypted or self.spec.launch_encrypted):
            step = "set encrypted or launch_encrypted, or remove kms_key_id"
            return Check("KMS key", False, "a key is named but nothing is encrypted", step)
        with aws_call("kms:DescribeKey"):
            answer = self.clients.kms.describe_key(KeyId=key_id)
        key = field_of(answer, "KeyMetadata", "kms:DescribeKey")
        state, usage = key.get("KeyState", ""), key.get("KeyUsage", "ENCRYPT_DECRYPT")
        found = f"{key.get('Arn', key_id)}, {state}"
        if state != "Enabled" or usage != "ENCRYPT_DECRYPT":
            step = "enable the key or name a symmetric encryption key"
            return Check("KMS key", ok=False, found=f"{found}, {usage}", next_step=step)
        return Check("KMS key", ok=True, found=found)

    def _pending(self, vm: SourceVm) -> Check:
        with aws_call("ec2:DescribeSnapshots"):
            pages = self.clients.ec2.get_paginator("describe_snapshots").paginate(
                OwnerIds=["self"], Filters=[{"Name": "status", "Values": ["pending"]}]
            )
            answers: list[Any] = list(pages)
        used = sum(len(field_of(a, "Snapshots", "ec2:DescribeSnapshots")) for a in answers)
        quota = read_quotas(self.clients).pending_snapshots
        found = f"{used} of {quota.value:.0f} in use ({quota.source.value})"
        if used + len(vm.disks) > quota.value:
            step = "wait for snapshots to complete, or delete abandoned ones"
            return Check(
                "pending snapshots", ok=False, found=found, next_step=step, error=QuotaError
            )
        return Check("pending snapshots", ok=True, found=found)

    def _speed(self, vm: SourceVm) -> Check:
        quotas = read_quotas(self.clients)
        ceiling = format_rate(quotas.ceiling_bytes_per_second(len(vm.disks)))
        asked = quotas.put_per_account.source is QuotaSource.ACCOUNT
        found = f"at most {ceiling} by {_calls(quotas)}"
        return Check("speed limit", ok=True, found=found, next_step="" if asked else _READABLE)


def _calls(quotas: EbsQuotas) -> str:
    quota = quotas.put_per_account
    return f"{quota.value:.0f} PutSnapshotBlock calls/s ({quota.source.value})"


def _is_standard(instance_type: str) -> bool:
    """Whether it counts to the standard quota; its families are named by one letter."""
    family = instance_type.partition(".")[0].partition("-")[0]
    return family[:1] in _STANDARD_FAMILIES and family[1:2].isdigit()


def _vcpus(instance: Any) -> int:
    options = instance.get("CpuOptions", {})
    return int(options.get("CoreCount", 0)) * int(options.get("ThreadsPerCore", 1))
