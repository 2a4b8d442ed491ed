"""Bad days of a container: what the connector calls them, and what retries make of them."""

import random
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from azure.storage.blob import StandardBlobTier

from connectors.azure.blob_wire import md5_of
from connectors.azure.object_blob import BlobObjectStore, BlobSpec
from sandbox.azure.faults import Fault, FaultKind
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
from tests.objects.containers import Container

pytestmark = pytest.mark.sandbox

DATA = pattern(100 * KiB)
CALLS: dict[str, Callable[[ObjectStore], object]] = {
    "PutBlob": lambda s: s.put("new", DATA),
    "GetBlob": lambda s: s.get("old", 10, 1000),
    "GetBlobProperties": lambda s: s.head("old"),
    "ListBlobs": lambda s: names(s),
    "DeleteBlob": lambda s: s.delete("gone"),
}
LIES = (
    FaultKind.OK_WITH_PROXY_PAGE,
    FaultKind.EMPTY_BODY,
    FaultKind.ERROR_BEFORE,
    FaultKind.ERROR_AFTER,
    FaultKind.RESET_BEFORE,
    FaultKind.RESET_AFTER,
    FaultKind.THROTTLE,
)
SPOILED = (FaultKind.TRUNCATED, FaultKind.CORRUPT)


def patient(store: ObjectStore) -> PatientStore:
    policy = RetryPolicy(first_seconds=0.001, longest_seconds=0.01)
    return PatientStore(store, Retrier(policy, SystemClock(), rng=random.Random(1)))


@pytest.fixture(autouse=True)
def whole_again(container: Container) -> Iterator[None]:
    yield
    container.box.faults.clear()


@pytest.fixture
def store(container: Container) -> BlobObjectStore:
    store = container.store()
    store.put("old", DATA)
    store.put("gone", b"")
    return store


def fault(container: Container, kind: FaultKind, operation: str, **more: object) -> None:
    container.box.faults.add(Fault(kind, operation, **more))  # type: ignore[arg-type]


@pytest.mark.fault(14, 18, 19, 24)
@pytest.mark.parametrize("operation", CALLS)
def test_a_bad_answer_is_transient_and_the_next_attempt_right(
    operation: str, container: Container, store: BlobObjectStore
) -> None:
    call = CALLS[operation]
    clean = repr(call(store))
    for kind in (*LIES, *(SPOILED if operation in ("GetBlob", "ListBlobs") else ())):
        if operation == "ListBlobs" and kind is FaultKind.CORRUPT:
            continue  # a flipped bit of a list may be in a time, which nothing is decided by
        fault(container, kind, operation)
        with pytest.raises(TransientError):
            call(store)
        fault(container, kind, operation)
        again = repr(call(patient(store)))
        assert again == clean or operation == "PutBlob", kind
    assert not container.box.faults.unexercised()
    assert store.get("old") == DATA


@pytest.mark.fault(18, 20)
@pytest.mark.parametrize(
    "kind",
    [
        FaultKind.WRONG_RANGE,
        FaultKind.WHOLE_OBJECT,
        FaultKind.ENCODED,
        FaultKind.TRUNCATED,
        FaultKind.CORRUPT,
    ],
    ids=lambda k: k.value,
)
def test_other_bytes_than_asked_for_are_never_returned(
    kind: FaultKind, container: Container, store: BlobObjectStore
) -> None:
    for start, length in ((0, 1000), (5, 1000), (100 * KiB - 1, 1)):
        if kind is FaultKind.TRUNCATED and length == 1:
            continue  # half of one byte is none
        fault(container, kind, "GetBlob")
        with pytest.raises(TransientError):
            store.get("old", start, length)
        fault(container, kind, "GetBlob")
        assert patient(store).get("old", start, length) == DATA[start : start + length]


@pytest.mark.fault(20)
def test_a_whole_blob_that_is_cut_damaged_or_compressed_is_refused(
    container: Container, store: BlobObjectStore
) -> None:
    for kind in (FaultKind.TRUNCATED, FaultKind.CORRUPT, FaultKind.ENCODED):
        fault(container, kind, "GetBlob")
        with pytest.raises(TransientError):
            store.get("old")


@pytest.mark.fault(21)
@pytest.mark.parametrize(
    "kind",
    [FaultKind.PAGE_AGAIN, FaultKind.PAGE_REVERSED, FaultKind.PAGE_DOUBLED, FaultKind.EMPTY_PAGE],
    ids=lambda k: k.value,
)
def test_a_list_out_of_order_or_without_end_is_refused(
    kind: FaultKind, container: Container, store: BlobObjectStore
) -> None:
    fault(container, kind, "ListBlobs", times=0)
    with pytest.raises((TransientError, TargetError)):
        names(store)
    container.box.faults.clear()
    assert names(patient(store)) == ["gone", "old"]


@pytest.mark.fault(19)
def test_a_conditional_put_that_took_effect_unanswered_is_ours(container: Container) -> None:
    store = container.store()
    for kind in (FaultKind.ERROR_AFTER, FaultKind.RESET_AFTER):
        name = f"commits/{kind.value}"
        fault(container, kind, "PutBlob")
        info = patient(store).put(name, b"ours", if_absent=True)
        fault(container, kind, "PutBlob")
        replaced = patient(store).put(name, b"next", if_match=info.version)
        assert store.get(name) == b"next"
        assert replaced.version != info.version
        with pytest.raises(ObjectExistsError):
            patient(store).put(name, b"theirs", if_absent=True)


@pytest.mark.fault(22)
def test_of_200_races_in_azure_each_has_one_winner(
    container: Container, evidence: Evidence
) -> None:
    store, won, both = container.store(), 0, threading.Barrier(2)

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
    evidence("creation races in azure with one winner", f"{won} of 200")


@pytest.mark.fault(23)
@pytest.mark.parametrize("operation", CALLS)
def test_expired_credentials_and_missing_permissions_have_names(
    operation: str, container: Container, store: BlobObjectStore
) -> None:
    for kind, error in (
        (FaultKind.EXPIRED_TOKEN, CredentialsError),
        (FaultKind.ACCESS_DENIED, TargetDeniedError),
    ):
        fault(container, kind, operation, times=0)
        with pytest.raises(error) as caught:
            CALLS[operation](store)
        assert caught.value.next_step
        assert "Microsoft.Storage" in caught.value.message
        container.box.faults.clear()
    assert store.get("old") == DATA


@pytest.mark.fault(24)
def test_the_delay_that_the_service_names_is_kept(
    container: Container, store: BlobObjectStore
) -> None:
    fault(container, FaultKind.THROTTLE, "GetBlob", retry_after_seconds=7)
    with pytest.raises(ThrottledError) as caught:
        store.get("old")
    assert caught.value.retry_after_seconds == 7
    fault(container, FaultKind.THROTTLE, "GetBlob", retry_after_seconds=7)
    clock = VirtualClock()
    PatientStore(store, Retrier(RetryPolicy(), clock)).get("old")
    assert clock.monotonic() >= 7


def test_the_store_repeats_nothing_itself(container: Container, store: BlobObjectStore) -> None:
    """One request for a call, whatever comes back: the retry layer is the only one."""
    asked, requests = 2, container.box.requests  # two of the fixture
    for operation, call in CALLS.items():
        for kind in (*LIES, FaultKind.TRUNCATED):
            fault(container, kind, operation)
            with suppress(SealiftError):
                call(store)
            container.box.faults.clear()
            asked += 1
    SystemClock().sleep(1.0)  # whatever is repeated, and whatever is written down late
    ours = re.compile(rf"/{container.spec.container}(?![\w-])")
    own = [record for record in requests.all() if ours.search(record.target)]
    # a call on a kept connection that the fault before has cut does not arrive
    assert asked // 2 < len(own) <= asked


@pytest.mark.fault(27)
def test_an_archived_blob_is_named_as_such(container: Container, store: BlobObjectStore) -> None:
    container.outside.get_blob_client("old").set_standard_blob_tier(StandardBlobTier.ARCHIVE)
    with pytest.raises(ObjectArchivedError, match="old") as caught:
        store.get("old")
    assert isinstance(caught.value, ObjectMissingError)
    assert "rehydrate" in caught.value.next_step


@pytest.mark.fault(20)
def test_an_answer_with_another_digest_is_not_believed(
    container: Container, store: BlobObjectStore
) -> None:
    """Neither of a put nor of a get; the next attempt is as it should be."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("connectors.azure.object_blob.md5_of", lambda data: md5_of(b"other"))
        with pytest.raises(TransientError, match="MD5"):
            store.get("old")
        with pytest.raises(TargetError, match="contentMD5"):  # as Azurite calls it
            store.put("a", DATA)
        assert store.head("a") is None
    fault(container, FaultKind.API_ERROR, "PutBlob", status=400, code="Md5Mismatch")
    with pytest.raises(TransientError):  # as the service does
        store.put("a", DATA)
    store.put("a", DATA)
    assert store.get("a") == DATA


@pytest.mark.fault(15)
def test_a_silent_container_is_given_up(container: Container) -> None:
    container.store().put("old", DATA)
    store = container.store(read_timeout_seconds=0.3)
    for kind in (FaultKind.STALL, FaultKind.STALL_BODY):
        fault(container, kind, "GetBlob", seconds=3.0)
        with pytest.raises(TransientError):
            store.get("old")
    store.close()


def test_a_container_that_is_not_there_is_named(container: Container) -> None:
    store = container.store(container="sealift-nowhere")
    calls: list[Callable[[], object]] = [
        lambda: store.get("a"),
        lambda: store.put("a", b""),
        lambda: names(store),
        lambda: store.delete("a"),
        lambda: store.head("a"),
    ]
    for call in calls:
        with pytest.raises(TargetError, match="no container sealift-nowhere") as caught:
            call()
        assert not isinstance(caught.value, ObjectMissingError)


def test_what_others_put_beside_ours_is_left_out(container: Container) -> None:
    for key in ("Notes.TXT", "ours/READ ME", "ours/a//b", "other/a", "ours/ok"):
        container.outside.upload_blob(key, b"")
    assert names(container.store(prefix="ours/")) == ["ok"]


def test_a_blob_that_somebody_leased_or_snapshotted_is_theirs(
    container: Container, store: BlobObjectStore
) -> None:
    """A delete is refused by name, not repeated; a prune goes on with the others."""
    lease = container.outside.get_blob_client("old").acquire_lease()
    with pytest.raises(TargetDeniedError, match="LeaseIdMissing"):
        store.delete("old")
    lease.release()
    container.outside.get_blob_client("old").create_snapshot()
    with pytest.raises(TargetDeniedError, match="SnapshotsPresent"):
        store.delete("old")
    assert store.get("old") == DATA


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        (BlobSpec("Upper", "good"), "account"),
        (BlobSpec("good", "a--b"), "container"),
        (BlobSpec("good", "ab"), "container"),
        (BlobSpec("good", "$web"), "container"),
        (BlobSpec("good", "good", "no-slash"), "prefix"),
        (BlobSpec("good", "good", "a/../"), "prefix"),
        (BlobSpec("good", "good", "/"), "prefix"),
        (BlobSpec("good", "good", endpoint="http://127.0.0.1:1/good"), "endpoint"),
        (BlobSpec("good", "good", endpoint="https://a@b"), "endpoint"),
    ],
    ids=lambda v: v if isinstance(v, str) else v.identity,
)
def test_what_is_no_container_or_prefix_is_refused(spec: BlobSpec, field: str) -> None:
    with pytest.raises(ConfigError, match=field):
        BlobObjectStore(spec)


@pytest.mark.fault(15)
def test_nobody_at_the_address_is_a_lost_connection(container: Container) -> None:
    store = container.store(endpoint="https://127.0.0.1:1/good")
    with pytest.raises(ConnectionLostError):
        store.get("a")


@pytest.mark.fault(53)
def test_secrets_of_the_request_are_in_no_error(container: Container) -> None:
    quoted = "Authorization: Bearer abcdefghijklmnop and sig=abcdefghijklmnop"
    fault(container, FaultKind.API_ERROR, "PutBlob", status=403, code="AuthenticationFailed",
          message=quoted)  # fmt: skip
    with pytest.raises(SealiftError) as caught:
        container.store().put("a", b"1")
    error = caught.value
    assert "abcdefghijklmnop" not in f"{error!r} {error.operands} {error.__context__!r}"
