"""Answers about blobs that look whole and are not: other ranges, other encodings, wrong pages."""

import gzip
import re
from collections.abc import Callable, Mapping

from sandbox.azure.faults import Fault, FaultKind
from sandbox.azure.https import Reply

_BLOB = re.compile(rb"<Blob>.*?</Blob>", re.DOTALL)
_MARKER = re.compile(rb"<NextMarker\s*/>|<NextMarker>.*?</NextMarker>", re.DOTALL)


def lied(fault: Fault, reply: Reply) -> Reply:
    """The reply as this fault has it; as it was for faults of other kinds."""
    ways: Mapping[FaultKind, Callable[[Reply], Reply]] = {
        FaultKind.WRONG_RANGE: _wrong_range,
        FaultKind.WHOLE_OBJECT: _whole_object,
        FaultKind.ENCODED: _encoded,
        FaultKind.EMPTY_PAGE: lambda r: _page(r, lambda found: [], again=True),
        FaultKind.PAGE_AGAIN: lambda r: _page(r, lambda found: found, again=True),
        FaultKind.PAGE_REVERSED: lambda r: _page(r, lambda found: found[::-1]),
        FaultKind.PAGE_DOUBLED: lambda r: _page(r, lambda found: [b for b in found for _ in "ab"]),
    }
    way = ways.get(fault.kind)
    return reply if way is None or reply.status >= 300 else way(reply)


def _wrong_range(reply: Reply) -> Reply:
    """One byte further on, and it says so."""

    def moved(match: re.Match[str]) -> str:
        return f"bytes {int(match[1]) + 1}-{int(match[2]) + 1}/"

    headers = tuple(
        (name, re.sub(r"bytes (\d+)-(\d+)/", moved, value))
        if name.lower() == "content-range"
        else (name, value)
        for name, value in reply.headers
    )
    return Reply(reply.status, reply.body, headers)


def _whole_object(reply: Reply) -> Reply:
    """200 instead of 206, as if the blob were no longer than that."""
    headers = tuple(
        h for h in reply.headers if h[0].lower() not in ("content-range", "content-md5")
    )
    return Reply(200, reply.body, headers)


def _encoded(reply: Reply) -> Reply:
    """Compressed by somebody on the way."""
    headers = (*reply.headers, ("Content-Encoding", "gzip"))
    return Reply(reply.status, gzip.compress(reply.body), headers)


def _page(
    reply: Reply, change: Callable[[list[bytes]], list[bytes]], *, again: bool = False
) -> Reply:
    """A page of List Blobs with other entries; ``again``: and the same page is to follow."""
    found = _BLOB.findall(reply.body)
    if not found:
        return reply
    head, _, rest = reply.body.partition(found[0])
    tail = rest.rpartition(found[-1])[2] if len(found) > 1 else rest
    body = head + b"".join(change(found)) + tail
    if again:
        body = _MARKER.sub(b"<NextMarker>again</NextMarker>", body)
    return Reply(reply.status, body, reply.headers)
