"""Immutability policies of blobs, which Azurite does not have.

"Configure immutability policies for blob versions", "Set Blob Immutability Policy", "Delete Blob
Immutability Policy", "Put Blob": a container with version-level immutability takes policies; an
unlocked one can be changed and removed, a locked one only be extended; while one lasts its blob
is neither deleted nor changed (409 BlobImmutableDueToPolicy). The service keeps what is
overwritten as a version; here there are no versions, and overwriting is refused, too.
"""

import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime

from azure.core.exceptions import ResourceNotFoundError
from azure.storage.blob import BlobServiceClient

from sandbox.azure.blob_calls import CHANGES, BlobRequest
from sandbox.azure.https import Reply
from sealift.clock import Clock

UNTIL, MODE = "x-ms-immutability-policy-until-date", "x-ms-immutability-policy-mode"
ENABLED = "x-ms-immutable-storage-with-versioning-enabled"
_ALLOWED = frozenset({"SnapshotBlob", "CreateContainer"})
Refusal = tuple[int, str, str]


@dataclass(frozen=True, slots=True)
class Policy:
    """How long a blob stays as it is, and whether that may still be changed."""

    until: datetime
    locked: bool


class LockBook:
    """The policies of an account; safe from several threads.

    Args:
        service: Azurite with the account's key.
        clock: when policies end.
    """

    def __init__(self, service: BlobServiceClient, clock: Clock) -> None:
        self._service = service
        self._clock = clock
        self._lock = threading.Lock()
        self._containers: set[str] = set()
        self._policies: dict[tuple[str, str], Policy] = {}

    def enable(self, container: str) -> None:
        """Give a container version-level immutability, as its owner does when it is made."""
        with self._lock:
            self._containers.add(container)

    def refused(self, request: BlobRequest) -> Refusal | None:
        """Status, code and message of what a policy keeps from being done."""
        if UNTIL in request.headers and request.operation == "PutBlob":
            found = self._checked(request)
            if not isinstance(found, Policy):
                return found
        changes = request.operation in CHANGES - _ALLOWED and not request.snapshot
        if changes and self._lasting(request) is not None:
            message = "This operation is not permitted as the blob is immutable due to a policy."
            return 409, "BlobImmutableDueToPolicy", message
        return None

    def answer(self, request: BlobRequest) -> Reply | Refusal | None:
        """The reply to a call that is about a policy; ``None`` for all other calls."""
        if request.operation == "SetBlobImmutabilityPolicy":
            return self._set(request)
        if request.operation == "DeleteBlobImmutabilityPolicy":
            return self._removed(request)
        return None

    def carried_on(self, headers: Mapping[str, str]) -> Mapping[str, str]:
        """The headers that Azurite understands."""
        if UNTIL not in headers and MODE not in headers:
            return headers
        return {name: text for name, text in headers.items() if name not in (UNTIL, MODE)}

    def done(self, request: BlobRequest, reply: Reply) -> Reply:
        """Take note of what was done, and show what is kept."""
        place = (request.container, request.blob)
        if request.operation == "PutBlob" and reply.status == 201:
            found = self._checked(request) if UNTIL in request.headers else None
            with self._lock:
                self._policies.pop(place, None)
                if isinstance(found, Policy):
                    self._policies[place] = found
        if request.operation == "DeleteBlob" and reply.status == 202:
            with self._lock:
                self._policies.pop(place, None)
        shown: tuple[tuple[str, str], ...] = ()
        if request.operation == "GetContainerProperties":
            with self._lock:
                enabled = request.container in self._containers
            shown = ((ENABLED, str(enabled).lower()),) if enabled else ()
        elif request.operation in ("GetBlob", "GetBlobProperties") and reply.status < 300:
            with self._lock:
                policy = self._policies.get(place)
            shown = _headers(policy) if policy else ()
        return Reply(reply.status, reply.body, reply.headers + shown)

    def _lasting(self, request: BlobRequest) -> Policy | None:
        with self._lock:
            policy = self._policies.get((request.container, request.blob))
        return policy if policy is not None and policy.until > self._clock.now() else None

    def _checked(self, request: BlobRequest) -> Policy | Refusal:
        with self._lock:
            enabled = request.container in self._containers
        if not enabled:
            message = "Version-level immutability is not enabled for the container."
            return 409, "ImmutableStorageWithVersioningNotEnabled", message
        try:
            until = parsedate_to_datetime(request.headers.get(UNTIL, "")).astimezone(UTC)
        except ValueError:
            return 400, "InvalidHeaderValue", f"The value of {UNTIL} is not a date."
        mode = request.headers.get(MODE, "unlocked").lower()
        if mode not in ("locked", "unlocked"):
            return 400, "InvalidHeaderValue", f"The value of {MODE} is neither."
        if until <= self._clock.now():
            return 400, "InvalidHeaderValue", f"The value of {UNTIL} is in the past."
        return Policy(until, mode == "locked")

    def _set(self, request: BlobRequest) -> Reply | Refusal:
        found, present = self._checked(request), self._lasting(request)
        if not isinstance(found, Policy):
            return found
        if not self._exists(request):
            return 404, "BlobNotFound", "The specified blob does not exist."
        weaker = present and (not found.locked or found.until < present.until)
        if present and present.locked and weaker:
            message = "A locked immutability policy can only be extended."
            return 409, "BlobImmutableDueToPolicy", message
        with self._lock:
            self._policies[request.container, request.blob] = found
        return Reply(200, b"", _service_headers() + _headers(found))

    def _removed(self, request: BlobRequest) -> Reply | Refusal:
        present = self._lasting(request)
        if present is not None and present.locked:
            return 409, "BlobImmutableDueToPolicy", "A locked policy cannot be removed."
        with self._lock:
            self._policies.pop((request.container, request.blob), None)
        return Reply(200, b"", _service_headers())

    def _exists(self, request: BlobRequest) -> bool:
        with self._service.get_blob_client(request.container, request.blob) as blob:
            try:
                blob.get_blob_properties()
            except ResourceNotFoundError:
                return False
        return True


def _service_headers() -> tuple[tuple[str, str], ...]:
    """What every answer of the service has ("Status and error codes")."""
    return (("x-ms-request-id", str(uuid.uuid4())), ("x-ms-version", "2021-12-02"))


def _headers(policy: Policy) -> tuple[tuple[str, str], ...]:
    mode = "locked" if policy.locked else "unlocked"
    return ((UNTIL, format_datetime(policy.until, usegmt=True)), (MODE, mode))
