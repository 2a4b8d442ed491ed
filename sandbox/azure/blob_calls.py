"""What a request to the blob service is, by the names of its REST reference."""

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qs, unquote

_CONTAINER = {
    ("PUT", ""): "CreateContainer",
    ("GET", ""): "GetContainerProperties",
    ("HEAD", ""): "GetContainerProperties",
    ("DELETE", ""): "DeleteContainer",
    ("GET", "list"): "ListBlobs",
    ("PUT", "lease"): "LeaseContainer",
    ("PUT", "acl"): "SetContainerAcl",
    ("GET", "acl"): "GetContainerAcl",
    ("PUT", "metadata"): "SetContainerMetadata",
}
_BLOB = {
    ("GET", ""): "GetBlob",
    ("HEAD", ""): "GetBlobProperties",
    ("DELETE", ""): "DeleteBlob",
    ("GET", "pagelist"): "GetPageRanges",
    ("PUT", "snapshot"): "SnapshotBlob",
    ("PUT", "lease"): "LeaseBlob",
    ("PUT", "metadata"): "SetBlobMetadata",
    ("GET", "metadata"): "GetBlobMetadata",
    ("HEAD", "metadata"): "GetBlobMetadata",
    ("PUT", "properties"): "SetBlobProperties",
    ("PUT", "block"): "PutBlock",
    ("PUT", "blocklist"): "PutBlockList",
    ("GET", "blocklist"): "GetBlockList",
    ("PUT", "copy"): "AbortCopyBlob",
    ("PUT", "tags"): "SetBlobTags",
    ("GET", "tags"): "GetBlobTags",
    ("PUT", "tier"): "SetBlobTier",
    ("PUT", "immutabilitypolicies"): "SetBlobImmutabilityPolicy",
    ("DELETE", "immutabilitypolicies"): "DeleteBlobImmutabilityPolicy",
    ("PUT", "legalhold"): "SetBlobLegalHold",
    ("PUT", "undelete"): "UndeleteBlob",
}
_ACCOUNT = {
    ("GET", "list"): "ListContainers",
    ("POST", "userdelegationkey"): "GetUserDelegationKey",
    ("GET", "properties"): "GetBlobServiceProperties",
}
CHANGES = frozenset(
    {
        "PutBlob", "PutPage", "ClearPages", "DeleteBlob", "CopyBlob", "CopyBlobFromUrl",
        "PutBlock", "PutBlockList", "SetBlobMetadata", "SetBlobProperties", "SnapshotBlob",
    }
)  # fmt: skip
"""What changes a blob."""


@dataclass(frozen=True, slots=True)
class BlobRequest:
    """A request to the blob service, before its body.

    Attributes:
        operation: such as ``PutPage``; ``ClearPages`` is Put Page with ``clear``,
            ``GetPageRangesDiff`` is Get Page Ranges with a previous snapshot.
        method: HTTP method.
        target: path and query as sent.
        path: as sent, without the query.
        container: decoded, or empty.
        blob: decoded, or empty.
        query: decoded, names in lower case.
        headers: names in lower case.
    """

    operation: str
    method: str
    target: str
    path: str
    container: str
    blob: str
    query: Mapping[str, str]
    headers: Mapping[str, str]

    @property
    def snapshot(self) -> str:
        """Which snapshot it is about, or empty."""
        return self.query.get("snapshot", "")


def identify(method: str, target: str, headers: Mapping[str, str]) -> BlobRequest:
    """Find out what a request wants; paths are ``/ACCOUNT/CONTAINER/BLOB``."""
    path, _, raw = target.partition("?")
    query = {
        name.lower(): values[-1] for name, values in parse_qs(raw, keep_blank_values=True).items()
    }
    container, _, blob = path.lstrip("/").partition("/")[2].partition("/")
    operation = _operation(method, query, headers, container, blob)
    return BlobRequest(
        operation, method, target, path, unquote(container), unquote(blob), query, headers
    )


def _operation(
    method: str, query: Mapping[str, str], headers: Mapping[str, str], container: str, blob: str
) -> str:
    part = query.get("comp", "").lower()
    if not container:
        return _ACCOUNT.get((method, part), "")
    if not blob:
        return _CONTAINER.get((method, part), "")
    if (method, part) == ("PUT", ""):
        if "x-ms-copy-source" not in headers:
            return "PutBlob"
        return "CopyBlobFromUrl" if "x-ms-requires-sync" in headers else "CopyBlob"
    if (method, part) == ("PUT", "page"):
        clear = headers.get("x-ms-page-write", "").lower() == "clear"
        return "ClearPages" if clear else "PutPage"
    if (method, part) == ("GET", "pagelist") and "prevsnapshot" in query:
        return "GetPageRangesDiff"
    return _BLOB.get((method, part), "")


def in_range(headers: Mapping[str, str]) -> tuple[int, int] | None:
    """First and last byte of the request's range; ``None`` without one, or when it is open."""
    given = headers.get("x-ms-range") or headers.get("range") or ""
    first, dash, last = given.removeprefix("bytes=").partition("-")
    if not dash or not first.isdigit() or not last.isdigit():
        return None
    return int(first), int(last)
