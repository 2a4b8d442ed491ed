"""Every way in which AWS says no, by what the caller may do next."""

import socket
from typing import Any

import boto3
import botocore.exceptions as boto
import pytest
from botocore.parsers import ResponseParserError
from hypothesis import given
from hypothesis import strategies as st

from connectors.aws.errors import MissingError, aws_call, classify, code_of, field_of
from connectors.aws.session import AwsClients, client_config
from connectors.aws.spec import AwsSpec
from sealift.errors import (
    ConfigError,
    ConnectionLostError,
    CredentialsError,
    QuotaError,
    SealiftError,
    TargetDeniedError,
    TargetError,
    ThrottledError,
    TransientError,
)

SECRET = "FwoGZXIvYXdzEXAMPLETOKEN"


def refusal(
    code: str,
    status: int = 400,
    message: str = "no",
    reason: str = "",
    headers: dict[str, str] | None = None,
) -> boto.ClientError:
    response = {
        "Error": {"Code": code, "Message": message},
        "ResponseMetadata": {
            "HTTPStatusCode": status,
            "RequestId": "req-1",
            "HTTPHeaders": headers or {},
        },
        "Reason": reason,
    }
    return boto.ClientError(response, "PutSnapshotBlock")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("RequestThrottledException", 400, ThrottledError),
        ("ThrottlingException", 400, ThrottledError),
        ("RequestLimitExceeded", 503, ThrottledError),
        ("SnapshotCreationPerVolumeRateExceeded", 400, ThrottledError),
        ("InternalServerException", 500, TransientError),
        ("ServiceUnavailable", 503, TransientError),
        ("InsufficientInstanceCapacity", 500, TargetError),
        ("502", 502, TransientError),
        ("ExpiredTokenException", 400, CredentialsError),
        ("RequestExpired", 400, CredentialsError),
        ("UnrecognizedClientException", 403, CredentialsError),
        ("InvalidClientTokenId", 403, CredentialsError),
        ("AuthFailure", 401, CredentialsError),
        ("AccessDeniedException", 403, TargetDeniedError),
        ("UnauthorizedOperation", 403, TargetDeniedError),
        ("Client.UnauthorizedOperation", 403, TargetDeniedError),
        ("ServiceQuotaExceededException", 402, QuotaError),
        ("VcpuLimitExceeded", 400, QuotaError),
        ("SnapshotLimitExceeded", 400, QuotaError),
        ("InsufficientFreeAddressesInSubnet", 400, QuotaError),
        ("ResourceNotFoundException", 404, MissingError),
        ("InvalidSnapshot.NotFound", 400, MissingError),
        ("InvalidInstanceID.NotFound", 400, MissingError),
        ("InvalidAMIID.Unavailable", 400, MissingError),
        ("ValidationException", 400, TargetError),
        ("InvalidParameterValue", 400, TargetError),
        ("UnsupportedOperation", 400, TargetError),
        ("301", 301, TransientError),
    ],
)
def test_a_refusal_says_what_may_be_done_next(
    code: str, status: int, kind: type[SealiftError]
) -> None:
    error = classify(refusal(code, status), "ec2:RunInstances")
    assert type(error) is kind
    assert error.operands["request_id"] == "req-1"
    assert error.operands["http_status"] == status
    assert code_of(error) == code.removeprefix("Client.")
    assert "ec2:RunInstances" in error.message


@pytest.mark.parametrize(
    ("reason", "message"),
    [
        ("WRITE_REQUEST_TIMEOUT", "no"),
        ("CONFLICTING_BLOCK_UPDATE", "no"),
        ("INVALID_PARAMETER_VALUE", "Failed to read block data"),
        ("INVALID_BLOCK", "The checksum does not match the block data"),
    ],
)
def test_a_block_that_was_damaged_or_late_may_be_sent_again(reason: str, message: str) -> None:
    error = classify(refusal("ValidationException", 400, message, reason), "ebs:PutSnapshotBlock")
    assert type(error) is TransientError


def test_a_wrong_total_is_not_transient() -> None:
    answer = refusal("ValidationException", 400, "The aggregated checksum does not match")
    assert type(classify(answer, "ebs:CompleteSnapshot")) is TargetError


@pytest.mark.fault(24)
@pytest.mark.parametrize(
    ("text", "seconds"),
    [("7", 7.0), ("0.5", 0.5), ("-1", None), ("nan", None), ("Wed, 21 Oct", None), ("1e9", None)],
)
def test_the_delay_that_the_service_names_is_kept(text: str, seconds: float | None) -> None:
    error = classify(refusal("Throttling", headers={"retry-after": text}), "ebs:PutSnapshotBlock")
    assert isinstance(error, ThrottledError)
    assert error.retry_after_seconds == seconds


def test_pending_snapshots_are_a_quota_and_not_a_pace() -> None:
    many = refusal("ConcurrentLimitExceededException", message="100 pending snapshots")
    fast = refusal("ConcurrentLimitExceededException", message="too many requests")
    assert type(classify(many, "ebs:StartSnapshot")) is QuotaError
    assert type(classify(fast, "ebs:StartSnapshot")) is ThrottledError


def test_a_denial_names_the_permission_and_hides_the_encoded_message() -> None:
    message = "You are not authorized. Encoded authorization failure message: Ab-3x" + "y" * 900
    error = classify(refusal("UnauthorizedOperation", 403, message), "ec2:RegisterImage")
    assert "allow ec2:RegisterImage" in error.next_step
    assert "Ab-3x" not in error.message


@pytest.mark.fault(53)
def test_a_signature_error_does_not_quote_what_was_signed() -> None:
    message = f"The canonical string should have been 'x-amz-security-token:{SECRET}'"
    error = classify(refusal("SignatureDoesNotMatch", 403, message), "ebs:PutSnapshotBlock")
    assert isinstance(error, CredentialsError)
    assert SECRET not in f"{error.message} {error.next_step} {error.operands}"
    assert "run the same command again" in error.next_step
    assert "clock" in error.next_step


@given(
    code=st.text(max_size=40),
    status=st.integers(min_value=0, max_value=999),
    message=st.text(max_size=80),
    reason=st.text(max_size=40),
)
def test_any_refusal_gives_an_error_of_the_tree(
    code: str, status: int, message: str, reason: str
) -> None:
    error = classify(refusal(code, status, message, reason), "ebs:PutSnapshotBlock")
    assert isinstance(error, SealiftError)
    assert error.exit_code in (30, 31, 32, 75)
    assert "\n" not in error.message


@pytest.mark.fault(53)
@pytest.mark.parametrize(
    ("cause", "kind"),
    [
        (boto.NoCredentialsError(), CredentialsError),
        (
            boto.CredentialRetrievalError(provider="process", error_msg=SECRET),
            CredentialsError,
        ),
        (boto.UnauthorizedSSOTokenError(), CredentialsError),
        (boto.NoRegionError(), ConfigError),
        (boto.ProfileNotFound(profile="nobody"), ConfigError),
        (boto.ReadTimeoutError(endpoint_url="http://x"), ConnectionLostError),
        (boto.ConnectTimeoutError(endpoint_url="http://x"), ConnectionLostError),
        (boto.ConnectionClosedError(endpoint_url="http://x"), ConnectionLostError),
        (boto.ResponseStreamingError(error="cut"), ConnectionLostError),
        (ConnectionResetError(), ConnectionLostError),
        (boto.SSLError(endpoint_url="https://x", error=OSError("EOF")), ConnectionLostError),
        (
            boto.SSLError(endpoint_url="https://x", error=OSError("CERTIFICATE_VERIFY_FAILED")),
            TargetError,
        ),
        (boto.IncompleteReadError(actual_bytes=1, expected_bytes=2), TransientError),
        (ResponseParserError("not XML"), TransientError),
        (ValueError("not JSON"), TransientError),
        (boto.ParamValidationError(report="Missing x"), TargetError),
    ],
)
def test_what_the_sdk_raises_is_classified_without_secrets(
    cause: Exception, kind: type[SealiftError]
) -> None:
    with pytest.raises(kind) as caught, aws_call("ebs:PutSnapshotBlock"):
        raise cause
    assert type(caught.value) is kind
    assert SECRET not in f"{caught.value.message} {caught.value.operands}"
    assert caught.value.__suppress_context__


def test_a_bug_of_ours_is_not_hidden() -> None:
    with pytest.raises(RuntimeError), aws_call("ebs:PutSnapshotBlock"):
        raise RuntimeError("bug")


@pytest.mark.fault(18)
def test_an_answer_without_its_field_is_transient() -> None:
    assert field_of({"Encrypted": False}, "Encrypted", "x") is False
    for answer in ({}, {"SnapshotId": None}, {"SnapshotId": ""}):
        with pytest.raises(TransientError, match="has no SnapshotId"):
            field_of(answer, "SnapshotId", "ebs:StartSnapshot")


def test_nobody_listens(clean_environment: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        spec = AwsSpec("s", ("g",), region="eu-north-1", endpoint=_url(free))
        with pytest.raises(ConnectionLostError), aws_call("sts:GetCallerIdentity"):
            AwsClients(spec).sts.get_caller_identity()


def _url(bound: socket.socket) -> str:
    return f"http://127.0.0.1:{bound.getsockname()[1]}"


def test_no_credentials_and_no_region_are_named(clean_environment: None) -> None:
    spec = AwsSpec("s", ("g",), region="eu-north-1", endpoint="http://127.0.0.1:9")
    with pytest.raises(CredentialsError, match="no usable AWS credentials"), aws_call("sts:X"):
        AwsClients(spec).sts.get_caller_identity()
    with pytest.raises(ConfigError, match="region"):
        _ = AwsClients(AwsSpec("s", ("g",))).ec2
    with pytest.raises(ConfigError, match="nobody"):
        _ = AwsClients(AwsSpec("s", ("g",), profile="nobody")).ec2


@pytest.mark.fault(24)
def test_the_sdk_repeats_nothing_whatever_the_environment_says(
    clean_environment: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "9")
    monkeypatch.setenv("AWS_RETRY_MODE", "adaptive")
    spec = AwsSpec("s", ("g",), region="eu-north-1", concurrency=64)
    client = boto3.Session().client("ebs", region_name="eu-north-1", config=client_config(spec))
    used: Any = client.meta.config
    assert used.retries["total_max_attempts"] == 1
    assert used.max_pool_connections >= 64
