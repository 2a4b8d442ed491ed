"""What the sandbox's AWS services answer when they refuse a call.

Codes, HTTP statuses and reasons come from the SDK's service models (botocore ``ebs``
2019-11-02 and ``ec2`` 2016-11-15), so that real clients parse them into the documented
exceptions. Where AWS documents no code for a refusal, ``docs/sandbox.md`` says that the
choice is ours.
"""

from enum import Enum


class Reason(Enum):
    """The ``Reason`` member of EBS direct API exceptions (SDK model)."""

    INVALID_CUSTOMER_KEY = "INVALID_CUSTOMER_KEY"
    INVALID_PAGE_TOKEN = "INVALID_PAGE_TOKEN"  # noqa: S105 - an error code
    INVALID_BLOCK_TOKEN = "INVALID_BLOCK_TOKEN"  # noqa: S105 - an error code
    INVALID_SNAPSHOT_ID = "INVALID_SNAPSHOT_ID"
    UNRELATED_SNAPSHOTS = "UNRELATED_SNAPSHOTS"
    INVALID_BLOCK = "INVALID_BLOCK"
    INVALID_TAG = "INVALID_TAG"
    INVALID_PARAMETER_VALUE = "INVALID_PARAMETER_VALUE"
    INVALID_VOLUME_SIZE = "INVALID_VOLUME_SIZE"
    CONFLICTING_BLOCK_UPDATE = "CONFLICTING_BLOCK_UPDATE"
    SNAPSHOT_NOT_FOUND = "SNAPSHOT_NOT_FOUND"
    ACCOUNT_THROTTLED = "ACCOUNT_THROTTLED"
    RESOURCE_LEVEL_THROTTLE = "RESOURCE_LEVEL_THROTTLE"
    DEPENDENCY_SERVICE_QUOTA_EXCEEDED = "DEPENDENCY_SERVICE_QUOTA_EXCEEDED"
    UNAUTHORIZED_ACCOUNT = "UNAUTHORIZED_ACCOUNT"


class ApiError(Exception):
    """A refusal that reaches the client; the call had no effect.

    Args:
        status: HTTP status.
        code: exception name as the SDK knows it.
        message: text for people.
        reason: the documented sub-code, where the exception has one.
    """

    def __init__(self, status: int, code: str, message: str, reason: Reason | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.status = status
        self.code = code
        self.message = message
        self.reason = reason


def validation(message: str, reason: Reason = Reason.INVALID_PARAMETER_VALUE) -> ApiError:
    """400 ValidationException: the request is wrong; repeating it changes nothing."""
    return ApiError(400, "ValidationException", message, reason)


def not_found(snapshot_id: str) -> ApiError:
    """404 ResourceNotFoundException for a snapshot."""
    message = f"The snapshot '{snapshot_id}' does not exist."
    return ApiError(404, "ResourceNotFoundException", message, Reason.SNAPSHOT_NOT_FOUND)


def throttled(reason: Reason) -> ApiError:
    """400 RequestThrottledException; the reason names account or resource level."""
    return ApiError(400, "RequestThrottledException", "Rate exceeded", reason)


def conflict(message: str) -> ApiError:
    """409 ConflictException: one client token, two different requests."""
    return ApiError(409, "ConflictException", message)


def too_many_pending(limit: int) -> ApiError:
    """402 ServiceQuotaExceededException: too many snapshots pending in the account."""
    message = f"The account already has {limit} pending snapshots."
    reason = Reason.DEPENDENCY_SERVICE_QUOTA_EXCEEDED
    return ApiError(402, "ServiceQuotaExceededException", message, reason)
