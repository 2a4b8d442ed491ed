"""The part of a plan that names an AWS account."""

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from sealift.config_model import PlanModel, Text
from sealift.config_types import CommaList, CommaPairs, Duration

AwsRegion = Annotated[
    Text | None, Field(description="Region name; default: that of the profile or of AWS_REGION")
]
AwsProfile = Annotated[Text | None, Field(description="Profile of the shared AWS configuration")]
AwsEndpoint = Annotated[Text, StringConstraints(pattern=r"^https?://[^/\s@]+/?$")] | None
"""URL of a service, without a path."""


class AwsPlan(PlanModel):
    """An AWS account; credentials come from the standard AWS configuration, never from here."""

    subnet: Text = Field(
        pattern=r"^subnet-[0-9a-z]+$", description="Subnet id that the machine is launched into"
    )
    security_groups: Annotated[tuple[Text, ...], CommaList] = Field(
        min_length=1, max_length=16, description="Security group ids of the launched machine"
    )
    region: AwsRegion = None
    profile: AwsProfile = None
    endpoint: AwsEndpoint = Field(
        default=None,
        description="URL used for every service, as for a sandbox; default: AWS_ENDPOINT_URL",
    )
    instance_type: Text | None = Field(
        default=None,
        pattern=r"^[a-z0-9-]+\.[a-z0-9-]+$",
        description="Instance type; default: the smallest current one that fits vCPU and memory",
    )
    encrypted: bool = Field(
        default=False,
        description="Make encrypted snapshots (true or false); every zero block is sent then",
    )
    kms_key: Text | None = Field(
        default=None, description="KMS key id, alias or ARN; default: the account's key for EBS"
    )
    launch_encrypted: bool = Field(
        default=False,
        description="Encrypt volumes at launch though snapshots are not (true or false); every "
        "zero block is sent then",
    )
    volume_type: Literal["gp3", "gp2", "io1", "io2", "st1", "sc1", "standard"] = Field(
        default="gp3",
        description="EBS volume type of all launched volumes; st1 and sc1 do not boot",
    )
    tags: Annotated[dict[Text, str], CommaPairs] = Field(
        default_factory=dict,
        max_length=40,
        description="Tags on everything that is made, beside Sealift's own",
    )
    snapshot_timeout: Duration = Field(
        default=3 * 86_400.0,
        ge=600.0,
        le=3 * 86_400.0,
        description="How long EBS keeps an unfinished snapshot that receives no block, 10min to "
        "3d; a stopped run can be resumed for so long",
    )

    @model_validator(mode="after")
    def _key_has_a_use(self) -> Self:
        if self.kms_key and not (self.encrypted or self.launch_encrypted):
            raise ValueError("kms_key is set but neither encrypted nor launch_encrypted is")
        return self
