"""Microsoft.Compute/disks: what the REST reference and the pages on managed disks say.

States are those of ``DiskState`` ("Disks - Get"). "Upload a VHD to Azure or copy a managed
disk to another region": a disk for upload is ReadyToUpload, with a write grant ActiveUpload,
after its revocation Unattached; before that it can be neither attached nor copied.
"""

import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from converters.vhd import FOOTER_BYTES
from sandbox.azure.arm_errors import ArmError, invalid, not_allowed, required, unchangeable
from sandbox.azure.disk_content import DiskContents
from sandbox.azure.resource_ids import ResourceId, parse_id
from sandbox.azure.state import Resource, Subscription, parsed_tags

TYPE = "Microsoft.Compute/disks"
_GIB = 1 << 30
_MIB = 1 << 20
_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,78}[A-Za-z0-9_])?")
_SKUS = (
    "Standard_LRS", "Premium_LRS", "StandardSSD_LRS", "Premium_ZRS", "StandardSSD_ZRS",
    "UltraSSD_LRS", "PremiumV2_LRS",
)  # fmt: skip
_SECURITY = ("Standard", "TrustedLaunch")
_UPLOAD_BYTES = range(20_972_032, 35_183_298_347_520 + 1)
_MAX_GIB = 32_767
_GRANTABLE = ("Unattached", "Reserved", "ActiveSAS")


@dataclass(slots=True, kw_only=True)
class Disk(Resource):
    """A managed disk.

    Attributes:
        sku: ``Premium_LRS`` and the like.
        creation: ``creationData`` as it was given.
        size_bytes: what a machine sees, without the footer.
        os_type: ``Linux``, ``Windows`` or empty for a data disk.
        generation: ``V1`` or ``V2``; empty for a data disk.
        security_type: ``Standard`` or ``TrustedLaunch``.
        state: see the module's text.
        place: where its content is.
        managed_by: id of the machine that it hangs on, or empty.
        created: when.
        owned_at: when it was last attached or detached, None when never
            (``LastOwnershipUpdateTime`` of "Disks - Get").
    """

    sku: str
    creation: Mapping[str, Any]
    size_bytes: int
    place: str
    created: datetime
    os_type: str = ""
    generation: str = ""
    security_type: str = "Standard"
    zones: tuple[str, ...] = ()
    state: str = "Unattached"
    managed_by: str = ""
    owned_at: datetime | None = None
    unique_id: str = field(default_factory=lambda: str(uuid.uuid4()))

    def extra(self) -> dict[str, Any]:
        """See ``Resource.extra``."""
        shown: dict[str, Any] = {"sku": {"name": self.sku, "tier": self.sku.partition("_")[0]}}
        if self.managed_by:
            shown["managedBy"] = self.managed_by
        if self.zones:
            shown["zones"] = list(self.zones)
        return shown

    def properties(self) -> dict[str, Any]:
        """See ``Resource.properties``."""
        shown: dict[str, Any] = {
            "creationData": dict(self.creation),
            "diskState": self.state,
            "timeCreated": self.created.isoformat(),
            "uniqueId": self.unique_id,
            "networkAccessPolicy": "AllowAll",
            "publicNetworkAccess": "Enabled",
        }
        if self.owned_at is not None:
            shown["LastOwnershipUpdateTime"] = self.owned_at.isoformat()
        if self.size_bytes:
            shown["diskSizeBytes"] = self.size_bytes
            shown["diskSizeGB"] = -(-self.size_bytes // _GIB)
        if self.os_type:
            shown["osType"] = self.os_type
        if self.generation:
            shown["hyperVGeneration"] = self.generation
        if self.security_type != "Standard":
            shown["securityProfile"] = {"securityType": self.security_type}
        return shown


class DiskRules:
    """Makes, changes, grants and removes disks; used under the subscription's lock.

    Args:
        subscription: where they are.
        contents: their bytes.
        storage_account: id of the one account to import from.
    """

    def __init__(
        self, subscription: Subscription, contents: DiskContents, storage_account: ResourceId
    ) -> None:
        self._subscription = subscription
        self._contents = contents
        self._account = storage_account

    def plan(self, disk_id: ResourceId, body: Mapping[str, Any]) -> Disk:
        """The disk that a PUT asks for, checked, not made.

        Raises:
            ArmError: a value does not do, or something that is named does not exist.
        """
        if not _NAME.fullmatch(disk_id.name):
            raise ArmError(
                400,
                "InvalidParameter",
                f"The value '{disk_id.name}' of parameter 'disk.name' is invalid.",
            )
        location = self._subscription.check_location(body.get("location"), TYPE)
        given = _object(body, "properties")
        creation = _object(given, "creationData")
        disk = Disk(
            id=disk_id,
            location=location,
            tags=parsed_tags(body),
            sku=_one_of((body.get("sku") or {}).get("name", "Premium_LRS"), _SKUS, "sku.name"),
            creation=creation,
            size_bytes=0,
            place="",
            created=self._subscription.clock.now(),
            os_type=_one_of(given.get("osType") or "", ("", "Linux", "Windows"), "osType"),
            generation=_one_of(
                given.get("hyperVGeneration") or "", ("", "V1", "V2"), "hyperVGeneration"
            ),
            security_type=_one_of(
                (given.get("securityProfile") or {}).get("securityType", "Standard"),
                _SECURITY,
                "securityProfile.securityType",
            ),
            zones=_zones(body),
            provisioning_state="Updating",
        )
        self._check_security(disk)
        self._check_creation(disk, given)
        return disk

    def make(self, disk: Disk) -> None:
        """Give a planned disk its content.

        Raises:
            ArmError: the source is no VHD, or is gone.
        """
        option = str(disk.creation["createOption"])
        disk.place = self._contents.new()
        if option == "Upload":
            self._contents.make_empty(disk.place, disk.size_bytes + FOOTER_BYTES)
            disk.state = "ReadyToUpload"
        elif option == "Empty":
            self._contents.make_empty(disk.place, disk.size_bytes + FOOTER_BYTES)
        elif option == "Import":
            size = self._contents.import_from(disk.place, str(disk.creation["sourceUri"]))
            disk.size_bytes = max(disk.size_bytes, size)
        else:
            source = self._copy_source(disk.creation)
            self._contents.copy_from(disk.place, source.place)
            disk.size_bytes = max(disk.size_bytes, source.size_bytes)
        disk.provisioning_state = "Succeeded"

    def check_same(self, disk: Disk, body: Mapping[str, Any]) -> None:
        """That a PUT to a disk that exists asks for no other one ("Disks - Create Or Update").

        Raises:
            ArmError: 409 PropertyChangeNotAllowed.
        """
        given = _object(body, "properties")
        if dict(_object(given, "creationData")) != dict(disk.creation):
            raise unchangeable("disk.creationData")
        for name, value in (("hyperVGeneration", disk.generation), ("osType", disk.os_type)):
            if given.get(name) and given[name] != value:
                raise unchangeable(f"disk.{name}")

    def change(self, disk: Disk, body: Mapping[str, Any]) -> None:
        """A PATCH, or a PUT to a disk that exists: tags and type only.

        Raises:
            ArmError: the disk cannot be made smaller.
        """
        if "tags" in body:
            disk.tags = parsed_tags(body)
        if body.get("sku"):
            disk.sku = _one_of(body["sku"].get("name"), _SKUS, "sku.name")
        size_gib = (body.get("properties") or {}).get("diskSizeGB")
        if size_gib is not None and size_gib * _GIB < disk.size_bytes:
            raise not_allowed("Disk size reduction is not supported.")

    def check_grant(self, disk: Disk, body: Mapping[str, Any]) -> tuple[bool, int]:
        """Whether a grant is to write, and for how many seconds ("Disks - Grant Access").

        Raises:
            ArmError: a value does not do, or the disk's state does not let it happen.
        """
        access = _one_of(body.get("access"), ("Read", "Write"), "access")
        seconds = body.get("durationInSeconds")
        if not isinstance(seconds, int) or isinstance(seconds, bool) or seconds <= 0:
            raise invalid("The duration of a grant must be positive.", "durationInSeconds")
        write = access == "Write"
        states = ("ReadyToUpload", "ActiveUpload") if write else _GRANTABLE
        if disk.state not in states:
            raise not_allowed(
                f"{access} access to disk '{disk.id.name}' cannot be granted while its state is "
                f"{disk.state}."
            )
        return write, seconds

    def grant(self, disk: Disk, *, write: bool, seconds: int) -> dict[str, Any]:
        """Hand out an address, which replaces one that was handed out before."""
        address = self._contents.grant(disk.place, write=write, seconds=seconds)
        disk.state = "ActiveUpload" if write else "ActiveSAS"
        return {"accessSAS": address}

    def revoke(self, disk: Disk) -> None:
        """Take the address back; harmless when there is none ("Disks - Revoke Access")."""
        if disk.state in ("ActiveUpload", "ActiveSAS"):
            self._contents.revoke(disk.place)
            disk.state = "Reserved" if disk.managed_by else "Unattached"

    def check_delete(self, disk: Disk) -> None:
        """That a disk may go ("Find and delete unattached disks"; "Disks - Delete").

        Raises:
            ArmError: 409, it is attached or has an active grant.
        """
        if disk.managed_by:
            name = disk.managed_by.rpartition("/")[2]
            raise not_allowed(f"Disk {disk.id.name} is attached to VM {name}.")
        if disk.state in ("ActiveUpload", "ActiveSAS"):
            raise not_allowed(
                f"There is an active shared access signature outstanding for disk "
                f"{disk.id.name}. Call EndGetAccess on the disk before deleting it."
            )

    def delete(self, disk: Disk) -> None:
        """Remove a disk and its content."""
        self._subscription.remove(disk)
        if disk.place:
            self._contents.delete(disk.place)

    def _check_security(self, disk: Disk) -> None:
        # "Trusted launch for Azure virtual machines": generation 2 only.
        if disk.security_type == "TrustedLaunch" and disk.generation != "V2":
            raise invalid("Trusted Launch needs a disk of hyperVGeneration V2.", "securityProfile")
        if disk.generation and not disk.os_type:
            raise required("disk.osType")

    def _check_creation(self, disk: Disk, given: Mapping[str, Any]) -> None:
        option = disk.creation.get("createOption")
        size_gib = given.get("diskSizeGB")
        if size_gib is not None:
            if option == "Upload":
                raise invalid("diskSizeGB cannot be given with createOption Upload.", "diskSizeGB")
            if not isinstance(size_gib, int) or not 1 <= size_gib <= _MAX_GIB:
                raise invalid(f"diskSizeGB must be 1 to {_MAX_GIB}.", "diskSizeGB")
            disk.size_bytes = size_gib * _GIB
        match option:
            case "Empty":
                if size_gib is None:
                    raise required("disk.diskSizeGB")
            case "Upload":
                disk.size_bytes = _upload_size(disk.creation) - FOOTER_BYTES
            case "Import":
                self._check_import(disk.creation)
            case "Copy":
                source = self._copy_source(disk.creation)
                self._subscription.check_same_location(source, disk.location)
                disk.generation = disk.generation or source.generation
                disk.os_type = disk.os_type or source.os_type
            case _:
                raise invalid(f"createOption '{option}' is invalid.", "creationData.createOption")

    def _check_import(self, creation: Mapping[str, Any]) -> None:
        uri, account = creation.get("sourceUri"), creation.get("storageAccountId")
        if not isinstance(uri, str) or not uri:
            raise required("disk.creationData.sourceUri")
        # "Disks - Create Or Update", ``storageAccountId``: required if createOption is Import.
        if account is None:
            raise required("disk.creationData.storageAccountId")
        named = parse_id(account, "Microsoft.Storage/storageAccounts", "storageAccountId")
        if named.key != self._account.key:
            raise ArmError(404, "StorageAccountNotFound", f"Storage account {named} not found.")
        self._contents.check_source(uri)

    def _copy_source(self, creation: Mapping[str, Any]) -> Disk:
        named = creation.get("sourceResourceId")
        if named is None:
            raise required("disk.creationData.sourceResourceId")
        kind = SNAPSHOT_TYPE if "/snapshots/" in str(named).lower() else TYPE
        source_id = parse_id(named, kind, "creationData.sourceResourceId")
        source = self._subscription.referenced(source_id, Disk)
        if source.state in ("ReadyToUpload", "ActiveUpload"):
            raise not_allowed(f"Disk '{source_id.name}' is still being uploaded ({source.state}).")
        return source


SNAPSHOT_TYPE = "Microsoft.Compute/snapshots"


def _upload_size(creation: Mapping[str, Any]) -> int:
    # "Disks - Create Or Update", ``uploadSizeBytes``: contents and VHD footer.
    size = creation.get("uploadSizeBytes")
    if not isinstance(size, int) or size not in _UPLOAD_BYTES:
        raise invalid(
            f"uploadSizeBytes must be {_UPLOAD_BYTES.start} to {_UPLOAD_BYTES.stop - 1}.",
            "creationData.uploadSizeBytes",
        )
    if (size - FOOTER_BYTES) % _MIB:
        message = "uploadSizeBytes must be whole MiB and a footer of 512 bytes."
        raise invalid(message, "creationData.uploadSizeBytes")
    return size


def _object(body: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = body.get(name)
    if not isinstance(value, dict):
        raise required(name)
    return value


def _one_of(value: object, allowed: tuple[str, ...], target: str) -> str:
    for candidate in allowed:
        if isinstance(value, str) and value.lower() == candidate.lower():
            return candidate
    raise invalid(f"The value '{value}' of parameter '{target}' is not allowed.", target)


def _zones(body: Mapping[str, Any]) -> tuple[str, ...]:
    zones = body.get("zones") or []
    if not isinstance(zones, list) or any(zone not in ("1", "2", "3") for zone in zones):
        raise ArmError(400, "InvalidAvailabilityZone", f"The zones {zones} are not valid.")
    return tuple(zones)
