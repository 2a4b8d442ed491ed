"""A container of Azure Blob Storage as object store."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from enum import Enum
from typing import TYPE_CHECKING, Any

from connectors.azure.blob_listing import Page, read_page
from connectors.azure.blob_wire import Answer, Ask, BlobWire, md5_of
from connectors.azure.errors import code_of, field_of
from sealift.clock import Clock, SystemClock
from sealift.errors import (
    ConfigError,
    IntegrityError,
    ObjectArchivedError,
    ObjectExistsError,
    ObjectMissingError,
    SealiftError,
    TargetDeniedError,
    TargetError,
    TransientError,
)
from sealift.objects import (
    Bytes,
    ObjectInfo,
    StoreCaps,
    checked_conditions,
    checked_name,
    checked_prefix,
    checked_range,
)
from sealift.units import MiB

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential

_ACCOUNT = re.compile(r"[a-z0-9]{3,24}")  # "Storage account overview", names
_CONTAINER = re.compile(r"(?=.{3,63}$)[a-z0-9]+(?:-[a-z0-9]+)*")  # "Naming and referencing ..."
_NAME_PREFIX = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_.-]*/)*")
_ENDPOINT = re.compile(r"https://[^\s/@?#]+(?:/[a-z0-9]+)?")
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(-?\d+)/(\d+)")
_MAX_PREFIX = 800  # of the 1,024 characters of a blob's name
_MD5_RANGE_BYTES = 4 * MiB
"""Longest range whose MD5 the service computes ("Get Blob", x-ms-range-get-content-md5)."""
_MAX_OBJECT_BYTES = 64 * MiB
_MAX_EMPTY_PAGES = 100
_UNTIL, _MODE = "x-ms-immutability-policy-until-date", "x-ms-immutability-policy-mode"

_BLOBS = "Microsoft.Storage/storageAccounts/blobServices/containers/blobs"
READ, WRITE, DELETE = f"{_BLOBS}/read", f"{_BLOBS}/write", f"{_BLOBS}/delete"
LOCK = f"{_BLOBS}/immutableStorage/runAsSuperUser/action"
"""What roles name ("Azure built-in roles for Storage"). Storage Blob Data Contributor has the
first three, Storage Blob Data Owner the last one as well."""

_MISSING = frozenset({"BlobNotFound", "ResourceNotFound"})
_EXISTS = frozenset({"BlobAlreadyExists", "ConditionNotMet", "TargetConditionNotMet"})
_ARCHIVED = frozenset({"BlobArchived", "BlobBeingRehydrated"})
_SHORT = frozenset({"InvalidRange"})
_IMMUTABLE = frozenset({"BlobImmutableDueToLegalHold", "BlobImmutableDueToPolicy"})
_KEPT = _IMMUTABLE | {"LeaseIdMissing", "SnapshotsPresent"}
_LOCKS_UNKNOWN = frozenset(
    {"ImmutableStorageWithVersioningNotEnabled", "FeatureVersionMismatch", "NotImplemented"}
)


class LockMode(Enum):
    """Who may end a lock before its time ("Time-based retention policies", version scope)."""

    UNLOCKED = "Unlocked"
    """Whoever may set it: the same permission deletes it ("Delete Blob Immutability Policy")."""
    LOCKED = "Locked"
    """Nobody."""


@dataclass(frozen=True, slots=True)
class BlobSpec:
    """Where objects are kept.

    Attributes:
        account: name of the storage account.
        container: of it; must exist.
        prefix: before every name; "" or ends with a slash.
        endpoint: URL of the account's blobs; None is the public cloud's.
        lock_mode: of object locks; None: they are not used. The container must have been made
            with version-level immutability.
        concurrency: calls in flight.
        connect_timeout_seconds: of one connection attempt.
        read_timeout_seconds: longest silence of the service within a call.
    """

    account: str
    container: str
    prefix: str = ""
    endpoint: str | None = None
    lock_mode: LockMode | None = None
    concurrency: int = 8
    connect_timeout_seconds: float = 10.0
    read_timeout_seconds: float = 60.0

    @property
    def identity(self) -> str:
        """``azure://account/container/prefix``."""
        return f"azure://{self.account}/{self.container}/{self.prefix}".rstrip("/")

    @property
    def address(self) -> str:
        """URL of the account's blobs."""
        return (self.endpoint or f"https://{self.account}.blob.core.windows.net").rstrip("/")

    def check(self) -> None:
        """Refuse what no container can be.

        Raises:
            ConfigError: it names the field.
        """
        if not _ACCOUNT.fullmatch(self.account):
            raise ConfigError(f"account: {self.account!r} is not the name of a storage account")
        if not _CONTAINER.fullmatch(self.container):
            raise ConfigError(f"container: {self.container!r} is not the name of a container")
        if len(self.prefix) > _MAX_PREFIX or not _NAME_PREFIX.fullmatch(self.prefix):
            raise ConfigError(f"prefix: {self.prefix!r} is not empty or NAME/NAME/.../")
        if not _ENDPOINT.fullmatch(self.address):
            raise ConfigError(
                f"endpoint: {self.address!r} is not an https URL",
                next_step="tokens are sent there, so it has to be https://HOST or "
                "https://HOST/ACCOUNT",
            )


class BlobObjectStore:
    """Block blobs of one container below one prefix; see ``ObjectStore``.

    One attempt a call, one request an attempt: a put is one Put Blob, a get one Get Blob, so
    what is read is of one version of the blob. Every put carries its MD5, which the service
    checks before it stores; what is read is compared with the MD5 that the service says, of a
    range up to 4 MiB and of a whole blob. A delete in an account that keeps versions, or has
    soft delete, hides the blob and keeps its bytes.

    Memory: the caller's buffer for a put; twice what is returned for a get; a page of 5,000
    names for a list.

    Args:
        spec: where.
        credential: None takes the standard chain.
        clock: compared with the end of a lock.

    Raises:
        ConfigError: no container can be that.
    """

    def __init__(
        self,
        spec: BlobSpec,
        credential: "TokenCredential | None" = None,
        clock: Clock | None = None,
    ) -> None:
        spec.check()
        self._spec = spec
        self._clock = clock or SystemClock()
        self._wire = BlobWire(spec, credential)
        self.identity = spec.identity
        locks = spec.lock_mode is not None
        self.caps = StoreCaps(
            conditional_put=True,
            conditional_replace=True,
            object_lock=locks,
            versioned=locks,
            max_object_bytes=_MAX_OBJECT_BYTES,
            concurrency=spec.concurrency,
        )

    def put(
        self,
        name: str,
        data: Bytes,
        *,
        if_absent: bool = False,
        if_match: str | None = None,
        lock_until: float | None = None,
    ) -> ObjectInfo:
        """See ``ObjectStore.put``."""
        path = self._path(name)
        checked_conditions(if_absent=if_absent, if_match=if_match)
        body = _flat(data)
        if len(body) > self.caps.max_object_bytes:
            raise TargetError(f"{name}: {len(body)} bytes are more than one put takes here")
        digest = md5_of(body)
        headers = {
            "x-ms-blob-type": "BlockBlob",
            "Content-MD5": digest,
            "Content-Type": "application/octet-stream",
            **_condition(if_absent=if_absent, if_match=if_match),
            **self._lock(lock_until),
        }
        ask = Ask(WRITE, "PUT", path, {}, headers, body, accepted=frozenset({201}))
        answer = self._put(ask, name, if_absent=if_absent)
        if answer.headers.get("content-md5", digest) != digest:
            raise TransientError(f"{WRITE}: {name} was stored with another MD5")
        return ObjectInfo(name, len(body), _version(answer, WRITE), None)

    def _put(self, ask: Ask, name: str, *, if_absent: bool) -> Answer:
        try:
            return self._call(ask, name)
        except TargetDeniedError as error:
            # What no policy lets be replaced is there: no page says whether the service looks
            # at the condition or at the policy first.
            if if_absent and code_of(error) in _IMMUTABLE:
                facts = dict[str, Any](error.operands)
                raise ObjectExistsError(error.message, **facts) from None
            raise

    def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        """See ``ObjectStore.get``."""
        path = self._path(name)
        checked_range(start, length)
        ranged = start > 0 or length is not None
        headers = _range_headers(start, length) if ranged else {}
        largest = length if length is not None else 2 * _MAX_OBJECT_BYTES
        status = 206 if ranged else 200
        ask = Ask(
            *(READ, "GET", path, {}, headers),
            accepted=frozenset({status}),
            largest=largest,
        )
        answer = self._call(ask, name)
        _version(answer, READ)
        if ranged:
            _check_range(answer, name, start, length)
        elif "content-range" in answer.headers:
            raise TransientError(f"{READ}: {name}: the answer is to another question")
        said = answer.headers.get("content-md5")
        if said is not None and said != md5_of(answer.body):
            raise TransientError(f"{READ}: {name} was damaged on the way: another MD5")
        return answer.body

    def get_into(self, name: str, start: int, buffer: memoryview) -> None:
        """See ``ObjectStore.get_into``."""
        buffer[:] = self.get(name, start, len(buffer))

    def head(self, name: str) -> ObjectInfo | None:
        """See ``ObjectStore.head``."""
        answer = self._properties(name)
        if answer is None:
            return None
        size = field_of(answer.headers, "content-length", READ)
        if not str(size).isdecimal():
            raise TransientError(f"{READ}: {name} has {size} bytes")
        modified = _seconds(str(field_of(answer.headers, "last-modified", READ)))
        return ObjectInfo(name, int(size), _version(answer, READ), modified)

    def _properties(self, name: str) -> Answer | None:
        try:
            return self._call(Ask(READ, "HEAD", self._path(name), {}, {}), name)
        except ObjectMissingError:
            return None

    def list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        """See ``ObjectStore.list``; what is there under other names is left out.

        The service cannot begin behind a name (of the versions that everybody's account
        speaks): names up to ``after`` come too, 5,000 a page, and are passed over here.
        """
        checked_prefix(prefix)
        marker, last, empty = "", "", 0
        while True:
            page = self._page(prefix, marker)
            # a whole page before any of it is handed on: who goes on after a name that came too
            # early would leave others out
            last, infos = page.ours(self._spec.prefix, prefix, last)
            yield from (info for info in infos if info.name > after)
            if not page.marker:
                return
            empty = 0 if page.count else empty + 1
            if page.marker == marker or empty > _MAX_EMPTY_PAGES:
                raise TransientError(f"{READ}: the list has no end")
            marker = page.marker

    def _page(self, prefix: str, marker: str) -> Page:
        whole = self._spec.prefix + prefix
        query = {"restype": "container", "comp": "list"}
        query |= {"prefix": whole} if whole else {}
        query |= {"marker": marker} if marker else {}
        answer = self._call(Ask(READ, "GET", self._spec.container, query, {}), prefix)
        return read_page(answer.body, whole, READ)

    def delete(self, name: str) -> None:
        """See ``ObjectStore.delete``; what a lock still keeps is not hidden either."""
        path = self._path(name)
        if self.caps.object_lock:
            until = self._locked_until(name)
            if until is not None and until > self._clock.now():
                raise TargetDeniedError(f"{name} is locked until {until:%Y-%m-%d %H:%M} UTC")
        try:
            self._call(Ask(DELETE, "DELETE", path, {}, {}, accepted=frozenset({202})), name)
        except ObjectMissingError:
            return

    def extend_lock(self, name: str, until: float) -> None:
        """See ``ObjectStore.extend_lock``."""
        path = self._path(name)
        headers = self._lock(until)
        if self._properties(name) is None:
            raise ObjectMissingError(f"{name} does not exist")
        present = self._locked_until(name)
        if present is not None and present >= parsedate_to_datetime(headers[_UNTIL]):
            return
        query = {"comp": "immutabilityPolicies"}
        answer = self._call(Ask(LOCK, "PUT", path, query, headers), name)
        field_of(answer.headers, _UNTIL, LOCK)

    def _locked_until(self, name: str) -> datetime | None:
        answer = self._properties(name)
        said = None if answer is None else answer.headers.get(_UNTIL)
        return None if said is None else datetime.fromtimestamp(_seconds(said), UTC)

    def close(self) -> None:
        """See ``ObjectStore.close``."""
        self._wire.close()

    def _call(self, ask: Ask, name: str) -> Answer:
        with _named(ask.action, name, self._spec):
            return self._wire.call(ask)

    def _path(self, name: str) -> str:
        return f"{self._spec.container}/{self._spec.prefix}{checked_name(name)}"

    def _lock(self, until: float | None) -> dict[str, str]:
        if until is None:
            return {}
        if self._spec.lock_mode is None:
            raise TargetError(
                f"{self.identity} is used without object lock",
                next_step="name a lock mode; the container must have been made with "
                "version-level immutability",
            )
        when = datetime.fromtimestamp(-(-until // 1), UTC)
        return {_UNTIL: format_datetime(when, usegmt=True), _MODE: self._spec.lock_mode.value}


@contextmanager
def _named(action: str, name: str, spec: BlobSpec) -> Iterator[None]:
    """One call; what the service says of a blob becomes the error that the port names."""
    try:
        yield
    except SealiftError as error:
        raise _of_object(error, action, name, spec) from None


def _of_object(error: SealiftError, action: str, name: str, spec: BlobSpec) -> SealiftError:
    code, facts = code_of(error), dict[str, Any](error.operands)
    status = facts.get("http_status")
    if code in _MISSING or (status == 404 and not code):
        return ObjectMissingError(f"{name} does not exist", **facts)
    if code in _EXISTS or (status == 412 and not code):
        return ObjectExistsError(f"{name} exists already, or is another version", **facts)
    if code in _ARCHIVED:
        step = "rehydrate the blob, and keep its tier out of the account's lifecycle rules"
        text = f"{name} lies in the archive tier ({error.message})"
        return ObjectArchivedError(text, next_step=step, **facts)
    if code in _SHORT or status == 416:
        return IntegrityError(f"{name} ends before the bytes that were asked for", **facts)
    if code in _KEPT:
        step = "what keeps it is its owner's: a lock, a hold, a lease or a snapshot of it"
        return TargetDeniedError(f"{action}: {name} is kept ({code})", next_step=step, **facts)
    if code in ("ContainerNotFound", "ContainerBeingDeleted"):
        step = "make the container, or correct its name and account"
        text = f"there is no container {spec.container} in {spec.account}"
        return TargetError(text, next_step=step, **facts)
    if code in _LOCKS_UNKNOWN or status == 501:
        step = "make a container with version-level immutability, or leave the lock out"
        return TargetError(f"{action}: {spec.identity} cannot do this", next_step=step, **facts)
    return error


def _flat(data: Bytes) -> bytes | memoryview:
    """What is sent without a copy; a view with gaps is copied."""
    if isinstance(data, bytes):
        return data
    view = memoryview(data)
    return view.cast("B") if view.c_contiguous else bytes(view)


def _condition(*, if_absent: bool, if_match: str | None) -> dict[str, str]:
    if if_absent:
        return {"If-None-Match": "*"}
    return {} if if_match is None else {"If-Match": f'"{if_match}"'}


def _range_headers(start: int, length: int | None) -> dict[str, str]:
    last = "" if length is None else str(start + length - 1)
    headers = {"x-ms-range": f"bytes={start}-{last}"}
    if length is not None and length <= _MD5_RANGE_BYTES:
        headers["x-ms-range-get-content-md5"] = "true"
    return headers


def _check_range(answer: Answer, name: str, start: int, length: int | None) -> None:
    """Compare what came with what was asked for.

    Raises:
        TransientError: it is another range's.
        IntegrityError: the object ends within the range.
    """
    match = _CONTENT_RANGE.fullmatch(answer.headers.get("content-range", ""))
    if match is None or int(match[1]) != start:
        raise TransientError(f"{READ}: {name}: the answer is to another range")
    last, size = int(match[2]), int(match[3])
    if (
        start >= size
    ):  # the service answers 416, Azurite an empty range ("10-9/10") where both are equal
        raise IntegrityError(f"{name} ends at {size}, before byte {start}")
    if len(answer.body) != last - start + 1:
        raise TransientError(f"{READ}: {name}: {len(answer.body)} bytes of {last - start + 1} came")
    wanted = size if length is None else start + length
    if last + 1 == wanted:
        return
    if last + 1 == size < wanted:
        raise IntegrityError(f"{name} ends at {size}, before byte {wanted}")
    raise TransientError(f"{READ}: {name}: the answer is to another range")


def _version(answer: Answer, action: str) -> str:
    return str(field_of(answer.headers, "etag", action)).strip('"')


def _seconds(text: str) -> float:
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        raise TransientError(f"{READ}: {text[:40]!r} is no time") from None
