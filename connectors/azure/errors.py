"""From the SDK's exceptions to Sealift's error tree. Nothing here retries.

What the service said is kept as operands (code, HTTP status, request id). Its message is kept
too, but for credentials, and without what signs a request: an address with a shared access
signature is quoted by many an error.

Codes are those of "Common REST API error codes" and "Blob Storage error codes" (storage), of
"Troubleshoot common Azure deployment errors" (Resource Manager) and of "Azure Key Vault REST
API error codes".
"""

import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from azure.core import exceptions as core
from requests.exceptions import RequestException
from urllib3.exceptions import HTTPError

from connectors.sdk_errors import delay_seconds, emptied, one_line
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


class MissingError(TargetError):
    """The service does not know the object: gone, or so new that it is not visible yet."""


_CREDENTIALS = frozenset(
    {
        "AuthenticationFailed",
        "AuthenticationFailedInvalidHeader",
        "ExpiredAuthenticationToken",
        "InvalidAuthenticationInfo",
        "InvalidAuthenticationToken",
        "InvalidAuthenticationTokenTenant",
        "NoAuthenticationInformation",
        "Unauthorized",
    }
)
_DENIED = frozenset(
    {
        "AccountIsDisabled",
        "AuthorizationFailed",
        "AuthorizationFailure",
        "AuthorizationPermissionMismatch",
        "AuthorizationProtocolMismatch",
        "AuthorizationResourceTypeMismatch",
        "AuthorizationServiceMismatch",
        "AuthorizationSourceIPMismatch",
        "Forbidden",
        "InsufficientAccountPermissions",
        "LinkedAuthorizationFailed",
        "PublicAccessNotPermitted",
        "RequestDisallowedByPolicy",
    }
)
_THROTTLED = frozenset(
    {
        "ServerBusy",
        "SubscriptionRequestsThrottled",
        "Throttled",
        "TooManyRequests",
    }
)
_QUOTA = frozenset({"QuotaExceeded", "ResourceQuotaExceeded", "SubscriptionQuotaExceeded"})
# Permanent although it may pass: it lasts for hours, and the source stands still meanwhile.
_NO_CAPACITY = frozenset(
    {
        "AllocationFailed",
        "OverconstrainedAllocationRequest",
        "OverconstrainedZonalAllocationRequest",
        "SkuNotAvailable",
        "ZonalAllocationFailed",
    }
)
_TRANSIENT = frozenset(
    {
        "AnotherOperationInProgress",
        "InternalError",
        "InternalServerError",
        "Md5Mismatch",
        "Crc64Mismatch",
        "OperationPreempted",
        "OperationTimedOut",
        "RequestTimeout",
        "RetryableError",
        "ServerTimeout",
        "ServiceUnavailable",
    }
)
_SIGNED = re.compile(
    r"(?i)((?:\bsig|signature|token|credential|authorization|secret|accountkey|password)"
    r"[\w-]{0,40}\s*[:=]\s*)(?:bearer\s+)?[^\s,;&]+"
)
_JWT = re.compile(r"\beyJ[\w-]+\.[\w-]+\.[\w-]*")

_RENEW = (
    "renew the credentials (for example `az login`), then run the same command again: "
    "nothing is lost and nothing is sent twice"
)
_LOST = (
    core.ServiceRequestError,
    core.ServiceResponseError,
    RequestException,
    HTTPError,
    OSError,
)
_UNREADABLE = (
    core.DecodeError,
    core.DeserializationError,
    core.SerializationError,
    core.ODataV4Error,
    core.StreamClosedError,
    core.StreamConsumedError,
    core.ResponseNotReadError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    RecursionError,
)


@contextmanager
def azure_call(action: str) -> Iterator[None]:
    """Run one SDK call and nothing else; what it raises comes out classified.

    Args:
        action: as roles name it, such as ``Microsoft.Compute/disks/write``; in every error.
    """
    outer = sys.exc_info()[1]
    try:
        yield
    except SealiftError:
        raise
    except Exception as error:
        failure = classify(error, action)
        emptied(error, outer)
        raise failure from None


def classify(error: Exception, action: str) -> SealiftError:
    """The Sealift error for what the SDK raised; never retries, never keeps secrets.

    An exception that is none of the SDK's or the network's is raised as it is.
    """
    kind = type(error).__name__
    if isinstance(error, core.IncompleteReadError):
        return TransientError(f"{action}: the answer was cut off", action=action)
    if isinstance(error, core.HttpResponseError) and error.status_code:
        return _refusal(error, action)
    if isinstance(error, core.ClientAuthenticationError):
        return CredentialsError(
            f"{action}: no usable Azure credentials ({kind})", next_step=_RENEW, action=action
        )
    if isinstance(error, _LOST):
        return ConnectionLostError(f"{action}: connection failed ({kind})", action=action)
    if isinstance(error, _UNREADABLE):
        return TransientError(f"{action}: the answer cannot be read ({kind})", action=action)
    if isinstance(error, core.HttpResponseError):  # without a status: of a stream that broke
        return ConnectionLostError(f"{action}: the answer broke off ({kind})", action=action)
    if isinstance(error, core.AzureError):
        return TargetError(f"{action}: {kind}", action=action)
    raise error


def field_of(answer: Mapping[str, Any], name: str, action: str) -> Any:
    """A field or header that an honest answer always has.

    Raises:
        TransientError: it is missing: a success status with an error or a stranger's page
            in its body; repeat the call.
    """
    value = answer.get(name)
    if value is None or value == "":
        raise TransientError(f"{action}: the answer has no {name}", action=action)
    return value


def code_of(error: SealiftError) -> str:
    """The service's own error code, or ""."""
    return str(error.operands.get("azure_code", ""))


def refusal_of(action: str, status: int, headers: Mapping[str, str], body: Any) -> SealiftError:
    """The error for an answer that is no success.

    Args:
        action: as roles name it.
        status: of HTTP.
        headers: of the answer, in any case.
        body: the document of the error as far as it was read: a mapping, or nothing.
    """
    return _of(_Facts(action, status, headers, body))


def _refusal(error: core.HttpResponseError, action: str) -> SealiftError:
    headers = getattr(error.response, "headers", None) or {}
    odata: Any = error.error
    code = getattr(error, "error_code", None) or getattr(odata, "code", None)
    words = getattr(odata, "message", None) or error.message
    body = {"error": {"code": str(code or ""), "message": str(words or "")}}
    return refusal_of(action, int(error.status_code or 0), headers, body)


def _of(facts: "_Facts") -> SealiftError:
    known = _by_code(facts)
    if known is not None:
        return known
    if facts.status >= 500 or facts.status == 408 or facts.code in _TRANSIENT:
        return TransientError(facts.text, **facts.operands)
    if not 400 <= facts.status < 500:
        return TransientError(f"{facts.action}: not an answer of Azure", **facts.operands)
    if facts.status == 404:
        return MissingError(facts.text, **facts.operands)
    return TargetError(facts.text, **facts.operands)


def _by_code(facts: "_Facts") -> SealiftError | None:
    if facts.status == 429 or facts.code in _THROTTLED:
        wait = facts.retry_after_seconds
        return ThrottledError(facts.text, retry_after_seconds=wait, **facts.operands)
    if facts.status == 401 or facts.code in _CREDENTIALS:
        text = f"{facts.action}: Azure refuses the credentials ({facts.code or facts.status})"
        step = _RENEW + "; if they are fresh, check this machine's clock"
        return CredentialsError(text, next_step=step, **facts.operands)
    if facts.code in _QUOTA or (
        facts.code == "OperationNotAllowed" and "quota" in facts.message.lower()
    ):
        step = "raise the quota or clean up, then run the same command again"
        return QuotaError(facts.text, next_step=step, **facts.operands)
    if facts.code in _NO_CAPACITY:
        step = "name another vm_size, zone or location, then run the same command again"
        return TargetError(facts.text, next_step=step, **facts.operands)
    if facts.status == 403 or facts.code in _DENIED:
        step = f"allow {facts.action} to the identity that runs Sealift"
        text = f"{facts.action}: permission denied ({facts.code}): {facts.message}"
        return TargetDeniedError(text, next_step=step, **facts.operands)
    return None


class _Facts:
    """What a refusal says, without secrets."""

    def __init__(self, action: str, status: int, headers: Mapping[str, str], body: Any) -> None:
        lower = {str(name).lower(): str(value) for name, value in headers.items()}
        error = body.get("error") if isinstance(body, Mapping) else None
        error = error if isinstance(error, Mapping) else {}
        self.action = action
        self.status = status
        self.code = one_line(lower.get("x-ms-error-code") or str(error.get("code") or ""))
        self.message = one_line(unsigned(str(error.get("message") or "")))
        self.text = f"{action}: {self.code or status}: {self.message}"
        self.retry_after_seconds = delay_seconds(lower.get("retry-after"))
        self.operands: dict[str, Any] = {
            "action": action,
            "azure_code": self.code,
            "http_status": status,
            "request_id": one_line(lower.get("x-ms-request-id", "")),
        }


def unsigned(text: str) -> str:
    """Without keys, tokens and signatures: a proxy or a service may quote the request."""
    return _JWT.sub("[hidden]", _SIGNED.sub(r"\1[hidden]", text))
