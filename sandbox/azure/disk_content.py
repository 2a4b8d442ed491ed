"""The bytes of managed disks: one page blob per disk, in an account of Azure's own.

A page blob holds the disk and its VHD footer. Every disk has a container of its own, so that
an access grant is a shared access signature under that container's stored policy: taking the
policy away revokes it ("Grant limited access with shared access signatures").
"""

import os
import uuid
from datetime import timedelta
from pathlib import Path

from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.storage.blob import (
    AccessPolicy,
    BlobClient,
    BlobServiceClient,
    BlobType,
    ContainerClient,
    ContentSettings,
    generate_blob_sas,
)

from converters.vhd import FOOTER_BYTES, DiskType, parse_footer
from sandbox.azure.arm_errors import ArmError, invalid
from sandbox.azure.authority import Authority
from sandbox.azure.azurite import Account
from sealift.clock import SystemClock
from sealift.errors import ImageError

_BLOB = "abcd"
_POLICY = "grant"
_MIB = 1 << 20
_READ_BYTES = 4 << 20
_EARLIER = timedelta(minutes=5)
_SHOWN_FOOTER = "Disk is expected to have cookie value 'conectix'."


class DiskContents:
    """What managed disks hold, in Azurite.

    Args:
        endpoint: of Azurite itself.
        shown_endpoint: what addresses that are handed out begin with.
        disks: the account of managed disks.
        customer: the account whose blobs are imported.
        authority: whose certificate Azurite shows.
    """

    def __init__(
        self,
        endpoint: str,
        shown_endpoint: str,
        disks: Account,
        customer: Account,
        authority: Authority,
    ) -> None:
        self._endpoint = endpoint
        self._shown = shown_endpoint
        self._disks = disks
        self._customer = customer
        self._clock = SystemClock()
        self._service = self._client(disks, authority)
        self._customers = self._client(customer, authority)

    def close(self) -> None:
        """Close the connections."""
        self._service.close()
        self._customers.close()

    def new(self) -> str:
        """A place for one disk's content."""
        name = f"disk-{uuid.uuid4().hex}"
        self._service.create_container(name).close()
        return name

    def make_empty(self, place: str, blob_bytes: int) -> None:
        """Content that reads as zeros throughout, footer too."""
        self._blob(place).create_page_blob(blob_bytes)

    def import_from(self, place: str, source_uri: str) -> int:
        """Copy a page blob of the customer's; later writes to it do not show.

        Returns:
            The disk's size, without the footer.

        Raises:
            ArmError: no such blob, or no fixed VHD.
        """
        source = self._source(source_uri)
        size_bytes = self._checked_size(source)
        with self._blob(place) as blob:
            blob.start_copy_from_url(f"{source.url}?{self._reader(source)}")
        return size_bytes

    def copy_from(self, place: str, source: str) -> None:
        """Copy another disk's content as it is now."""
        with self._blob(place) as blob:
            blob.start_copy_from_url(self._blob(source).url)

    def check_source(self, source_uri: str) -> None:
        """That a blob of the customer's is there and is a page blob.

        Raises:
            ArmError: it is not.
        """
        self._source(source_uri)

    def grant(self, place: str, *, write: bool, seconds: int) -> str:
        """An address that reads or writes the content until it ends or is revoked."""
        now = self._clock.now()
        policy = AccessPolicy(
            permission="rw" if write else "r",
            start=now - _EARLIER,
            expiry=now + timedelta(seconds=seconds),
        )
        with self._container(place) as container:
            container.set_container_access_policy({_POLICY: policy})
        token = generate_blob_sas(
            self._disks.name, place, _BLOB, account_key=self._disks.key, policy_id=_POLICY
        )
        return f"{self._shown}/{self._disks.name}/{place}/{_BLOB}?{token}"

    def revoke(self, place: str) -> None:
        """Take every grant back."""
        with self._container(place) as container:
            container.set_container_access_policy({})

    def delete(self, place: str) -> None:
        """Remove the content; harmless when there is none."""
        try:
            self._service.delete_container(place)
        except ResourceNotFoundError:
            return

    def publish(self, place: str, name: str, content: bytes, minutes: int, kind: str) -> str:
        """Put a file beside a machine's disks and hand out its address for some minutes."""
        settings = ContentSettings(content_type=kind)
        with self._service.get_blob_client(place, name) as blob:
            blob.upload_blob(content, overwrite=True, content_settings=settings)
        token = generate_blob_sas(
            self._disks.name,
            place,
            name,
            account_key=self._disks.key,
            permission="r",
            expiry=self._clock.now() + timedelta(minutes=minutes),
        )
        return f"{self._shown}/{self._disks.name}/{place}/{name}?{token}"

    def export(self, place: str, path: Path, size_bytes: int) -> int:
        """Write what a machine reads into a new sparse file (mode 0600).

        Returns:
            How many bytes lie in ranges that were ever written.

        Raises:
            FileExistsError: the file is already there.
        """
        written_bytes = 0
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file, self._blob(place) as blob:
            file.truncate(size_bytes)
            for start, length in self._ranges(blob, size_bytes):
                file.seek(start)
                file.write(blob.download_blob(start, length).readall())
                written_bytes += length
        return written_bytes

    def read(self, place: str, offset: int, length: int) -> bytes:
        """Some of the content."""
        with self._blob(place) as blob:
            return blob.download_blob(offset, length).readall()

    def _reader(self, source: BlobClient) -> str:
        """A signature that lets a copy read what it copies from."""
        return generate_blob_sas(
            self._customer.name,
            source.container_name,
            source.blob_name,
            account_key=self._customer.key,
            permission="r",
            expiry=self._clock.now() + timedelta(hours=1),
        )

    def _ranges(self, blob: BlobClient, size_bytes: int) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        for page in blob.list_page_ranges():
            start, end = page.start or 0, min((page.end or 0) + 1, size_bytes)
            if found and sum(found[-1]) == start and end - found[-1][0] <= _READ_BYTES:
                found[-1] = (found[-1][0], end - found[-1][0])
            else:
                found += [(at, min(_READ_BYTES, end - at)) for at in range(start, end, _READ_BYTES)]
        return found

    def _source(self, source_uri: str) -> BlobClient:
        address, _, query = source_uri.partition("?")
        prefix = f"{self._shown}/{self._customer.name}/"
        if not address.startswith(prefix) or query or "/" not in address.removeprefix(prefix):
            message = f"The source blob URI '{address}' is not a blob of the storage account."
            raise invalid(message, "creationData.sourceUri")
        container, _, name = address.removeprefix(prefix).partition("/")
        blob = self._customers.get_blob_client(container, name)
        try:
            kind = blob.get_blob_properties().blob_type
        except HttpResponseError:
            message = f"The source blob '{address}' does not exist."
            raise ArmError(400, "BlobNotFound", message) from None
        if kind is not BlobType.PAGEBLOB:
            raise invalid(f"The source blob '{address}' is not a page blob.", "sourceUri")
        return blob

    def _checked_size(self, blob: BlobClient) -> int:
        """The checks of "Troubleshoot invalid VHD errors" on a blob to import."""
        size_bytes = blob.get_blob_properties().size - FOOTER_BYTES
        if size_bytes <= 0 or size_bytes % _MIB:
            raise _bad_vhd(
                f"The disk with blob {blob.url} has an unsupported virtual size of "
                f"{size_bytes} bytes. The size must be a whole number (in MBs)."
            )
        raw = blob.download_blob(size_bytes, FOOTER_BYTES).readall()
        try:
            footer = parse_footer(raw)
        except ImageError:
            message = f"The specified cookie value in VHD footer of {blob.url} is not supported."
            raise _bad_vhd(f"{message} {_SHOWN_FOOTER}") from None
        if footer.disk_type is not DiskType.FIXED:
            raise _bad_vhd(f"Blob {blob.url} is not a fixed VHD. Only fixed disks are supported.")
        if footer.current_size != size_bytes:
            raise _bad_vhd(
                f"The VHD footer of {blob.url} tells a size of {footer.current_size} bytes, "
                f"but the blob holds {size_bytes}."
            )
        return size_bytes

    def _client(self, account: Account, authority: Authority) -> BlobServiceClient:
        return BlobServiceClient(
            f"{self._endpoint}/{account.name}",
            credential={"account_name": account.name, "account_key": account.key},
            connection_verify=str(authority.root),
            max_single_get_size=_READ_BYTES,
        )

    def _container(self, place: str) -> ContainerClient:
        return self._service.get_container_client(place)

    def _blob(self, place: str) -> BlobClient:
        return self._service.get_blob_client(place, _BLOB)


def _bad_vhd(message: str) -> ArmError:
    return ArmError(400, "InvalidVhd", message)
