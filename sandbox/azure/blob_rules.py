"""What the blob service does and Azurite does not; Azurite's own answers stand otherwise.

- "Put Page": a page update of more than 4 MiB is refused with 413.
- "Put Page": a body that is not what Content-MD5 or x-ms-content-crc64 says is refused with 400
  Md5Mismatch or Crc64Mismatch.
- "Get Page Ranges": with ``prevsnapshot`` the answer tells what changed since, cleared ranges
  too. What counts here is whether bytes differ, so that a range that was written with what it
  held before is not named; the service may name it.
- "Copy Blob": copies run after the call; until they end their state is pending, and changes of
  the destination are refused with 409 PendingCopyOperation.
"""

import base64
import hashlib
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from xml.sax.saxutils import escape

import anycrc
from azure.storage.blob import BlobClient

from sandbox.azure.blob_calls import CHANGES, BlobRequest, in_range
from sandbox.azure.https import Reply
from sandbox.azure.rules import Rules
from sealift.clock import Clock

_PAGE_BYTES = 512
_MAX_PAGE_BYTES = 4 << 20
_WINDOW_BYTES = 4 << 20
_LISTED = re.compile(rb"<Blob>(?:(?!</Blob>).)*?<Name>(.*?)</Name>(.*?)</Blob>", re.DOTALL)

Span = tuple[int, int]
"""Start and end of a byte range, end excluded."""


@dataclass(slots=True)
class _Copy:
    """A copy that began."""

    ends_seconds: float
    fails: bool


class CopyBook:
    """Copies that are under way, or that failed; safe from several threads."""

    def __init__(self, rules: Rules, clock: Clock) -> None:
        self._rules = rules
        self._clock = clock
        self._lock = threading.Lock()
        self._copies: dict[tuple[str, str], _Copy] = {}

    def began(self, request: BlobRequest, *, fails: bool) -> None:
        """Take note of a copy that Azurite did at once."""
        ends = self._clock.monotonic() + self._rules.copy_seconds
        with self._lock:
            self._copies[request.container, request.blob] = _Copy(ends, fails)

    def forget(self, request: BlobRequest) -> None:
        """The blob is no copy any more."""
        with self._lock:
            self._copies.pop((request.container, request.blob), None)

    def status(self, container: str, blob: str) -> str:
        """``pending``, ``failed``, or empty when Azurite's own word stands."""
        with self._lock:
            copy = self._copies.get((container, blob))
        if copy is None:
            return ""
        if self._clock.monotonic() < copy.ends_seconds:
            return "pending"
        return "failed" if copy.fails else ""

    def shown(self, request: BlobRequest, reply: Reply) -> Reply:
        """An answer with the state of copies as it is."""
        if request.operation == "ListBlobs":
            return Reply(reply.status, self._listed(request.container, reply.body), reply.headers)
        status = "" if request.snapshot else self.status(request.container, request.blob)
        if not status:
            return reply
        headers = tuple(
            (name, status if name.lower() == "x-ms-copy-status" else value)
            for name, value in reply.headers
        )
        return Reply(reply.status, reply.body, headers)

    def _listed(self, container: str, body: bytes) -> bytes:
        def patched(match: re.Match[bytes]) -> bytes:
            whole: bytes = match[0]
            if b"<Snapshot>" in whole:
                return whole
            status = self.status(container, match[1].decode())
            if not status:
                return whole
            told = b"<CopyStatus>" + status.encode() + b"</CopyStatus>"
            return re.sub(rb"<CopyStatus>\w+</CopyStatus>", told, whole)

        with self._lock:
            known = bool(self._copies)
        return _LISTED.sub(patched, body) if known else body


def refused(
    request: BlobRequest, length: int, body: bytes, copies: CopyBook
) -> tuple[int, str, str] | None:
    """Status, code and message of what the service refuses and Azurite does not."""
    said = request.headers.get("content-md5")
    if request.operation == "PutPage" and length > _MAX_PAGE_BYTES:
        message = "The request body is too large and exceeds the maximum permissible limit."
        return 413, "RequestBodyTooLarge", message
    if request.operation == "PutPage" and said is not None and said != _md5(body):
        message = "The MD5 value specified in the request did not match what the server calculated."
        return 400, "Md5Mismatch", message
    crc64 = request.headers.get("x-ms-content-crc64")
    if request.operation == "PutPage" and crc64 is not None and crc64 != _crc64(body):
        message = "The CRC64 value specified in the request did not match with the CRC64 value"
        return 400, "Crc64Mismatch", f"{message} calculated by the server."
    changes = request.operation in CHANGES and not request.snapshot
    if changes and copies.status(request.container, request.blob) == "pending":
        return 409, "PendingCopyOperation", "There is currently a pending copy operation."
    return None


def _md5(body: bytes) -> str:
    digest = hashlib.md5(body, usedforsecurity=False).digest()
    return base64.b64encode(digest).decode()


def _crc64(body: bytes) -> str:
    value = anycrc.Model("CRC64-NVME").calc(body)
    return base64.b64encode(value.to_bytes(8, "little")).decode()


def diff_reply(request: BlobRequest, now: BlobClient, before: BlobClient, reply: Reply) -> Reply:
    """The answer to Get Page Ranges with a previous snapshot, instead of Azurite's."""
    asked = in_range(request.headers)
    limit = (0, 1 << 63) if asked is None else (asked[0], asked[1] + 1)
    changed, cleared = _diff(now, before, limit)
    marked = sorted([(*span, "PageRange") for span in changed])
    marked = sorted(marked + [(*span, "ClearRange") for span in cleared])
    ranges = "".join(
        f"<{kind}><Start>{start}</Start><End>{end - 1}</End></{kind}>"
        for start, end, kind in marked
    )
    body = f'<?xml version="1.0" encoding="utf-8"?><PageList>{ranges}</PageList>'
    return Reply(200, body.encode(), reply.headers)


def error_body(code: str, message: str) -> bytes:
    """An error, in the form of "Status and error codes"."""
    text = f"<Error><Code>{escape(code)}</Code><Message>{escape(message)}</Message></Error>"
    return f'<?xml version="1.0" encoding="utf-8"?>{text}'.encode()


def _diff(now: BlobClient, before: BlobClient, limit: Span) -> tuple[list[Span], list[Span]]:
    ours, theirs = _spans(now, limit), _spans(before, limit)
    changed: list[Span] = []
    for start, end in ours:
        for at in range(start, end, _WINDOW_BYTES):
            stop = min(at + _WINDOW_BYTES, end)
            changed += _changed(now, before, at, stop, theirs)
    return _joined(changed), _minus(theirs, ours)


def _changed(
    now: BlobClient, before: BlobClient, start: int, end: int, theirs: list[Span]
) -> Iterator[Span]:
    """Pages of a range that are new, or that hold other bytes."""
    fresh = now.download_blob(start, end - start).readall()
    size = before.get_blob_properties().size
    known = before.download_blob(start, min(end, size) - start).readall() if start < size else b""
    covered = _minus([(start, end)], _minus([(start, end)], theirs))
    yield from _minus([(start, end)], covered)
    for first, last in covered:
        if fresh[first - start : last - start] == known[first - start : last - start]:
            continue
        for at in range(first, last, _PAGE_BYTES):
            place = slice(at - start, at - start + _PAGE_BYTES)
            if fresh[place] != known[place]:
                yield at, at + _PAGE_BYTES


def _spans(blob: BlobClient, limit: Span) -> list[Span]:
    found = []
    for page in blob.list_page_ranges():
        start, end = max(page.start or 0, limit[0]), min((page.end or 0) + 1, limit[1])
        if start < end:
            found.append((start, end))
    return _joined(found)


def _joined(spans: list[Span]) -> list[Span]:
    joined: list[Span] = []
    for start, end in sorted(spans):
        if joined and joined[-1][1] >= start:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


def _minus(spans: list[Span], holes: list[Span]) -> list[Span]:
    """What of ``spans`` is in none of ``holes``; both in order and without overlap."""
    left: list[Span] = []
    for start, end in spans:
        for low, high in holes:
            if high <= start or low >= end:
                continue
            if start < low:
                left.append((start, low))
            start = max(start, high)
        if start < end:
            left.append((start, end))
    return left
