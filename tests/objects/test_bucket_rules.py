"""Rules of a bucket's owner that would take objects away are found before they do."""

from typing import Any

import pytest

from connectors.aws.bucket_rules import bucket_findings
from connectors.aws.object_s3 import LockMode
from sandbox.aws import FaultKind
from sealift.objects_check import Finding, Verdict
from tests.objects.conftest import Bucket, OpenBucket

pytestmark = pytest.mark.sandbox


def found(bucket: Bucket, **changes: Any) -> dict[str, Finding]:
    store = bucket.store(**changes)
    return {f.capability: f for f in bucket_findings(store._spec, bucket.clients)}


def rule(bucket: Bucket, **parts: Any) -> None:
    whole: Any = {"ID": "cleanup", "Status": "Enabled", "Filter": {"Prefix": ""}, **parts}
    bucket.s3.put_bucket_lifecycle_configuration(
        Bucket=bucket.spec.bucket, LifecycleConfiguration={"Rules": [whole]}
    )


def test_a_plain_bucket_has_no_rules(bucket: Bucket) -> None:
    seen = found(bucket)
    assert seen["lifecycle rules"].verdict is Verdict.GOOD
    assert "not kept" in seen["versions"].seen
    assert "none" in seen["lock of the bucket"].seen


@pytest.mark.fault(27)
def test_a_rule_that_deletes_by_age_is_bad(bucket: Bucket) -> None:
    rule(bucket, Expiration={"Days": 30})
    seen = found(bucket)["lifecycle rules"]
    assert seen.verdict is Verdict.BAD
    assert "cleanup" in seen.seen


@pytest.mark.fault(27)
@pytest.mark.parametrize(
    ("tier", "verdict"),
    [
        ("GLACIER", Verdict.DEGRADED),
        ("DEEP_ARCHIVE", Verdict.DEGRADED),
        ("STANDARD_IA", Verdict.GOOD),
        ("GLACIER_IR", Verdict.GOOD),
    ],
)
def test_a_tier_that_is_not_read_at_once_is_named(
    tier: str, verdict: Verdict, bucket: Bucket
) -> None:
    rule(bucket, Transitions=[{"Days": 30, "StorageClass": tier}])
    assert found(bucket)["lifecycle rules"].verdict is verdict


@pytest.mark.parametrize(
    ("filtered", "touched"),
    [
        ({"Prefix": "dr/"}, True),
        ({"Prefix": "dr/web/packs/"}, True),
        ({"Prefix": "d"}, True),
        ({"Prefix": "logs/"}, False),
        ({"Tag": {"Key": "tmp", "Value": "1"}}, False),
    ],
)
def test_only_rules_for_our_objects_count(
    filtered: dict[str, Any], touched: bool, bucket: Bucket
) -> None:
    rule(bucket, Filter=filtered, Expiration={"Days": 30})
    verdict = found(bucket, prefix="dr/web/")["lifecycle rules"].verdict
    assert verdict is (Verdict.BAD if touched else Verdict.GOOD)


def test_old_versions_may_expire(locked_bucket: Bucket) -> None:
    rule(locked_bucket, NoncurrentVersionExpiration={"NoncurrentDays": 30})
    seen = found(locked_bucket)
    assert seen["lifecycle rules"].verdict is Verdict.GOOD
    assert "1 rules" in seen["lifecycle rules"].seen
    assert "kept" in seen["versions"].seen


def test_locks_that_the_bucket_does_not_have_are_bad(bucket: Bucket) -> None:
    seen = found(bucket, lock_mode=LockMode.COMPLIANCE)["lock of the bucket"]
    assert seen.verdict is Verdict.BAD
    assert seen.next_step


def test_a_default_lock_is_said(open_bucket: OpenBucket) -> None:
    bucket = open_bucket(lock_mode=LockMode.GOVERNANCE)
    bucket.s3.put_object_lock_configuration(
        Bucket=bucket.spec.bucket,
        ObjectLockConfiguration={
            "ObjectLockEnabled": "Enabled",
            "Rule": {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 14}},
        },
    )
    assert "14 days" in found(bucket)["lock of the bucket"].seen


@pytest.mark.fault(23)
def test_what_may_not_be_asked_is_said(bucket: Bucket) -> None:
    for operation in (
        "GetBucketVersioning",
        "GetObjectLockConfiguration",
        "GetBucketLifecycleConfiguration",
    ):
        bucket.fault(FaultKind.ACCESS_DENIED, operation)
    seen = found(bucket)
    assert {f.verdict for f in seen.values()} == {Verdict.NOTE}
    assert all("allow s3:Get" in f.next_step for f in seen.values())
    assert bucket.box is not None
    assert not bucket.box.faults.unexercised()
