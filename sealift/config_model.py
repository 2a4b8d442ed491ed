"""What every part of a plan is made of: its models, texts and names."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints

from sealift.config_types import MAX_TEXT_CHARS

Text = Annotated[str, StringConstraints(min_length=1, max_length=MAX_TEXT_CHARS)]
MigrationId = Annotated[str, StringConstraints(pattern=r"^[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?$")]
"""Part of bitmap, node, socket and tag names: lower-case letters, digits and inner dashes."""


class PlanModel(BaseModel):
    """Unknown keys are refused, so that a typing error never becomes a default."""

    model_config = ConfigDict(extra="forbid", frozen=True)
