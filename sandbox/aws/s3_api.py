"""S3 in front of moto: what calls are named, and the rules that moto does not keep.

moto keeps conditions, versions and locks. It takes a body that is not what its checksum says,
a lock without a checksum or in the past, a lock that ends sooner than before, and a bucket of
another owner than the one that is expected; AWS refuses each (S3 API reference, PutObject,
PutObjectRetention; S3 user guide, "Object Lock"). It does not answer GetObjectRetention.
"""

import base64
import gzip
import hashlib
import re
import zlib
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import parse_qs

from sandbox.aws.errors import ApiError
from sandbox.aws.faults import Fault, FaultKind
from sandbox.aws.wire import Call, Reply
from sealift.clock import Clock

_OBJECT = {
    "PUT": "PutObject",
    "GET": "GetObject",
    "HEAD": "HeadObject",
    "DELETE": "DeleteObject",
    "POST": "PostObject",
}
_BUCKET = {
    "PUT": "CreateBucket",
    "GET": "ListObjects",
    "HEAD": "HeadBucket",
    "DELETE": "DeleteBucket",
    "POST": "DeleteObjects",
}
_OBJECT_PARTS = {"retention": "ObjectRetention", "legal-hold": "ObjectLegalHold"}
_BUCKET_PARTS = {
    "versioning": "BucketVersioning",
    "object-lock": "ObjectLockConfiguration",
    "lifecycle": "BucketLifecycleConfiguration",
    "versions": "ObjectVersions",
}
_CONTENTS = re.compile(rb"<Contents>.*?</Contents>", re.DOTALL)


def operation(method: str, path: str, query: str) -> str:
    """The SDK's name of a call, as far as faults and logs need it."""
    asked = parse_qs(query, keep_blank_values=True)
    key = path.strip("/").partition("/")[2]
    parts, names = (_OBJECT_PARTS, _OBJECT) if key else (_BUCKET_PARTS, _BUCKET)
    for part, name in parts.items():
        if part in asked:
            return {"PUT": "Put", "GET": "Get"}.get(method, method.title()) + name
    if not key and method == "GET" and asked.get("list-type") == ["2"]:
        return "ListObjectsV2"
    return names.get(method, "")


def check(call: Call, account_id: str, clock: Clock) -> None:
    """Refuse what AWS refuses and moto does not.

    Raises:
        ApiError: with the code that AWS documents.
    """
    owner = call.headers.get("x-amz-expected-bucket-owner", account_id)
    if owner != account_id:
        raise ApiError(403, "AccessDenied", "Access Denied")
    if call.operation == "PutObject":
        _check_digests(call.headers, call.body)
        _check_lock(call.headers, clock)


def _check_digests(headers: Mapping[str, str], body: bytes) -> None:
    crc, sha, md5 = (
        headers.get("x-amz-checksum-crc32"),
        headers.get("x-amz-checksum-sha256"),
        headers.get("content-md5"),
    )
    found = {
        crc: zlib.crc32(body).to_bytes(4, "big") if crc else b"",
        sha: hashlib.sha256(body).digest() if sha else b"",
        md5: hashlib.md5(body, usedforsecurity=False).digest() if md5 else b"",
    }
    for given, digest in found.items():
        if given is not None and given != base64.b64encode(digest).decode():
            raise ApiError(400, "BadDigest", "The checksum you specified did not match the body")


def _check_lock(headers: Mapping[str, str], clock: Clock) -> None:
    until = headers.get("x-amz-object-lock-retain-until-date")
    if until is None:
        return
    if not any(h == "content-md5" or h.startswith("x-amz-checksum-") for h in headers):
        message = "Content-MD5 OR x-amz-checksum- HTTP header is required with Object Lock"
        raise ApiError(400, "InvalidRequest", message)
    if _moment(until) <= clock.now():
        raise ApiError(400, "InvalidArgument", "The retain until date must be in the future!")


def retention(call: Call, head: Reply) -> Reply | None:
    """The answer to GetObjectRetention; None lets a PutObjectRetention through to moto.

    Args:
        call: one of the two.
        head: moto's answer to a HEAD of the same object.

    Raises:
        ApiError: no such object, no lock on it, or a lock that would end sooner.
    """
    if head.status != 200:
        raise ApiError(404, "NoSuchKey", "The specified key does not exist.")
    headers = {name.lower(): value for name, value in head.headers}
    until = headers.get("x-amz-object-lock-retain-until-date")
    mode = headers.get("x-amz-object-lock-mode")
    if call.operation == "PutObjectRetention":
        _check_longer(call, until)
        return None
    if until is None:
        message = "The specified object does not have a ObjectLock configuration"
        raise ApiError(404, "NoSuchObjectLockConfiguration", message)
    body = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<Retention xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<Mode>{mode}</Mode><RetainUntilDate>{until}</RetainUntilDate></Retention>"
    )
    return Reply(200, body.encode(), (("Content-Type", "application/xml"),))


def _check_longer(call: Call, present: str | None) -> None:
    wanted = re.search(rb"<RetainUntilDate>([^<]+)</RetainUntilDate>", call.body)
    if present and wanted and _moment(wanted[1].decode()) < _moment(present):
        raise ApiError(
            403, "AccessDenied", "Access Denied because object protected by object lock."
        )


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone(UTC)


def as_documented(call: Call, reply: Reply) -> Reply:
    """What moto answers, under the names of the S3 API reference."""
    if call.operation != "GetBucketVersioning":
        return reply
    body = reply.body.replace(b"GetBucketVersioningResponse", b"VersioningConfiguration")
    return Reply(reply.status, body, reply.headers)


def spoiled(call: Call, fault: Fault, reply: Reply) -> Reply:
    """What arrives of an answer under a fault that only S3 has."""
    if call.operation == "GetObject":
        return _spoiled_object(call, fault, reply)
    if call.operation == "ListObjectsV2":
        return _spoiled_list(fault, reply)
    return reply


def _spoiled_object(call: Call, fault: Fault, reply: Reply) -> Reply:
    headers = {name.lower(): value for name, value in reply.headers}
    if fault.kind is FaultKind.WRONG_RANGE and "content-range" in headers:
        start, rest = headers["content-range"].removeprefix("bytes ").split("-", 1)
        headers["content-range"] = f"bytes {int(start) + 1}-{rest}"
        return Reply(reply.status, reply.body[1:] + b"?", tuple(headers.items()))
    if fault.kind is FaultKind.WHOLE_OBJECT:
        headers.pop("content-range", None)
        return Reply(200, reply.body, tuple(headers.items()))
    if fault.kind is FaultKind.ENCODED:
        headers["content-encoding"] = "gzip"
        return Reply(reply.status, gzip.compress(reply.body), tuple(headers.items()))
    return reply


def _spoiled_list(fault: Fault, reply: Reply) -> Reply:
    found = _CONTENTS.findall(reply.body)
    head, tail = reply.body.split(found[0], 1)[0] if found else reply.body, b"</ListBucketResult>"
    head = head.removesuffix(tail)
    rest = _CONTENTS.sub(b"", reply.body.removeprefix(head)) if found else tail
    again = (
        head.replace(b"<IsTruncated>false", b"<IsTruncated>true")
        + b"<NextContinuationToken>again</NextContinuationToken>"
    )
    made = {
        FaultKind.EMPTY_PAGE: lambda: again + rest,
        FaultKind.PAGE_AGAIN: lambda: again + b"".join(found) + rest,
        FaultKind.PAGE_REVERSED: lambda: head + b"".join(reversed(found)) + rest,
        FaultKind.PAGE_DOUBLED: lambda: head + b"".join(f + f for f in found) + rest,
    }.get(fault.kind)
    return reply if made is None else Reply(reply.status, made(), reply.headers)
