"""The part of a plan that names an Azure subscription.

The patterns are those of Microsoft's "Naming rules and restrictions for Azure resources".
"""

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from sealift.config_model import PlanModel, Text
from sealift.config_types import CommaPairs

AzureEndpoint = (
    Annotated[Text, StringConstraints(pattern=r"^https://[^/\s@]+(/[A-Za-z0-9-]+)?/?$")] | None
)
"""URL of a service; tokens are sent there, so it has to be https."""
_NETWORK = r"(?i)^/subscriptions/[^/\s]+/resourceGroups/[^/\s]+/providers/Microsoft\.Network"
_STORAGE = (
    r"(?i:^/subscriptions/[^/\s]+/resourceGroups/[^/\s]+/providers/Microsoft\.Storage"
    r"/storageAccounts/[a-z0-9]{3,24}$)"
)


class AzurePlan(PlanModel):
    """An Azure subscription; credentials come from the standard Azure chain, never from here."""

    subscription: Text = Field(
        pattern=r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$",
        description="Id of the subscription, as 00000000-0000-0000-0000-000000000000",
    )
    resource_group: Text = Field(
        pattern=r"^[\w().-]{0,89}[\w()-]$",
        description="Resource group of everything that is made; it must exist",
    )
    storage_account: Text = Field(
        pattern=r"^[a-z0-9]{3,24}$|" + _STORAGE,
        description="Storage account of the staged disks, in the same location: its name, or its "
        "resource id where it is in another resource group; it must exist",
    )
    container: str = Field(
        pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$",
        min_length=3,
        max_length=63,
        description="Blob container of the staged disks; it must exist",
    )
    subnet: Text = Field(
        pattern=_NETWORK + r"/virtualNetworks/[^/\s]+/subnets/[^/\s]+$",
        description="Resource id of the subnet that the machine is launched into, as "
        "/subscriptions/.../virtualNetworks/NAME/subnets/NAME",
    )
    network_security_group: Text | None = Field(
        default=None,
        pattern=_NETWORK + r"/networkSecurityGroups/[^/\s]+$",
        description="Resource id of the network security group of the machine; default: only that "
        "of the subnet",
    )
    location: Text | None = Field(
        default=None,
        pattern=r"^[a-z0-9]+$",
        description="Location, as westeurope; default: that of the resource group",
    )
    endpoint: AzureEndpoint = Field(
        default=None,
        description="URL of the Azure Resource Manager, as for another cloud or a sandbox; "
        "default: the public cloud",
    )
    blob_endpoint: AzureEndpoint = Field(
        default=None,
        description="URL of the storage account's blobs; default: "
        "https://STORAGE_ACCOUNT.blob.core.windows.net",
    )
    vm_size: Text | None = Field(
        default=None,
        pattern=r"^[A-Za-z]+_[A-Za-z0-9_-]+$",
        description="Size of the machine, as Standard_D2s_v5; default: the smallest current one "
        "that fits vCPU and memory",
    )
    os_type: Literal["Linux", "Windows"] = Field(
        default="Linux",
        description="What the boot disk is said to hold; decides licence and extensions, and "
        "cannot be changed afterwards",
    )
    security_type: Literal["Standard", "TrustedLaunch"] = Field(
        default="Standard",
        description="Security type of the machine; TrustedLaunch needs a guest that boots by UEFI",
    )
    disk_type: Literal[
        "Premium_LRS", "Premium_ZRS", "StandardSSD_LRS", "StandardSSD_ZRS", "Standard_LRS"
    ] = Field(default="Premium_LRS", description="Type of all managed disks")
    zone: Text | None = Field(
        default=None,
        pattern=r"^[1-9]$",
        description="Availability zone of the machine and its disks; default: none",
    )
    method: Literal["staging", "upload"] = Field(
        default="staging",
        description="How disks get there: staging keeps a page blob per disk and sends what "
        "changed in rounds; upload writes once into a managed disk: for failover and restore of a "
        "point, and for cutover --no-rounds, with the machine standing still for the whole copy",
    )
    tags: Annotated[dict[Text, str], CommaPairs] = Field(
        default_factory=dict,
        max_length=40,
        description="Tags on everything that is made, beside Sealift's own",
    )

    @model_validator(mode="after")
    def _zonal(self) -> Self:
        if self.zone is not None and self.disk_type.endswith("_ZRS"):
            raise ValueError(f"disk_type {self.disk_type} spans the zones; leave zone out")
        return self
