"""Containers of Azure keep the contract: Azurite as it is, and the one that checks digests."""

import pytest

from sealift.testing.object_contracts import ObjectStoreContract, StoreCase
from tests.objects.containers import Container, OpenContainer

pytestmark = pytest.mark.sandbox


def case(container: Container) -> StoreCase:
    return StoreCase(container.store)


@pytest.mark.slow
class TestBlob(ObjectStoreContract):
    @pytest.fixture
    def store_case(self, container: Container) -> StoreCase:
        return case(container)


class TestBlobWithPrefix(ObjectStoreContract):
    @pytest.fixture
    def store_case(self, open_container: OpenContainer) -> StoreCase:
        return case(open_container(prefix="Some/owners.place/"))
