"""The demonstration with Azure as the cloud. Run as ``python -m sandbox.demo_azure``."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from sandbox.azure.attached import attached_disks, prove_disk
from sandbox.azure.server import AzureSandbox
from sandbox.boot import MachineBooter
from sandbox.demo_cloud import DemoCloud
from sealift.units import format_size


@contextmanager
def azure_cloud(work: Path) -> Iterator[DemoCloud]:
    """The offline Azure, whose machines are really booted."""
    booter = MachineBooter(work / "landed")
    with AzureSandbox(work / "azure", on_launch=booter) as sandbox:
        booter.sandbox = sandbox
        yield DemoCloud(
            sandbox.environment(),
            target_lines(sandbox),
            booter,
            "What Azure launched, booted from what its managed disks hold",
            "SCSI",
            lambda folder: _proven(sandbox, booter, folder),
        )


def target_lines(sandbox: AzureSandbox) -> str:
    """The part of a plan that names the sandbox, below ``target:``."""
    lines = (f"    {name}: {text}\n" for name, text in plan_values(sandbox).items())
    return "  azure:\n" + "".join(lines)


def plan_values(sandbox: AzureSandbox) -> Mapping[str, str]:
    """The same by field."""
    return {
        "subscription": sandbox.subscription_id,
        "resource_group": sandbox.resource_group,
        "storage_account": sandbox.storage_account,
        "container": sandbox.container,
        "subnet": sandbox.subnet_id,
        "network_security_group": sandbox.network_security_group_id,
        "endpoint": sandbox.endpoint,
        "blob_endpoint": sandbox.blob_endpoint,
    }


def _proven(sandbox: AzureSandbox, booter: MachineBooter, folder: Path) -> Sequence[str]:
    disks = attached_disks(sandbox, booter.only()[0])
    for disk in disks:
        prove_disk(sandbox, disk, folder)
    sizes = ", ".join(format_size(disk.size) for disk in disks)
    return [
        f"Resource Manager says that {len(disks)} disks are attached; read back from Azurite, "
        f"qemu-img finds a fixed VHD in each ({sizes})"
    ]
