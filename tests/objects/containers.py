"""Containers of the offline Azure; ``conftest.py`` hands its fixtures on."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import pytest
from azure.core.credentials import TokenCredential
from azure.storage.blob import BlobServiceClient, ContainerClient

from connectors.azure.object_blob import BlobObjectStore, BlobSpec
from connectors.azure.session import make_credential
from sandbox.azure.server import AzureSandbox
from sealift.clock import SystemClock

_NUMBERS = count(1)


@dataclass(frozen=True)
class Container:
    """A container of its own, and whoever answers for it."""

    spec: BlobSpec
    box: AzureSandbox
    credential: TokenCredential

    def store(self, **changes: Any) -> BlobObjectStore:
        return BlobObjectStore(replace(self.spec, **changes), self.credential)

    @property
    def outside(self) -> ContainerClient:
        """The container as its owner sees it, with the account's key."""
        return self.box.blob_service().get_container_client(self.spec.container)

    @property
    def intruder(self) -> ContainerClient:
        """The container as somebody with our token sees it, by the SDK, through the front."""
        service = BlobServiceClient(self.box.blob_endpoint, credential=self.credential)
        return service.get_container_client(self.spec.container)


OpenContainer = Callable[..., Container]


@pytest.fixture(scope="session")
def azure_box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AzureSandbox]:
    """One offline Azure for all tests of containers."""
    with AzureSandbox(tmp_path_factory.mktemp("azure") / "box", clock=SystemClock()) as box:
        yield box


@pytest.fixture
def open_container(azure_box: AzureSandbox, monkeypatch: pytest.MonkeyPatch) -> OpenContainer:
    """Makes containers in the offline Azure; all stores share a token, as in a process.

    Its credentials are in the environment of this test only: others have an Azure of their own.
    """
    for name in [name for name in os.environ if name.startswith(("AZURE_", "IDENTITY_"))]:
        monkeypatch.delenv(name)
    for name, value in azure_box.environment().items():
        monkeypatch.setenv(name, value)
    credential = make_credential()
    return lambda **settings: make_container(azure_box, credential, **settings)


def make_container(box: AzureSandbox, credential: TokenCredential, **settings: Any) -> Container:
    """A new container; with version-level immutability when the settings say so."""
    name = f"test-{next(_NUMBERS)}"
    with box.blob_service() as service:
        service.create_container(name).close()
    if settings.get("lock_mode"):
        box.enable_immutability(name)
    spec = BlobSpec(box.storage_account, name, endpoint=box.blob_endpoint, **settings)
    return Container(spec, box, credential)


@pytest.fixture
def container(open_container: OpenContainer) -> Container:
    return open_container()
