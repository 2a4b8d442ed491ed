"""Containers of Azure keep the contract, with a prefix, with locks, and plain."""

import pytest

from connectors.azure.object_blob import LockMode
from sealift.clock import SystemClock
from sealift.testing.object_contracts import ObjectStoreContract, StoreCase
from tests.objects.containers import Container, OpenContainer

pytestmark = pytest.mark.sandbox


def case(container: Container) -> StoreCase:
    return StoreCase(container.store, lambda: SystemClock().now().timestamp())


@pytest.mark.slow
class TestBlob(ObjectStoreContract):
    @pytest.fixture
    def store_case(self, container: Container) -> StoreCase:
        return case(container)


class TestBlobWithPrefix(ObjectStoreContract):
    @pytest.fixture
    def store_case(self, open_container: OpenContainer) -> StoreCase:
        return case(open_container(prefix="Some/owners.place/"))


@pytest.mark.slow
class TestBlobWithLocks(ObjectStoreContract):
    @pytest.fixture
    def store_case(self, open_container: OpenContainer) -> StoreCase:
        return case(open_container(prefix="p/", lock_mode=LockMode.LOCKED))
