"""Faults on demand: what the client sees, and what the account holds afterwards."""

import socket
import threading
from collections.abc import Callable
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import (
    ConnectionClosedError,
    IncompleteReadError,
    ReadTimeoutError,
    ResponseStreamingError,
)

from sandbox.aws import AwsSandbox, Fault, FaultKind
from sandbox.aws.testing import A, B, Cloud, digest, refusal
from sandbox.aws.wire import Service

pytestmark = pytest.mark.sandbox
StartSandbox = Callable[..., tuple[AwsSandbox, Cloud]]


@pytest.fixture
def pair(start_sandbox: StartSandbox) -> tuple[AwsSandbox, Cloud]:
    return start_sandbox()


def written(sandbox: AwsSandbox, snapshot_id: str) -> list[int]:
    return sandbox.snapshot_record(snapshot_id).blocks.ordered()


def impatient(cloud: Cloud, service: str) -> Any:
    return boto3.client(
        service,  # type: ignore[call-overload]
        endpoint_url=cloud.endpoint_url,
        region_name="us-east-1",
        aws_access_key_id=cloud.access_key,
        aws_secret_access_key=cloud.secret_key,
        config=Config(retries={"total_max_attempts": 1}, read_timeout=2),
    )


@pytest.mark.parametrize(
    ("fault", "answer"),
    [
        (Fault(FaultKind.THROTTLE), "RequestThrottledException/ACCOUNT_THROTTLED"),
        (
            Fault(FaultKind.THROTTLE, reason="RESOURCE_LEVEL_THROTTLE"),
            "RequestThrottledException/RESOURCE_LEVEL_THROTTLE",
        ),
        (Fault(FaultKind.THROTTLE, code="ThrottlingException"), "ThrottlingException"),
        (Fault(FaultKind.ERROR_BEFORE), "InternalServerException"),
        (Fault(FaultKind.ERROR_BEFORE, status=503, code="SlowDown"), "SlowDown"),
        (Fault(FaultKind.EXPIRED_TOKEN), "ExpiredTokenException"),
        (Fault(FaultKind.ACCESS_DENIED), "AccessDeniedException/UNAUTHORIZED_ACCOUNT"),
        (
            Fault(FaultKind.API_ERROR, status=409, code="ConflictException"),
            "ConflictException",
        ),
    ],
)  # fmt: skip
def test_refusals_do_nothing_and_pass_once(
    pair: tuple[AwsSandbox, Cloud], fault: Fault, answer: str
) -> None:
    sandbox, cloud = pair
    snapshot_id = cloud.start()
    sandbox.faults.add(fault)
    assert refusal(lambda: cloud.put(snapshot_id, 0, A)) == answer
    assert written(sandbox, snapshot_id) == []
    assert refusal(lambda: cloud.put(snapshot_id, 0, A)) == "ok"
    assert sandbox.faults.unexercised() == ()


@pytest.mark.parametrize("kind", [FaultKind.ERROR_AFTER, FaultKind.RESET_AFTER])
def test_call_that_took_effect_and_then_failed(
    pair: tuple[AwsSandbox, Cloud], kind: FaultKind
) -> None:
    sandbox, cloud = pair
    snapshot_id = cloud.start()
    sandbox.faults.add(Fault(kind, "PutSnapshotBlock"))
    if kind is FaultKind.ERROR_AFTER:
        assert refusal(lambda: cloud.put(snapshot_id, 0, A)) == "InternalServerException"
    else:
        with pytest.raises(ConnectionClosedError):
            cloud.put(snapshot_id, 0, A)
    assert written(sandbox, snapshot_id) == [0]
    assert cloud.complete(snapshot_id, 1) == "completed"


def test_complete_that_took_effect_and_then_failed(pair: tuple[AwsSandbox, Cloud]) -> None:
    sandbox, cloud = pair
    snapshot_id = cloud.start()
    sandbox.faults.add(Fault(FaultKind.ERROR_AFTER, "CompleteSnapshot"))
    assert refusal(lambda: cloud.complete(snapshot_id, 0)) == "InternalServerException"
    assert sandbox.snapshot_record(snapshot_id).state.value == "completed"
    assert refusal(lambda: cloud.complete(snapshot_id, 0)).startswith("ValidationException")


def test_reset_before_does_nothing(pair: tuple[AwsSandbox, Cloud]) -> None:
    sandbox, cloud = pair
    snapshot_id = cloud.start()
    sandbox.faults.add(Fault(FaultKind.RESET_BEFORE, "PutSnapshotBlock"))
    with pytest.raises(ConnectionClosedError):
        cloud.put(snapshot_id, 0, A)
    assert written(sandbox, snapshot_id) == []


def test_success_status_around_an_error_document(pair: tuple[AwsSandbox, Cloud]) -> None:
    """The SDK sees success, so only the answer's content tells: no checksum came back."""
    sandbox, cloud = pair
    snapshot_id = cloud.start()
    for kind in (
        FaultKind.OK_WITH_ERROR_BODY, FaultKind.OK_WITH_PROXY_PAGE, FaultKind.EMPTY_BODY,
    ):  # fmt: skip
        sandbox.faults.add(Fault(kind, "PutSnapshotBlock"))
        answer = cloud.put(snapshot_id, 0, A)
        assert "Checksum" not in answer
    assert written(sandbox, snapshot_id) == []


def test_success_status_around_an_error_document_of_ec2(pair: tuple[AwsSandbox, Cloud]) -> None:
    sandbox, cloud = pair
    snapshot_id = cloud.snapshot({0: A})
    sandbox.faults.add(Fault(FaultKind.OK_WITH_ERROR_BODY, "RegisterImage"))
    answer = cloud.ec2.register_image(Name="image")
    assert "ImageId" not in answer
    assert cloud.ec2.describe_images(Owners=["self"])["Images"] == []
    assert cloud.image(snapshot_id)


def block_of(cloud: Cloud, snapshot_id: str) -> Any:
    entry = cloud.ebs.list_snapshot_blocks(SnapshotId=snapshot_id)["Blocks"][0]
    return cloud.ebs.get_snapshot_block(SnapshotId=snapshot_id, **entry)


def test_truncated_block(pair: tuple[AwsSandbox, Cloud]) -> None:
    sandbox, cloud = pair
    snapshot_id = cloud.snapshot({0: A})
    sandbox.faults.add(Fault(FaultKind.TRUNCATED, "GetSnapshotBlock"))
    answer = block_of(cloud, snapshot_id)
    with pytest.raises((IncompleteReadError, ResponseStreamingError)):
        answer["BlockData"].read()
    assert block_of(cloud, snapshot_id)["BlockData"].read() == A


def test_corrupt_block_does_not_fit_its_checksum(pair: tuple[AwsSandbox, Cloud]) -> None:
    sandbox, cloud = pair
    snapshot_id = cloud.snapshot({0: A})
    sandbox.faults.add(Fault(FaultKind.CORRUPT, "GetSnapshotBlock"))
    answer = block_of(cloud, snapshot_id)
    data = answer["BlockData"].read()
    assert len(data) == len(A)
    assert sum(x != y for x, y in zip(data, A, strict=True)) == 1
    assert answer["Checksum"] == digest(A) != digest(data)


def test_stall_outlasts_an_impatient_client_and_takes_effect(
    pair: tuple[AwsSandbox, Cloud],
) -> None:
    sandbox, cloud = pair
    snapshot_id = cloud.start()
    sandbox.faults.add(Fault(FaultKind.STALL, "PutSnapshotBlock", seconds=6.0))
    with pytest.raises(ReadTimeoutError):
        impatient(cloud, "ebs").put_snapshot_block(
            SnapshotId=snapshot_id, BlockIndex=0, BlockData=A, DataLength=len(A),
            Checksum=digest(A), ChecksumAlgorithm="SHA256",
        )  # fmt: skip
    assert written(sandbox, snapshot_id) == []
    assert sandbox.requests.wait(1, "PutSnapshotBlock", timeout_seconds=60)
    assert written(sandbox, snapshot_id) == [0]


def test_stall_in_the_middle_of_a_body(pair: tuple[AwsSandbox, Cloud]) -> None:
    sandbox, cloud = pair
    snapshot_id = cloud.snapshot({0: A})
    entry = cloud.ebs.list_snapshot_blocks(SnapshotId=snapshot_id)["Blocks"][0]
    sandbox.faults.add(Fault(FaultKind.STALL_BODY, "GetSnapshotBlock", seconds=60))
    answer = impatient(cloud, "ebs").get_snapshot_block(SnapshotId=snapshot_id, **entry)
    with pytest.raises(ReadTimeoutError):
        answer["BlockData"].read()


def test_stop_ends_a_stall(start_sandbox: StartSandbox) -> None:
    sandbox, cloud = start_sandbox()
    sandbox.faults.add(Fault(FaultKind.STALL, "StartSnapshot", seconds=600))
    caller = threading.Thread(target=lambda: refusal(cloud.start))
    caller.start()
    assert sandbox.faults.wait_struck(10)
    sandbox.stop()
    caller.join(60)
    assert not caller.is_alive()


def test_faults_of_ec2_speak_its_codes(pair: tuple[AwsSandbox, Cloud]) -> None:
    sandbox, cloud = pair
    expected = {
        FaultKind.THROTTLE: "RequestLimitExceeded",
        FaultKind.ERROR_BEFORE: "InternalError",
        FaultKind.EXPIRED_TOKEN: "RequestExpired",
        FaultKind.ACCESS_DENIED: "UnauthorizedOperation",
    }
    for kind, code in expected.items():
        sandbox.faults.add(Fault(kind, service=Service.EC2))
        assert refusal(cloud.ec2.describe_snapshots) == code


def test_throttling_may_say_how_long(pair: tuple[AwsSandbox, Cloud]) -> None:
    sandbox, cloud = pair
    sandbox.faults.add(Fault(FaultKind.THROTTLE, retry_after_seconds=7))
    with pytest.raises(cloud.ebs.exceptions.RequestThrottledException) as caught:
        cloud.start()
    assert caught.value.response["ResponseMetadata"]["HTTPHeaders"]["retry-after"] == "7"


def test_nth_call_of_one_operation_on_one_snapshot(pair: tuple[AwsSandbox, Cloud]) -> None:
    sandbox, cloud = pair
    one, two = cloud.start(), cloud.start()
    sandbox.faults.add(
        Fault(FaultKind.ACCESS_DENIED, "PutSnapshotBlock", skip=2, times=2, snapshot_id=one)
    )
    answers = []
    for index in range(5):
        answers.append(refusal(lambda i=index: cloud.put(one, i, A)) == "ok")  # type: ignore[misc]
        assert refusal(lambda i=index: cloud.put(two, i, A)) == "ok"  # type: ignore[misc]
    assert answers == [True, True, False, False, True]


def test_fault_on_one_block(pair: tuple[AwsSandbox, Cloud]) -> None:
    sandbox, cloud = pair
    snapshot_id = cloud.start()
    sandbox.faults.add(Fault(FaultKind.ERROR_BEFORE, "PutSnapshotBlock", block_index=1, times=0))
    answers = [refusal(lambda i=i: cloud.put(snapshot_id, i, A)) for i in (0, 1, 2, 1)]  # type: ignore[misc]
    assert answers == ["ok", "InternalServerException", "ok", "InternalServerException"]


def test_fault_that_nothing_hit_is_named(pair: tuple[AwsSandbox, Cloud]) -> None:
    sandbox, cloud = pair
    sandbox.faults.add(Fault(FaultKind.THROTTLE, "StartSnapshot", times=3))
    never = sandbox.faults.add(Fault(FaultKind.THROTTLE, "GetSnapshotBlock"))
    refusal(cloud.start)
    left = {armed.number: armed.hits for armed in sandbox.faults.unexercised()}
    assert left == {never - 1: 1, never: 0}
    sandbox.faults.remove(never - 1)
    assert [armed.number for armed in sandbox.faults.unexercised()] == [never]
    sandbox.faults.clear()
    assert sandbox.faults.unexercised() == ()
    assert refusal(cloud.start) == "ok"


def test_requests_are_noted(pair: tuple[AwsSandbox, Cloud]) -> None:
    sandbox, cloud = pair
    snapshot_id = cloud.start()
    sandbox.faults.add(Fault(FaultKind.THROTTLE, "PutSnapshotBlock"))
    for _ in range(2):
        refusal(lambda: cloud.put(snapshot_id, 7, B))
    cloud.complete(snapshot_id, 1)
    cloud.ec2.describe_snapshots(SnapshotIds=[snapshot_id])
    noted = [
        (r.operation, r.block_index, r.status) for r in sandbox.requests.select(None, snapshot_id)
    ]
    assert noted == [
        ("PutSnapshotBlock", 7, 400),
        ("PutSnapshotBlock", 7, 201),
        ("CompleteSnapshot", None, 202),
        ("DescribeSnapshots", None, 200),
    ]
    assert sandbox.requests.count("PutSnapshotBlock") == 2
    put = sandbox.requests.select("PutSnapshotBlock")
    assert [(r.fault, r.received_bytes) for r in put] == [
        (FaultKind.THROTTLE, len(B)), (None, len(B)),
    ]  # fmt: skip
    sandbox.requests.clear()
    assert sandbox.requests.count() == 0


def test_client_that_gives_up_in_mid_body_writes_nothing(pair: tuple[AwsSandbox, Cloud]) -> None:
    sandbox, cloud = pair
    snapshot_id = cloud.start()
    host, port = cloud.endpoint_url.removeprefix("http://").split(":")
    scope = f"{cloud.access_key}/20260101/us-east-1/ebs/aws4_request"
    head = (
        f"PUT /snapshots/{snapshot_id}/blocks/0 HTTP/1.1\r\nHost: {host}\r\n"
        f"Authorization: AWS4-HMAC-SHA256 Credential={scope}\r\n"
        f"x-amz-Data-Length: {len(A)}\r\nx-amz-Checksum: {digest(A)}\r\n"
        f"x-amz-Checksum-Algorithm: SHA256\r\nContent-Length: {len(A)}\r\n\r\n"
    )
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(head.encode() + A[:1000])
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b""
    assert written(sandbox, snapshot_id) == []
    assert sandbox.requests.count("PutSnapshotBlock") == 0
