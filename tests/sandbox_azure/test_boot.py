"""A guest that landed in the sandbox boots on a SCSI controller, from nothing but its disk."""

from pathlib import Path

import pytest
from azure.identity import DefaultAzureCredential
from azure.storage.blob import BlobClient

from sandbox.azure.server import AzureSandbox
from sandbox.boot import MachineBooter
from sandbox.guest.image import GuestSpec, ImageFormat, build_guest
from sandbox.reports import CheckStatus
from sealift.endpoints import Firmware
from sealift.units import MiB, round_up
from tests.sandbox_azure.conftest import clients, use

pytestmark = [pytest.mark.sandbox, pytest.mark.guest, pytest.mark.slow]


@pytest.mark.timeout(400)
@pytest.mark.parametrize(("firmware", "generation"), [(Firmware.BIOS, "V1"), (Firmware.UEFI, "V2")])
def test_a_landed_guest_boots_on_scsi(
    firmware: Firmware, generation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = GuestSpec(firmware, root_bytes=256 * MiB, data_bytes=0, format=ImageFormat.RAW)
    (tmp_path / "g").mkdir()
    data = build_guest(spec, tmp_path / "g")[0].path.read_bytes()
    booter = MachineBooter(tmp_path / "b", timeout_seconds=240)
    with AzureSandbox(tmp_path / "s", on_launch=booter) as sandbox:
        booter.sandbox = sandbox
        use(sandbox, monkeypatch)
        with DefaultAzureCredential() as credential:
            for cloud in clients(sandbox, credential):
                padded = data + bytes(round_up(len(data), MiB) - len(data))
                disk = cloud.make_disk("os", padded, osType="Linux", hyperVGeneration=generation)
                body = cloud.vm_body(disk, cloud.make_nic("nic"))
                machines = cloud.compute.virtual_machines
                machines.begin_create_or_update(cloud.group, "guest", body).result()
                machine = sandbox.machines()[0]
                assert sandbox.launches.wait_booted(machine.id, 300)
                report = sandbox.launches.report(machine.id)
                assert report is not None
                assert report.status is CheckStatus.OK
                found = machines.retrieve_boot_diagnostics_data(cloud.group, "guest")
                with BlobClient.from_blob_url(str(found.serial_console_log_blob_uri)) as blob:
                    console = blob.download_blob().readall()
                assert b"sda" in console
                assert b"nvme0" not in console
                assert booter.landed["guest"].console.encode() == console
