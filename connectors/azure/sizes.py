"""Which machine size a source fits in. The choice is pure; the question to Azure is at the end."""

import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from connectors.azure.disks import architecture, generation
from connectors.azure.errors import azure_call
from connectors.azure.operations import word
from connectors.azure.session import AzureClients
from connectors.azure.spec import AzureSpec, SecurityType
from sealift.endpoints import SourceVm
from sealift.errors import TargetError
from sealift.units import GiB, format_size

if TYPE_CHECKING:
    from azure.mgmt.compute.models import ResourceSku

log = logging.getLogger(__name__)

READ = "Microsoft.Compute/skus/read"

_ORDINARY = re.compile(r"^Standard_([BDEF])(\d+)(?:-\d+)?([a-z]*)_v(\d+)$")
""""Virtual machine sizes: naming conventions": family, vCPUs, additive features, version."""


@dataclass(frozen=True, slots=True)
class Need:
    """What the source needs.

    Attributes:
        vcpus: at least.
        memory_bytes: at least.
        architecture: ``x64`` or ``Arm64``.
        generation: ``V1`` or ``V2``.
        data_disks: beside the boot disk.
        premium: premium storage.
        trusted_launch: secure boot and vTPM.
        zone: availability zone, or "".
    """

    vcpus: int
    memory_bytes: int
    architecture: str
    generation: str
    data_disks: int
    premium: bool
    trusted_launch: bool
    zone: str = ""

    @classmethod
    def of(cls, vm: SourceVm, spec: AzureSpec) -> "Need":
        """The need of a source VM under a plan."""
        return cls(
            vcpus=vm.vcpus,
            memory_bytes=vm.memory_bytes,
            architecture=architecture(vm),
            generation=generation(vm.firmware),
            data_disks=len(vm.disks) - 1,
            premium=spec.disk_sku.needs_premium_size,
            trusted_launch=spec.security_type is SecurityType.TRUSTED_LAUNCH,
            zone=spec.zone or "",
        )


@dataclass(frozen=True, slots=True)
class Size:
    """What Azure says about one size in one region ("Resource Skus - List").

    Attributes:
        name: such as ``Standard_D2s_v5``.
        family: whose vCPU quota it counts to.
        vcpus: virtual CPUs.
        memory_bytes: RAM.
        generations: that it boots.
        architecture: that it runs.
        data_disks: that can be attached.
        premium: takes premium storage.
        trusted_launch: can do it.
        zones: where it is offered, without those that are restricted.
        restricted: why this subscription may not use it here; "" when it may.
    """

    name: str
    family: str
    vcpus: int
    memory_bytes: int
    generations: frozenset[str]
    architecture: str
    data_disks: int
    premium: bool
    trusted_launch: bool
    zones: frozenset[str] = frozenset()
    restricted: str = ""


def unsuitable(size: Size, need: Need) -> str:
    """Why the source cannot run on it; "" when it can."""
    reasons = {
        f"is not available to this subscription ({size.restricted})": bool(size.restricted),
        f"runs {size.architecture}, not {need.architecture}": size.architecture
        != need.architecture,
        f"does not boot generation {need.generation[1:]}": need.generation not in size.generations,
        f"has {size.vcpus} vCPU, not {need.vcpus}": size.vcpus < need.vcpus,
        f"has {format_size(size.memory_bytes)} of memory, not {format_size(need.memory_bytes)}": (
            size.memory_bytes < need.memory_bytes
        ),
        f"takes {size.data_disks} data disks, not {need.data_disks}": size.data_disks
        < need.data_disks,
        "takes no premium disks": need.premium and not size.premium,
        "has no Trusted Launch": need.trusted_launch and not size.trusted_launch,
        f"is not offered in zone {need.zone}": bool(need.zone) and need.zone not in size.zones,
    }
    return "; ".join(reason for reason, applies in reasons.items() if applies)


def choose(sizes: Iterable[Size], need: Need) -> Size | None:
    """The smallest ordinary size that fits; the same for the same offer.

    By vCPUs, then memory. Between equals: none that earns CPU credits (a busy guest would be
    slowed down), no local disk (it would add a device the source never had), the oldest
    version, whose disks an old guest has drivers for: from v6 on sizes of the D, E and F
    families have NVMe disks only ("General FAQ for NVMe"). Other families are never chosen,
    only taken when the plan names them.
    """
    fitting = [s for s in sizes if _ORDINARY.match(s.name) and not unsuitable(s, need)]
    return min(fitting, key=_rank, default=None)


def _rank(size: Size) -> tuple[int, int, bool, bool, int, str]:
    match = _ORDINARY.match(size.name)
    family, features, version = (match[1], match[3], int(match[4])) if match else ("", "", 0)
    return (size.vcpus, size.memory_bytes, family == "B", "d" in features, version, size.name)


def size_of(sku: "ResourceSku") -> Size | None:
    """From Azure's description; None when it is no machine, or says too little."""
    facts = {str(c.name): str(c.value) for c in sku.capabilities or ()}
    try:
        vcpus, gigabytes = int(facts["vCPUs"]), float(facts["MemoryGB"])
    except (KeyError, ValueError):
        return None
    blocked = {z for r in sku.restrictions or () for z in _restricted_zones(r)}
    zones = {str(z) for info in sku.location_info or () for z in info.zones or ()}
    return Size(
        name=str(sku.name),
        family=str(sku.family),
        vcpus=int(facts.get("vCPUsAvailable") or vcpus),
        memory_bytes=int(gigabytes * GiB),
        generations=frozenset(facts.get("HyperVGenerations", "V1").replace(" ", "").split(",")),
        architecture=facts.get("CpuArchitectureType", "x64"),
        data_disks=int(facts.get("MaxDataDiskCount") or 0),
        premium=facts.get("PremiumIO") == "True",
        trusted_launch=facts.get("TrustedLaunchDisabled") != "True",
        zones=frozenset(zones - blocked),
        restricted=_restricted(sku),
    )


def _restricted_zones(restriction: Any) -> Iterable[str]:
    if word(restriction.type).lower() != "zone":
        return ()
    return (str(z) for z in restriction.restriction_info.zones or ())


def _restricted(sku: "ResourceSku") -> str:
    for restriction in sku.restrictions or ():
        if word(restriction.type).lower() == "location":
            return word(restriction.reason_code)
    return ""


@dataclass(frozen=True, slots=True)
class Sizes:
    """What Azure offers in a region.

    A choice is remembered: what a preflight chose before a cutover need not be looked up
    again while the source is stopped.

    Args:
        clients: SDK clients.
        spec: the plan.
    """

    clients: AzureClients
    spec: AzureSpec
    _chosen: dict[tuple[Need, str], str] = field(default_factory=dict)

    def pick(self, vm: SourceVm, location: str) -> str:
        """Name of the size for this source.

        Raises:
            TargetError: nothing fits.
        """
        if self.spec.vm_size:
            return self.spec.vm_size
        need = Need.of(vm, self.spec)
        if (need, location) in self._chosen:
            return self._chosen[need, location]
        chosen = choose(self.offered(location), need)
        if chosen is None:
            raise TargetError(
                f"no size in {location} has {need.vcpus} vCPU, {format_size(need.memory_bytes)}, "
                f"{need.architecture}, boots generation {need.generation[1:]} and takes "
                f"{need.data_disks} data disks",
                next_step="name one with vm_size, or choose another location",
                location=location,
            )
        log.info("size %s for %s", chosen.name, vm.name)
        self._chosen[need, location] = chosen.name
        return chosen.name

    def offered(self, location: str) -> list[Size]:
        """Every size of machine in the region, restricted ones too."""
        with azure_call(READ):
            skus = list(self.clients.compute.resource_skus.list(filter=f"location eq '{location}'"))
        machines = [sku for sku in skus if sku.resource_type == "virtualMachines"]
        return [size for size in map(size_of, machines) if size is not None]

    def named(self, name: str, location: str) -> Size | None:
        """One size by its name; None when the region has none."""
        return next((s for s in self.offered(location) if s.name == name), None)
