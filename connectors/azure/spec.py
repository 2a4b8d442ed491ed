"""What a plan says about the Azure side. Values only; the plan file is checked elsewhere."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum


class SecurityType(Enum):
    """Security types of a machine; the value is Azure's word for it, or ``Standard``."""

    STANDARD = "Standard"
    TRUSTED_LAUNCH = "TrustedLaunch"
    """Secure boot and vTPM; generation 2 only ("Trusted Launch for Azure virtual machines")."""


class DiskSku(Enum):
    """Kinds of managed disks that a migrated machine may run on."""

    PREMIUM_LRS = "Premium_LRS"
    PREMIUM_ZRS = "Premium_ZRS"
    STANDARD_SSD_LRS = "StandardSSD_LRS"
    STANDARD_SSD_ZRS = "StandardSSD_ZRS"
    STANDARD_LRS = "Standard_LRS"

    @property
    def needs_premium_size(self) -> bool:
        """Whether the machine's size has to support it ("Azure managed disk types")."""
        return self in (DiskSku.PREMIUM_LRS, DiskSku.PREMIUM_ZRS)


class Method(Enum):
    """How a disk gets there."""

    STAGING = "staging"
    """A page blob per disk that is written in rounds; a machine gets copies of it."""
    UPLOAD = "upload"
    """One upload straight into the managed disk of the machine; one round only."""


class OsType(Enum):
    """What the boot disk is said to hold; decides licence and agents, not how it boots."""

    LINUX = "Linux"
    WINDOWS = "Windows"


@dataclass(frozen=True, slots=True)
class AzureSpec:
    """Where a migration goes to, and how.

    Attributes:
        subscription_id: of everything below.
        resource_group: takes disks, cards and machines; must exist.
        storage_account: name, or full ARM id where it is in another resource group.
        container: of the account; must exist.
        subnet_id: full ARM id.
        network_security_group_id: full ARM id; None leaves it to the subnet's.
        location: None is the resource group's.
        endpoint: of Resource Manager; None is the public cloud's.
        blob_endpoint: of the account's blobs; None is the public cloud's.
        vm_size: None chooses the smallest that fits.
        security_type: of the machine.
        disk_sku: of its disks.
        os_type: of the boot disk.
        zone: availability zone of disks and machine.
        method: see ``Method``.
        tags: of the user's own, on everything.
        concurrency: calls in flight per disk.
        connect_timeout_seconds: of one connection attempt.
        read_timeout_seconds: longest silence of the service within a call.
        operation_timeout_seconds: longest wait for one long-running operation.
    """

    subscription_id: str
    resource_group: str
    storage_account: str
    container: str
    subnet_id: str
    network_security_group_id: str | None = None
    location: str | None = None
    endpoint: str | None = None
    blob_endpoint: str | None = None
    vm_size: str | None = None
    security_type: SecurityType = SecurityType.STANDARD
    disk_sku: DiskSku = DiskSku.PREMIUM_LRS
    os_type: OsType = OsType.LINUX
    zone: str | None = None
    method: Method = Method.STAGING
    tags: Mapping[str, str] = field(default_factory=dict)
    concurrency: int = 16
    connect_timeout_seconds: float = 10.0
    read_timeout_seconds: float = 60.0
    operation_timeout_seconds: float = 1800.0

    @property
    def account_name(self) -> str:
        """The storage account's name."""
        return self.storage_account.rpartition("/")[2]

    @property
    def account_id(self) -> str:
        """The storage account's full ARM id."""
        if "/" in self.storage_account:
            return self.storage_account
        return f"{self.group_id}/providers/Microsoft.Storage/storageAccounts/{self.account_name}"

    @property
    def group_id(self) -> str:
        """The resource group's full ARM id."""
        return f"/subscriptions/{self.subscription_id}/resourceGroups/{self.resource_group}"

    @property
    def blob_address(self) -> str:
        """URL of the account's blobs."""
        return self.blob_endpoint or f"https://{self.account_name}.blob.core.windows.net"
