"""What Azure and its SDK raise is classified by code, and quotes no secret."""

from collections.abc import Mapping

import pytest
from azure.core import exceptions as core

from connectors.azure.errors import MissingError, azure_call, classify, code_of, refusal_of
from sealift.errors import (
    ConnectionLostError,
    CredentialsError,
    QuotaError,
    SealiftError,
    TargetDeniedError,
    TargetError,
    ThrottledError,
    TransientError,
)

ACTION = "Microsoft.Compute/disks/write"


def refused(status: int, code: str, message: str = "words", **headers: str) -> SealiftError:
    shown = {name.replace("_", "-"): value for name, value in headers.items()}
    return refusal_of(ACTION, status, shown, {"error": {"code": code, "message": message}})


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (401, "InvalidAuthenticationToken", CredentialsError),
        (403, "AuthenticationFailed", CredentialsError),
        (403, "AuthorizationFailed", TargetDeniedError),
        (403, "AuthorizationPermissionMismatch", TargetDeniedError),
        (403, "", TargetDeniedError),
        (404, "ResourceNotFound", MissingError),
        (409, "OperationNotAllowed", TargetError),
        (409, "SkuNotAvailable", TargetError),
        (409, "AnotherOperationInProgress", TransientError),
        (400, "Md5Mismatch", TransientError),
        (400, "QuotaExceeded", QuotaError),
        (429, "", ThrottledError),
        (503, "ServerBusy", ThrottledError),
        (500, "InternalError", TransientError),
        (502, "", TransientError),
        (200, "", TransientError),
    ],
)
def test_a_refusal_has_its_class(status: int, code: str, kind: type[SealiftError]) -> None:
    error = refused(status, code)
    assert type(error) is kind
    assert code_of(error) == code
    assert ACTION in error.message


def test_a_quota_hides_behind_a_general_code() -> None:
    """Compute answers OperationNotAllowed; only its words name the quota."""
    text = "Operation could not be completed as it results in exceeding approved Total Cores quota."
    assert isinstance(refused(409, "OperationNotAllowed", text), QuotaError)


def test_the_delay_that_azure_names_is_kept() -> None:
    error = refused(429, "TooManyRequests", Retry_After="17")
    assert isinstance(error, ThrottledError)
    assert error.retry_after_seconds == 17


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (core.ServiceRequestError("x"), ConnectionLostError),
        (core.ServiceResponseTimeoutError("x"), ConnectionLostError),
        (core.IncompleteReadError("x"), TransientError),
        (core.DecodeError("x"), TransientError),
        (core.ClientAuthenticationError("x"), CredentialsError),
        (ConnectionResetError(), ConnectionLostError),
        (KeyError("x"), TransientError),
        (core.AzureError("x"), TargetError),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, Exception) else v.__name__,
)
def test_what_the_sdk_raises_has_its_class(raised: Exception, kind: type[SealiftError]) -> None:
    assert type(classify(raised, ACTION)) is kind


def test_an_error_of_our_own_is_raised_as_it_is() -> None:
    with pytest.raises(ZeroDivisionError), azure_call(ACTION):
        raise ZeroDivisionError


@pytest.mark.fault(53)
@pytest.mark.parametrize(
    "quoted",
    [
        "https://a.blob.core.windows.net/c/b?sv=2024&sig=SECRETSECRET%3D&se=1",
        "Authorization: Bearer SECRETSECRET",
        "AccountKey=SECRETSECRET;x",
        "token eyJhbGciOi.eyJzdWIi.SECRETSECRET was refused",
    ],
)
def test_no_error_quotes_what_signs_a_request(quoted: str) -> None:
    error = refused(400, "InvalidInput", quoted)
    assert "SECRETSECRET" not in f"{error} {error.operands}"


@pytest.mark.fault(53)
def test_the_context_of_an_error_is_emptied() -> None:
    """The SDK's exception holds the request, with its token."""

    class Answer:
        status_code = 400
        reason = "bad"
        headers: Mapping[str, str] = {}

        def __repr__(self) -> str:
            return "SECRETSECRET"

        def text(self) -> str:
            return ""

    with pytest.raises(TargetError) as caught, azure_call(ACTION):
        raise core.HttpResponseError("SECRETSECRET", response=Answer())  # type: ignore[arg-type]
    below = caught.value.__context__
    assert "SECRETSECRET" not in f"{below!r} {vars(below) if below else ''}"
