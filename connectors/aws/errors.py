"""From the SDK's exceptions to Sealift's error tree. Nothing here retries.

What the service said is kept as operands (code, HTTP status, reason, request id). Its
message is kept too, but for credentials: a signature error quotes the signed request,
and with it the session token.
"""

import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from botocore import exceptions as boto
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from connectors.sdk_errors import delay_seconds, emptied, one_line
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


class MissingError(TargetError):
    """The service does not know the object: gone, or so new that it is not visible yet."""


_THROTTLED = frozenset(
    {
        "Throttling",
        "ThrottlingException",
        "ThrottledException",
        "RequestThrottled",
        "RequestThrottledException",
        "RequestLimitExceeded",
        "TooManyRequestsException",
        "EC2ThrottledException",
        "SlowDown",
        "SnapshotCreationPerVolumeRateExceeded",
        "BandwidthLimitExceeded",
        "ConcurrentLimitExceededException",
    }
)
_CREDENTIALS = frozenset(
    {
        "ExpiredToken",
        "ExpiredTokenException",
        "RequestExpired",
        "RequestTimeTooSkewed",
        "TokenRefreshRequired",
        "InvalidToken",
        "InvalidClientTokenId",
        "InvalidAccessKeyId",
        "UnrecognizedClientException",
        "AuthFailure",
        "MissingAuthenticationToken",
        "MissingAuthenticationTokenException",
        "IncompleteSignature",
        "IncompleteSignatureException",
        "SignatureDoesNotMatch",
        "InvalidSignatureException",
    }
)
_DENIED = frozenset(
    {
        "AccessDenied",
        "AccessDeniedException",
        "UnauthorizedOperation",
        "UnauthorizedAccess",
        "OptInRequired",
        "Blocked",
        "NotAuthorizedException",
        "AllAccessDisabled",
        "AccountProblem",
    }
)
_QUOTA = frozenset({"InsufficientFreeAddressesInSubnet", "ServiceQuotaExceededException"})
_QUOTA_SUFFIXES = ("LimitExceeded", "LimitExceededException", "QuotaExceeded")
_TRANSIENT = frozenset(
    {
        "InternalServerException",
        "InternalServerError",
        "InternalError",
        "InternalFailure",
        "ServiceUnavailable",
        "ServiceUnavailableException",
        "Unavailable",
        "RequestTimeout",
        "RequestTimeoutException",
        "Server.InternalError",
        "BadDigest",
        "IncompleteBody",
        "XAmzContentChecksumMismatch",
        "XAmzContentSHA256Mismatch",
        "ConditionalRequestConflict",
        "OperationAborted",
        "IncorrectState",
        "IncorrectInstanceState",
    }
)
# Permanent although AWS says 500: it lasts for minutes, and the source stands still meanwhile.
_NO_CAPACITY = frozenset(
    {"InsufficientInstanceCapacity", "InsufficientVolumeCapacity", "InsufficientCapacity"}
)
_MISSING = re.compile(r"(\.NotFound|\.Unavailable|^NotFoundException|^ResourceNotFoundException)$")
_TRANSIENT_REASONS = frozenset({"WRITE_REQUEST_TIMEOUT", "CONFLICTING_BLOCK_UPDATE"})
# The service answers a body that arrived late or damaged as a bad parameter; the text is all
# that tells it from a request that is wrong (nanovms/ops pull request 1268).
_TRANSIENT_TEXT = re.compile(r"read block data|checksum", re.IGNORECASE)
_SIGNED = re.compile(
    r"(?i)((?:signature|token|credential|authorization|secret)[\w-]{0,40}\s*[:=]\s*)[^\s,;&]+"
)
_KEY_ID = re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{12,}\b")
_ENCODED = re.compile(r"\s*Encoded authorization failure message:.*", re.DOTALL)

_RENEW = (
    "renew the credentials (for example `aws sso login`), then run the same command again: "
    "nothing is lost and nothing is sent twice"
)
_NETWORK = (boto.HTTPClientError, boto.ConnectionError, HTTPError, OSError)
_UNREADABLE = (
    ResponseParserError,
    boto.IncompleteReadError,
    boto.ChecksumError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)
_NO_CREDENTIALS = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
    boto.NoAuthTokenError,
    boto.TokenRetrievalError,
    boto.SSOError,
    boto.InvalidConfigError,
    boto.MetadataRetrievalError,
)
_CONFIGURATION = (
    boto.NoRegionError,
    boto.ProfileNotFound,
    boto.ConfigNotFound,
    boto.ConfigParseError,
    boto.InvalidRegionError,
)


@contextmanager
def aws_call(action: str) -> Iterator[None]:
    """Run one SDK call and nothing else; what it raises comes out classified.

    Args:
        action: the IAM action, such as ``ebs:PutSnapshotBlock``; named in every error.
    """
    outer = sys.exc_info()[1]
    try:
        yield
    except SealiftError:
        raise
    except Exception as error:
        # Without its cause: the SDK's own exception may quote signed headers. It stays as the
        # context of ours whatever we do, so it is emptied too.
        failure = classify(error, action)
        emptied(error, outer)
        raise failure from None


def classify(error: Exception, action: str) -> SealiftError:
    """The Sealift error for what the SDK raised; never retries, never keeps secrets.

    An exception that is none of the SDK's or the network's is raised as it is.
    """
    if isinstance(error, boto.ClientError):
        return _refusal(error, action)
    kind = type(error).__name__
    if isinstance(error, _NO_CREDENTIALS):
        return CredentialsError(
            f"{action}: no usable AWS credentials ({kind})", next_step=_RENEW, action=action
        )
    if isinstance(error, _CONFIGURATION):
        step = "set region and profile in the plan, or AWS_DEFAULT_REGION and AWS_PROFILE"
        return ConfigError(f"AWS configuration: {error}", next_step=step, action=action)
    if isinstance(error, boto.ParamValidationError):
        return TargetError(f"{action}: {one_line(str(error))}", action=action)
    if isinstance(error, boto.SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error):
        return TargetError(
            f"{action}: the endpoint's certificate cannot be verified",
            next_step="check endpoint, proxy and AWS_CA_BUNDLE",
            action=action,
        )
    if isinstance(error, _NETWORK):
        return ConnectionLostError(f"{action}: {kind}", action=action, kind=kind)
    if isinstance(error, _UNREADABLE) or _is_impossible_time(error):
        return TransientError(f"{action}: the answer cannot be read ({kind})", action=action)
    if isinstance(error, boto.BotoCoreError):
        return TargetError(f"{action}: {kind}", action=action)
    raise error


def _is_impossible_time(error: Exception) -> bool:
    """The SDK's way to say that a date of an answer is out of all bounds."""
    return isinstance(error, RuntimeError) and "timezone offset" in str(error)


def field_of(answer: Mapping[str, Any], name: str, action: str) -> Any:
    """A field that an honest answer always has.

    Raises:
        TransientError: it is missing: a success status with an error or a stranger's page
            in its body (faults of proxies and of services under load); repeat the call.
    """
    value = answer.get(name)
    if value is None or value == "":
        raise TransientError(f"{action}: the answer has no {name}", action=action)
    return value


def code_of(error: SealiftError) -> str:
    """The service's own error code, or ""."""
    return str(error.operands.get("aws_code", ""))


def _refusal(error: boto.ClientError, action: str) -> SealiftError:
    facts = _Facts(error, action)
    known = _by_code(facts)
    if known is not None:
        return known
    if facts.status >= 500 or facts.code in _TRANSIENT:
        return TransientError(facts.text, **facts.operands)
    if facts.reason in _TRANSIENT_REASONS or facts.damaged_on_the_way:
        return TransientError(facts.text, **facts.operands)
    if not 400 <= facts.status < 500:
        return TransientError(f"{action}: not an answer of AWS", **facts.operands)
    return TargetError(facts.text, **facts.operands)


def _by_code(facts: "_Facts") -> SealiftError | None:
    code = facts.code
    if code in _CREDENTIALS:
        text = f"{facts.action}: AWS refuses the credentials ({code})"
        step = _RENEW + "; if they are fresh, check this machine's clock"
        return CredentialsError(text, next_step=step, **facts.operands)
    if code in _DENIED:
        step = f"allow {facts.action} to the identity that runs Sealift"
        text = f"{facts.action}: permission denied ({code}): {facts.message}"
        return TargetDeniedError(text, next_step=step, **facts.operands)
    if code in _THROTTLED and not facts.pending_limit:
        wait = facts.retry_after_seconds
        return ThrottledError(facts.text, retry_after_seconds=wait, **facts.operands)
    if facts.pending_limit or code in _QUOTA or code.endswith(_QUOTA_SUFFIXES):
        step = "raise the quota or clean up, then run the same command again"
        return QuotaError(facts.text, next_step=step, **facts.operands)
    if code in _NO_CAPACITY:
        step = "name another instance_type or a subnet in another zone, then cut over again"
        return TargetError(facts.text, next_step=step, **facts.operands)
    if facts.status < 500 and _MISSING.search(code):
        return MissingError(facts.text, **facts.operands)
    return None


class _Facts:
    """What a refusal says, without secrets."""

    def __init__(self, error: boto.ClientError, action: str) -> None:
        body: Mapping[str, Any] = error.response.get("Error", {})
        meta: Mapping[str, Any] = error.response.get("ResponseMetadata", {})
        self.action = action
        self.code = one_line(str(body.get("Code", ""))).removeprefix("Client.")
        self.status = int(meta.get("HTTPStatusCode", 0))
        self.reason = one_line(str(error.response.get("Reason", "")))
        self.message = one_line(_unsigned(_ENCODED.sub("", str(body.get("Message", "")))))
        self.text = f"{action}: {self.code}: {self.message}"
        self.retry_after_seconds = delay_seconds(meta.get("HTTPHeaders", {}).get("retry-after"))
        self.operands: dict[str, Any] = {
            "action": action,
            "aws_code": self.code,
            "http_status": self.status,
            "aws_reason": self.reason,
            "request_id": str(meta.get("RequestId", "")),
        }

    @property
    def pending_limit(self) -> bool:
        """The 100 pending snapshots of an account, which waiting alone does not free."""
        return self.code == "ConcurrentLimitExceededException" and "pending" in self.message

    @property
    def damaged_on_the_way(self) -> bool:
        return self.action == "ebs:PutSnapshotBlock" and bool(_TRANSIENT_TEXT.search(self.message))


def _unsigned(text: str) -> str:
    """Without keys and signatures: a proxy or a service may quote the request in any error."""
    return _KEY_ID.sub("[hidden]", _SIGNED.sub(r"\1[hidden]", text))
