"""Which machine type a source fits in. The choice is pure; the questions to EC2 are at the end."""

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from connectors.aws.errors import MissingError, aws_call, field_of
from connectors.aws.image import architecture, boot_mode
from connectors.aws.session import AwsClients
from sealift.endpoints import SourceVm
from sealift.errors import TargetError
from sealift.units import MiB, format_size

if TYPE_CHECKING:
    from mypy_boto3_ec2.type_defs import InstanceTypeInfoTypeDef

log = logging.getLogger(__name__)

DEFAULT_EBS_VOLUMES = 27
"""EBS volumes of a Nitro instance where EC2 names no limit: 28 attachments, one of them the
network card (EC2 user guide, "Amazon EBS volume limits")."""

_GENERATION = re.compile(r"^[a-z-]+?(\d+)")


@dataclass(frozen=True, slots=True)
class MachineNeed:
    """What the source needs.

    Attributes:
        vcpus: at least.
        memory_bytes: at least.
        architecture: ``x86_64`` or ``arm64``.
        boot_mode: ``legacy-bios`` or ``uefi``.
        volumes: EBS volumes to attach.
    """

    vcpus: int
    memory_bytes: int
    architecture: str
    boot_mode: str
    volumes: int

    @classmethod
    def of(cls, vm: SourceVm) -> "MachineNeed":
        """The need of a source VM."""
        mode, arch = boot_mode(vm.firmware), architecture(vm)
        return cls(vm.vcpus, vm.memory_bytes, arch, mode, len(vm.disks))


@dataclass(frozen=True, slots=True)
class MachineType:
    """What EC2 says about one instance type.

    Attributes:
        name: such as ``m5.large``.
        vcpus: virtual CPUs.
        memory_bytes: RAM.
        architectures: that it runs.
        boot_modes: that it boots.
        nitro: on the Nitro hypervisor, with NVMe volumes.
        ena: has the network card that the image declares.
        current: of a current generation.
        bare_metal: without a hypervisor.
        burstable: earns CPU credits.
        extras: has GPUs, FPGAs or other accelerators.
        local_disks: has instance storage.
        max_volumes: EBS volumes that can be attached.
    """

    name: str
    vcpus: int
    memory_bytes: int
    architectures: frozenset[str]
    boot_modes: frozenset[str]
    nitro: bool = True
    ena: bool = True
    current: bool = True
    bare_metal: bool = False
    burstable: bool = False
    extras: bool = False
    local_disks: bool = False
    max_volumes: int = DEFAULT_EBS_VOLUMES

    @property
    def generation(self) -> int:
        """The number in its family's name: 5 of ``m5.large``; 0 without one."""
        match = _GENERATION.match(self.name)
        return int(match[1]) if match else 0


def unsuitable(machine: MachineType, need: MachineNeed) -> str:
    """Why the source cannot run on it; "" when it can."""
    reasons = {
        f"runs {'/'.join(sorted(machine.architectures))}, not {need.architecture}": (
            need.architecture not in machine.architectures
        ),
        f"does not boot {need.boot_mode}": need.boot_mode not in machine.boot_modes,
        f"has {machine.vcpus} vCPU, not {need.vcpus}": machine.vcpus < need.vcpus,
        f"has {format_size(machine.memory_bytes)} of memory, not "
        f"{format_size(need.memory_bytes)}": machine.memory_bytes < need.memory_bytes,
        f"takes {machine.max_volumes} volumes, not {need.volumes}": (
            machine.max_volumes < need.volumes
        ),
        "has no ENA network card": not machine.ena,
    }
    return "; ".join(reason for reason, applies in reasons.items() if applies)


def choose(machines: Iterable[MachineType], need: MachineNeed) -> MachineType | None:
    """The smallest current Nitro type that fits; the same for the same offer.

    By vCPUs, then memory. Between equals: no local disks (they would add devices the
    source never had), no CPU credits (a busy guest would be slowed down), and the oldest
    current generation, whose NVMe and network cards old guests have drivers for. Types
    with accelerators and bare metal are never chosen, only taken when the plan names them.
    """
    fitting = [m for m in machines if _ordinary(m) and not unsuitable(m, need)]
    return min(fitting, key=_rank, default=None)


def _ordinary(machine: MachineType) -> bool:
    return machine.nitro and machine.current and not machine.bare_metal and not machine.extras


def _rank(machine: MachineType) -> tuple[int, int, bool, bool, int, str]:
    return (
        machine.vcpus,
        machine.memory_bytes,
        machine.local_disks,
        machine.burstable,
        machine.generation,
        machine.name,
    )


def machine_type(info: "InstanceTypeInfoTypeDef | Mapping[str, Any]") -> MachineType:
    """From EC2's description."""
    action = "ec2:DescribeInstanceTypes"
    ebs: Mapping[str, Any] = info.get("EbsInfo", {})
    extras = ("GpuInfo", "FpgaInfo", "InferenceAcceleratorInfo", "NeuronInfo")
    return MachineType(
        name=str(field_of(info, "InstanceType", action)),
        vcpus=int(field_of(info.get("VCpuInfo", {}), "DefaultVCpus", action)),
        memory_bytes=int(field_of(info.get("MemoryInfo", {}), "SizeInMiB", action)) * MiB,
        architectures=frozenset(info.get("ProcessorInfo", {}).get("SupportedArchitectures", [])),
        boot_modes=frozenset(info.get("SupportedBootModes", [])),
        nitro=info.get("Hypervisor") == "nitro",
        ena=info.get("NetworkInfo", {}).get("EnaSupport") in ("supported", "required"),
        current=bool(info.get("CurrentGeneration")),
        bare_metal=bool(info.get("BareMetal")),
        burstable=bool(info.get("BurstablePerformanceSupported")),
        extras=any(name in info for name in (*extras, "MediaAcceleratorInfo")),
        local_disks=bool(info.get("InstanceStorageSupported")),
        max_volumes=int(ebs.get("MaximumEbsAttachments") or DEFAULT_EBS_VOLUMES),
    )


@dataclass(frozen=True, slots=True)
class MachineTypes:
    """What EC2 offers in the zone of a subnet.

    A choice is remembered: what a preflight chose before a cutover need not be looked up
    again while the source is stopped.

    Args:
        clients: SDK clients.
        subnet_id: whose zone counts.
    """

    clients: AwsClients
    subnet_id: str
    _chosen: dict[MachineNeed, str] = field(default_factory=dict)

    def pick(self, vm: SourceVm) -> str:
        """Name of the type for this source.

        Raises:
            TargetError: nothing fits.
        """
        need = MachineNeed.of(vm)
        if need in self._chosen:
            return self._chosen[need]
        chosen = choose(self.offered(need.architecture), need)
        if chosen is None:
            raise TargetError(
                f"no instance type in the zone of {self.subnet_id} has {need.vcpus} vCPU, "
                f"{format_size(need.memory_bytes)}, {need.architecture} and boots "
                f"{need.boot_mode} with {need.volumes} volumes",
                next_step="name one with instance_type, or use a subnet in another zone",
                subnet_id=self.subnet_id,
            )
        log.info("instance type %s for %s", chosen.name, vm.name)
        self._chosen[need] = chosen.name
        return chosen.name

    def offered(self, arch: str) -> list[MachineType]:
        """Types of the architecture that the zone offers."""
        here = self.offered_names()
        with aws_call("ec2:DescribeInstanceTypes"):
            pages = self.clients.ec2.get_paginator("describe_instance_types").paginate(
                Filters=[{"Name": "processor-info.supported-architecture", "Values": [arch]}]
            )
            answers = list(pages)
        infos = (i for a in answers for i in field_of(a, "InstanceTypes", "instance types"))
        return [m for m in map(machine_type, infos) if m.name in here]

    def offered_names(self) -> frozenset[str]:
        """Names of all types that the zone offers."""
        zone = self.zone()
        with aws_call("ec2:DescribeInstanceTypeOfferings"):
            pages = self.clients.ec2.get_paginator("describe_instance_type_offerings").paginate(
                LocationType="availability-zone",
                Filters=[{"Name": "location", "Values": [zone]}],
            )
            answers = list(pages)
        offers = (
            offer
            for answer in answers
            for offer in field_of(answer, "InstanceTypeOfferings", "offerings")
        )
        return frozenset(offer["InstanceType"] for offer in offers)

    def zone(self) -> str:
        """Availability zone of the subnet.

        Raises:
            TargetError: there is no such subnet.
        """
        with aws_call("ec2:DescribeSubnets"):
            answer = self.clients.ec2.describe_subnets(SubnetIds=[self.subnet_id])
        found = field_of(answer, "Subnets", "ec2:DescribeSubnets")
        if not found:
            raise TargetError(f"subnet {self.subnet_id} does not exist")
        return str(field_of(found[0], "AvailabilityZone", "ec2:DescribeSubnets"))

    def named(self, name: str) -> MachineType | None:
        """One type by its name; None when EC2 has none."""
        try:
            with aws_call("ec2:DescribeInstanceTypes"):
                answer = self.clients.ec2.describe_instance_types(
                    InstanceTypes=[name],  # type: ignore[list-item]  # an open set in truth
                )
        except MissingError:
            return None
        except TargetError as error:
            if error.operands.get("aws_code") == "InvalidInstanceType":
                return None
            raise
        found = field_of(answer, "InstanceTypes", "ec2:DescribeInstanceTypes")
        return machine_type(found[0]) if found else None
