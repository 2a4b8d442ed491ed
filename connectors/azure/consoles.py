"""What a machine shows: Azure's boot diagnostics."""

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from azure.storage.blob import BlobClient

from connectors.azure.errors import azure_call
from connectors.azure.session import AzureClients, make_transport
from connectors.azure.spec import AzureSpec
from sealift.endpoints import MachineConsole
from sealift.errors import CredentialsError, TargetError, TransientError
from sealift.units import MiB

if TYPE_CHECKING:
    from azure.mgmt.compute.models import RetrieveBootDiagnosticsDataResult

log = logging.getLogger(__name__)

ACTION = "Microsoft.Compute/virtualMachines/retrieveBootDiagnosticsData/action"

_TEXT_BYTES = 1 * MiB
"""The newest part of a log that may be long."""
_SCREEN_BYTES = 16 * MiB
_PICTURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")


@dataclass(frozen=True, slots=True)
class Consoles:
    """Serial log and screen of the plan's machines.

    Args:
        clients: SDK clients.
        spec: the plan.
    """

    clients: AzureClients
    spec: AzureSpec

    def of(self, name: str) -> MachineConsole:
        """Serial console and screen, as far as Azure has them; a refusal is said in the log."""
        try:
            with azure_call(ACTION):
                answer = self.clients.compute.virtual_machines.retrieve_boot_diagnostics_data(
                    self.spec.resource_group, name, sas_uri_expiration_time_in_minutes=10
                )
        except CredentialsError:
            raise
        except (TargetError, TransientError) as error:
            log.info("no boot diagnostics of %s: %s", name, error.message)
            return MachineConsole()
        return MachineConsole(self._text(answer), self._screen(answer))

    def _text(self, answer: "RetrieveBootDiagnosticsDataResult") -> str:
        data = self._fetched(answer.serial_console_log_blob_uri, _TEXT_BYTES)
        return data.decode("utf-8", "replace")

    def _screen(self, answer: "RetrieveBootDiagnosticsDataResult") -> bytes | None:
        data = self._fetched(answer.console_screenshot_blob_uri, _SCREEN_BYTES)
        return data if data.startswith(_PICTURES) else None

    def _fetched(self, address: str | None, most: int) -> bytes:
        """The last bytes of a blob whose address is its own permission; never logged."""
        if not address:
            return b""
        spec = self.spec
        transport = make_transport(1, spec.connect_timeout_seconds, spec.read_timeout_seconds)
        try:
            with (
                azure_call("boot diagnostics"),
                BlobClient.from_blob_url(address, transport=transport, retry_total=0) as blob,
            ):
                size = blob.get_blob_properties().size
                start = max(0, size - most)
                data: bytes = blob.download_blob(start, size - start).readall() if size else b""
                return data
        except (TargetError, TransientError) as error:
            log.info("boot diagnostics cannot be fetched: %s", type(error).__name__)
            return b""
