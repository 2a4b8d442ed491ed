"""A bucket of S3, or of a server that speaks its language, as object store."""

import re
import zlib
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import TYPE_CHECKING, Any, cast

from connectors.aws.errors import aws_call, code_of, field_of
from connectors.aws.session import AwsClients
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
    is_name,
)
from sealift.units import MiB

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import (
        GetObjectOutputTypeDef,
        HeadObjectOutputTypeDef,
        ListObjectsV2OutputTypeDef,
    )

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")  # S3 user guide, "bucket naming rules"
_KEY_PREFIX = re.compile(r"(?:[A-Za-z0-9!_*'()][A-Za-z0-9!_.*'()-]*/)*")
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_MAX_EMPTY_PAGES = 100
_MISSING = frozenset({"NoSuchKey", "404", "NotFound"})
_EXISTS = frozenset({"PreconditionFailed", "412"})
_ARCHIVED = frozenset({"InvalidObjectState"})
_SHORT = frozenset({"InvalidRange", "416"})
_NAMELESS = frozenset({"400", "403"})
"""What a HEAD answers in place of a name: its errors have no body."""


class LockMode(Enum):
    """Who may end a lock before its time (S3 user guide, "Object Lock")."""

    GOVERNANCE = "GOVERNANCE"
    """Identities with a permission of its own."""
    COMPLIANCE = "COMPLIANCE"
    """Nobody, the account's root neither."""


@dataclass(frozen=True, slots=True)
class S3Spec:
    """Where objects are kept.

    Attributes:
        bucket: its name.
        prefix: before every name; "" or ends with a slash.
        region: None takes the profile's or the environment's.
        profile: of the shared AWS configuration; None for the default chain.
        endpoint: URL of another server than AWS.
        owner: account id; a bucket of another account is refused, as one would be that takes
            the name after ours was deleted.
        lock_mode: of object locks; None: they are not used. The bucket must have them.
        kms_key_id: objects are encrypted by S3 with this key beside our own sealing.
        concurrency: calls in flight.
        connect_timeout_seconds: of one connection attempt.
        read_timeout_seconds: longest silence of the service within a call.
    """

    bucket: str
    prefix: str = ""
    region: str | None = None
    profile: str | None = None
    endpoint: str | None = None
    owner: str | None = None
    lock_mode: LockMode | None = None
    kms_key_id: str | None = None
    concurrency: int = 8
    connect_timeout_seconds: float = 10.0
    read_timeout_seconds: float = 60.0

    @property
    def identity(self) -> str:
        """``s3://bucket/prefix``."""
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    def check(self) -> None:
        """Refuse what no bucket can be.

        Raises:
            ConfigError: it names the field.
        """
        if not _BUCKET.fullmatch(self.bucket):
            raise ConfigError(f"bucket: {self.bucket!r} is not the name of a bucket")
        if self.bucket.endswith("--x-s3"):
            raise ConfigError(
                f"bucket: {self.bucket} is a directory bucket, whose lists have no order",
                next_step="use a general purpose bucket",
            )
        if not _KEY_PREFIX.fullmatch(self.prefix):
            raise ConfigError(f"prefix: {self.prefix!r} is not empty or NAME/NAME/.../")


class S3ObjectStore:
    """Objects of one bucket below one prefix; see ``ObjectStore``.

    One attempt a call, classified by ``connectors.aws.errors``. Every put carries a CRC-32,
    which S3 checks before it stores and returns; what is read is of exactly the range and
    length asked for, or a ``TransientError``. A delete in a versioned bucket hides the object
    behind a delete marker.

    Memory: the caller's buffer and nothing else for a put of ``bytes`` or of a whole
    ``bytearray``; what is returned for a get; a page of 1,000 objects for a list.

    Args:
        spec: where.
        clients: shared with others of the same settings; made and closed here when None.
        clock: compared with the end of a lock.

    Raises:
        ConfigError: no bucket can be that.
    """

    def __init__(
        self, spec: S3Spec, clients: AwsClients | None = None, clock: Clock | None = None
    ) -> None:
        spec.check()
        self._spec = spec
        self._clock = clock or SystemClock()
        self._owned = clients is None
        self._clients = clients or AwsClients(spec)
        self.identity = spec.identity
        locks = spec.lock_mode is not None
        self.caps = StoreCaps(
            conditional_put=True,
            conditional_replace=True,
            object_lock=locks,
            versioned=locks,
            max_object_bytes=64 * MiB,
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
        key = self._key(name)
        checked_conditions(if_absent=if_absent, if_match=if_match)
        body = _sdk_bytes(data)
        if len(body) > self.caps.max_object_bytes:
            raise TargetError(f"{name}: {len(body)} bytes are more than one put takes here")
        crc = b64encode(zlib.crc32(body).to_bytes(4, "big")).decode()
        more: dict[str, Any] = {**self._encryption(), **self._lock(lock_until)}
        if if_absent:
            more["IfNoneMatch"] = "*"
        elif if_match is not None:
            more["IfMatch"] = if_match
        with _s3_call("s3:PutObject", name, self._spec):
            answer = self._s3.put_object(
                **self._place,
                Key=key,
                Body=body,
                ChecksumAlgorithm="CRC32",
                ChecksumCRC32=crc,
                **more,
            )
            version = str(field_of(answer, "ETag", "s3:PutObject"))
            if answer.get("ChecksumCRC32", crc) != crc:
                raise TransientError(f"s3:PutObject: {name} was stored with another checksum")
        return ObjectInfo(name, len(body), version, None)

    def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        """See ``ObjectStore.get``."""
        key = self._key(name)
        checked_range(start, length)
        ranged = start > 0 or length is not None
        asked: dict[str, Any] = {}
        if ranged:
            asked["Range"] = f"bytes={start}-{_last(start, length)}"
        with _s3_call("s3:GetObject", name, self._spec):
            answer = self._s3.get_object(**self._place, Key=key, **asked)
            with closing(answer["Body"]):
                expected = _announced(answer, name, start, length, ranged=ranged)
                data = answer["Body"].read()
        if len(data) != expected:
            raise TransientError(f"s3:GetObject: {name}: {len(data)} bytes of {expected} came")
        return data

    def get_into(self, name: str, start: int, buffer: memoryview) -> None:
        """See ``ObjectStore.get_into``."""
        buffer[:] = self.get(name, start, len(buffer))

    def head(self, name: str) -> ObjectInfo | None:
        """See ``ObjectStore.head``."""
        key = self._key(name)
        try:
            with _s3_call("s3:GetObject", name, self._spec):
                answer = self._s3.head_object(**self._place, Key=key)
                return _head(name, answer)
        except ObjectMissingError:
            return None
        except SealiftError as error:
            if code_of(error) in _NAMELESS:
                self._raise_named(key, name)
            raise

    def _raise_named(self, key: str, name: str) -> None:
        """Let a GET say what a HEAD cannot: whether credentials expired or a right is missing."""
        with _s3_call("s3:GetObject", name, self._spec):
            answer = self._s3.get_object(**self._place, Key=key, Range="bytes=0-0")
            answer["Body"].close()

    def list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        """See ``ObjectStore.list``; what is there under other names is left out."""
        checked_prefix(prefix)
        token: str | None = None
        empty, last = 0, self._spec.prefix + after
        while True:
            page = self._page(prefix, after, token)
            # a whole page before any of it is handed on: who goes on after a name that came too
            # early would leave others out
            last, infos = self._in_order(page, prefix, last)
            yield from infos
            if not page["IsTruncated"]:
                return
            empty = 0 if page.get("Contents") else empty + 1
            following = page.get("NextContinuationToken")
            if not following or following == token or empty > _MAX_EMPTY_PAGES:
                raise TransientError("s3:ListBucket: the list has no end")
            token = following

    def _in_order(
        self, page: "ListObjectsV2OutputTypeDef", prefix: str, last: str
    ) -> tuple[str, Sequence[ObjectInfo]]:
        """The last key of a page, and what it says of ours."""
        infos = []
        for found in page.get("Contents", ()):
            key = found["Key"]
            if not key.startswith(self._spec.prefix + prefix) or key <= last:
                raise TransientError(f"s3:ListBucket: {key!r} is out of order after {last!r}")
            last, name = key, key.removeprefix(self._spec.prefix)
            if is_name(name):
                when = _seconds(found["LastModified"])
                infos.append(ObjectInfo(name, found["Size"], found["ETag"], when))
        return last, infos

    def _page(self, prefix: str, after: str, token: str | None) -> "ListObjectsV2OutputTypeDef":
        asked: dict[str, Any] = {}
        if token is not None:
            asked["ContinuationToken"] = token
        elif after:
            asked["StartAfter"] = self._spec.prefix + after
        whole = self._spec.prefix + prefix
        with _s3_call("s3:ListBucket", prefix, self._spec):
            page = self._s3.list_objects_v2(**self._place, Prefix=whole, **asked)
            if page.get("Prefix", "") != whole or page.get("IsTruncated") is None:
                raise TransientError("s3:ListBucket: the answer is to another question")
            for found in page.get("Contents", ()):
                for field in ("Key", "Size", "ETag", "LastModified"):
                    if found.get(field) is None:
                        raise TransientError(f"s3:ListBucket: an object without {field}")
                if found["Size"] < 0:
                    raise TransientError("s3:ListBucket: an object of negative size")
            return page

    def delete(self, name: str) -> None:
        """See ``ObjectStore.delete``; what a lock still keeps is not hidden either."""
        key = self._key(name)
        if self.caps.object_lock:
            until = self._locked_until(name)
            if until is not None and until > self._clock.now():
                raise TargetDeniedError(f"{name} is locked until {until:%Y-%m-%d %H:%M} UTC")
        with _s3_call("s3:DeleteObject", name, self._spec):
            self._s3.delete_object(**self._place, Key=key)

    def extend_lock(self, name: str, until: float) -> None:
        """See ``ObjectStore.extend_lock``."""
        key = self._key(name)
        wanted = self._lock(until)
        present = self._locked_until(name, missing_ok=False)
        later: datetime = wanted["ObjectLockRetainUntilDate"]
        if present is not None and present >= later:
            return
        with _s3_call("s3:PutObjectRetention", name, self._spec):
            self._s3.put_object_retention(
                **self._place,
                Key=key,
                Retention={"Mode": wanted["ObjectLockMode"], "RetainUntilDate": later},
                ChecksumAlgorithm="CRC32",
            )

    def _locked_until(self, name: str, *, missing_ok: bool = True) -> datetime | None:
        try:
            with _s3_call("s3:GetObjectRetention", name, self._spec):
                answer = self._s3.get_object_retention(**self._place, Key=self._key(name))
        except ObjectMissingError:
            if missing_ok:
                return None
            raise
        except TargetError as error:
            if code_of(error) == "NoSuchObjectLockConfiguration":
                return None
            raise
        return answer.get("Retention", {}).get("RetainUntilDate")

    def close(self) -> None:
        """See ``ObjectStore.close``."""
        if self._owned:
            self._clients.close()

    @property
    def _s3(self) -> "S3Client":
        return self._clients.s3

    @property
    def _place(self) -> Any:
        owner = {"ExpectedBucketOwner": self._spec.owner} if self._spec.owner else {}
        return {"Bucket": self._spec.bucket, **owner}

    def _key(self, name: str) -> str:
        return self._spec.prefix + checked_name(name)

    def _encryption(self) -> dict[str, Any]:
        if self._spec.kms_key_id is None:
            return {}
        return {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": self._spec.kms_key_id}

    def _lock(self, until: float | None) -> dict[str, Any]:
        if until is None:
            return {}
        if self._spec.lock_mode is None:
            raise TargetError(
                f"{self.identity} is used without object lock",
                next_step="name a lock mode; the bucket must have been made with object lock",
            )
        when = datetime.fromtimestamp(-(-until // 1), UTC)
        return {"ObjectLockMode": self._spec.lock_mode.value, "ObjectLockRetainUntilDate": when}


@contextmanager
def _s3_call(action: str, name: str, spec: S3Spec) -> Iterator[None]:
    """One call; what S3 says of an object becomes the error that the port names."""
    try:
        with aws_call(action):
            yield
    except SealiftError as error:
        raise _of_object(error, action, name, spec) from None


def _of_object(error: SealiftError, action: str, name: str, spec: S3Spec) -> SealiftError:
    code, facts = code_of(error), dict[str, Any](error.operands)
    if code in _MISSING:
        return ObjectMissingError(f"{name} does not exist", **facts)
    if code in _EXISTS:
        return ObjectExistsError(f"{name} exists already, or is another version", **facts)
    if code in _ARCHIVED:
        step = "restore the object in S3, and keep its tier out of the bucket's lifecycle rules"
        text = f"{name} lies in an archive tier ({error.message})"
        return ObjectArchivedError(text, next_step=step, **facts)
    if code in _SHORT:
        return IntegrityError(f"{name} ends before the bytes that were asked for", **facts)
    if code == "NoSuchBucket":
        step = "make the bucket, or correct its name and region"
        return TargetError(f"there is no bucket {spec.bucket}", next_step=step, **facts)
    if code == "NotImplemented":
        return TargetError(f"{action}: {spec.identity} cannot do this", **facts)
    if code == "403":
        step = f"allow {action} and s3:ListBucket to the identity that runs Sealift"
        return TargetDeniedError(f"{action}: permission denied", next_step=step, **facts)
    return error


def _sdk_bytes(data: Bytes) -> bytes:
    """What the SDK takes, which knows no views: the buffer itself where the view is all of it."""
    if not isinstance(data, memoryview):
        return cast(bytes, data)  # botocore.validate takes a bytearray, its stubs do not say so
    whole = data.obj
    if isinstance(whole, bytes | bytearray) and data.c_contiguous and len(whole) == data.nbytes:
        return cast(bytes, whole)
    return bytes(data)


def _last(start: int, length: int | None) -> str:
    return "" if length is None else str(start + length - 1)


def _announced(
    answer: "GetObjectOutputTypeDef", name: str, start: int, length: int | None, *, ranged: bool
) -> int:
    """How many bytes the body must have.

    Raises:
        TransientError: it is another range's, of another form, or nothing of S3's.
        IntegrityError: the object ends within the range.
    """
    headers = answer["ResponseMetadata"]["HTTPHeaders"]
    status = answer["ResponseMetadata"]["HTTPStatusCode"]
    field_of(answer, "ETag", "s3:GetObject")
    if "content-encoding" in headers and headers["content-encoding"] != "aws-chunked":
        raise TransientError(f"s3:GetObject: {name} comes in another encoding than it was put in")
    if not ranged:
        if status != 200:
            raise TransientError(f"s3:GetObject: {name}: status {status}")
        return int(headers.get("content-length", "-1"))
    match = _CONTENT_RANGE.fullmatch(headers.get("content-range", ""))
    if status != 206 or match is None or int(match[1]) != start:
        raise TransientError(f"s3:GetObject: {name}: the answer is to another range")
    last = int(match[2])
    if length is not None and last != start + length - 1:
        if match[3] != "*" and int(match[3]) == last + 1 < start + length:
            raise IntegrityError(f"{name} ends at {last + 1}, before byte {start + length}")
        raise TransientError(f"s3:GetObject: {name}: the answer is to another range")
    return last - start + 1


def _head(name: str, answer: "HeadObjectOutputTypeDef") -> ObjectInfo:
    """What an honest HEAD says.

    Raises:
        TransientError: something is missing: it is not S3's answer.
    """
    size = field_of(answer, "ContentLength", "s3:HeadObject")
    version = field_of(answer, "ETag", "s3:HeadObject")
    modified = field_of(answer, "LastModified", "s3:HeadObject")
    if size < 0:
        raise TransientError(f"s3:HeadObject: {name} has {size} bytes")
    return ObjectInfo(name, size, version, _seconds(modified))


def _seconds(when: datetime) -> float:
    return when.timestamp()
