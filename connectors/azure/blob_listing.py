"""Pages of List Blobs, read with distrust."""

from collections.abc import Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from xml.etree import ElementTree

from connectors.azure.blob_xml import parsed
from sealift.errors import TransientError
from sealift.objects import ObjectInfo, is_name


@dataclass(frozen=True, slots=True)
class Found:
    """One blob as a page says it: its whole name, bytes, ETag and time in seconds since 1970."""

    key: str
    size: int
    version: str
    modified: float


@dataclass(frozen=True, slots=True)
class Page:
    """A page, of whatever lies in the container.

    Attributes:
        found: blobs in the order of the page.
        marker: of the next page; "" when there is none.
        action: for errors.
    """

    found: Sequence[Found]
    marker: str
    action: str

    @property
    def count(self) -> int:
        """Blobs of it."""
        return len(self.found)

    def ours(self, place: str, prefix: str, last: str) -> tuple[str, Sequence[ObjectInfo]]:
        """The last whole name of this page, and what it says of objects.

        Args:
            place: before every name of ours.
            prefix: of the names that were asked for.
            last: whole name at the end of the page before.

        Raises:
            TransientError: names that were not asked for, or out of order.
        """
        infos = []
        for one in self.found:
            if not one.key.startswith(place + prefix) or one.key <= last:
                raise TransientError(f"{self.action}: {one.key!r} is out of order after {last!r}")
            last, name = one.key, one.key.removeprefix(place)
            if is_name(name):
                infos.append(ObjectInfo(name, one.size, one.version, one.modified))
        return last, infos


def read_page(body: bytes, prefix: str, action: str) -> Page:
    """The document of one page.

    Args:
        body: as it came.
        prefix: that was asked for.
        action: for errors.

    Raises:
        TransientError: no such document, of another list, or something is missing.
    """
    root = parsed(body)
    if root is None or root.tag != "EnumerationResults":
        raise TransientError(f"{action}: the answer is no list")
    blobs, marker = root.find("Blobs"), root.find("NextMarker")
    if blobs is None or marker is None:
        raise TransientError(f"{action}: the list is not whole")
    if (root.findtext("Prefix") or "") != prefix:
        raise TransientError(f"{action}: the answer is to another question")
    found = [_found(one, action) for one in blobs.iterfind("Blob")]
    return Page([one for one in found if one is not None], marker.text or "", action)


def _found(blob: ElementTree.Element, action: str) -> Found | None:
    """One blob; None for one whose name no XML can hold, which is none of ours."""
    name = blob.find("Name")
    if name is not None and name.get("Encoded") == "true":
        return None
    said = {
        "Name": None if name is None else name.text,
        "Content-Length": blob.findtext("Properties/Content-Length"),
        "Etag": blob.findtext("Properties/Etag"),
        "Last-Modified": blob.findtext("Properties/Last-Modified"),
    }
    for field, value in said.items():
        if not value:
            raise TransientError(f"{action}: a blob without {field}")
    try:
        size = int(said["Content-Length"] or "")
        modified = parsedate_to_datetime(said["Last-Modified"] or "").timestamp()
    except (ValueError, OverflowError):
        raise TransientError(f"{action}: a blob without size or time") from None
    if size < 0:
        raise TransientError(f"{action}: a blob of negative size")
    return Found(said["Name"] or "", size, (said["Etag"] or "").strip('"'), modified)
