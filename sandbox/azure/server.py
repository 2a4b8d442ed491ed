"""The Azure sandbox: blobs, identity and Resource Manager as they are in Azure, on loopback."""

import secrets
import uuid
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from azure.storage.blob import BlobServiceClient

from sandbox.azure.authority import make_authority
from sandbox.azure.azurite import Azurite, new_account
from sandbox.azure.identity import IdentityServer, TokenIssuer
from sealift.clock import Clock, SystemClock

CONTAINER = "sealift"


class AzureSandbox:
    """A subscription of its own, offline, on 127.0.0.1.

    All servers speak TLS with a certificate of the sandbox's own authority, so that the real
    SDKs run as they are; ``environment()`` makes them find it. State lives below ``directory``
    (mode 0700). Several sandboxes may run in one process.

    Args:
        directory: made when missing; must not be in use by another sandbox.
        clock: time of operations, quotas and states. Tokens and access grants live in real
            time, which is what Azurite and the SDKs look at.
        strict: the slow Azurite that checks the digests of pages.

    Raises:
        ToolError: Azurite is not installed or does not start.
        OSError: the directory cannot be used.
    """

    def __init__(
        self, directory: Path, *, clock: Clock | None = None, strict: bool = False
    ) -> None:
        self._directory = directory
        self._clock = clock or SystemClock()
        self._strict = strict
        self._stack = ExitStack()
        self._account = new_account("sealift")
        self._disks = new_account("md")
        self.subscription_id = str(uuid.uuid4())
        self.tenant_id = str(uuid.uuid4())
        self.resource_group = f"sandbox-{secrets.token_hex(3)}"
        self.location = "westeurope"
        self.container = CONTAINER
        self.issuer = TokenIssuer(self.tenant_id)

    def __enter__(self) -> "AzureSandbox":
        """Start."""
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop."""
        self.stop()

    def start(self) -> None:
        """Start everything; returns when all of it answers."""
        self.authority = make_authority(self._directory / "tls")
        try:
            self._identity = IdentityServer(self.issuer)
            self._stack.callback(self._identity.close)
            accounts = (self._account, self._disks)
            self._azurite = Azurite(
                self._directory / "azurite", accounts, self.authority, strict=self._strict
            )
            self._stack.callback(self._azurite.close)
            self._make_container()
        except BaseException:
            self._stack.close()
            raise

    def stop(self) -> None:
        """End everything, in the reverse order; harmless when repeated."""
        self._stack.close()

    @property
    def storage_account(self) -> str:
        """The storage account's name."""
        return self._account.name

    @property
    def storage_key(self) -> str:
        """The storage account's key in base64; the product uses tokens instead."""
        return self._account.key

    @property
    def blob_endpoint(self) -> str:
        """``https://127.0.0.1:PORT/ACCOUNT``."""
        return f"{self._azurite.endpoint}/{self._account.name}"

    def environment(self) -> Mapping[str, str]:
        """Environment variables under which Azure's SDKs use this sandbox."""
        return {
            "IDENTITY_ENDPOINT": self._identity.endpoint,
            "IDENTITY_HEADER": self._identity.header,
            "REQUESTS_CA_BUNDLE": str(self.authority.root),
            "AZURE_SUBSCRIPTION_ID": self.subscription_id,
        }

    def blob_service(self) -> BlobServiceClient:
        """A client with the account's key, for looking into the account from outside."""
        return BlobServiceClient(
            self.blob_endpoint,
            credential={"account_name": self._account.name, "account_key": self._account.key},
            connection_verify=str(self.authority.root),
        )

    def _make_container(self) -> None:
        with self.blob_service() as service:
            service.create_container(CONTAINER).close()
