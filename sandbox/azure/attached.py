"""What the offline Azure attached to a machine, looked at from outside."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from sandbox.azure.identity import ARM_AUDIENCE
from sandbox.azure.server import AzureSandbox
from sandbox.guest.tools import run_tool
from sealift.errors import IntegrityError
from sealift.units import format_size

_API_VERSIONS = {"virtualMachines": "2024-07-01", "disks": "2024-03-02"}


@dataclass(frozen=True, slots=True)
class Attached:
    """A managed disk of a machine, by Resource Manager's word.

    Attributes:
        id: full ARM id.
        size: bytes that the machine sees.
    """

    id: str
    size: int


def attached_disks(sandbox: AzureSandbox, machine: str) -> Sequence[Attached]:
    """The disks of a machine, OS disk first, then by LUN; asked for over HTTPS.

    Raises:
        IntegrityError: a disk is named by the machine, and not attached by its own word.
        httpx.HTTPError: Resource Manager refuses.
    """
    group = f"/subscriptions/{sandbox.subscription_id}/resourceGroups/{sandbox.resource_group}"
    with httpx.Client(verify=sandbox.authority.client_context()) as client:
        client.headers["Authorization"] = f"Bearer {sandbox.issuer.issue(ARM_AUDIENCE)[0]}"

        def ask(resource: str) -> Any:
            kind = resource.split("/")[-2]
            version = {"api-version": _API_VERSIONS[kind]}
            return client.get(sandbox.endpoint + resource, params=version).raise_for_status().json()

        shown = ask(f"{group}/providers/Microsoft.Compute/virtualMachines/{machine}")
        profile = shown["properties"]["storageProfile"]
        behind = sorted(profile.get("dataDisks", []), key=lambda disk: int(disk["lun"]))
        found = [ask(disk["managedDisk"]["id"]) for disk in (profile["osDisk"], *behind)]
    for disk in found:
        if disk["properties"]["diskState"] != "Attached":
            raise IntegrityError(f"{disk['id']} is {disk['properties']['diskState']}")
    return [Attached(disk["id"], disk["properties"]["diskSizeBytes"]) for disk in found]


def prove_disk(sandbox: AzureSandbox, disk: Attached, folder: Path) -> None:
    """Read a disk back from Azurite with its footer, and let qemu-img judge it as a fixed VHD.

    Raises:
        IntegrityError: by the footer it has another size.
        ToolError: qemu-img refuses it, or reads other bytes than the machine.
    """
    name = disk.id.rpartition("/")[2]
    raw, vhd = folder / f"{name}.raw", folder / f"{name}.vhd"
    sandbox.export_disk(disk.id, raw)
    sandbox.export_disk(disk.id, vhd)
    with vhd.open("ab") as file:
        file.write(sandbox.disk_footer(disk.id))
    words: list[str | Path] = ["qemu-img", "info", "-f", "vpc", "--output", "json", vhd]
    size = json.loads(run_tool(words, package="qemu-utils"))["virtual-size"]
    if size != disk.size:
        raise IntegrityError(
            f"{disk.id}: {format_size(size)} by its VHD footer, {format_size(disk.size)} by Azure"
        )
    words = ["qemu-img", "compare", "-f", "vpc", "-F", "raw", vhd, raw]
    run_tool(words, package="qemu-utils")
    raw.unlink()
    vhd.unlink()
