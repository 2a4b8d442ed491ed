"""A key vault of its own for a test, with tokens and without the rest of the offline Azure."""

import os
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from azure.core.credentials import TokenCredential
from azure.keyvault.keys import KeyClient

from connectors.azure.key_vault import KeyVaultSpec, KeyVaultWrapper
from connectors.azure.session import make_credential
from sandbox.azure.authority import make_authority
from sandbox.azure.identity import IdentityServer, TokenIssuer
from sandbox.azure.vault import Vault
from sealift.testing.clock import VirtualClock


@dataclass(frozen=True)
class KeyPlace:
    """A vault and whoever looks after it."""

    vault: Vault
    issuer: TokenIssuer
    credential: TokenCredential
    clock: VirtualClock

    def wrapper(self, key: str = "backup", version: str | None = None) -> KeyVaultWrapper:
        return KeyVaultWrapper(KeyVaultSpec(self.vault.url, key, version), self.credential)

    @property
    def owner(self) -> KeyClient:
        """Microsoft's own client, as it is."""
        return KeyClient(self.vault.url, self.credential, retry_total=0)


@pytest.fixture(scope="session")
def key_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeyPlace]:
    """One for all tests; its credentials are in the environment."""
    authority = make_authority(tmp_path_factory.mktemp("vault") / "tls")
    issuer, clock = TokenIssuer("11111111-2222-3333-4444-555555555555"), VirtualClock()
    identity, vault = IdentityServer(issuer), Vault(authority, issuer, clock)
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("AZURE_", "IDENTITY_"))]:
            patch.delenv(name)
        patch.setenv("IDENTITY_ENDPOINT", identity.endpoint)
        patch.setenv("IDENTITY_HEADER", identity.header)
        patch.setenv("REQUESTS_CA_BUNDLE", str(authority.root))
        yield KeyPlace(vault, issuer, make_credential(), clock)
    vault.close()
    identity.close()


@pytest.fixture
def place(key_servers: KeyPlace) -> KeyPlace:
    """A vault with the RSA key ``backup``; what a test breaks is whole again afterwards."""
    vault = key_servers.vault
    vault.clear()
    key_servers.owner.create_rsa_key("backup", size=2048)
    vault.requests.clear()
    return key_servers
