"""Buckets keep the contract: in the offline AWS, with object lock, and in a second S3 server."""

import pytest

from connectors.aws.object_s3 import LockMode, S3ObjectStore
from sealift.clock import SystemClock
from sealift.testing.object_contracts import ObjectStoreContract, StoreCase
from tests.objects.conftest import Bucket, OpenBucket

pytestmark = pytest.mark.sandbox


def case(bucket: Bucket) -> StoreCase:
    return StoreCase(
        lambda: S3ObjectStore(bucket.spec, bucket.clients), lambda: SystemClock().now().timestamp()
    )


class TestS3(ObjectStoreContract):
    @pytest.fixture
    def store_case(self, bucket: Bucket) -> StoreCase:
        return case(bucket)


class TestS3WithPrefixAndLocks(ObjectStoreContract):
    @pytest.fixture
    def store_case(self, open_bucket: OpenBucket) -> StoreCase:
        return case(open_bucket(prefix="Some/Owner's.place/", lock_mode=LockMode.COMPLIANCE))


class TestSecondServer(ObjectStoreContract):
    @pytest.fixture
    def store_case(self, second_bucket: OpenBucket) -> StoreCase:
        return case(second_bucket(prefix="p/"))


class TestSecondServerWithLocks(ObjectStoreContract):
    @pytest.fixture
    def store_case(self, second_bucket: OpenBucket) -> StoreCase:
        return case(second_bucket(lock_mode=LockMode.GOVERNANCE))
