"""Sizes of machines, as "Sizes for virtual machines in Azure" and its pages per series tell.

A small choice with what matters here: vCPUs, memory, how many data disks, which generations,
whether Premium storage may be attached. "Resource Skus - List" shows them in this form.
"""

from dataclasses import dataclass
from typing import Any

from sandbox.azure.rules import Rules


@dataclass(frozen=True, slots=True)
class Size:
    """A size; ``generations`` as in ``HyperVGenerations``."""

    name: str
    family: str
    vcpus: int
    memory_gib: float
    data_disks: int
    generations: str = "V1,V2"
    premium: bool = True
    architecture: str = "x64"
    trusted_launch: bool = True
    controllers: str = "SCSI"
    interfaces: int = 2


SIZES = (
    Size("Standard_B1s", "standardBSFamily", 1, 1, 2),
    Size("Standard_B2s", "standardBSFamily", 2, 4, 4, interfaces=3),
    Size("Standard_B2ms", "standardBSFamily", 2, 8, 4, interfaces=3),
    Size("Standard_A2_v2", "standardAv2Family", 2, 4, 4, "V1", premium=False, trusted_launch=False),
    Size("Standard_F2s_v2", "standardFSv2Family", 2, 4, 4),
    Size("Standard_D2s_v5", "standardDSv5Family", 2, 8, 4),
    Size("Standard_D4s_v5", "standardDSv5Family", 4, 16, 8),
    Size("Standard_D8s_v5", "standardDSv5Family", 8, 32, 16, interfaces=4),
    Size("Standard_D16s_v5", "standardDSv5Family", 16, 64, 32, interfaces=8),
    Size("Standard_D32s_v5", "standardDSv5Family", 32, 128, 32, interfaces=8),
    Size("Standard_D64s_v5", "standardDSv5Family", 64, 256, 32, interfaces=8),
    Size("Standard_E2s_v5", "standardESv5Family", 2, 16, 4),
    Size("Standard_E8s_v5", "standardESv5Family", 8, 64, 16, interfaces=4),
    Size("Standard_D2s_v6", "StandardDsv6Family", 2, 8, 4, "V2", controllers="NVMe"),
    Size(
        "Standard_D2ps_v5", "standardDPSv5Family", 2, 8, 4, "V2",
        architecture="Arm64", trusted_launch=False,
    ),
)  # fmt: skip


def find_size(name: str) -> Size | None:
    """A size by its name, without regard to case."""
    return next((size for size in SIZES if size.name.lower() == name.lower()), None)


def sku_documents(location: str, rules: Rules) -> list[dict[str, Any]]:
    """What "Resource Skus - List" shows of machines and disks."""
    return [_machine_sku(size, location, rules) for size in SIZES]


def _machine_sku(size: Size, location: str, rules: Rules) -> dict[str, Any]:
    capabilities = {
        "vCPUs": str(size.vcpus),
        "vCPUsAvailable": str(size.vcpus),
        "MemoryGB": f"{size.memory_gib:g}",
        "MaxDataDiskCount": str(size.data_disks),
        "HyperVGenerations": size.generations,
        "PremiumIO": str(size.premium),
        "CpuArchitectureType": size.architecture,
        "DiskControllerTypes": size.controllers,
        "MaxNetworkInterfaces": str(size.interfaces),
        "AcceleratedNetworkingEnabled": "True",
    }
    if not size.trusted_launch:
        capabilities["TrustedLaunchDisabled"] = "True"
    return {
        "resourceType": "virtualMachines",
        "name": size.name,
        "tier": "Standard",
        "size": size.name.removeprefix("Standard_"),
        "family": size.family,
        "locations": [location],
        "locationInfo": [{"location": location, "zones": ["1", "2", "3"], "zoneDetails": []}],
        "capabilities": [{"name": key, "value": value} for key, value in capabilities.items()],
        "restrictions": _restrictions(size, location, rules),
    }


def _restrictions(size: Size, location: str, rules: Rules) -> list[dict[str, Any]]:
    if size.name not in rules.restricted_sizes:
        return []
    return [
        {
            "type": "Location",
            "values": [location],
            "restrictionInfo": {"locations": [location]},
            "reasonCode": "NotAvailableForSubscription",
        }
    ]
