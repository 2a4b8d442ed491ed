"""Bad days of a bucket: what the connector calls them, and what the retry layer makes of them."""

import random
import threading
import zlib
from base64 import b64encode
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError

from connectors.aws.object_s3 import LockMode, S3ObjectStore, S3Spec
from sandbox.aws import FaultKind
from sealift.clock import SystemClock
from sealift.errors import (
    ConfigError,
    ConnectionLostError,
    CredentialsError,
    ObjectArchivedError,
    ObjectExistsError,
    ObjectMissingError,
    SealiftError,
    TargetDeniedError,
    TargetError,
    ThrottledError,
    TransientError,
)
from sealift.objects import ObjectStore
from sealift.objects_retry import PatientStore
from sealift.retry import Retrier, RetryPolicy
from sealift.testing.clock import VirtualClock
from sealift.testing.contracts import pattern
from sealift.testing.object_contracts import names
from sealift.units import KiB
from tests.conftest import Evidence
from tests.objects.conftest import Bucket, OpenBucket

pytestmark = pytest.mark.sandbox

DATA = pattern(100 * KiB)
CALLS: dict[str, Callable[[ObjectStore], object]] = {
    "PutObject": lambda s: s.put("new", DATA),
    "GetObject": lambda s: s.get("old", 10, 1000),
    "HeadObject": lambda s: s.head("old"),
    "ListObjectsV2": lambda s: names(s),
    "DeleteObject": lambda s: s.delete("gone"),
}
LIES = (
    FaultKind.OK_WITH_ERROR_BODY,
    FaultKind.OK_WITH_PROXY_PAGE,
    FaultKind.EMPTY_BODY,
    FaultKind.ERROR_BEFORE,
    FaultKind.ERROR_AFTER,
    FaultKind.RESET_BEFORE,
    FaultKind.RESET_AFTER,
    FaultKind.THROTTLE,
)
CUT = (FaultKind.TRUNCATED,)


def patient(store: ObjectStore) -> PatientStore:
    policy = RetryPolicy(first_seconds=0.001, longest_seconds=0.01)
    return PatientStore(store, Retrier(policy, SystemClock(), rng=random.Random(1)))


@pytest.fixture
def store(bucket: Bucket) -> S3ObjectStore:
    store = bucket.store()
    store.put("old", DATA)
    store.put("gone", b"")
    return store


@pytest.mark.fault(14, 18, 19, 24)
@pytest.mark.parametrize("operation", CALLS)
def test_a_bad_answer_is_transient_and_the_next_attempt_right(
    operation: str, bucket: Bucket, store: S3ObjectStore
) -> None:
    call = CALLS[operation]
    clean = repr(call(store))
    for kind in (*LIES, *(CUT if operation in ("GetObject", "ListObjectsV2") else ())):
        if operation == "DeleteObject" and kind is FaultKind.EMPTY_BODY:
            continue  # an empty answer with a success status is what a delete answers with
        bucket.fault(kind, operation)
        with pytest.raises(TransientError):
            call(store)
        bucket.fault(kind, operation)
        again = repr(call(patient(store)))
        assert again == clean or operation == "PutObject", kind
    assert not bucket.box or not bucket.box.faults.unexercised()
    assert store.get("old") == DATA


@pytest.mark.fault(18, 20)
@pytest.mark.parametrize(
    "kind",
    [FaultKind.WRONG_RANGE, FaultKind.WHOLE_OBJECT, FaultKind.ENCODED, FaultKind.TRUNCATED],
    ids=lambda k: k.value,
)
def test_another_range_than_asked_for_is_never_returned(
    kind: FaultKind, bucket: Bucket, store: S3ObjectStore
) -> None:
    for start, length in ((0, 1000), (5, 1000), (5, None), (100 * KiB - 1, 1)):
        bucket.fault(kind, "GetObject")
        with pytest.raises(TransientError):
            store.get("old", start, length)
        bucket.fault(kind, "GetObject")
        expected = DATA[start : None if length is None else start + length]
        assert patient(store).get("old", start, length) == expected


@pytest.mark.fault(20)
def test_a_whole_object_that_is_cut_or_compressed_is_refused(
    bucket: Bucket, store: S3ObjectStore
) -> None:
    for kind in (FaultKind.TRUNCATED, FaultKind.ENCODED):
        bucket.fault(kind, "GetObject")
        with pytest.raises(TransientError):
            store.get("old")


@pytest.mark.fault(21)
@pytest.mark.parametrize(
    "kind",
    [FaultKind.PAGE_AGAIN, FaultKind.PAGE_REVERSED, FaultKind.PAGE_DOUBLED, FaultKind.EMPTY_PAGE],
    ids=lambda k: k.value,
)
def test_a_list_out_of_order_or_without_end_is_refused(
    kind: FaultKind, bucket: Bucket, store: S3ObjectStore
) -> None:
    bucket.fault(kind, "ListObjectsV2", times=0)
    with pytest.raises(TransientError):
        names(store)
    assert bucket.box is not None
    bucket.box.faults.clear()
    bucket.fault(kind, "ListObjectsV2")
    assert names(patient(store)) == ["gone", "old"]


@pytest.mark.fault(19)
def test_a_conditional_put_that_took_effect_unanswered_is_ours(bucket: Bucket) -> None:
    store = bucket.store()
    for kind in (FaultKind.ERROR_AFTER, FaultKind.RESET_AFTER):
        name = f"commits/{kind.value}"
        bucket.fault(kind, "PutObject")
        info = patient(store).put(name, b"ours", if_absent=True)
        bucket.fault(kind, "PutObject")
        replaced = patient(store).put(name, b"next", if_match=info.version)
        assert store.get(name) == b"next"
        assert replaced.version != info.version
        with pytest.raises(ObjectExistsError):
            patient(store).put(name, b"theirs", if_absent=True)


@pytest.mark.fault(22)
def test_a_conflict_of_two_conditional_puts_is_asked_again(bucket: Bucket) -> None:
    """409, which S3 answers to one of two at the same time: repeat (S3 API reference)."""
    store = bucket.store()
    for _ in range(2):
        bucket.fault(
            FaultKind.API_ERROR, "PutObject", status=409, code="ConditionalRequestConflict"
        )
    with pytest.raises(TransientError):
        store.put("a", b"1", if_absent=True)
    patient(store).put("a", b"1", if_absent=True)
    assert store.get("a") == b"1"


@pytest.mark.fault(22)
def test_of_200_races_each_has_one_winner(bucket: Bucket, evidence: Evidence) -> None:
    store, won, both = bucket.store(), 0, threading.Barrier(2)

    def one(turn: int, writer: int) -> bool:
        both.wait()
        try:
            store.put(f"race/{turn}", b"%d" % writer, if_absent=True)
        except ObjectExistsError:
            return False
        return True

    with ThreadPoolExecutor(2) as threads:
        for turn in range(200):
            results = list(threads.map(lambda w, t=turn: one(t, w), range(2)))
            assert sum(results) == 1
            assert store.get(f"race/{turn}") == b"%d" % results.index(True)
            won += 1
    evidence("creation races with one winner", f"{won} of 200")


@pytest.mark.fault(23)
@pytest.mark.parametrize("operation", CALLS)
def test_expired_credentials_and_missing_permissions_have_names(
    operation: str, bucket: Bucket, store: S3ObjectStore
) -> None:
    """Of a HEAD too, whose errors have no body: a GET says which it is."""
    also = ["GetObject"] if operation == "HeadObject" else []
    for kind, error in (
        (FaultKind.EXPIRED_TOKEN, CredentialsError),
        (FaultKind.ACCESS_DENIED, TargetDeniedError),
    ):
        for name in [operation, *also]:
            bucket.fault(kind, name, times=0)
        with pytest.raises(error) as caught:
            CALLS[operation](store)
        assert caught.value.next_step
        assert bucket.box is not None
        assert not bucket.box.faults.unexercised()
        bucket.box.faults.clear()
    assert store.get("old") == DATA


@pytest.mark.fault(12)
def test_a_clock_that_differs_from_the_stores_is_explained(
    bucket: Bucket, store: S3ObjectStore
) -> None:
    bucket.fault(FaultKind.API_ERROR, "GetObject", status=403, code="RequestTimeTooSkewed")
    with pytest.raises(CredentialsError) as caught:
        store.get("old")
    assert "check this machine's clock" in caught.value.next_step


@pytest.mark.fault(24)
def test_the_delay_that_s3_names_is_kept(bucket: Bucket, store: S3ObjectStore) -> None:
    bucket.fault(FaultKind.THROTTLE, "GetObject", retry_after_seconds=7)
    with pytest.raises(ThrottledError) as caught:
        store.get("old")
    assert caught.value.retry_after_seconds == 7
    bucket.fault(FaultKind.THROTTLE, "GetObject", retry_after_seconds=7)
    clock = VirtualClock()
    PatientStore(store, Retrier(RetryPolicy(), clock)).get("old")
    assert clock.monotonic() >= 7


@pytest.mark.fault(27)
def test_an_archived_object_is_named_as_such(bucket: Bucket, store: S3ObjectStore) -> None:
    """By a rule of the bucket's owner; it is missing for whoever asks, and can be brought back."""
    bucket.s3.put_object(Bucket=bucket.spec.bucket, Key="cold", Body=b"1", StorageClass="GLACIER")
    with pytest.raises(ObjectArchivedError, match="cold") as caught:
        store.get("cold")
    assert isinstance(caught.value, ObjectMissingError)
    assert "restore" in caught.value.next_step


@pytest.mark.fault(20)
def test_a_body_that_was_damaged_on_the_way_up_is_not_stored(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S3 compares it with the checksum that was sent before it."""
    store = bucket.store()
    real = zlib.crc32
    damaged: list[bool] = []

    def crc32(data: bytes, value: int = 0) -> int:
        if not damaged:
            damaged.append(True)
            return real(data[1:], value)
        return real(data, value)

    monkeypatch.setattr("connectors.aws.object_s3.zlib.crc32", crc32)
    with pytest.raises(TransientError, match="BadDigest"):
        store.put("a", DATA)
    assert store.head("a") is None
    store.put("a", DATA)
    assert store.get("a") == DATA


@pytest.mark.fault(15)
def test_a_silent_bucket_is_given_up(bucket: Bucket) -> None:
    bucket.store().put("old", DATA)
    store = bucket.store(read_timeout_seconds=0.3)
    for kind in (FaultKind.STALL, FaultKind.STALL_BODY):
        bucket.fault(kind, "GetObject", seconds=5.0)
        with pytest.raises(ConnectionLostError):
            store.get("old")
    store.close()


def asked_url(spec: S3Spec) -> str:
    """The address of a HEAD that is not sent."""
    store, seen = S3ObjectStore(spec), list[str]()

    def refuse(request: Any, **_: object) -> None:
        seen.append(request.url)
        raise ConnectionLostError("not sent")

    store._s3.meta.events.register("before-send.s3", refuse)
    with pytest.raises(ConnectionLostError):
        store.head("a")
    store.close()
    return seen[0]


@pytest.mark.parametrize("host", ["http://localhost:9000", "https://minio.example.com"])
def test_a_server_of_ones_own_is_reached_by_its_host(
    host: str, s3_environment: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Named in the plan or in the environment: never as ``BUCKET.HOST``, which few resolve."""
    assert asked_url(S3Spec("some-bucket", endpoint=host)) == f"{host}/some-bucket/a"
    monkeypatch.setenv("AWS_ENDPOINT_URL", host)
    assert asked_url(S3Spec("some-bucket")) == f"{host}/some-bucket/a"


def test_amazon_is_reached_by_the_buckets_own_name(s3_environment: object) -> None:
    url = asked_url(S3Spec("some-bucket", region="eu-central-1"))
    assert url == "https://some-bucket.s3.eu-central-1.amazonaws.com/a"


def test_a_bucket_that_is_not_there_is_named(bucket: Bucket) -> None:
    store = bucket.store(bucket="sealift-nowhere")
    calls: list[Callable[[], object]] = [
        lambda: store.get("a"),
        lambda: store.put("a", b""),
        lambda: names(store),
        lambda: store.delete("a"),
    ]
    for call in calls:
        with pytest.raises(TargetError, match="no bucket sealift-nowhere") as caught:
            call()
        assert not isinstance(caught.value, ObjectMissingError)


def test_a_server_without_conditions_says_so(bucket: Bucket) -> None:
    bucket.fault(FaultKind.API_ERROR, "PutObject", status=501, code="NotImplemented")
    with pytest.raises(TargetError, match="cannot do this"):
        bucket.store().put("a", b"1", if_absent=True)


def test_what_others_put_beside_ours_is_left_out(bucket: Bucket) -> None:
    """Names that none of ours can have, and everything outside the prefix."""
    for key in ("Notes.TXT", "ours/READ ME", "ours/../x", "ours/a//b", "other/a", "ours/ok"):
        bucket.s3.put_object(Bucket=bucket.spec.bucket, Key=key, Body=b"")
    assert names(bucket.store(prefix="ours/")) == ["ok"]


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        (S3Spec("Upper"), "bucket"),
        (S3Spec("a"), "bucket"),
        (S3Spec("../x"), "bucket"),
        (S3Spec("fast--use1-az4--x-s3"), "directory bucket"),
        (S3Spec("good", "no-slash"), "prefix"),
        (S3Spec("good", "/a/"), "prefix"),
        (S3Spec("good", "a/../"), "prefix"),
        (S3Spec("good", "a//"), "prefix"),
    ],
    ids=lambda v: v if isinstance(v, str) else v.identity,
)
def test_what_is_no_bucket_or_prefix_is_refused(spec: S3Spec, field: str) -> None:
    with pytest.raises(ConfigError, match=field):
        S3ObjectStore(spec)


def test_a_bucket_of_another_account_is_refused(bucket: Bucket) -> None:
    """Somebody may have taken the name after ours was deleted."""
    assert bucket.box is not None
    bucket.store(owner=bucket.box.account_id).put("a", b"1")
    with pytest.raises(TargetDeniedError):
        bucket.store(owner="123456789012").put("a", b"2")
    with pytest.raises(TargetDeniedError):
        bucket.store(owner="123456789012").get("a")
    assert bucket.store().get("a") == b"1"


def test_a_delete_in_a_versioned_bucket_only_hides(locked_bucket: Bucket) -> None:
    """And what hides can be taken away: the bytes are there."""
    store, now = locked_bucket.store(), SystemClock().now().timestamp()
    store.put("a", b"kept")
    store.delete("a")
    assert store.head("a") is None
    assert names(store) == []
    with pytest.raises(ObjectMissingError):
        store.get("a")
    found = locked_bucket.s3.list_object_versions(Bucket=locked_bucket.spec.bucket)
    (marker,) = found["DeleteMarkers"]
    locked_bucket.s3.delete_object(
        Bucket=locked_bucket.spec.bucket, Key="a", VersionId=marker["VersionId"]
    )
    assert store.get("a") == b"kept"
    store.put("a", b"other", lock_until=now + 1000)
    assert store.get("a") == b"other"


@pytest.mark.parametrize("mode", LockMode, ids=lambda m: m.value)
@pytest.mark.parametrize("server", ["open_bucket", "second_bucket"])
def test_a_locked_version_stays_until_its_time(
    mode: LockMode, server: str, request: pytest.FixtureRequest
) -> None:
    open_one: OpenBucket = request.getfixturevalue(server)
    bucket = open_one(lock_mode=mode)
    store, now = bucket.store(), SystemClock().now()
    until = now + timedelta(days=30)
    store.put("a", b"kept", lock_until=until.timestamp())
    later = until + timedelta(days=10)
    store.extend_lock("a", later.timestamp())
    store.extend_lock("a", until.timestamp())  # shorter: left as it is
    head = bucket.s3.head_object(Bucket=bucket.spec.bucket, Key="a")
    assert head["ObjectLockMode"] == mode.value
    assert abs((head["ObjectLockRetainUntilDate"] - later).total_seconds()) < 2
    with pytest.raises(ClientError, match="AccessDenied"):
        bucket.s3.delete_object(Bucket=bucket.spec.bucket, Key="a", VersionId=head["VersionId"])
    with pytest.raises(TargetDeniedError, match="locked until"):
        store.delete("a")
    assert store.get("a") == b"kept"


# ---------------------------------------------------------------------- stricter than moto

STRICT: dict[str, tuple[dict[str, object], str]] = {
    "a checksum of other bytes": (
        {"ChecksumCRC32": b64encode((1).to_bytes(4, "big")).decode()},
        "BadDigest",
    ),
    "an MD5 of other bytes": ({"ContentMD5": b64encode(bytes(16)).decode()}, "BadDigest"),
    "a lock in the past": (
        {
            "ObjectLockMode": "COMPLIANCE",
            "ObjectLockRetainUntilDate": datetime(2020, 1, 1, tzinfo=UTC),
            "ChecksumCRC32": b64encode(zlib.crc32(b"x").to_bytes(4, "big")).decode(),
        },
        "InvalidArgument",
    ),
    "another owner": ({"ExpectedBucketOwner": "123456789012"}, "AccessDenied"),
}


@pytest.mark.parametrize("rule", STRICT)
def test_the_sandbox_refuses_what_moto_takes(rule: str, locked_bucket: Bucket) -> None:
    arguments, code = STRICT[rule]
    with pytest.raises(ClientError) as caught:
        locked_bucket.s3.put_object(
            Bucket=locked_bucket.spec.bucket,
            Key="a",
            Body=b"x",
            **arguments,  # type: ignore[arg-type]
        )
    assert caught.value.response["Error"]["Code"] == code
    assert locked_bucket.store().head("a") is None


def test_a_lock_cannot_be_shortened_in_the_sandbox(locked_bucket: Bucket) -> None:
    store, now = locked_bucket.store(), SystemClock().now()
    store.put("a", b"1", lock_until=(now + timedelta(days=2)).timestamp())
    with pytest.raises(ClientError, match="AccessDenied"):
        locked_bucket.s3.put_object_retention(
            Bucket=locked_bucket.spec.bucket,
            Key="a",
            Retention={"Mode": "COMPLIANCE", "RetainUntilDate": now + timedelta(days=1)},
        )


def test_secrets_of_the_request_are_in_no_error(bucket: Bucket) -> None:
    assert bucket.box is not None
    bucket.fault(
        FaultKind.API_ERROR,
        "PutObject",
        status=403,
        code="SignatureDoesNotMatch",
        message=f"signature: {'ab' * 32} of {bucket.box.credentials.access_key}",
    )
    with pytest.raises(SealiftError) as caught:
        bucket.store().put("a", b"1")
    assert bucket.box.credentials.access_key not in repr(caught.value.operands) + str(caught.value)
    assert "ab" * 32 not in repr(caught.value.operands) + str(caught.value)
