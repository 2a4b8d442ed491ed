"""A folder keeps the contract, whatever lies in it and whatever the umask."""

from pathlib import Path

import pytest

from connectors.local.object_folder import FolderObjectStore
from sealift.testing.object_contracts import ObjectStoreContract, StoreCase


class TestFolder(ObjectStoreContract):
    @pytest.fixture
    def store_case(self, tmp_path: Path) -> StoreCase:
        return StoreCase(lambda: FolderObjectStore.open(tmp_path / "store", create=True))
