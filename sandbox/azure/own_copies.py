"""Copies of page blobs that share nothing with their source.

Azurite gives a copy the very list of ranges that its source has, so that a write to one shows
in the other, even in a snapshot that was promoted. The list that a snapshot gets is its own.
So a copy is made by way of a blob that nobody else knows: source to that blob, a snapshot of
it, that snapshot to the destination; then the blob and its snapshot go.
"""

import contextlib
import uuid
from collections.abc import Iterator
from urllib.parse import parse_qs, unquote, urlsplit

from azure.core.exceptions import HttpResponseError, ResourceExistsError
from azure.storage.blob import BlobServiceClient, BlobType

CONTAINER = "sandbox-copies"
"""Where those blobs are."""


def open_copies(service: BlobServiceClient) -> None:
    """Make the place for copies; harmless when it is there."""
    with contextlib.suppress(ResourceExistsError):
        service.create_container(CONTAINER).close()


@contextlib.contextmanager
def own_source(service: BlobServiceClient, source_url: str) -> Iterator[str | None]:
    """The address of something that holds what the source holds now, and is nobody else's.

    It is gone when the context ends. ``None`` where the source is no page blob of the
    account, or does not exist: then Azurite's own answer is the right one.

    Args:
        service: Azurite with the account's key.
        source_url: of a blob or of a snapshot of one.
    """
    found = _named(service, source_url)
    if found is None:
        yield None
        return
    container, name, snapshot = found
    with (
        service.get_blob_client(container, name, snapshot=snapshot) as source,
        service.get_blob_client(CONTAINER, uuid.uuid4().hex) as between,
    ):
        try:
            fits = source.get_blob_properties().blob_type is BlobType.PAGEBLOB
            if fits:
                between.start_copy_from_url(source.url)
        except HttpResponseError:
            fits = False
        if not fits:
            yield None
            return
        try:
            taken = between.create_snapshot()["snapshot"]
            yield f"{between.url}?snapshot={taken}"
        finally:
            between.delete_blob(delete_snapshots="include")


def _named(service: BlobServiceClient, url: str) -> tuple[str, str, str | None] | None:
    parts = urlsplit(url)
    account, _, path = parts.path.lstrip("/").partition("/")
    container, _, name = path.partition("/")
    query = parse_qs(parts.query)
    if account != service.account_name or not name or "sig" in query:
        return None
    return unquote(container), unquote(name), query.get("snapshot", [None])[0]
