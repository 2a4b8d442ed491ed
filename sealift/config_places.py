"""Parts of a plan that name a place of sealed points, or a key service.

No field holds a secret: credentials come from the standard chain of each cloud.
"""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from sealift.config_aws import AwsEndpoint, AwsProfile, AwsRegion
from sealift.config_azure import AzureEndpoint
from sealift.config_model import PlanModel, Text
from sealift.config_types import Duration

Folder = Annotated[
    str, StringConstraints(pattern=r"^([a-z0-9._-]+(/[a-z0-9._-]+)*)?$", max_length=512)
]
"""Folders without slashes at their ends, in the characters that every store takes."""


class LockPlan(PlanModel):
    """Object lock: not even an intruder with all our credentials deletes what points need."""

    mode: Literal["governance", "compliance"] = Field(
        description="Who may end a lock before its time: governance, those with a permission of "
        "its own; compliance, nobody"
    )
    keep: Duration = Field(
        default=30 * 86_400.0,
        ge=86_400.0,
        description="How long an object is locked; renewed each quarter of it for as long as a "
        "point needs it, so prune frees nothing sooner",
    )


class S3Plan(PlanModel):
    """A bucket; credentials come from the standard AWS configuration, never from here."""

    bucket: Text = Field(
        pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$", description="Name of the bucket"
    )
    prefix: Folder = Field(
        default="",
        description="Folder in the bucket, as backup/web; the repository has it for itself",
    )
    region: AwsRegion = None
    profile: AwsProfile = None
    endpoint: AwsEndpoint = Field(
        default=None,
        description="URL of an S3 service that is not AWS; default: AWS_ENDPOINT_URL",
    )
    owner: Text | None = Field(
        default=None,
        pattern=r"^[0-9]{12}$",
        description="Account that the bucket belongs to; one of another account is refused",
    )
    lock: LockPlan | None = Field(
        default=None, description="Object lock; the bucket must have been made with it"
    )


class BlobPlan(PlanModel):
    """A container of Azure; credentials come from Azure's standard chain, never from here."""

    account: Text = Field(pattern=r"^[a-z0-9]{3,24}$", description="Name of the storage account")
    container: str = Field(
        pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$",
        min_length=3,
        max_length=63,
        description="Name of the blob container; it must exist",
    )
    prefix: Folder = Field(
        default="",
        description="Folder in the container, as backup/web; the repository has it for itself",
    )
    endpoint: AzureEndpoint = Field(
        default=None,
        description="URL of the account's blobs; default: https://ACCOUNT.blob.core.windows.net",
    )
    lock: LockPlan | None = Field(
        default=None,
        description="Object lock; the container must have been made with version-level "
        "immutability. Governance makes unlocked policies: who may lock may end them, too",
    )


class KmsPlan(PlanModel):
    """A key of AWS KMS that wraps the repository's key."""

    key: Text = Field(description="KMS key id, alias or ARN")
    region: AwsRegion = None
    profile: AwsProfile = None
    endpoint: AwsEndpoint = Field(
        default=None,
        description="URL of the KMS service; default: AWS_ENDPOINT_URL",
    )


class KeyVaultPlan(PlanModel):
    """An RSA key of Azure Key Vault that wraps the repository's key."""

    vault_url: Text = Field(
        pattern=r"^https://[A-Za-z0-9.-]+(:[0-9]{1,5})?/?$",
        description="URL of the vault, as https://NAME.vault.azure.net",
    )
    key: Text = Field(pattern=r"^[0-9A-Za-z-]{1,127}$", description="Name of the key")
    version: Text | None = Field(
        default=None,
        pattern=r"^[0-9A-Za-z]{1,64}$",
        description="The only version of the key that may be used; default: the newest for new "
        "slots, and for each slot the one that it was made with",
    )
